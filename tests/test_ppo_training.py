"""Section 4.7, training. The outsiders: the first iteration written out by hand, a known world; `train` is
watched from outside while it runs. The objectives are in test_ppo.py.
"""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from rlbook import policies, ppo
from rlbook.ppo import Config, train
from rlbook.rollout import Collector, NonFiniteLoss, Result, evaluate, one_thread
from rlbook.worlds import two_state


@pytest.fixture(autouse=True)
def one():
    """Threads only get in each other's way in networks this small."""
    with one_thread():
        yield


# --- settings ---------------------------------------------------------------------------------------

BAD = [
    (name, bad)
    for name in ("total_steps", "n_envs", "n_steps", "epochs", "minibatch")
    for bad in (0, -1, 1.5)
]
BAD += [(name, bad) for name in ("lr", "eps_low", "eps_high") for bad in (0, -0.1, np.nan, np.inf, None, "x")]
BAD += [(name, bad) for name in ("discount", "lam") for bad in (-0.1, 1.1, np.nan)]
BAD += [(name, bad) for name in ("value_coef", "entropy_coef", "kl_coef") for bad in (-1, np.inf)]
BAD += [(name, bad) for name in ("kl_target", "max_grad_norm") for bad in (0, -1, np.nan)]
BAD += [(name, bad) for name in ("anneal", "normalise") for bad in ("no", None)]
BAD += [("objective", "ppo"), ("hidden", 64), ("hidden", (64, 0)), ("hidden", (1.5,))]


@pytest.mark.parametrize("name, bad", BAD)
def test_bad_settings_are_refused_by_name(name, bad):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Config(**{name: bad})


def test_settings_at_their_limits_are_fine():
    config = Config(
        discount=1, lam=0, value_coef=0, kl_target=None, max_grad_norm=None, hidden=(), n_envs=4.0
    )
    assert (config.n_envs, config.hidden) == (4, ())
    with pytest.raises(TypeError, match="learning_rate"):
        Config(learning_rate=1e-3)


# --- training, watched ------------------------------------------------------------------------------


class Marked(gymnasium.Env):
    """Every observation occurs once: (episode + step / 10, copy). Every 3 steps copy 0 ends, 1 is cut."""

    observation_space, action_space = Box(-np.inf, np.inf, (2,)), Discrete(2)
    burst = None  # the step (of each copy) that pays 1e38

    def __init__(self, reward=None):
        self.episode, self.steps, self.reward = -1, 0, reward

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.copy = seed % 2
        self.episode, self.t = self.episode + 1, 0
        return self.observe(), {}

    def step(self, action):
        self.t, self.steps = self.t + 1, self.steps + 1
        last = self.t == 3
        reward = self.t + 0.5 * float(action)
        if self.reward is not None and self.steps > 16:
            reward = self.reward
        return self.observe(), reward, last and self.copy == 0, last and self.copy == 1, {}

    def observe(self):
        return np.array([self.episode + self.t / 10, self.copy], np.float32)


def register(env_id, entry_point, **kwargs):
    gymnasium.register(env_id, entry_point=entry_point, disable_env_checker=True, kwargs=kwargs)
    return env_id


MARKED = register("test/Marked-v0", Marked)
HUGE = register("test/Huge-v0", Marked, reward=1e38)  # from its 17th step on
NAN = register("test/Nan-v0", Marked, reward=math.nan)
SMALL = dict(n_envs=2, n_steps=8, hidden=())


@pytest.fixture
def watched(monkeypatch):
    """What `train` hands to `ppo.loss`, a dict a call."""
    calls, real = [], ppo.loss
    names = ("obs", "action", "logp_old", "params_old", "advantage", "target", "config", "shrink", "kl_coef")

    def spy(policy, value, *args):
        calls.append(dict(zip(names, args, strict=True)))
        return real(policy, value, *args)

    monkeypatch.setattr(ppo, "loss", spy)
    return calls


