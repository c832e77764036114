"""Section 4.7, the objectives. The outsiders: tables by hand, the printed objective as a loop, finite
differences, a closed form of the KL-penalised optimum. Training is in test_ppo_training.py.
"""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

from rlbook import policies, ppo
from rlbook.ppo import Config, clipped_surrogate
from rlbook.rollout import one_thread

EPS = 0.2
RATIOS = (0.5, 0.8, 1.0, 1.2, 1.5)


@pytest.fixture(autouse=True)
def one():
    """Threads only get in each other's way in networks this small."""
    with one_thread():
        yield


def double(x):
    return torch.tensor(x, dtype=torch.float64)


# --- the clipped surrogate: (78) --------------------------------------------------------------------

VALUES = {2.0: (1.0, 1.6, 2.0, 2.4, 2.4), -2.0: (-1.6, -1.6, -2.0, -2.4, -3.0), 0.0: (0,) * 5}
SLOPES = {2.0: (2, 2, 2, 2, 0), -2.0: (0, -2, -2, -2, -2), 0.0: (0,) * 5}


@pytest.mark.parametrize("advantage", VALUES)
def test_the_clipped_surrogate_by_hand(advantage):
    """(78), eps 0.2, at (0.5, 0.8, 1, 1.2, 1.5): a good action is capped above, a bad one held below."""
    got = clipped_surrogate(double(RATIOS), double([advantage] * 5), EPS, EPS)
    np.testing.assert_allclose(got, VALUES[advantage], rtol=0, atol=1e-15)


@pytest.mark.parametrize("advantage", SLOPES)
def test_its_slope_is_the_advantage_or_nothing(advantage):
    """d(78)/d ratio = A times a gate, not the gate alone; the ends of the band still count as inside."""
    ratio = double(RATIOS).requires_grad_()
    clipped_surrogate(ratio, double([advantage] * 5), EPS, EPS).sum().backward()
    np.testing.assert_array_equal(ratio.grad, SLOPES[advantage])


def test_each_side_of_the_band_binds_one_sign():
    """eps_low 0.1, eps_high 0.3: A = 1 stops at 1.3 and never at 0.9, A = -1 the other way round."""
    ratio, one = double([0.5, 0.95, 1.25, 2.0]), torch.ones(4, dtype=torch.float64)
    good, bad = clipped_surrogate(ratio, one, 0.1, 0.3), clipped_surrogate(ratio, -one, 0.1, 0.3)
    np.testing.assert_allclose(good, [0.5, 0.95, 1.25, 1.3], rtol=0, atol=1e-15)
    np.testing.assert_allclose(bad, [-0.9, -0.95, -1.25, -2.0], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(clipped_surrogate(ratio, one, 0.9, 0.3), good)
    np.testing.assert_array_equal(clipped_surrogate(ratio, -one, 0.1, 9.0), bad)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0, 10), st.floats(-100, 100), st.floats(0, 0.99), st.floats(0, 2))
def test_the_clipped_surrogate_is_a_lower_bound(ratio, advantage, low, high):
    """(78) <= ratio A, equal inside the band; and the book's min and clip in plain Python."""
    got = clipped_surrogate(double([ratio]), double([advantage]), low, high).item()
    assert got <= ratio * advantage
    if 1 - low <= ratio <= 1 + high:
        assert got == ratio * advantage
    assert got == min(ratio * advantage, min(1 + high, max(ratio, 1 - low)) * advantage)


