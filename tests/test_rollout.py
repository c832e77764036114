"""Segments, results, evaluation. The outsider is a clock: an environment whose arrays can be written by hand.

Copy n of it (told apart by the seed of its first reset) has episodes of a known length and end. Its
observation is 100 * episode + step, so a final observation and that of the reset after it never look
alike; its rewards are 1, 2, 3, ...
"""

import json
import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from safetensors.numpy import load_file, save_file

from rlbook import policies
from rlbook.rollout import Collector, Result, evaluate, one_thread
from rlbook.td import gae

# seed of the first reset -> (steps of each episode, terminated at its end, truncated at its end)
ENDS = {0: (3, True, False), 1: (2, False, True), 2: (2, True, True), 99: (150, False, True)}
REAL, TWO = Box(-np.inf, np.inf, (1,)), Discrete(2)


class Clock(gymnasium.Env):
    def __init__(self, observation=REAL, action=TWO, reward=float, seen=float):
        self.observation_space, self.action_space, self.reward, self.seen = observation, action, reward, seen
        self.episode, self.received = -1, []

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.length, self.terminates, self.truncates = ENDS[seed]
        self.episode += 1
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.received.append(action)
        self.t += 1
        last = self.t == self.length
        reward = self.reward(self.t)
        return self.observe(), reward, self.terminates and last, self.truncates and last, {}

    def observe(self):
        if isinstance(self.observation_space, Discrete):
            return int(self.observation_space.start) + self.t  # a plain int, as FrozenLake gives
        number = self.seen(100 * self.episode + self.t)
        return np.full(self.observation_space.shape, number, self.observation_space.dtype)


gymnasium.register("test/Clock-v0", entry_point=Clock, disable_env_checker=True)


class Scripted:
    """A policy that plays the given actions, one row a step."""

    def __init__(self, *actions):
        self.actions = list(actions)

    def __call__(self, obs):
        return torch.zeros(len(obs), 1)

    def sample(self, params, generator):
        return torch.tensor(self.actions.pop(0) if self.actions else [0] * len(params))


def clock(n_envs=2, seed=0, **options):
    return Collector("test/Clock-v0", n_envs, seed, **options)


def identity(obs):
    """V(s) = s, so that a value says which observation it is of."""
    return obs[:, :1]


def columns(*copies):
    """(T, N) from one list a copy."""
    return np.array(copies).T


# --- segments ---------------------------------------------------------------------------------------


def test_a_segment_holds_what_happened():
    """Five steps of two clocks: one ends every 3 steps, the other is cut every 2."""
    segment = clock().collect(Scripted(*[[0, 1]] * 5), 5)
    np.testing.assert_array_equal(segment.obs[..., 0], columns([0, 1, 2, 100, 101], [0, 1, 100, 101, 200]))
    np.testing.assert_array_equal(segment.action, columns([0] * 5, [1] * 5))
    np.testing.assert_array_equal(segment.reward, columns([1, 2, 3, 1, 2], [1, 2, 1, 2, 1]))
    np.testing.assert_array_equal(segment.terminated, columns([0, 0, 1, 0, 0], [0] * 5))
    np.testing.assert_array_equal(segment.truncated, columns([0] * 5, [0, 1, 0, 1, 0]))
    np.testing.assert_array_equal(segment.last_obs, [[102], [201]])
    np.testing.assert_array_equal(segment.cut_obs, [[2], [102]])
    assert segment.episode_return == [3, 6, 3]  # in the order in which they ended
    assert segment.obs.dtype == np.float32 and segment.reward.dtype == np.float64


def test_the_value_after_a_step_is_that_of_where_it_led():
    """0 where the episode ended; V of the final observation, not of the reset one, where it was cut."""
    now, after = clock().collect(Scripted(), 5).values(identity)
    np.testing.assert_array_equal(now, columns([0, 1, 2, 100, 101], [0, 1, 100, 101, 200]))
    np.testing.assert_array_equal(after, columns([1, 2, 0, 101, 102], [1, 2, 101, 102, 201]))