def expected_rows(seed, discount, lam):
    """{observation: row} of the first iteration, with (80) and (81) as a double sum; a segment of its own."""
    env = gymnasium.make(MARKED)
    policy, value = policies.build(env.observation_space, env.action_space, (), seed)
    segment = Collector(MARKED, 2, seed).collect(policy, 8)
    with torch.no_grad():
        V = value(torch.from_numpy(segment.obs)).squeeze(-1).double().numpy()

        def v(*obs):
            return value(torch.tensor([obs])).item()

    rows = {}
    for t, n in np.ndindex(8, 2):
        A = 0.0
        for i in range(t, 8):
            episode, step = divmod(i, 3)  # every episode takes 3 steps
            V_next = v(episode + (step + 1) / 10, float(n))
            if n == 0 and step == 2:
                V_next = 0.0
            delta = segment.reward[i, n] + discount * V_next - V[i, n]
            A += (discount * lam) ** (i - t) * delta
            if step == 2:
                break
        rows[tuple(segment.obs[t, n])] = dict(
            action=segment.action[t, n], params_old=segment.params[t, n], advantage=A, target=A + V[t, n]
        )
    return rows


@pytest.mark.parametrize("normalise", [False, True])
def test_every_row_of_a_minibatch_belongs_together(watched, normalise):
    """Box 4.7.4: advantages and raw targets (80), (81) reach the row whose observation they belong to.

    Ends, cuts and the segment's end included. Each epoch sees every row once, in an order of its own;
    with `normalise` the advantages are standardised within the minibatch, the targets never.
    """
    config = Config(
        total_steps=16, epochs=3, minibatch=5, normalise=normalise, discount=0.9, lam=0.8, **SMALL
    )
    train(MARKED, config, seed=4, progress=False)
    rows = expected_rows(4, 0.9, 0.8)
    assert len(rows) == 16 and [len(call["obs"]) for call in watched] == [6, 5, 5] * 3
    order = [tuple(o) for call in watched for o in call["obs"].numpy()]
    for epoch in (order[:16], order[16:32], order[32:]):
        assert sorted(epoch) == sorted(rows)
    assert order[:16] != order[16:32] != order[32:] and order[:16] != list(rows)
    for call in watched:
        want = [rows[tuple(o)] for o in call["obs"].numpy()]
        A = np.array([row["advantage"] for row in want])
        if normalise:
            A = (A - A.mean()) / A.std(ddof=1)
        np.testing.assert_allclose(call["advantage"], A, rtol=0, atol=1e-5)
        np.testing.assert_allclose(call["target"], [row["target"] for row in want], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(call["action"], [row["action"] for row in want])
        np.testing.assert_array_equal(call["params_old"], np.array([row["params_old"] for row in want]))
        logp = [row["params_old"][row["action"]].item() for row in want]
        np.testing.assert_array_equal(call["logp_old"].numpy(), np.array(logp, np.float32))


@pytest.mark.parametrize("anneal", [True, False])
@pytest.mark.parametrize("max_grad_norm", [0.01, None])
def test_step_size_and_clip_range_fall_to_zero(watched, monkeypatch, anneal, max_grad_norm):
    """Four iterations of three steps: factors 1, 3/4, 1/2, 1/4. And the gradient is shortened first."""
    seen = []

    class Adam(torch.optim.Adam):
        def step(self):
            g = [w.grad.norm().item() for group in self.param_groups for w in group["params"]]
            seen.append((self.param_groups[0]["lr"], math.hypot(*g)))
            super().step()

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    config = Config(
        total_steps=64, epochs=3, minibatch=16, lr=0.02, anneal=anneal, max_grad_norm=max_grad_norm, **SMALL
    )
    train(MARKED, config, progress=False)
    factor = np.repeat([1, 0.75, 0.5, 0.25] if anneal else [1.0] * 4, 3)
    lr, norm = np.array(seen).T
    np.testing.assert_allclose(lr, 0.02 * factor, rtol=1e-12)
    np.testing.assert_allclose([call["shrink"] for call in watched], factor, rtol=1e-12)
    if max_grad_norm:
        np.testing.assert_allclose(norm, 0.01, rtol=1e-4)
    else:
        assert norm.min() > 0.02


def test_the_history_says_what_happened():
    """One iteration: KL(old || new) and the share outside the band, from the two policies, row by row."""
    config = Config(total_steps=16, epochs=5, minibatch=16, lr=0.3, eps_low=0.1, eps_high=0.15, **SMALL)
    result = train(MARKED, config, seed=4, progress=False)
    old, _ = policies.build(Marked.observation_space, Marked.action_space, (), 4)
    segment = Collector(MARKED, 2, 4).collect(old, 8)
    with torch.no_grad():
        p, q = (net(torch.from_numpy(segment.obs)).double().exp().numpy() for net in (old, result.policy))
    taken = (*np.indices((8, 2)), segment.action)
    ratio, h = q[taken] / p[taken], {name: x.item() for name, x in result.history.items()}
    assert h["kl"] == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-4)
    assert abs(h["kl"] - (q * np.log(q / p)).sum(-1).mean()) > 0.01 * h["kl"]  # and not the other direction
    assert h["clip_fraction"] == np.mean((ratio < 0.9) | (ratio > 1.15)) > 0
    assert h["env_steps"] == 16
    assert h["episode_return"] == pytest.approx(np.mean(segment.episode_return))
    assert len(segment.episode_return) == 4 and h["kl_coef"] == 1 and h["seconds"] > 0


