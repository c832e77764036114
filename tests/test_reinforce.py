"""The vanilla policy gradient. The outsiders: enumeration of all trajectories, finite differences, loops,
hand numbers, the exact two-state world. Names with `erratum` show where the printed text needs a correction.
"""

from itertools import product

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rlbook import policies, reinforce
from rlbook.rollout import Collector, NonFiniteLoss, one_thread
from rlbook.worlds import random_mdp, two_state

M2 = two_state()
LOGITS = np.array([[0.0, 0.5], [1.0, 0.0]])  # rows are states


@pytest.fixture(autouse=True)
def small_networks_on_one_thread():
    with one_thread():
        yield


def table(logits=LOGITS):
    """A softmax table in float64: one-hot observations, no hidden layer, zero bias."""
    policy = policies.build(Discrete(len(logits)), Discrete(logits.shape[1]), hidden=())[0].double()
    with torch.no_grad():
        policy.net[0].weight.copy_(torch.from_numpy(logits.T))
    return policy


def softmax(logits):
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)


def every_trajectory(mdp, pi, H):
    """All trajectories of H steps that can happen, one a column: states, actions, rewards, probabilities."""
    paths = [((), (), s, p) for s, p in enumerate(mdp.rho) if p > 0]
    for _ in range(H):
        paths = [
            (past + (s,), acts + (a,), t, p * pi[s, a] * mdp.P[s, a, t])
            for past, acts, s, p in paths
            for a, t in product(range(mdp.n_actions), range(mdp.n_states))
            if pi[s, a] * mdp.P[s, a, t] > 0
        ]
    states, actions, _, p = zip(*paths, strict=True)
    states, actions = np.array(states).T, np.array(actions).T
    return states, actions, mdp.r[states, actions], np.array(p)


def gradient(policy, states, actions, weight):
    """Gradient of `objective` for a batch of trajectories in columns, flat."""
    obs = torch.eye(policy.net[0].in_features, dtype=torch.float64)[torch.from_numpy(states)]
    value = reinforce.objective(policy, obs, torch.from_numpy(actions), torch.from_numpy(weight))
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, policy.parameters())]).numpy()


def of_logits(flat):
    """(S, A) part of a flat gradient of the 2 x 2 table, whose weights lie as (A, S)."""
    return flat[:4].reshape(2, 2).T


# --- the weights of the scores: (34), (35), (38) ----------------------------------------------------


@pytest.mark.parametrize(
    "form, correction, want",
    [
        ("trajectory", True, [[2.75, 20], [2.75, 20], [2.75, 0]]),
        ("trajectory", False, [[2.75, 20], [2.75, 20], [2.75, 0]]),
        ("reward_to_go", True, [[2.75, 20], [1.75, 10], [0.75, 0]]),
        ("reward_to_go", False, [[2.75, 20], [3.5, 20], [3, 0]]),
    ],
)
def test_weights_by_hand(form, correction, want):
    """gamma = 1/2. G = (1 + 1 + 3/4, 2 + 3/2, 3) and, for the trajectory that ends after two steps,
    (10 + 10, 20): the 99 after its end counts nowhere.
    """
    reward, mask = [[1, 10], [2, 20], [3, 99]], [[1, 1], [1, 1], [1, 0]]
    got = reinforce.weights(reward, mask, 0.5, form, correction)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)


def test_weights_name_what_is_wrong():
    ones = np.ones((3, 2))
    for args, text in (
        ((ones[0], ones[0], 0.9), "reward: expected 2 axes"),
        ((ones, ones[:2], 0.9), r"mask: expected shape \(3, 2\)"),
        ((ones * np.nan, ones, 0.9), "reward: expected finite"),
        ((ones, ones, 1.1), "discount: expected"),
        ((ones, ones, 0.9, "printed"), "form: expected 'trajectory' or 'reward_to_go', got 'printed'"),
    ):
        with pytest.raises(ValueError, match=text):
            reinforce.weights(*args)


# --- the gradient estimate: (33)-(35), (37), (39) ---------------------------------------------------


