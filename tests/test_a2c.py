"""Synchronous advantage actor-critic. The outsiders: the printed sums as loops with finite differences,
torch.autograd through the other terms, the exact two-state world, hand numbers.
"""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlbook import a2c, policies
from rlbook.rollout import Collector, NonFiniteLoss, Segment, one_thread
from rlbook.worlds import two_state

M2 = two_state()
LOGITS = np.array([[0.0, 0.5], [1.0, 0.0]])  # rows are states
T, N, GAMMA = 4, 2, 0.9


@pytest.fixture(autouse=True)
def small_networks_on_one_thread():
    with one_thread():
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def nets(kind):
    actions = Discrete(3) if kind == "categorical" else Box(-1, 1, (2,))
    policy, value = policies.build(Box(-9, 9, (2,)), actions, hidden=(3,), seed=1)
    with torch.no_grad():
        policy.net[-1].weight.mul_(100)
    return policy.double(), value.double()


def hand_made(kind):
    """Four steps of two copies: copy 0 ends after step 1, copy 1 is cut after step 2. float64 throughout."""
    terminated, truncated = np.zeros((2, T, N), bool)
    terminated[1, 0] = truncated[2, 1] = True
    action = np.array([[0, 2], [1, 1], [2, 0], [0, 1]]) if kind == "categorical" else normal(T, N, 2, seed=3)
    obs, last, cut = normal(T, N, 2, seed=4), normal(N, 2, seed=5), normal(1, 2, seed=6)
    params = torch.zeros(T, N, 3)
    return Segment(obs, action, params, normal(T, N, seed=7), terminated, truncated, last, cut)


def literal(segment, V, lam):
    """(9), (80), (81) by loops: advantages and targets, with V a function of one observation."""
    advantage, now = np.zeros((T, N)), np.zeros((T, N))
    for t, n in np.ndindex(T, N):
        now[t, n] = V(segment.obs[t, n])
        for k in range(t, T):
            if segment.terminated[k, n]:
                after = 0.0
            elif segment.truncated[k, n]:
                after = V(segment.cut_obs[0])
            else:
                after = V(segment.obs[k + 1, n] if k + 1 < T else segment.last_obs[n])
            delta = segment.reward[k, n] + GAMMA * after - V(segment.obs[k, n])
            advantage[t, n] += (GAMMA * lam) ** (k - t) * delta
            if segment.terminated[k, n] or segment.truncated[k, n]:
                break
    return advantage, advantage + now


def values_of(value):
    def V(obs):
        with torch.no_grad():
            return value(torch.from_numpy(obs)[None]).item()

    return V


