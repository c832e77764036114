"""Trust-region policy optimisation. The outsiders: a linear solver, explicit Hessians, finite differences,
torch.distributions, the exact two-state world.
"""

from fractions import Fraction

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlbook import policies, trpo
from rlbook.rollout import NonFiniteLoss, one_thread
from rlbook.worlds import two_state

BOX = Box(-np.inf, np.inf, (3,))
LOGITS = torch.tensor([[0.0, 0.5], [1.0, 0.0]], dtype=torch.float64)  # of M2, rows are states
kinds = pytest.mark.parametrize("kind", ["categorical", "gaussian"])


@pytest.fixture(autouse=True)
def small_networks_on_one_thread():
    with one_thread():
        yield


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(kind, seed=0, rows=40, dtype=torch.float64):
    """A network with weights that are not small, observations, and actions drawn from it."""
    actions = Discrete(3) if kind == "categorical" else Box(-1, 1, (2,))
    policy = policies.build(BOX, actions, hidden=(4,), seed=seed)[0].to(dtype)
    with torch.no_grad():
        policy.net[-1].weight.mul_(100)
        obs = normal(rows, 3, seed=seed).to(dtype)
        action = policy.sample(policy(obs), torch.Generator().manual_seed(seed))
    return policy, obs, action


def twin(params):
    """The distributions (rows,) from torch: three columns are log-probabilities, four mean and log std."""
    if params.shape[-1] == 3:
        return Categorical(logits=params)
    return Independent(Normal(params[:, :2], params[:, 2:].exp()), 1)


def at(policy, weights, obs):
    """The policy's parameters for `obs` with the flat vector `weights` in place of its own."""
    named, start = {}, 0
    for name, p in policy.named_parameters():
        named[name] = weights[start : start + p.numel()].view_as(p)
        start += p.numel()
    return functional_call(policy, named, (obs,))


def flat(policy):
    return parameters_to_vector(policy.parameters()).detach().clone()


def matrix(product, n):
    return torch.stack([product(e) for e in torch.eye(n, dtype=torch.float64)], dim=1)


def spd(n, seed):
    B = normal(n, n, seed=seed)
    return B @ B.T / n + 0.1 * torch.eye(n, dtype=torch.float64)


def tabular(n_states=2, logits=LOGITS):
    """A softmax table: one-hot observations, no hidden layer, zero bias."""
    policy = policies.build(Discrete(n_states), Discrete(logits.shape[1]), hidden=())[0].double()
    with torch.no_grad():
        policy.net[0].weight.copy_(logits.T)
    return policy


def exact_batch():
    """M2 in a batch whose averages are exact: states as often as d says, both actions, A weighted by pi.

    d(s0) = .518393 as a fraction of small whole numbers, to 1e-7.
    """
    found = two_state().evaluate(LOGITS.softmax(1).numpy())
    share = Fraction(found.d[0]).limit_denominator(5000)
    counts = np.array([share.numerator, share.denominator - share.numerator])
    assert abs(float(share) - found.d[0]) < 1e-7
    state = torch.from_numpy(np.repeat([0, 0, 1, 1], np.repeat(counts, 2)))
    action = torch.from_numpy(np.repeat([0, 1, 0, 1], np.repeat(counts, 2)))
    A = torch.from_numpy(found.A)
    obs = torch.eye(2, dtype=torch.float64)[state]
    return obs, action, (2 * LOGITS.softmax(1) * A)[state, action], A


# --- conjugate gradients: (73) ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_n_steps_solve_n_equations(n):
    """(73): random positive matrices against torch.linalg.solve; n - 1 steps are not enough."""
    for seed in range(5):
        A, b = spd(n, seed), normal(n, seed=100 + seed)
        want = torch.linalg.solve(A, b)
        np.testing.assert_allclose(trpo.conjugate_gradient(A.mv, b, n, 0.0), want, rtol=0, atol=1e-9)
        if n > 1:
            assert (trpo.conjugate_gradient(A.mv, b, n - 1, 0.0) - want).abs().max() > 1e-6