def test_the_objective_by_hand():
    """(39) on two trajectories of two steps, pi = 1/2: (log 1/2) (1 + 2 + 3 + 4) / 2."""
    policy, zeros = table(np.zeros((1, 2))), torch.zeros(2, 2, dtype=torch.long)
    weight = torch.tensor([[1.0, 2], [3, 4]], dtype=torch.float64)
    got = reinforce.objective(policy, torch.ones(2, 2, 1, dtype=torch.float64), zeros, weight)
    assert got.item() == pytest.approx(5 * np.log(0.5), abs=1e-14)


def test_time_and_trajectories_do_not_get_mixed():
    """(39) as a double loop over t and n, for normal actions and unequal T and N."""
    policy = policies.build(Box(-9, 9, (3,)), Box(-1, 1, (2,)), hidden=(4,))[0].double()
    draw = torch.Generator().manual_seed(0)
    obs, action, weight = (torch.randn(5, 3, d, generator=draw, dtype=torch.float64) for d in (3, 2, 1))
    got = reinforce.objective(policy, obs, action, weight[..., 0])
    want = 0
    for t, n in product(range(5), range(3)):
        mean, log_std = policy(obs[t, n : n + 1]).chunk(2, dim=-1)
        logp = torch.distributions.Normal(mean, log_std.exp()).log_prob(action[t, n]).sum()
        want = want + logp * weight[t, n, 0] / 3
    assert got.item() == pytest.approx(want.item(), abs=1e-12)


def test_shapes_that_do_not_fit_are_refused():
    policy, obs = table(), torch.zeros(3, 2, 2, dtype=torch.float64)
    good, bad = torch.zeros(3, 2, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
    for action, weight in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match=r"weight, action: expected shapes that begin with \(3, 2\)"):
            reinforce.objective(policy, obs, action, weight)


@pytest.mark.parametrize(
    "form, correction", [("trajectory", True), ("reward_to_go", True), ("reward_to_go", False)]
)
def test_all_trajectories_of_m2_give_the_known_gradients(form, correction):
    """(33)-(35): 4,096 trajectories of 6 steps weighted by their probability; numbers from elsewhere."""
    states, actions, rewards, p = every_trajectory(M2, softmax(LOGITS), 6)
    assert p.sum() == pytest.approx(1, abs=1e-12) and len(p) == 4096
    weight = reinforce.weights(rewards, np.ones_like(rewards), 0.9, form, correction)
    got = of_logits(gradient(table(), states, actions, weight * p * len(p)))
    true, printed = (0.579737, -0.799148), (0.713360, -1.082585)
    first, second = true if correction else printed
    np.testing.assert_allclose(got, [[first, -first], [second, -second]], rtol=0, atol=6e-7)


@pytest.mark.parametrize("gamma", [0.7, 1 - 1e-12])
def test_erratum_35_needs_the_discount_to_be_the_gradient(gamma):
    """(35), (38) with gamma^t: central differences of the truncated J of a random world, every weight of a
    network with a hidden layer. Without gamma^t it is off by more than 5 %; with gamma = 1 both agree.
    """
    mdp, H = random_mdp(2, 2, 2, gamma), 4
    policy = policies.build(Discrete(2), Discrete(2), hidden=(3,))[0].double()
    with torch.no_grad():
        policy.net[-1].weight.mul_(100)
    theta = parameters_to_vector(policy.parameters()).detach()

    def pi():
        with torch.no_grad():
            return policy(torch.eye(2, dtype=torch.float64)).exp().numpy()

    def J(weights):
        vector_to_parameters(weights, policy.parameters())
        law, total, now = mdp.rho, 0.0, pi()
        for t in range(H):
            total += gamma**t * np.einsum("s,sa,sa", law, now, mdp.r)
            law = np.einsum("s,sa,sat->t", law, now, mdp.P)
        return total

    shifts = 1e-5 * torch.eye(len(theta), dtype=torch.float64)
    want = np.array([(J(theta + e) - J(theta - e)) / 2e-5 for e in shifts])
    vector_to_parameters(theta, policy.parameters())
    states, actions, rewards, p = every_trajectory(mdp, pi(), H)

    def estimate(correction):
        weight = reinforce.weights(rewards, np.ones_like(rewards), gamma, discount_correction=correction)
        return gradient(policy, states, actions, len(p) * p * weight)

    np.testing.assert_allclose(estimate(True), want, rtol=0, atol=1e-9)
    off = np.linalg.norm(estimate(False) - want) / np.linalg.norm(want)
    assert off > 0.05 if gamma < 0.9 else off < 1e-7, off