@pytest.mark.parametrize("high, cap", [(0.2, 0.012), (0.28, 0.0128)])
def test_the_upper_band_caps_how_far_a_good_action_grows(high, cap):
    """(101), as printed: from .01 to (1 + eps) .01; never binding where pi_old > 1 / (1 + eps)."""
    pi = torch.tensor([cap - 1e-6, cap + 1e-6], dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(clipped_surrogate(pi / 0.01, torch.ones_like(pi), 0.2, high).sum(), pi)
    np.testing.assert_allclose(slope, [100, 0], rtol=1e-12)
    likely = torch.ones(1, dtype=torch.float64).requires_grad_()  # from 1.001 / (1 + eps) all the way to 1
    old = 1.001 / (1 + high)
    (slope,) = torch.autograd.grad(clipped_surrogate(likely / old, likely.detach(), 0.2, high).sum(), likely)
    assert slope.item() == pytest.approx(1 / old)


def test_other_shapes_and_bands_are_refused():
    with pytest.raises(ValueError, match=r"advantage: expected shape \(3,\) as ratio, got \(3, 1\)"):
        clipped_surrogate(torch.ones(3), torch.ones(3, 1), EPS, EPS)
    for low, high in ((-0.1, 0.2), (0.2, -0.1), (np.nan, 0.2), (0.2, np.nan)):
        with pytest.raises(ValueError, match="eps_low, eps_high: expected numbers >= 0, got"):
            clipped_surrogate(torch.ones(3), torch.ones(3), low, high)


# --- the loss: (76)-(79), (82)-(85) -----------------------------------------------------------------

M, D = 11, 3
KINDS = {"categorical": Discrete(3), "gaussian": Box(-1, 1, (2,))}
both_policies = pytest.mark.parametrize("kind", KINDS)
both_objectives = pytest.mark.parametrize("objective", ["clip", "kl"])
WEIGHTS = dict(value_coef=0.7, entropy_coef=0.3, eps_low=0.1, eps_high=0.25)


def minibatch(kind, seed=0):
    """Networks and a minibatch in float64; the old policy is another network, so ratios are far from 1."""
    generator = torch.Generator().manual_seed(seed)
    space = Box(-np.inf, np.inf, (D,))
    nets = [*policies.build(space, KINDS[kind], (4,), seed), policies.build(space, KINDS[kind], (4,), 9)[0]]
    for w in (w for net in nets for w in net.double().parameters()):
        w.data += 0.3 * torch.randn(w.shape, generator=generator, dtype=w.dtype)
    policy, value, old = nets
    obs = torch.randn(M, D, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        params_old = old(obs)
        action = old.sample(params_old, generator)
        logp_old = old.log_prob(params_old, action)
    advantage, target = torch.randn(2, M, generator=generator, dtype=torch.float64)
    return policy, value, obs, action, logp_old, params_old, advantage, target


def literal_loss(
    kind, policy, value, obs, action, logp_old, params_old, advantage, target, config, shrink, beta
):
    """Minus (85), a row at a time; with the KL penalty in the place of (78) if the settings say so."""
    with torch.no_grad():
        new, old, v = policy(obs).numpy(), params_old.numpy(), value(obs).numpy()[:, 0]
    total = kl_mean = v_mean = H_mean = 0.0
    for i in range(M):
        if kind == "categorical":
            p, q = np.exp(old[i]), np.exp(new[i])
            ratio = q[action[i]] / p[action[i]]
            kl, H = np.sum(p * np.log(p / q)), -np.sum(q * np.log(q))
        else:
            (m0, s0), (m1, s1) = ((x[:2], np.exp(x[2:])) for x in (old[i], new[i]))
            density = [
                np.prod(np.exp(-((action[i].numpy() - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi)))
                for m, s in ((m0, s0), (m1, s1))
            ]
            ratio = density[1] / density[0]
            kl = np.sum(np.log(s1 / s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5)
            H = np.sum(np.log(s1 * math.sqrt(2 * math.pi * math.e)))
        A = advantage[i].item()
        low, high = 1 - shrink * config.eps_low, 1 + shrink * config.eps_high
        term = min(ratio * A, min(high, max(ratio, low)) * A)
        if config.objective == "kl":
            term = ratio * A - beta * kl
        squared = (v[i] - target[i].item()) ** 2
        total += (term - config.value_coef * squared + config.entropy_coef * H) / M
        kl_mean, v_mean, H_mean = kl_mean + kl / M, v_mean + squared / M, H_mean + H / M
    return -total, kl_mean, v_mean, H_mean


@both_policies
@both_objectives
@pytest.mark.parametrize("shrink", [1.0, 0.3])
def test_the_loss_is_minus_the_printed_objective(kind, objective, shrink):
    """(76), (82)-(85) as a loop over rows, with both coefficients, an uneven band and its annealing."""
    batch, config = minibatch(kind), Config(objective=objective, **WEIGHTS)
    want, kl, v, H = literal_loss(kind, *batch, config, shrink, 0.4)
    total, parts = ppo.loss(*batch, config, shrink, 0.4)
    assert total.item() == pytest.approx(want, abs=1e-12)
    assert parts["kl"].mean().item() == pytest.approx(kl, abs=1e-12)
    assert parts["value_loss"].item() == pytest.approx(v, abs=1e-12)
    assert parts["entropy"].item() == pytest.approx(H, abs=1e-12)
    outside = (parts["ratio"] - 1).abs() > 0.25
    assert outside.any() and not outside.all()  # the band matters


@both_policies
@both_objectives
def test_the_gradient_of_the_loss_is_its_derivative(kind, objective):
    """(84), (85): central differences in every weight of both networks, float64."""
    policy, value, *data = minibatch(kind)
    config = Config(objective=objective, **WEIGHTS)
    ppo.loss(policy, value, *data, config, 1.0, 0.4)[0].backward()
    for w in (*policy.parameters(), *value.parameters()):
        for i in np.ndindex(*w.shape):
            at, y = w.data[i].item(), []
            for h in (1e-6, -1e-6):
                w.data[i] = at + h
                y.append(ppo.loss(policy, value, *data, config, 1.0, 0.4)[0].item())
            w.data[i] = at
            assert w.grad[i].item() == pytest.approx((y[0] - y[1]) / 2e-6, abs=1e-7)
    assert all(w.grad.abs().max() > 1e-4 for w in (*policy.parameters(), *value.parameters()))


@both_policies
def test_without_coefficients_only_the_clipped_objective_is_left(kind):
    """c1 = c2 = 0: minus (79), the mean of (78); and the value network gets no gradient."""
    policy, value, obs, action, logp_old, *rest = minibatch(kind)
    config = Config(value_coef=0, entropy_coef=0)
    total, _ = ppo.loss(policy, value, obs, action, logp_old, *rest, config)
    with torch.no_grad():
        ratio = (policy.log_prob(policy(obs), action) - logp_old).exp().numpy()
    A = rest[1].numpy()
    clipped = np.where(A > 0, np.minimum(ratio, 1.2), np.maximum(ratio, 0.8)) * A
    assert total.item() == pytest.approx(-clipped.mean(), abs=1e-12)
    total.backward()
    assert all((w.grad == 0).all() for w in value.parameters())


@both_policies
@both_objectives
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_a_step_makes_good_actions_likelier_and_bad_ones_rarer(kind, objective, advantage):
    """One row, from ratio 1: the log-probability moves with the sign of the advantage."""
    policy, value, obs, action, *_ = minibatch(kind)
    obs, action = obs[:1], action[:1]
    with torch.no_grad():
        params = policy(obs)
        before = policy.log_prob(params, action)
    config = Config(objective=objective)
    total, _ = ppo.loss(
        policy, value, obs, action, before, params, double([advantage]), double([0.0]), config, kl_coef=1.0
    )
    total.backward()
    torch.optim.SGD(policy.parameters(), lr=1e-3).step()
    with torch.no_grad():
        moved = (policy.log_prob(policy(obs), action) - before).item()
    assert moved * advantage > 1e-4


def test_at_the_old_policy_the_gradient_is_that_of_the_policy_gradient():
    """Ratio 1 and KL at its minimum: both objectives start along the mean of A grad log pi."""
    for objective in ("clip", "kl"):
        policy, value, obs, action, _, _, advantage, target = minibatch("categorical")
        with torch.no_grad():
            params = policy(obs)
            logp = policy.log_prob(params, action)
        config = Config(objective=objective, value_coef=0)
        total, _ = ppo.loss(policy, value, obs, action, logp, params, advantage, target, config, kl_coef=5.0)
        got = torch.autograd.grad(total, list(policy.parameters()))
        plain = -(policy.log_prob(policy(obs), action) * advantage).mean()
        for g, w in zip(got, torch.autograd.grad(plain, list(policy.parameters())), strict=True):
            np.testing.assert_allclose(g, w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name, position", [("logp_old", 4), ("advantage", 6), ("target", 7)])
def test_columns_that_would_broadcast_are_refused(name, position):
    batch = list(minibatch("categorical"))
    batch[position] = batch[position][:, None]
    with pytest.raises(ValueError, match=rf"{name}: expected shape \({M},\), got \({M}, 1\)"):
        ppo.loss(*batch, Config())


# --- what the objectives lead to --------------------------------------------------------------------


def bandit(p):
    """A softmax policy over one state with probabilities p, in float64; its only weights are the logits."""
    policy = policies.CategoricalPolicy(1, len(p), (), torch.Generator()).double()
    policy.net[0].weight.data[:] = double(p).log()[:, None]
    policy.net[0].bias.requires_grad_(False)
    return policy


def expectation(policy, old, p, advantage, config, kl_coef=0.0):
    """`ppo.loss` without the critic, exact: action a stands in a share p[a] of 20 rows."""
    action = torch.from_numpy(np.repeat(np.arange(len(p)), np.round(20 * np.array(p)).astype(int)))
    n = len(action)
    params = old.log().expand(n, -1)
    logp = params[torch.arange(n), action]
    one = torch.ones(n, 1, dtype=torch.float64)
    data = one, action, logp, params, double(advantage)[action], one[:, 0]
    return ppo.loss(policy, lambda obs: obs, *data, config, kl_coef=kl_coef)


def test_one_step_leaves_the_clip_band_and_stays_out():
    """Three arms, A = (1, -1/2, -1/2), step size 2: logits (2, -1, -1) / 3 make ratios 3 e/(e+2) = 1.728.

    Then every arm is past its clip, on the side it wanted to go, and the gradient is 0 for ever.
    """
    third = [1 / 3] * 3
    policy = bandit(third)
    for step in range(3):
        total, parts = expectation(policy, double(third), [0.35] * 3, [1, -0.5, -0.5], Config(value_coef=0))
        (gradient,) = torch.autograd.grad(total, [policy.net[0].weight])
        if step == 0:
            np.testing.assert_allclose(gradient[:, 0], [-1 / 3, 1 / 6, 1 / 6], rtol=0, atol=1e-15)
        else:
            np.testing.assert_array_equal(gradient, 0)
            ratios = parts["ratio"].detach().unique()
            np.testing.assert_allclose(ratios, [3 / (math.e + 2), 3 * math.e / (math.e + 2)], rtol=1e-12)
            np.testing.assert_allclose(ratios, [0.6358, 1.7284], atol=1e-4)
        policy.net[0].weight.data -= 2 * gradient


@pytest.mark.parametrize(
    "p, advantage, kl_coef, want",
    [
        ((0.5, 0.5), (1, -1), 1.0, (1 + math.sqrt(5)) / 4),  # lambda is the golden ratio
        ((0.25, 0.75), (2, -1), 1.0, 0.25 / (math.sqrt(1.75) - 1)),  # lambda = 1 + sqrt 1.75
        ((0.5, 0.5), (1, -1), 3.0, None),
        ((0.2, 0.5, 0.3), (1, 0.5, -2), 0.7, None),
    ],
)
def test_the_kl_penalised_optimum_has_a_closed_form(p, advantage, kl_coef, want):
    """max_q sum q A - beta KL(p || q) is at q_a = beta p_a / (lambda - A_a), lambda making it sum to 1.

    The other direction of KL would give p exp(A / beta), 0.8808 in the first case instead of 0.8090.
    """
    p, A = np.array(p), np.array(advantage, float)
    low, high = A.max() + 1e-9, A.max() + 100
    for _ in range(200):  # the sum falls in lambda
        lam = (low + high) / 2
        low, high = (lam, high) if (kl_coef * p / (lam - A)).sum() > 1 else (low, lam)
    q = kl_coef * p / (lam - A)
    if want is not None:
        assert q[0] == pytest.approx(want, abs=1e-9)
    policy = bandit([1 / len(p)] * len(p))
    config = Config(objective="kl", value_coef=0)
    tight = dict(tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")
    search = torch.optim.LBFGS([policy.net[0].weight], **tight)

    def closure():
        search.zero_grad()
        total, _ = expectation(policy, double(p), p, A, config, kl_coef)
        total.backward()
        return total

    for _ in range(3):
        search.step(closure)
    with torch.no_grad():
        got = policy(torch.ones(1, 1, dtype=torch.float64)).exp()[0]
    np.testing.assert_allclose(got, q, rtol=0, atol=1e-8)