def test_the_kl_coefficient_follows_its_target(watched):
    """Doubled where KL > 1.5 times the target, halved where KL < target / 1.5; the next loss uses it."""
    config = Config(
        total_steps=40 * 16, epochs=4, minibatch=16, lr=0.05, anneal=False, objective="kl", kl_target=0.01,
        kl_coef=0.5, **SMALL,
    )  # fmt: skip
    h = train(MARKED, config, progress=False).history
    before = np.concatenate([[0.5], h["kl_coef"][:-1]])
    factor = np.where(h["kl"] > 0.015, 2, np.where(h["kl"] < 0.01 / 1.5, 0.5, 1))
    np.testing.assert_array_equal(h["kl_coef"], before * factor)
    assert set(factor) == {0.5, 1, 2}
    np.testing.assert_array_equal([call["kl_coef"] for call in watched], np.repeat(before, 4))


# --- training, its outcome --------------------------------------------------------------------------


def flat(result):
    return torch.cat(
        [w.detach().flatten() for net in (result.policy, result.value) for w in net.parameters()]
    )


def test_a_seeded_run_repeats_bit_for_bit():
    config = Config(total_steps=1024)
    torch.manual_seed(1)
    first, state = train("CartPole-v1", config, seed=3, progress=False), torch.get_rng_state()
    torch.manual_seed(2)
    again = train("CartPole-v1", config, seed=3, progress=False)
    other = train("CartPole-v1", config, seed=4, progress=False)
    assert torch.equal(flat(first), flat(again))
    assert not torch.equal(flat(first), flat(other))
    for name in set(first.history) - {"seconds"}:
        np.testing.assert_array_equal(first.history[name], again.history[name])
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # nothing was drawn from the global generator