def test_a_baseline_changes_the_spread_and_not_the_mean():
    """(41), (42) by enumeration on M2, 4 steps: b(s) = 3 + s in every step; V(s) cuts the variance."""
    pi = softmax(LOGITS)
    states, actions, rewards, p = every_trajectory(M2, pi, 4)
    weight = reinforce.weights(rewards, np.ones_like(rewards), 0.9, discount_correction=False)

    def mean_and_variance(weight):
        each = np.array(
            [
                gradient(table(), s[:, None], a[:, None], w[:, None])
                for s, a, w in zip(states.T, actions.T, weight.T, strict=True)
            ]
        )
        mean = p @ each
        return mean, (p @ each**2 - mean**2).sum()

    plain, spread = mean_and_variance(weight)
    constant, _ = mean_and_variance(weight - (3 + states))
    values = [np.zeros(2)]
    for _ in range(4):  # V with so many steps to go
        values.append((pi * (M2.r + 0.9 * M2.P @ values[-1])).sum(axis=1))
    left = np.arange(4, 0, -1)[:, None]
    fitted, smaller = mean_and_variance(weight - np.array(values)[left, states])
    np.testing.assert_allclose(constant, plain, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fitted, plain, rtol=0, atol=1e-12)
    assert smaller < 0.6 * spread
    _, of_trajectory = mean_and_variance(reinforce.weights(rewards, np.ones_like(rewards), 0.9, "trajectory"))
    _, of_reward_to_go = mean_and_variance(reinforce.weights(rewards, np.ones_like(rewards), 0.9))
    assert of_trajectory > 1.5 * of_reward_to_go  # same mean (the tests above), past rewards are noise


# --- whole trajectories from an environment ---------------------------------------------------------


class Hourglass(gymnasium.Env):
    """Runs for 1, 11, 21, 31 or 41 steps by the seed of its reset; observes (episode, steps, length).

    Lengths 1, 21 and 41 end, 11 and 31 are cut. Rewards are 1, 2, 3, ...
    """

    observation_space, action_space = Box(-np.inf, np.inf, (3,)), Discrete(2)
    episode = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.length, self.episode = 1 + 10 * (seed % 5), -1
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        over, even = self.t == self.length, self.length % 20 == 1
        return self.observe(), float(self.t), over and even, over and not even, {}

    def observe(self):
        return np.array([self.episode, self.t, self.length], np.float32)


gymnasium.register("test/Hourglass-v0", entry_point=Hourglass, disable_env_checker=True)


def episodes(max_steps, seed=0, calls=1):
    collector = Collector("test/Hourglass-v0", 5, seed)
    policy = policies.build(collector.observation_space, collector.action_space, hidden=(4,), seed=seed)[0]
    return [collector.episodes(policy, max_steps) for _ in range(calls)][-1]


@pytest.mark.parametrize("max_steps, calls", [(500, 1), (500, 2), (40, 1), (32, 1), (15, 2), (1, 1)])
def test_every_copy_gives_one_trajectory_from_reset_to_end(max_steps, calls):
    """(37): five copies of five lengths; the mask counts each up to its end or to max_steps, no further."""
    segment, mask = episodes(max_steps, calls=calls)
    length = segment.obs[0, :, 2].astype(int)
    want = np.minimum(length, max_steps)
    assert sorted(length) == [1, 11, 21, 31, 41]
    assert mask.dtype == bool and mask.shape == segment.reward.shape == (want.max(), 5)
    assert segment.params.shape == (want.max(), 5, 2)
    np.testing.assert_array_equal(mask.sum(axis=0), want)
    cuts = 0
    for n in range(5):
        steps = np.arange(want[n])
        np.testing.assert_array_equal(mask[steps, n], True)
        np.testing.assert_array_equal(segment.obs[steps, n, :2], np.stack([0 * steps, steps], axis=1))
        np.testing.assert_array_equal(segment.reward[steps, n], steps + 1)
        ends = (segment.terminated | segment.truncated)[steps, n]
        np.testing.assert_array_equal(ends, steps == length[n] - 1)
        cuts += segment.truncated[:, n].sum()
    assert len(segment.cut_obs) == cuts
    assert (segment.cut_obs[:, 1] == segment.cut_obs[:, 2]).all() and set(segment.cut_obs[:, 2]) <= {11, 31}