def test_cuts_in_one_step_keep_their_copies_apart():
    """Copies of seeds 1 and 2 both stop at step 2; copy 2 is both ended and cut, and ending wins."""
    segment = clock(2, seed=1).collect(Scripted(), 3)
    np.testing.assert_array_equal(segment.terminated, columns([0, 0, 0], [0, 1, 0]))
    np.testing.assert_array_equal(segment.truncated, columns([0, 1, 0], [0, 0, 0]))
    np.testing.assert_array_equal(segment.values(identity)[1], columns([1, 2, 101], [1, 0, 101]))
    assert segment.episode_return == [3, 3]
    both_cut = clock(2, seed=1)
    second = both_cut.envs.envs[1].unwrapped
    second.terminates, second.episode = False, 7
    segment = both_cut.collect(Scripted(), 2)
    np.testing.assert_array_equal(segment.cut_obs, [[2], [702]])
    np.testing.assert_array_equal(segment.values(identity)[1], [[1, 701], [2, 702]])


def test_a_cut_in_the_last_step_bootstraps_from_its_final_observation():
    _, after = clock(1, seed=1).collect(Scripted(), 2).values(identity)
    np.testing.assert_array_equal(after, [[1], [2]])  # 100 if the reset came first
    _, after = clock(1, seed=0).collect(Scripted(), 3).values(identity)
    np.testing.assert_array_equal(after, [[1], [2], [0]])