@pytest.mark.parametrize("options", [{}, {"objective": "kl", "kl_target": 0.01}], ids=["clip", "kl"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_solves_a_world_with_a_known_optimum(options, seed):
    """(84) Two-state world, 8,192 steps: J of the learned policy, exact, is above 95 % of J* = 15.824."""
    config = Config(
        total_steps=8192, n_envs=8, n_steps=64, epochs=4, minibatch=128, lr=0.01, discount=0.9, lam=0.95,
        hidden=(16,), **options,
    )  # fmt: skip
    result = train("rlbook/TwoState-v0", config, seed=seed, progress=False)
    mdp = two_state()
    with torch.no_grad():
        pi = result.policy(torch.eye(2)).double().softmax(-1).numpy()
    J, best, start = mdp.evaluate(pi).J, mdp.optimal()[1], mdp.evaluate(np.full((2, 2), 0.5)).J
    assert best == pytest.approx(15.824176, abs=1e-6)
    assert start < 0.7 * best < 0.95 * best < J <= best


@pytest.mark.parametrize("env_id, iterations", [("CartPole-v1", 7), ("Pendulum-v1", 7)])
def test_a_short_run_on_a_real_environment(env_id, iterations, tmp_path):
    """2,000 steps are 7 iterations of 256; every column has a number for each; the result can be saved."""
    result = train(env_id, Config(total_steps=2000, epochs=4), progress=False)
    h = result.history
    assert set(map(len, h.values())) == {iterations}
    np.testing.assert_array_equal(h["env_steps"], 256 * np.arange(1, iterations + 1))
    assert all(np.isfinite(column).all() for name, column in h.items() if name != "episode_return")
    assert (h["kl"] > 0).all() and (h["kl_coef"] == 1).all()
    result.save(tmp_path)
    assert torch.equal(flat(result), flat(Result.load(tmp_path)))
    assert np.isfinite(evaluate(result.policy, env_id, 2, n_envs=2)).all()


# --- training, when it goes wrong -------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_the_last_good_parameters():
    """Rewards of 1e38 from step 17 on: iterations 0 and 1 are fine, iteration 2 is not and is undone."""
    config = Config(total_steps=64, anneal=False, **SMALL)
    with pytest.raises(
        NonFiniteLoss, match=r"the loss is (inf|nan).* in iteration 2: rewards .*1e\+38"
    ) as stop:
        train(HUGE, config, progress=False)
    result = stop.value.result
    good = train(HUGE, Config(total_steps=32, anneal=False, **SMALL), progress=False)
    assert torch.isfinite(flat(result)).all() and torch.equal(flat(result), flat(good))
    np.testing.assert_array_equal(result.history["env_steps"], [16, 32])


def test_a_gradient_that_is_not_finite_stops_before_the_step(monkeypatch):
    """A finite loss with a NaN in its gradient, in update 2 of 3 of iteration 1, which is undone."""
    calls, real = [], ppo.loss

    def poisoned(policy, *args):
        calls.append(1)
        total, parts = real(policy, *args)
        if len(calls) == 5:
            total = total + (0 * policy.net[0].bias).sqrt().sum()  # 0, with derivative 0 * inf
        return total, parts

    monkeypatch.setattr(ppo, "loss", poisoned)
    for max_grad_norm in (0.5, None):
        calls.clear()
        options = dict(epochs=3, minibatch=16, anneal=False, max_grad_norm=max_grad_norm, **SMALL)
        with pytest.raises(NonFiniteLoss, match="the norm of its gradient nan in iteration 1") as stop:
            train(MARKED, Config(total_steps=64, **options), progress=False)
        calls.clear()
        good = train(MARKED, Config(total_steps=16, **options), progress=False)
        assert torch.isfinite(flat(good)).all() and torch.equal(flat(stop.value.result), flat(good))


def test_silence_when_asked_for(capfd):
    config = Config(total_steps=32, **SMALL)
    train(MARKED, config, progress=False)
    assert capfd.readouterr() == ("", "")
    train(MARKED, config, progress=True)
    assert "PPO" in capfd.readouterr().err


def test_bad_environments_are_refused():
    with pytest.raises(ValueError, match="env_id: expected a registered environment, got 'Nowhere-v0'"):
        train("Nowhere-v0", progress=False)
    with pytest.raises(ValueError, match="reward: expected finite rewards, test/Nan-v0 gave nan"):
        train(NAN, Config(total_steps=64, **SMALL), progress=False)
    many = type("Many", (Marked,), {"action_space": MultiDiscrete([2, 2])})
    with pytest.raises(ValueError, match="action_space: expected Discrete or a one-axis Box"):
        train(register("test/Many-v0", many), progress=False)