@pytest.mark.parametrize("max_steps, calls", [(500, 1), (500, 2), (40, 1), (32, 1), (15, 2), (1, 1)])
def test_values_after_a_step_are_those_of_where_it_led(max_steps, calls):
    """V(s) = 1000 episode + step: one more after a step, 0 after an end, in the last row as elsewhere."""
    segment, _ = episodes(max_steps, calls=calls)
    now, after = segment.values(lambda obs: obs[:, :2] @ torch.tensor([[1000.0], [1.0]]))
    np.testing.assert_array_equal(after, np.where(segment.terminated, 0, now + 1))


def test_the_same_seed_gives_the_same_trajectories():
    for seed in (0, 1):
        first, second = episodes(500, seed)[0], episodes(500, seed)[0]
        np.testing.assert_array_equal(first.obs, second.obs)
        np.testing.assert_array_equal(first.action, second.action)
    other = episodes(500, 2)[0]
    assert first.action.shape != other.action.shape or (first.action != other.action).any()


def test_later_batches_start_afresh():
    """Each call resets, with seeds of its own: the copies take turns at the lengths."""
    segments = [episodes(500, calls=calls)[0] for calls in (1, 2, 3, 4)]
    assert len({tuple(segment.obs[0, :, 2]) for segment in segments}) > 1
    assert all((segment.obs[0, :, :2] == 0).all() for segment in segments)


# --- training: (40), Box 3.3 ------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["none", "mean", "value"])
@pytest.mark.parametrize(
    "form, correction", [("trajectory", False), ("reward_to_go", False), ("reward_to_go", True)]
)
def test_what_multiplies_the_scores_in_training(monkeypatch, baseline, form, correction):
    """(38), (41): return less baseline, as loops; with gamma^t on both; 0 after the end."""
    seen = {}
    objective, collect = reinforce.objective, Collector.episodes

    def watched_objective(policy, obs, action, weight):
        seen["weight"] = weight.numpy()
        return objective(policy, obs, action, weight)

    def watched_episodes(self, policy, max_steps):
        seen["segment"], seen["mask"] = collect(self, policy, max_steps)
        return seen["segment"], seen["mask"]

    def watched_fit(value, optimiser, obs, target, *rest):
        seen["fitted"] = obs, target

    monkeypatch.setattr(reinforce, "objective", watched_objective)
    monkeypatch.setattr(reinforce, "fit", watched_fit)
    monkeypatch.setattr(Collector, "episodes", watched_episodes)
    config = reinforce.Config(
        1, 5, 35, discount=0.9, baseline=baseline, form=form, hidden=(4,), discount_correction=correction
    )
    reinforce.train("test/Hourglass-v0", config, seed=3, progress=False)

    mask, reward, obs = seen["mask"], seen["segment"].reward, torch.from_numpy(seen["segment"].obs)
    value = policies.build(Hourglass.observation_space, Discrete(2), (4,), seed=3)[1]
    G = np.zeros_like(reward)
    for t, n in np.argwhere(mask):
        G[t, n] = sum(0.9 ** (k - t) * reward[k, n] for k in range(t, len(reward)) if mask[k, n])
    for t, n in np.ndindex(mask.shape):
        b = 0.0
        if baseline == "value":
            b = value(obs[t, n]).item()
        elif baseline == "mean":
            b = np.mean([G[t, m] for m in range(5) if m != n])
        late = 0.9**t if correction else 1.0
        whole = G[0, n] if form == "trajectory" else late * G[t, n]
        want = whole - late * b if mask[t, n] else 0.0
        assert seen["weight"][t, n] == pytest.approx(want, rel=1e-5, abs=1e-5), (t, n)
    assert not mask.all()
    if baseline == "value":  # learns G_t itself, on the steps that count
        np.testing.assert_array_equal(seen["fitted"][0], obs[torch.from_numpy(mask)])
        np.testing.assert_allclose(seen["fitted"][1], G[mask], rtol=1e-6)
    else:
        assert "fitted" not in seen