def test_advantages_of_a_segment_by_hand():
    """(80) with gamma = lambda = 1/2 and V(s) = s, on paper; a sum never runs over an end or a cut.

    The cut copy: delta = 1 + 1/2 - 0 = 1.5, 2 + 2/2 - 1 = 2; with the reset's V = 100 it would be 51.
    """
    segment = clock().collect(Scripted(), 5)
    now, after = segment.values(identity)
    advantage, target = gae(segment.reward, now, after, segment.terminated, segment.truncated, 0.5, 0.5)
    want = columns([2.0625, 2.25, 1, -60.5, -48], [2, 2, -60.5, -48, -98.5])
    np.testing.assert_allclose(advantage, want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(target, want + now, rtol=0, atol=1e-12)


def test_the_next_segment_starts_where_the_last_one_stopped():
    """Two of 60 steps are one of 120 with the same seed: random actions, 3 copies, many lengths."""
    env = gymnasium.make("CartPole-v1")
    policy, _ = policies.build(env.observation_space, env.action_space)
    one, two = Collector("CartPole-v1", 3, 0), Collector("CartPole-v1", 3, 0)
    whole, first, second = one.collect(policy, 120), two.collect(policy, 60), two.collect(policy, 60)
    for name in ("obs", "action", "params", "reward", "terminated", "truncated"):
        parts = np.concatenate([getattr(first, name), getattr(second, name)])
        np.testing.assert_array_equal(getattr(whole, name), parts, err_msg=name)
    np.testing.assert_array_equal(first.last_obs, second.obs[0])
    np.testing.assert_array_equal(whole.last_obs, second.last_obs)
    assert whole.episode_return == first.episode_return + second.episode_return
    assert whole.terminated.any() and len(set(whole.episode_return)) > 3


def test_stored_parameters_are_those_the_actions_were_drawn_from():
    """Drawing again from them, with a generator of the same seed, gives the same actions."""
    for env_id, K in (("CartPole-v1", 2), ("Pendulum-v1", 2)):
        env = gymnasium.make(env_id)
        policy, _ = policies.build(env.observation_space, env.action_space, seed=1)
        segment = Collector(env_id, 3, seed=5).collect(policy, 20)
        generator = torch.Generator().manual_seed(5)
        again = [policy.sample(p, generator).numpy() for p in segment.params]
        np.testing.assert_array_equal(segment.action, again)
        with torch.no_grad():
            np.testing.assert_allclose(segment.params, policy(torch.from_numpy(segment.obs)), atol=1e-6)
        assert segment.params.shape == (20, 3, K) and not segment.params.requires_grad


def test_flat_rows_belong_together():
    """Row t N + n of each of the three is step t of copy n, also with two-dimensional actions."""
    env = clock(action=Box(-1, 1, (2,)))
    policy, _ = policies.build(env.observation_space, env.action_space)
    segment = env.collect(policy, 5)
    obs, action, params = segment.flat()
    assert obs.shape == (10, 1) and action.shape == (10, 2) and params.shape == (10, 4)
    for t in range(5):
        for n in range(2):
            np.testing.assert_array_equal(obs[2 * t + n], segment.obs[t, n])
            np.testing.assert_array_equal(action[2 * t + n], segment.action[t, n])
            np.testing.assert_array_equal(params[2 * t + n], segment.params[t, n])
    log_prob = policy.log_prob(params.requires_grad_(), action).sum()  # may enter a loss
    log_prob.backward()
    assert params.grad.abs().sum() > 0


# --- what the networks see, and what the environment gets ------------------------------------------


@pytest.mark.parametrize("start", [0, 4])
def test_discrete_observations_are_one_hot(start):
    """Cut after 2 steps: states 0, 1 | 0, 1 | 0; the final observation is state 2. Also counted from 4."""
    env = clock(1, seed=1, observation=Discrete(4, start=start))
    segment = env.collect(Scripted(), 5)
    np.testing.assert_array_equal(segment.obs[:, 0], np.eye(4)[[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(segment.cut_obs, np.eye(4)[[2, 2]])
    np.testing.assert_array_equal(segment.last_obs, np.eye(4)[[1]])


def test_bounded_observations_are_scaled():
    """[0, 400] to [-1, 1]: 0, 1, 100 become -1, -0.995, -0.5; the final observation 2 becomes -0.99."""
    segment = clock(1, seed=1, observation=Box(0, 400, (1,))).collect(Scripted(), 3)
    np.testing.assert_allclose(segment.obs.ravel(), [-1, -0.995, -0.5], atol=1e-6)
    np.testing.assert_allclose(segment.cut_obs, [[-0.99]], atol=1e-6)


@pytest.mark.parametrize(
    "observation, want",
    [
        (Box(0, np.inf, (1,)), [0, 1, 100]),  # a bound is missing
        (Box(-3e38, 3e38, (1,), np.float32), [0, 1, 100]),  # a bound in name only
        (Box(-128, 127, (1,), np.int8), [1 / 255, 3 / 255, 201 / 255]),  # (x + 0.5) / 127.5
        (Box(0, 0, (1,)), [0, 1, 100]),  # no width to divide by
    ],
    ids=["half open", "huge", "int8", "a point"],
)
def test_odd_bounds_do_no_harm(observation, want):
    segment = clock(1, seed=1, observation=observation).collect(Scripted(), 3)
    np.testing.assert_allclose(segment.obs.ravel(), want, atol=1e-6)


def test_actions_are_mapped_to_the_range_and_clipped():
    """Range [-2, 2] x [0, 10]: (0, 0) is its middle, 0.5 a quarter above it, 3 its end. Stored as sampled."""
    env = clock(1, action=Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64))
    script = [[[0.0, 0.0]], [[0.5, -0.5]], [[3.0, -3.0]]]
    segment = env.collect(Scripted(*script), 3)
    np.testing.assert_allclose(env.envs.envs[0].unwrapped.received, [[0, 5], [1, 2.5], [2, 0]])
    np.testing.assert_array_equal(segment.action, script)


def test_actions_without_bounds_pass_as_they_are():
    env = clock(1, action=Box(-np.inf, np.inf, (1,)))
    env.collect(Scripted([[7.0]], [[-3.5]]), 2)
    np.testing.assert_array_equal(np.ravel(env.envs.envs[0].unwrapped.received), [7, -3.5])


def test_discrete_actions_are_counted_from_the_start_of_their_space():
    env = clock(2, action=Discrete(3, start=5))
    segment = env.collect(Scripted([0, 2], [1, 1]), 2)
    assert [e.unwrapped.received for e in env.envs.envs] == [[5, 6], [7, 6]]
    assert segment.action.tolist() == [[0, 2], [1, 1]]


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_not_finite_is_named(bad):
    env = clock(2, reward=lambda t: bad if t == 3 else 1.0)  # only copy 0 lives to step 3
    with pytest.raises(ValueError, match=rf"reward: .*test/Clock-v0 gave {bad} at step 2 of copy 0"):
        env.collect(Scripted(), 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("when, step, copy", [(0, 0, 0), (2, 2, 0), (101, 3, 1), (102, 3, 1), (200, 4, 1)])
def test_an_observation_that_is_not_finite_is_named(bad, when, step, copy):
    """Copy 0 shows 0, 1, 2, 100 | 101, copy 1 shows 0, 1, 100, 101 | 200; 102 is where copy 1 is cut."""
    env = clock(2, seen=lambda x: bad if x == when else x)
    said = f"observation: .*test/Clock-v0 gave {bad} at step {step} of copy {copy}"
    with pytest.raises(ValueError, match=said):
        env.collect(Scripted(), 4)


def test_an_observation_that_nobody_looks_at_may_be_anything():
    """Copy 0 ends in 3: no value is asked of it."""
    segment = clock(2, seen=lambda x: np.nan if x == 3 else x).collect(Scripted(), 4)
    assert segment.terminated[2, 0]


@pytest.mark.parametrize("env_id", ["Nowhere-v0", "CartPole-v99", "no_such_module:Thing-v0", "", None])
def test_an_unknown_environment_is_named(env_id):
    with pytest.raises(ValueError, match=f"env_id: expected a registered environment, got {env_id!r}"):
        Collector(env_id, 2, 0)


# --- results ----------------------------------------------------------------------------------------


def made(env_id="Pendulum-v1", seed=3, hidden=(4,)):
    """A `Result` with drawn weights (the log std among them) and a history with every kind of number."""
    env = gymnasium.make(env_id)
    nets = policies.build(env.observation_space, env.action_space, hidden, seed)
    generator = torch.Generator().manual_seed(seed)
    for w in (w for net in nets for w in net.parameters()):
        w.data += torch.randn(w.shape, generator=generator)
    history = {
        "env_steps": np.array([10.0, 20.0, 30.0, 40.0]),
        "episode_return": np.array([np.nan, 1 / 3, np.inf, -np.inf]),
    }
    return Result(*nets, history, env_id, {"hidden": hidden, "lr": 0.1, "kl_target": None})


def outputs(result):
    env = gymnasium.make(result.env_id)
    n = env.observation_space.shape[0]
    obs = torch.randn(5, n, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.cat([result.policy(obs), result.value(obs)], dim=-1)


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_a_result_comes_back_as_it_was(tmp_path, env_id):
    """Outputs bit for bit, the history with its NaN and infinities, the settings."""
    result = made(env_id)
    result.save(tmp_path / "new" / "run")
    again = Result.load(str(tmp_path / "new" / "run"))
    assert torch.equal(outputs(result), outputs(again))
    assert list(again.history) == list(result.history)
    for name in result.history:
        np.testing.assert_array_equal(again.history[name], result.history[name])
        assert again.history[name].dtype == np.float64
    assert again.config == result.config and again.env_id == env_id


def test_the_files_are_safetensors_and_json(tmp_path):
    """Read without rlbook; JSON as the standard has it, without NaN; nothing pickled."""
    result = made()
    result.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json", "weights.safetensors"]

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=refuse)["history"]["episode_return"] == [
        "nan",
        1 / 3,
        "inf",
        "-inf",
    ]
    weights = load_file(tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(weights["policy.log_std"], result.policy.log_std.detach())
    np.testing.assert_array_equal(weights["value.0.weight"], result.value[0].weight.detach())


def test_saving_again_replaces_what_was_there(tmp_path):
    first, second = made(seed=1), made("CartPole-v1", seed=2, hidden=(3, 3))
    first.save(tmp_path)
    second.save(tmp_path)
    again = Result.load(tmp_path)
    assert again.env_id == "CartPole-v1" and torch.equal(outputs(again), outputs(second))


def rewrite(path, **changes):
    meta = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(meta | changes))


def drop_a_weight(path):
    weights = load_file(path / "weights.safetensors")
    del weights["policy.log_std"]
    save_file(weights, path / "weights.safetensors")


DAMAGE = {
    "no json": lambda p: (p / "result.json").unlink(),
    "no weights": lambda p: (p / "weights.safetensors").unlink(),
    "broken json": lambda p: (p / "result.json").write_text("{"),
    "not utf-8": lambda p: (p / "result.json").write_bytes(b"\xff\xfe\x00"),
    "a list": lambda p: (p / "result.json").write_text("[1]"),
    "no history": lambda p: rewrite(p, history=None),
    "a word in the history": lambda p: rewrite(p, history={"env_steps": ["ten"]}),
    "no settings": lambda p: rewrite(p, config={}),
    "unknown environment": lambda p: rewrite(p, env_id="Nowhere-v0"),
    "other environment": lambda p: rewrite(p, env_id="CartPole-v1"),
    "other layers": lambda p: rewrite(p, config={"hidden": [5]}),
    "short weights": lambda p: (p / "weights.safetensors").write_bytes(b"\x08"),
    "a missing weight": drop_a_weight,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_folder_is_refused(tmp_path, damage):
    made().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match="path: expected a saved result, got"):
        Result.load(tmp_path)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="path: expected a saved result, got .*nowhere"):
        Result.load(tmp_path / "nowhere")


# --- evaluation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("episodes, want", [(6, [6, 6, 6, 3, 3, 3]), (5, [6, 6, 6, 3, 3]), (1, [6])])
def test_every_copy_gives_as_many_episodes(episodes, want):
    """The first clock's episodes last 3 steps and pay 6, the second's 2 and pay 3.

    The first to finish would be the short ones: of six, four would pay 3.
    """
    got = evaluate(Scripted(), "test/Clock-v0", episodes, n_envs=2)
    np.testing.assert_array_equal(got, want)


def test_episodes_may_be_longer_than_a_segment():
    """A clock of 150 steps pays 1 + 2 + ... = 150 * 151 / 2."""
    got = evaluate(Scripted(), "test/Clock-v0", 2, seed=99, n_envs=1)
    np.testing.assert_array_equal(got, [11325, 11325])


class Echo(gymnasium.Env):
    """Pays the action; episodes of one step."""

    observation_space, action_space = REAL, Box(-np.inf, np.inf, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(action[0]), True, False, {}


gymnasium.register("test/Echo-v0", entry_point=Echo, disable_env_checker=True)


def test_greedy_evaluation_plays_the_mode():
    """Mean 2, spread 1: the mode pays 2 always, samples 2 on average (within 4 standard errors)."""
    policy, _ = policies.build(Echo.observation_space, Echo.action_space, hidden=())
    policy.net[-1].bias.data.fill_(2.0)
    np.testing.assert_array_equal(evaluate(policy, "test/Echo-v0", 20, greedy=True), np.full(20, 2.0))
    drawn = evaluate(policy, "test/Echo-v0", 2000)
    assert abs(drawn.mean() - 2) < 4 / math.sqrt(2000)
    assert abs(drawn.std() - 1) < 4 / math.sqrt(2 * 2000)


def test_evaluation_repeats_by_its_seed():
    env = gymnasium.make("CartPole-v1")
    policy, _ = policies.build(env.observation_space, env.action_space)
    first = evaluate(policy, "CartPole-v1", 20, seed=1)
    np.testing.assert_array_equal(first, evaluate(policy, "CartPole-v1", 20, seed=1))
    assert (first != evaluate(policy, "CartPole-v1", 20, seed=2)).any()


@pytest.mark.parametrize("bad", [0, -1, 1.5, "ten"])
def test_evaluation_refuses_bad_counts(bad):
    with pytest.raises(ValueError, match="episodes: expected"):
        evaluate(Scripted(), "test/Clock-v0", bad)
    with pytest.raises(ValueError, match="n_envs: expected"):
        evaluate(Scripted(), "test/Clock-v0", 10, n_envs=bad)


def test_one_thread_is_given_back():
    """Also after an error; and a segment is collected on one thread (with two, 10 times slower or more)."""
    before, seen = torch.get_num_threads(), []

    class Counting(Scripted):
        def __call__(self, obs):
            seen.append(torch.get_num_threads())
            return super().__call__(obs)

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        clock().collect(Counting(), 3)
        assert seen == [1, 1, 1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