def test_one_step_is_the_steepest_one():
    """From 0 along b, as far as (b'b) / (b'A b): A = diag(1, 3), b = (1, 1) gives 2 / 4 each."""
    x = trpo.conjugate_gradient(torch.tensor([1.0, 3.0]).mul, torch.tensor([1.0, 1.0]), iters=1)
    assert x.tolist() == [0.5, 0.5]


def test_it_stops_when_the_residual_is_gone():
    """(73): b along two eigenvectors takes two products, not ten."""
    calls = []

    def product(x):
        calls.append(x)
        return torch.tensor([2.0, 5.0, 7.0, 9.0], dtype=torch.float64) * x

    x = trpo.conjugate_gradient(product, torch.tensor([4.0, 0.0, 7.0, 0.0], dtype=torch.float64), 10)
    np.testing.assert_allclose(x, [2, 0, 1, 0], rtol=0, atol=1e-12)
    assert len(calls) == 2


def test_a_right_side_of_zero_gives_zero():
    assert trpo.conjugate_gradient(spd(4, 0).mv, torch.zeros(4, dtype=torch.float64)).tolist() == [0] * 4


def test_a_singular_matrix_is_fine_if_b_lies_in_its_range():
    """(73) as for a softmax table: rank 2 of 5; the answer is that of the pseudo-inverse."""
    for seed in range(5):
        B = normal(5, 2, seed=seed)
        A, b = B @ B.T, B @ normal(2, seed=100 + seed)
        got = trpo.conjugate_gradient(A.mv, b, 50, 1e-20)
        np.testing.assert_allclose(got, torch.linalg.pinv(A) @ b, rtol=0, atol=1e-8)


def test_the_tolerance_is_on_the_squared_residual():
    """A looser tol stops sooner, with a residual below its root; b stays as it was."""
    A, b = spd(12, 3), normal(12, seed=4)
    before, errors = b.clone(), []
    for tol in (1e-1, 1e-4, 1e-8):
        x = trpo.conjugate_gradient(A.mv, b, 100, tol)
        errors.append(((A @ x - b) ** 2).sum().item())
        assert errors[-1] <= tol
    assert errors[0] > 1e-4 and errors[1] > 1e-8
    assert torch.equal(b, before)
    assert not trpo.conjugate_gradient(A.mv, b, 100, 1e9).any()


# --- Fisher products: (72) --------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("direction", ["old from new", "new from old"])
def test_the_fisher_matrix_is_the_hessian_of_either_kl(kind, direction):
    """(72): torch.autograd.functional.hessian of the mean KL of torch.distributions, in both directions."""
    policy, obs, _ = batch(kind)
    old, theta = policy(obs).detach(), flat(policy)

    def kl(weights):
        pair = twin(old), twin(at(policy, weights, obs))
        return kl_divergence(*(pair if direction == "old from new" else pair[::-1])).mean()

    want = torch.autograd.functional.hessian(kl, theta)
    assert want.abs().max() > 0.1
    got = matrix(trpo.fisher_product(policy, obs), len(theta))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_the_fisher_matrix_is_the_second_moment_of_the_scores():
    """(72) as its name says: E[score score'], actions enumerated, scores one at a time by autograd."""
    policy, obs, _ = batch("categorical", rows=6)
    want = 0
    for row in obs:
        logp = policy(row[None])[0]
        for a in range(3):
            score = torch.cat(
                [g.flatten() for g in torch.autograd.grad(logp[a], policy.parameters(), retain_graph=True)]
            )
            want = want + logp[a].exp().item() * torch.outer(score, score) / 6
    np.testing.assert_allclose(matrix(trpo.fisher_product(policy, obs), len(want)), want, rtol=0, atol=1e-12)