def twin(params):
    if params.shape[-1] == 3:
        return torch.distributions.Categorical(logits=params)
    mean, log_std = params.chunk(2, dim=-1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


def flat_gradient(*networks):
    return torch.cat([p.grad.flatten() for net in networks for p in net.parameters()]).numpy()


def differences(f, nets):
    """Central differences of the scalar f() in all weights of the networks."""
    weights = [p for net in nets for p in net.parameters()]
    theta, want = parameters_to_vector(weights).detach().clone(), []
    for e in 1e-6 * torch.eye(len(theta), dtype=torch.float64):
        sides = []
        for sign in (1, -1):
            vector_to_parameters(theta + sign * e, weights)
            sides.append(f())
        want.append((sides[0] - sides[1]) / 2e-6)
    vector_to_parameters(theta, weights)
    return np.array(want)


# --- the gradient of one segment: (44)-(47), Box 3.4.2 ----------------------------------------------


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
@pytest.mark.parametrize("lam", [1.0, 0.8, 0.0])
def test_the_gradient_is_the_derivative_of_the_printed_objective(kind, lam):
    """-(mean log pi A) + c1 mean (V - y)^2 - c2 mean H, with A and y from loops and held fixed."""
    config = a2c.Config(lam=lam, discount=GAMMA, value_coef=0.7, entropy_coef=0.3, max_grad_norm=None)
    (policy, value), segment = nets(kind), hand_made(kind)
    V = values_of(value)
    advantage, target = literal(segment, V, lam)
    action = torch.from_numpy(segment.action)

    def printed():
        with torch.no_grad():
            law = twin(policy(torch.from_numpy(segment.obs).reshape(T * N, 2)))
            logp = law.log_prob(action.reshape(T * N, *action.shape[2:])).numpy().reshape(T, N)
            entropy = law.entropy().mean().item()
        now = np.array([[V(segment.obs[t, n]) for n in range(N)] for t in range(T)])
        return -(logp * advantage).mean() + 0.7 * ((now - target) ** 2).mean() - 0.3 * entropy

    want = differences(printed, (policy, value))
    total, parts = a2c.gradient(policy, value, segment, config)
    assert total == pytest.approx(printed(), abs=1e-6)
    assert parts["value_loss"] == pytest.approx((advantage**2).mean(), rel=1e-5)
    np.testing.assert_allclose(flat_gradient(policy, value), want, rtol=1e-5, atol=1e-6)
    assert np.abs(want).max() > 0.1


def test_the_critic_follows_the_semi_gradient():
    """(45) with its target fixed: not the gradient of the squared TD error through V(s') as well."""
    config = a2c.Config(lam=0.0, discount=GAMMA, value_coef=1.0, max_grad_norm=None)
    (policy, value), segment = nets("categorical"), hand_made("categorical")
    a2c.gradient(policy, value, segment, config)

    def residual():
        return (literal(segment, values_of(value), 0.0)[0] ** 2).mean()

    got, other = flat_gradient(value), differences(residual, (value,))
    assert np.linalg.norm(got - other) > 0.2 * np.linalg.norm(other)
    frozen = literal(segment, values_of(value), 0.0)[1]

    def semi():
        V = values_of(value)
        return np.mean([(V(segment.obs[i]) - frozen[i]) ** 2 for i in np.ndindex(T, N)])

    np.testing.assert_allclose(got, differences(semi, (value,)), rtol=1e-5, atol=1e-6)


def captured(monkeypatch, segment, value, lam):
    """(T, N) advantages and targets that `gradient` hands to the loss."""
    seen, loss = [], a2c.loss

    def watched(policy, value, obs, action, advantage, target, config):
        seen[:] = [x.double().numpy().reshape(segment.reward.shape) for x in (advantage, target)]
        return loss(policy, value, obs, action, advantage, target, config)

    monkeypatch.setattr(a2c, "loss", watched)
    policy = policies.build(Box(-9, 9, segment.obs.shape[-1:]), Discrete(3), hidden=())[0]
    config = a2c.Config(discount=GAMMA, lam=lam)
    a2c.gradient(policy.to(next(value.parameters()).dtype), value, segment, config)
    return seen


def test_advantages_are_td_errors_or_n_step_returns_by_hand(monkeypatch):
    """(44), (46): V(s) = s, gamma = .9, one copy pays 1, 2, 3 and ends, the other pays 1, 1, 1 and goes on.

    Copy 0: V = 5, 6, 7, then the end. lam = 0: 1 + 5.4 - 5 = 1.4, 2 + 6.3 - 6 = 2.3, 3 - 7 = -4.
    lam = 1: returns 5.23, 4.7, 3 less V. Copy 1: V = 1, 2, 3, then 4; returns 1 + .9 * 5.14 and so on.
    """
    obs = np.array([[5.0, 1], [6, 2], [7, 3]])[..., None]
    ended = np.array([[0, 0], [0, 0], [1, 0]], bool)
    reward = np.array([[1.0, 1], [2, 1], [3, 1]])
    segment = Segment(
        obs,
        np.zeros((3, 2), int),
        torch.zeros(3, 2, 3),
        reward,
        ended,
        ended & False,
        np.array([[9.0], [4]]),
        np.zeros((0, 1)),
    )
    value = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.ones_(value.weight)
    td, target = captured(monkeypatch, segment, value, 0.0)
    np.testing.assert_allclose(td, [[1.4, 1.8], [2.3, 1.7], [-4, 1.6]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(target, [[6.4, 2.8], [8.3, 3.7], [3, 4.6]], rtol=0, atol=1e-6)
    returns = np.array([[5.23, 1 + 0.9 * 5.14], [4.7, 5.14], [3, 4.6]])
    long, target = captured(monkeypatch, segment, value, 1.0)
    np.testing.assert_allclose(target, returns, rtol=0, atol=1e-6)
    np.testing.assert_allclose(long, returns - obs[..., 0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_with_the_true_values_the_mean_advantage_is_the_advantage(monkeypatch, lam):
    """(44), (46) on M2 with V = V^pi: 4,000 first steps of a segment, within 4 standard errors of A(s, a)."""
    want = M2.evaluate(np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True))
    policy, value = policies.build(Discrete(2), Discrete(2), hidden=())
    with torch.no_grad():
        policy.net[0].weight.copy_(torch.from_numpy(LOGITS.T))
        value[0].weight.copy_(torch.from_numpy(want.V[None]))
    collector = Collector("rlbook/TwoState-v0", 4000, seed=0)
    collector.collect(policy, 3)  # away from the first state
    segment = collector.collect(policy, 4)
    advantage = captured(monkeypatch, segment, value, lam)[0][0]
    state, action = segment.obs[0].argmax(axis=1), segment.action[0]
    for s, a in np.ndindex(2, 2):
        rows = advantage[(state == s) & (action == a)]
        assert len(rows) > 300
        assert abs(rows.mean() - want.A[s, a]) < 4 * rows.std() / np.sqrt(len(rows)), (s, a)


def test_entropy_is_sought():
    """(83): one step along minus the gradient raises the entropy, and more so with a larger coefficient."""
    entropies = []
    for coef in (0.0, 1.0, 2.0):
        policy, value = nets("categorical")
        segment = hand_made("categorical")
        a2c.gradient(policy, value, segment, a2c.Config(entropy_coef=coef, max_grad_norm=None))
        with torch.no_grad():
            for p in policy.parameters():
                p -= 0.01 * p.grad
            entropies.append(policy.entropy(policy(torch.from_numpy(segment.obs))).mean().item())
    assert entropies[0] < entropies[1] < entropies[2]


def test_long_gradients_are_cut_to_their_direction():
    """The norm over both networks together; a bound above it changes nothing."""
    (policy, value), segment = nets("gaussian"), hand_made("gaussian")
    got = {}
    for bound in (None, 1e-3, 1e3):
        a2c.gradient(policy, value, segment, a2c.Config(max_grad_norm=bound))
        got[bound] = flat_gradient(policy, value)
    length = np.linalg.norm(got[None])
    assert 1e-3 < length < 1e3
    np.testing.assert_allclose(got[1e-3], got[None] * 1e-3 / length, rtol=1e-4)
    np.testing.assert_array_equal(got[1e3], got[None])


def test_gradients_do_not_add_up_over_calls():
    (policy, value), segment = nets("categorical"), hand_made("categorical")
    a2c.gradient(policy, value, segment, a2c.Config())
    first = flat_gradient(policy, value)
    a2c.gradient(policy, value, segment, a2c.Config())
    assert np.array_equal(first, flat_gradient(policy, value)) and first.any()


def test_a_column_of_advantages_is_refused():
    """(m, 1) would broadcast against (m,) and average over all pairs."""
    policy, value = nets("categorical")
    obs, action, good = (
        torch.zeros(5, 2, dtype=torch.float64),
        torch.zeros(5, dtype=torch.long),
        torch.ones(5),
    )
    for name, pair in (("advantage", (good[:, None], good)), ("target", (good, good[:, None]))):
        with pytest.raises(ValueError, match=rf"{name}: expected shape \(5,\), got \(5, 1\)"):
            a2c.loss(policy, value, obs, action, *pair, a2c.Config())


# --- training ---------------------------------------------------------------------------------------

SMALL = a2c.Config(800, n_envs=4, discount=0.9, hidden=(8,))


def test_the_optimiser_is_rmsprop():
    """g^2 averaged with .99, then lr g / (sqrt + 1e-5): two steps written out."""
    policy, value = nets("categorical")
    update, p = a2c.optimiser(policy, value, a2c.Config(lr=0.1)), next(policy.parameters())
    want, square = p.detach().clone(), 0
    for scale in (1.0, -3.0):
        for w in (*policy.parameters(), *value.parameters()):
            w.grad = torch.full_like(w, scale)
        update.step()
        square = 0.99 * square + 0.01 * scale**2
        want -= 0.1 * scale / (square**0.5 + 1e-5)
    np.testing.assert_allclose(p.detach(), want, rtol=0, atol=1e-12)
    assert sum(len(group["params"]) for group in update.param_groups) == 4 + 4


@pytest.mark.parametrize("anneal", [True, False])
def test_the_step_size_falls_linearly_to_zero(monkeypatch, anneal):
    """lr (1 - k / K) in iteration k of K, seen at each step."""
    seen, make = [], a2c.optimiser

    def watched(policy, value, config):
        update = make(policy, value, config)
        step = update.step
        update.step = lambda: (seen.append(update.param_groups[0]["lr"]), step())
        return update

    monkeypatch.setattr(a2c, "optimiser", watched)
    a2c.train("rlbook/TwoState-v0", a2c.Config(50, 2, 5, lr=0.5, anneal=anneal), progress=False)
    np.testing.assert_allclose(seen, [0.5, 0.4, 0.3, 0.2, 0.1] if anneal else [0.5] * 5, rtol=1e-12)


def test_training_repeats_by_its_seed_and_records_what_happened():
    first, second, other = (a2c.train("CartPole-v1", SMALL, seed=s, progress=False) for s in (3, 3, 4))
    for name in set(first.history) - {"seconds"}:
        np.testing.assert_array_equal(first.history[name], second.history[name])
    weights = [parameters_to_vector(r.policy.parameters()) for r in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first.history["env_steps"].tolist() == list(range(20, 801, 20))
    returns = first.history["episode_return"]
    assert np.isnan(returns[0]) and np.nanmax(returns) > 8 and np.isfinite(returns).sum() > 10


def test_training_solves_the_two_state_world():
    """Box 3.4.2. Within 5 % of the optimum 15.824176, judged by the exact value of the learnt table."""
    config = a2c.Config(12_000, discount=0.9, lr=3e-3, hidden=(16,))
    policy = a2c.train("rlbook/TwoState-v0", config, progress=False).policy
    with torch.no_grad():
        pi = policy.double()(torch.eye(2, dtype=torch.float64)).exp().numpy()
    assert M2.evaluate(pi).J > 0.95 * 15.824176


@pytest.mark.parametrize("scale", [1e25, 1e150])
def test_a_loss_that_overflows_stops_with_good_parameters(monkeypatch, scale):
    """NonFiniteLoss names the iteration and the rewards; the weights are those of the iterations before."""
    collect = Collector.collect

    def huge(self, policy, steps):
        segment = collect(self, policy, steps)
        self.calls = getattr(self, "calls", 0) + 1
        segment.reward *= scale if self.calls == 3 else 1
        return segment

    flat_lr = a2c.Config(800, n_envs=4, anneal=False, hidden=(8,))
    two = a2c.train("CartPole-v1", a2c.Config(40, n_envs=4, anneal=False, hidden=(8,)), progress=False)
    monkeypatch.setattr(Collector, "collect", huge)
    with pytest.raises(NonFiniteLoss, match=r"iteration 2: rewards from 1e\+\d+ to 1e\+\d+;") as caught:
        a2c.train("CartPole-v1", flat_lr, progress=False)
    found = caught.value.result
    assert len(found.history["env_steps"]) == 2
    for mine, want in ((found.policy, two.policy), (found.value, two.value)):
        assert torch.equal(*(parameters_to_vector(net.parameters()) for net in (mine, want)))


BAD = {
    "total_steps": 0,
    "n_envs": 1.5,
    "n_steps": -5,
    "lr": 0.0,
    "anneal": "no",
    "discount": 1.01,
    "lam": -0.1,
    "value_coef": -1.0,
    "entropy_coef": float("nan"),
    "max_grad_norm": 0.0,
    "hidden": 64,
}


@pytest.mark.parametrize("name", BAD)
def test_config_names_a_bad_setting(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        a2c.Config(**{name: BAD[name]})


def test_whole_numbers_may_be_floats():
    config = a2c.Config(total_steps=1e3, n_envs=8.0)
    assert config == a2c.Config(1000, 8) and type(config.total_steps) is type(config.n_envs) is int