def test_leaving_one_out_keeps_the_mean():
    """(41): the baseline of a trajectory may hold the others but not itself. All pairs of M2, 2 steps.

    With the mean over both it would shrink the gradient by half.
    """
    states, actions, rewards, p = every_trajectory(M2, softmax(LOGITS), 2)
    G = reinforce.weights(rewards, np.ones_like(rewards), 0.9, discount_correction=False)
    want = gradient(table(), states, actions, G * p * len(p))
    i, j = (x.ravel() for x in np.indices((len(p), len(p))))
    chance = p[i] * p[j] * len(i)
    left_out = gradient(table(), states[:, i], actions[:, i], (G[:, i] - G[:, j]) * chance)
    own = gradient(table(), states[:, i], actions[:, i], (G[:, i] - (G[:, i] + G[:, j]) / 2) * chance)
    np.testing.assert_allclose(left_out, want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(own, want / 2, rtol=0, atol=1e-12)


LEARN = dict(iterations=30, max_steps=30, discount=0.9, hidden=(16,), lr=2e-2)


@pytest.mark.parametrize(
    "options",
    [{}, {"baseline": "mean"}, {"discount_correction": True, "baseline": "none", "iterations": 80}],
    ids=["value", "mean", "none, gamma^t"],
)
def test_training_solves_the_two_state_world(options):
    """Within 5 % of the optimum 15.824176, judged by the exact value of the learnt table."""
    found = reinforce.train("rlbook/TwoState-v0", reinforce.Config(**LEARN | options), progress=False)
    with torch.no_grad():
        pi = found.policy.double()(torch.eye(2, dtype=torch.float64)).exp().numpy()
    assert M2.evaluate(pi).J > 0.95 * 15.824176


def test_training_repeats_by_its_seed_and_records_what_happened():
    config = reinforce.Config(3, 5, 35, hidden=(4,))
    first, second, other = (
        reinforce.train("test/Hourglass-v0", config, seed=seed, progress=False) for seed in (0, 0, 1)
    )
    for name in set(first.history) - {"seconds"}:
        np.testing.assert_array_equal(first.history[name], second.history[name])
    weights = [parameters_to_vector(r.policy.parameters()) for r in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    steps = 1 + 11 + 21 + 31 + 35  # the five lengths, the longest cut at 35
    assert first.history["env_steps"].tolist() == [steps, 2 * steps, 3 * steps]
    want = np.mean([k * (k + 1) / 2 for k in (1, 11, 21, 31, 35)])
    np.testing.assert_allclose(first.history["episode_return"], want, rtol=1e-12)


@pytest.mark.parametrize(
    "scale, baseline", [(1e15, "value"), (1e18, "value"), (1e25, "none"), (1e45, "none")]
)
def test_a_loss_that_overflows_stops_with_good_parameters(monkeypatch, scale, baseline):
    """NonFiniteLoss names the iteration and the rewards, and no weight is NaN; large but finite goes on."""
    collect = Collector.episodes

    def huge(self, policy, max_steps):
        segment, mask = collect(self, policy, max_steps)
        segment.reward *= scale
        return segment, mask

    monkeypatch.setattr(Collector, "episodes", huge)
    config = reinforce.Config(3, 5, 35, baseline=baseline, hidden=(4,))
    if scale == 1e15:
        found = reinforce.train("test/Hourglass-v0", config, progress=False)
    else:
        with pytest.raises(NonFiniteLoss, match=r"iteration 0: .*: rewards from 1e\+\d+ to") as caught:
            reinforce.train("test/Hourglass-v0", config, progress=False)
        found = caught.value.result
    for net in (found.policy, found.value):
        assert torch.isfinite(parameters_to_vector(net.parameters())).all()


BAD = {
    "iterations": 0,
    "trajectories": 1.5,
    "max_steps": 0,
    "lr": 0.0,
    "discount": 1.01,
    "form": "printed",
    "discount_correction": 1,
    "baseline": "median",
    "value_lr": -1.0,
    "value_epochs": 0,
    "value_minibatch": 0,
    "hidden": 64,
}


@pytest.mark.parametrize("name", BAD)
def test_config_names_a_bad_setting(name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        reinforce.Config(**{name: BAD[name]})


def test_leaving_one_out_needs_two():
    with pytest.raises(ValueError, match="baseline: 'mean' .* at least 2 trajectories"):
        reinforce.Config(trajectories=1, baseline="mean")
    assert type(reinforce.Config(max_steps=30.0).max_steps) is int