def test_the_fisher_matrix_of_a_softmax_table():
    """(72): blockdiag d(s) (diag pi - pi pi') in the logits, of rank S (A - 1)."""
    logits, counts = normal(3, 4, seed=5), torch.tensor([5, 2, 3])
    policy = tabular(3, logits)
    obs = torch.eye(3, dtype=torch.float64).repeat_interleave(counts, dim=0)
    F = torch.zeros(12, 12, dtype=torch.float64)
    for s, p in enumerate(logits.softmax(1)):
        block = counts[s].item() / 10 * (torch.diag(p) - torch.outer(p, p))
        for a in range(4):  # weights lie as (A, S): the logit of (s, a) is number 3 a + s
            F[3 * a + s, s::3] = block[a]
    got = matrix(trpo.fisher_product(policy, obs), 16)  # 12 weights, 4 biases
    np.testing.assert_allclose(got[:12, :12], F, rtol=0, atol=1e-15)
    assert torch.linalg.matrix_rank(got).item() == 3 * (4 - 1)


def test_damping_is_added_to_the_diagonal():
    policy, obs, _ = batch("gaussian")
    n = len(flat(policy))
    plain, damped = (matrix(trpo.fisher_product(policy, obs, damping), n) for damping in (0.0, 0.3))
    np.testing.assert_allclose(damped - plain, 0.3 * np.eye(n), rtol=0, atol=1e-14)


# --- the surrogate and its gradient: (69), (71) -----------------------------------------------------


@kinds
def test_the_surrogate_starts_at_the_mean_advantage(kind):
    """(69), (77) at the old policy, where every ratio is 1; elsewhere, the ratios by torch.distributions."""
    policy, obs, action = batch(kind)
    advantage = normal(40, seed=6) + 1
    logp = policy.log_prob(policy(obs), action).detach()
    assert trpo.surrogate(policy, obs, action, logp, advantage).item() == pytest.approx(
        advantage.mean().item(), abs=1e-14
    )
    other = batch(kind, seed=9)[0]
    ratio = (twin(other(obs)).log_prob(action) - twin(policy(obs)).log_prob(action)).exp()
    got = trpo.surrogate(other, obs, action, logp, advantage).item()
    assert got == pytest.approx((ratio * advantage).mean().item(), abs=1e-12)
    assert abs(got - advantage.mean().item()) > 0.01


@kinds
def test_the_gradient_of_the_surrogate_is_that_of_advantage_times_log_pi(kind):
    """(71): central differences of mean(A log pi) at the old policy, log pi by torch.distributions."""
    policy, obs, action = batch(kind)
    advantage, theta = normal(40, seed=7), flat(policy)
    logp = policy.log_prob(policy(obs), action).detach()
    value = trpo.surrogate(policy, obs, action, logp, advantage)
    got = torch.cat([g.flatten() for g in torch.autograd.grad(value, policy.parameters())])

    def mean(weights):
        with torch.no_grad():
            return (advantage * twin(at(policy, weights, obs)).log_prob(action)).mean()

    steps = 1e-6 * torch.eye(len(theta), dtype=torch.float64)
    want = [(mean(theta + e) - mean(theta - e)).item() / 2e-6 for e in steps]
    assert got.abs().max() > 0.05
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-8)


# --- the step: (73)-(75), Box 4.6.4 -----------------------------------------------------------------


def test_the_direction_in_a_softmax_table_is_the_advantage():
    """(73) on M2, exact: logits move along A(s, a) up to a constant in each state, and s'As = g's."""
    obs, action, advantage, A = exact_batch()
    policy = tabular()
    logp = policy.log_prob(policy(obs), action).detach()
    g = torch.autograd.grad(trpo.surrogate(policy, obs, action, logp, advantage), policy.parameters())
    g = torch.cat([x.flatten() for x in g])
    product = trpo.fisher_product(policy, obs)
    s = trpo.conjugate_gradient(product, g, tol=1e-20)
    direction = s[:4].reshape(2, 2).T + s[4:]  # of the logits
    np.testing.assert_allclose(direction[:, 1] - direction[:, 0], A[:, 1] - A[:, 0], rtol=0, atol=1e-8)
    assert (s @ product(s)).item() == pytest.approx((g @ s).item(), abs=1e-12)


def test_the_step_length_on_m2():
    """(74) on M2 with delta = .01: beta = .1990017, from the move of the logits over A."""
    obs, action, advantage, A = exact_batch()
    policy = tabular()
    done = trpo.step(policy, obs, action, advantage, delta=0.01, damping=0.0, cg_iters=20)
    with torch.no_grad():
        moved = policy.net(torch.eye(2, dtype=torch.float64)) - LOGITS
    length = (moved[:, 1] - moved[:, 0]) / (A[:, 1] - A[:, 0])
    assert done.accepted
    np.testing.assert_allclose(length / 0.5**done.shrinks, 0.1990017, rtol=0, atol=2e-7)


@kinds
@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_the_full_step_puts_the_quadratic_on_delta(kind, damping):
    """(74): half d'(A + damping) d = delta xi^(2j) for the move d, with the same damped A as in (73)."""
    policy, obs, action = batch(kind)
    product, before = trpo.fisher_product(policy, obs, damping), flat(policy)
    done = trpo.step(policy, obs, action, normal(40, seed=7), 0.02, damping, shrink=0.7)
    move = flat(policy) - before
    assert done.accepted
    assert (move @ product(move) / 2).item() == pytest.approx(0.02 * 0.7 ** (2 * done.shrinks), rel=1e-9)


def test_a_full_step_that_leaves_the_region_is_shortened():
    """Box 4.6.4, step 5: a sure policy, where the KL grows faster than its quadratic. Shrinks by hand."""
    policy = tabular(1, torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    obs, action = torch.ones(40, 1, dtype=torch.float64), torch.ones(40, dtype=torch.long)
    before, delta, xi, s = flat(policy), 0.2, 0.8, torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64)
    old, p = policy(obs).detach(), 1 / (1 + np.exp(3.0))
    # action 1 is better: the logit difference grows by 4 t along s, with curvature p (1 - p) 16 t^2 / 2
    t, tries, shrinks = np.sqrt(2 * delta / (16 * p * (1 - p))), [], 0
    while True:
        new = at(policy, before + t * xi**shrinks * s, obs)
        tries.append(kl_divergence(Categorical(logits=old), Categorical(logits=new)).mean().item())
        if tries[-1] <= delta:
            break
        shrinks += 1
    assert shrinks >= 2
    args = obs, action, torch.ones(40, dtype=torch.float64), delta, 0.0, 20, xi
    done = trpo.step(policy, *args)
    assert (done.accepted, done.shrinks) == (True, shrinks)
    assert done.kl == pytest.approx(tries[-1], abs=1e-9)
    np.testing.assert_allclose(flat(policy) - before, t * xi**shrinks * s, rtol=0, atol=1e-7)

    vector_to_parameters(before, policy.parameters())
    done = trpo.step(policy, *args, max_shrinks=shrinks - 1)  # one try too few: the policy stays
    assert (done.accepted, done.shrinks, done.kl, done.gain) == (False, shrinks, 0.0, 0.0)
    assert torch.equal(flat(policy), before)


@kinds
def test_200_steps_keep_their_promise(kind):
    """(68), (70), Box 4.6.4 in float32: KL <= delta and no loss in the surrogate, or not a bit has moved."""
    accepted = shortened = 0
    for seed in range(100):
        policy, obs, action = batch(kind, seed, dtype=torch.float32)
        advantage = (normal(40, seed=1000 + seed) + (seed % 3 - 1)).float()  # mean -1, 0, 1
        before, old, delta = flat(policy), twin(policy(obs).detach().double()), (0.01, 0.3)[seed % 2]
        done = trpo.step(policy, obs, action, advantage, delta, (0.0, 0.1)[seed // 2 % 2], max_shrinks=3)
        if not done.accepted:
            assert torch.equal(flat(policy), before) and done.kl == done.gain == 0 and done.shrinks == 4
            continue
        new = twin(policy(obs).detach().double())
        kl = kl_divergence(old, new).mean().item()
        gain = ((new.log_prob(action) - old.log_prob(action)).exp() - 1) @ advantage.double() / 40
        assert kl <= delta * (1 + 1e-4) and gain.item() >= -1e-6
        assert done.kl == pytest.approx(kl, abs=1e-5) and done.gain == pytest.approx(gain.item(), abs=1e-5)
        accepted, shortened = accepted + 1, shortened + (done.shrinks > 0)
    assert accepted >= 90 and shortened >= 5, (accepted, shortened)


def test_advantages_of_zero_move_nothing():
    """0 / 0 in (74) is no step, with damping and without."""
    for damping in (0.0, 0.1):
        policy, obs, action = batch("categorical", dtype=torch.float32)
        before = flat(policy)
        done = trpo.step(policy, obs, action, torch.zeros(40), damping=damping)
        assert done == trpo.Step(False, 0, 0.0, 0.0)
        assert torch.equal(flat(policy), before)


def test_the_unit_of_the_reward_does_not_matter():
    """(73), (74): beta s is the same for A and 1e-4 A or 1e4 A, since s'As grows with the square of A."""
    moves = []
    for unit in (1.0, 1e-6, 1e6):
        policy, obs, action = batch("categorical")
        before = flat(policy)
        assert trpo.step(policy, obs, action, unit * normal(40, seed=7)).accepted
        moves.append(flat(policy) - before)
    np.testing.assert_allclose(moves[1], moves[0], rtol=1e-6)
    np.testing.assert_allclose(moves[2], moves[0], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_advantage_that_is_no_number_raises_and_moves_nothing(bad):
    policy, obs, action = batch("categorical")
    advantage, before = normal(40), flat(policy)
    advantage[3] = bad
    with pytest.raises(FloatingPointError, match="advantage: .* not finite"):
        trpo.step(policy, obs, action, advantage)
    assert torch.equal(flat(policy), before)


def test_a_column_of_advantages_is_refused():
    """(m, 1) would broadcast against (m,) and average over all pairs."""
    policy, obs, action = batch("categorical")
    with pytest.raises(ValueError, match=r"advantage: expected shape \(40,\), got \(40, 1\)"):
        trpo.step(policy, obs, action, normal(40, 1))
    with pytest.raises(ValueError, match=r"logp_old: expected shape \(40,\), got \(40, 1\)"):
        trpo.surrogate(policy, obs, action, normal(40, 1), normal(40))


BAD_STEP = {"delta": 0.0, "damping": -0.1, "cg_iters": 0, "shrink": 1.0, "max_shrinks": -1}
BAD_CONFIG = BAD_STEP | {
    "total_steps": 0,
    "n_envs": 2.5,
    "n_steps": -1,
    "discount": 1.1,
    "lam": -0.1,
    "value_lr": 0.0,
    "value_epochs": 0,
    "value_minibatch": 0,
    "normalise": "yes",
    "hidden": (64, 0),
}


@pytest.mark.parametrize("name", BAD_STEP)
def test_step_names_a_bad_setting(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        trpo.step(*batch("categorical"), normal(40), **{name: BAD_STEP[name]})


@pytest.mark.parametrize("name", BAD_CONFIG)
def test_config_names_a_bad_setting(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        trpo.Config(**{name: BAD_CONFIG[name]})


def test_whole_numbers_may_be_floats():
    config = trpo.Config(total_steps=1e3, n_steps=8.0)
    assert (config.total_steps, config.n_steps) == (1000, 8) and type(config.n_steps) is int
    one, other = (
        trpo.step(*batch("categorical"), normal(40).float(), cg_iters=n, max_shrinks=n) for n in (2, 2.0)
    )
    assert one == other


# --- training ---------------------------------------------------------------------------------------


def test_fit_is_least_squares():
    """(82): a line through noisy points, against numpy.linalg.lstsq."""
    rng, x = np.random.default_rng(0), normal(60, 2).float()
    target = x @ torch.tensor([2.0, -1.0]) + 0.5 + 0.1 * normal(60, seed=1).float()
    value = policies.mlp([2, 1], 1.0, torch.Generator().manual_seed(0))
    adam = torch.optim.Adam(value.parameters(), lr=0.05)
    for lr in (0.05, 0.002):
        adam.param_groups[0]["lr"] = lr
        loss = trpo.fit(value, adam, x, target, 150, 60, rng)
    design = np.column_stack([x.numpy(), np.ones(60)])
    want, residual, *_ = np.linalg.lstsq(design, target.numpy(), rcond=None)
    np.testing.assert_allclose(parameters_to_vector(value.parameters()).detach(), want, rtol=0, atol=1e-3)
    assert loss == pytest.approx(residual[0] / 60, rel=1e-3)


SMALL = trpo.Config(total_steps=6000, n_envs=8, n_steps=75)


def test_training_repeats_and_keeps_to_its_region():
    """Box 4.6.4 on CartPole, 10 iterations: the same numbers from the same seed, KL <= delta in each."""
    first, second = (trpo.train("CartPole-v1", SMALL, seed=3, progress=False) for _ in range(2))
    other = trpo.train("CartPole-v1", trpo.Config(600, n_steps=75), seed=4, progress=False)
    for name in set(first.history) - {"seconds"}:
        np.testing.assert_array_equal(first.history[name], second.history[name])
    assert torch.equal(flat(first.policy), flat(second.policy))
    assert first.history["kl"][0] != other.history["kl"][0]
    assert (first.history["kl"] <= SMALL.delta).all() and first.history["accepted"].mean() > 0.8
    assert first.history["kl"].max() > 0.5 * SMALL.delta
    assert first.history["env_steps"].tolist() == list(range(600, 6001, 600))
    assert first.history["episode_return"][-1] > 2 * first.history["episode_return"][0]


def test_training_solves_the_two_state_world():
    """Within 5 % of the optimum 15.824176, judged by the exact value of the learnt table."""
    config = trpo.Config(12_000, n_steps=64, discount=0.9, delta=0.03, hidden=(16,))
    policy = trpo.train("rlbook/TwoState-v0", config, progress=False).policy
    with torch.no_grad():
        pi = policy.double()(torch.eye(2, dtype=torch.float64)).exp().numpy()
    assert two_state().evaluate(pi).J > 0.95 * 15.824176


@pytest.mark.parametrize("scale", [1e25, 1e150])
def test_a_loss_that_overflows_stops_with_good_parameters(monkeypatch, scale):
    """Rewards whose squares exceed every float32: NonFiniteLoss names the iteration, and no weight is NaN."""
    collect = trpo.Collector.collect

    def huge(self, policy, steps):
        segment = collect(self, policy, steps)
        segment.reward *= scale
        return segment

    monkeypatch.setattr(trpo.Collector, "collect", huge)
    with pytest.raises(NonFiniteLoss, match="iteration 0") as caught:
        trpo.train("CartPole-v1", SMALL, progress=False)
    for net in (caught.value.result.policy, caught.value.result.value):
        assert torch.isfinite(parameters_to_vector(net.parameters())).all()


def test_an_unknown_environment_is_refused():
    with pytest.raises(ValueError, match="env_id: expected a registered environment, got 'Nowhere-v0'"):
        trpo.train("Nowhere-v0", progress=False)
