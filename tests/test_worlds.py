"""The toy worlds, exact and as environments. The outsiders: hand numbers, closed forms, gymnasium."""

import subprocess
import sys
from itertools import product
from math import comb

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rlbook import worlds
from rlbook.estimation import importance_sampling_variance, importance_weights, self_normalised, softmax
from rlbook.mdp import TabularMDP
from rlbook.td import returns_to_go
from rlbook.worlds import (
    delayed_penalty,
    fork,
    horizon_bandit,
    length_bandit,
    random_mdp,
    random_walk,
    surrogate_cliff,
    tied_policy,
    two_state,
)

IDS = sorted(f"rlbook/{world}-v0" for world in worlds.WORLDS)


def uniform(mdp):
    return np.full(mdp.r.shape, 1 / mdp.n_actions)


# --- exact ------------------------------------------------------------------------------------------


def test_the_two_state_world_is_the_one_of_the_text():
    """All sixteen numbers, typed again."""
    mdp = two_state()
    assert mdp.P[0].tolist() == [[0.9, 0.1], [0.2, 0.8]] and mdp.P[1].tolist() == [[0.6, 0.4], [0.1, 0.9]]
    assert mdp.r.tolist() == [[1, 0], [0, 2]] and mdp.rho.tolist() == [1, 0] and mdp.gamma == 0.9
    assert two_state(0.5).gamma == 0.5


def test_the_cliff_looks_safe_to_a_policy_that_rarely_goes_there():
    """Ex. 4.1.1: J = 8.091e-5, V(s1) = 0.899, d and advantages as worked out on paper."""
    found = surrogate_cliff().evaluate([[1 - 1e-4, 1e-4], [0.999, 0.001], [0.5, 0.5]])
    assert found.J == pytest.approx(8.091e-5, abs=1e-15)
    np.testing.assert_allclose(found.V, [8.091e-5, 0.899, 0], rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.d, [0.1, 9e-6, 0.899991], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.A[1], [0.101, -100.899], rtol=0, atol=1e-12)
    assert found.A[0, 1] == pytest.approx(0.80901909, abs=1e-12)


def test_the_cliff_costs_90_to_a_policy_that_walks_off_it():
    """Ex. 4.1.1: a1 then b for sure is 0.9 * -100; d = (0.1, 0.09, 0.81); M scales the fall."""
    off = [[0, 1], [0, 1], [0.5, 0.5]]
    found = surrogate_cliff().evaluate(off)
    assert found.J == pytest.approx(-90, abs=1e-12)
    np.testing.assert_allclose(found.d, [0.1, 0.09, 0.81], rtol=0, atol=1e-14)
    assert surrogate_cliff(gamma=0.5, M=8).evaluate(off).J == pytest.approx(-4, abs=1e-12)


def test_the_best_policy_on_the_cliff_takes_the_good_action():
    """Ex. 4.1.1: a1, then g: 0.9."""
    pi, J = surrogate_cliff().optimal()
    assert J == pytest.approx(0.9) and pi[:2].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("H", [1, 5, 20])
def test_the_horizon_bandit_pays_gamma_to_the_h_whatever_is_done(H):
    """Ex. 4.1.2: gamma^H paid once, gamma^H / (1 - gamma) paid for ever; 0.59049 and 5.9049 at H = 5."""
    for one_shot, want in ((True, 0.9**H), (False, 0.9**H / 0.1)):
        mdp = horizon_bandit(H, one_shot=one_shot)
        for pi in (uniform(mdp), np.random.default_rng(0).dirichlet([1, 1], mdp.n_states)):
            assert mdp.evaluate(pi).J == pytest.approx(want, abs=1e-13)
        assert mdp.n_states == H + 1 + one_shot
    assert horizon_bandit(5).evaluate(np.full((7, 2), 0.5)).J == pytest.approx(0.59049, abs=1e-14)


def test_erratum_the_return_of_the_horizon_bandit_as_printed():
    """Ex. 4.1.2: an absorbing state that pays 1 pays it at every t >= H: gamma^H / (1 - gamma) in all."""
    forever = sum(0.9**t for t in range(5, 400))
    assert forever == pytest.approx(5.9049, abs=1e-12)
    for one_shot, want in ((True, 0.59049), (False, forever)):
        mdp = horizon_bandit(5, one_shot=one_shot)
        assert mdp.evaluate(uniform(mdp)).J == pytest.approx(want, abs=1e-12)
        G = returns_to_go(mdp.sample(uniform(mdp), 20, 400, rng=0).reward.T, 0.9)[0]
        np.testing.assert_allclose(G, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("H, want", [(1, 0.64), (5, 10.8637), (10, 139.747)])
def test_the_trajectory_weights_of_the_horizon_bandit_have_variance_164_to_the_h(H, want):
    """Ex. 4.1.2: p = 1/2, q = .9, all 2^H action sequences: 1.64^H - 1."""
    actions = np.array(list(product((0, 1), repeat=H)))
    behaviour, target = np.full(2**H, 0.5**H), np.where(actions == 1, 0.9, 0.1).prod(axis=1)
    variance = importance_sampling_variance(target, behaviour, np.ones(2**H))
    assert variance == pytest.approx(1.64**H - 1, rel=1e-12) == pytest.approx(want, abs=5e-4)


def test_erratum_the_sample_variance_of_the_weights_hides_their_variance():
    """Ex. 4.1.2, H = 50: the true variance is 5.5e10, that of 10,000 samples below 10 in the median.

    The return is constant, so the self-normalised estimate is exact for all that.
    """
    mdp, target = horizon_bandit(50), np.array([0.1, 0.9])
    assert 1.64**50 - 1 == pytest.approx(5.5232e10, rel=1e-4)
    found = []
    for seed in range(9):
        walk = mdp.sample(uniform(mdp), 10000, 51, seed)
        chosen = target[walk.action[:, :50]].prod(axis=1)
        w = importance_weights(chosen, np.full(10000, 0.5**50))
        found.append((w.var(), w.mean()))
        G = returns_to_go(walk.reward.T, 0.9)[0]
        assert self_normalised(G, w) == pytest.approx(0.9**50, rel=1e-12)
    variance, mean = np.median(found, axis=0)
    assert variance < 10 and mean < 0.1


def test_erratum_the_sample_variance_follows_for_ten_steps_only():
    """Ex. 4.1.2: 1,000 times 10,000 weights 1.8^k .2^(H-k). The medians are near the true variance 139.7 at
    H = 10, near 540 for 19,809 at H = 20, below .1 for 5.5e10 at H = 50; there the mean is .005, not 1.
    ESS / N is 1.64^-H while that is far above 1 / N.
    """
    rng, found = np.random.default_rng(0), {}
    for H in (5, 10, 20, 50):
        k = np.arange(H + 1)
        w, law = 1.8**k * 0.2 ** (H - k.astype(float)), np.array([comb(H, j) for j in k]) / 2.0**H
        share = rng.multinomial(10_000, law, size=1000) / 10_000  # of each k in a sample
        mean, square = share @ w, share @ w**2
        found[H] = np.median([square - mean**2, mean, mean**2 / square], axis=1)
    assert found[10][0] == pytest.approx(139.7, rel=0.1) and found[20][0] == pytest.approx(538, rel=0.1)
    assert found[50][0] < 0.1 and found[50][1] == pytest.approx(0.005, abs=5e-4)
    for H in (5, 10):
        assert found[H][2] == pytest.approx(1.64**-H, rel=0.05)


@pytest.mark.parametrize("one_shot, c", [(True, 0.9**5), (False, 0.9**5 / 0.1)])
def test_erratum_the_variance_of_the_estimate_carries_the_return(one_shot, c):
    """Ex. 4.1.2: all 2^5 action sequences, c^2 (1.64^5 - 1), c the return of this world.

    A reward on the last of the H actions comes one step earlier: gamma^4 = .6561.
    """
    mdp = horizon_bandit(5, one_shot=one_shot)
    assert mdp.evaluate(uniform(mdp)).J == pytest.approx(c, abs=1e-12)
    actions = np.array(list(product((0, 1), repeat=5)))
    w = importance_weights(np.where(actions == 1, 0.9, 0.1).prod(axis=1), np.full(32, 0.5**5))
    assert np.var(w * c) == pytest.approx(c**2 * (1.64**5 - 1), rel=1e-12)
    r = np.zeros_like(mdp.r)
    r[4] = 1
    early = TabularMDP(mdp.P, r, mdp.rho, mdp.gamma)
    assert early.evaluate(uniform(early)).J == pytest.approx(0.6561, abs=1e-14)


def test_the_tied_class_holds_the_two_policies_of_the_cliff():
    """Ex. 4.1.1: eta = 1e-4 and eta2 = 1e-3 at theta = log(1e-4 / .9999); both 1 as theta grows."""
    np.testing.assert_allclose(
        tied_policy(np.log(1e-4 / 0.9999))[:2], [[0.9999, 1e-4], [0.999, 1e-3]], rtol=1e-12
    )
    np.testing.assert_allclose(tied_policy(800.0), [[0, 1], [0, 1], [0.5, 0.5]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(tied_policy(0.0, offset=np.log(3))[:2], [[0.5, 0.5], [0.25, 0.75]], rtol=1e-15)


def test_the_delayed_penalty_costs_three_but_much_later():
    """J = p (1 - 3 gamma^T): .317635 at p = 1/2, .63527 at p = 1."""
    mdp = delayed_penalty()
    assert mdp.evaluate(uniform(mdp)).J == pytest.approx(0.317635, abs=5e-7)
    assert mdp.evaluate(np.eye(2)[[1] * 22]).J == pytest.approx(1 - 3 * 0.9**20, abs=1e-14)
    short = delayed_penalty(T=2, gamma=0.5)
    p = softmax([[0.0, 1.0]] * 4)
    assert short.evaluate(p).J == pytest.approx(p[0, 1] * (1 - 0.75), abs=1e-15)
    assert short.terminal.tolist() == [False] * 3 + [True]
    walk = short.sample(np.eye(2)[[1] * 4], 1, 5, rng=0)
    assert walk.reward[0].tolist() == [1, 0, -3, 0, 0]


def test_the_arms_of_the_length_bandit_differ_in_length_and_reward_alone():
    """J is the mean reward for every discount; each arm's episode has its own number of steps."""
    for gamma in (0.0, 0.5, 0.99):
        mdp = length_bandit(gamma=gamma)
        pi = np.tile([0.45, 0.45, 0.1], (101, 1))
        assert mdp.evaluate(pi).J == pytest.approx(0.1, abs=1e-14)
    env = gymnasium.make("rlbook/LengthBandit-v0", lengths=(1, 3, 2), reward=(5, -1, 0.5))
    for arm, (length, reward) in enumerate([(1, 5), (3, -1), (2, 0.5)]):
        env.reset(seed=0)
        steps = [env.step(arm)[1:3]]
        while not steps[-1][1]:
            steps.append(env.step(0)[1:3])
        assert len(steps) == length and [float(r) for r, _ in steps] == [reward] + [0] * (length - 1)
    assert length_bandit().n_states == 101


@pytest.mark.parametrize("n, gamma", [(1, 0.9), (2, 0.5), (5, 0.9), (6, 0.99)])
def test_the_random_walk_is_the_ruin_of_a_gambler(n, gamma):
    """V = gamma/2 (V_left + V_right), with 0 off the left and 1/gamma off the right: roots of a quadratic."""
    z = (1 + np.array([1, -1]) * np.sqrt(1 - gamma**2)) / gamma
    want = [(z[0] ** i - z[1] ** i) / (z[0] ** (n + 1) - z[1] ** (n + 1)) / gamma for i in range(1, n + 1)]
    mdp = random_walk(n, gamma)
    found = mdp.evaluate(uniform(mdp))
    np.testing.assert_allclose(found.V, [*want, 0], rtol=0, atol=1e-13)
    assert found.J == pytest.approx(want[n // 2])
    assert mdp.terminal.tolist() == [False] * n + [True]


def test_the_random_walk_of_two_states_by_hand():
    """V1 = 1/2 + 0.45 V0 and V0 = 0.45 V1, so V1 = 0.5 / (1 - 0.2025)."""
    found = random_walk(2).evaluate(np.full((3, 2), 0.5))
    np.testing.assert_allclose(found.V, [0.45 * 0.5 / 0.7975, 0.5 / 0.7975, 0], rtol=1e-14)


def test_only_the_right_end_of_the_random_walk_pays():
    """Always right from state s: gamma^(n - 1 - s). Always left: nothing."""
    mdp = random_walk(4)
    right, left = np.eye(2)[[1] * 5], np.eye(2)[[0] * 5]
    np.testing.assert_allclose(mdp.evaluate(right).V, [0.729, 0.81, 0.9, 1, 0], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(mdp.evaluate(left).V, 0)


def test_the_fork_is_worth_half_of_gamma():
    """A -> B or C; B pays 1: the values are (gamma/2, 1, 0, 0)."""
    for gamma in (0.0, 0.5, 0.9):
        np.testing.assert_allclose(
            fork(gamma).evaluate(np.ones((4, 1))).V, [gamma / 2, 1, 0, 0], rtol=0, atol=1e-15
        )


def test_random_worlds_repeat_with_their_seed():
    one, again, other = random_mdp(1, 3, 2), random_mdp(np.random.default_rng(1), 3, 2), random_mdp(2, 3, 2)
    np.testing.assert_array_equal(one.P, again.P)
    np.testing.assert_array_equal(one.r, again.r)
    assert np.abs(one.P - other.P).max() > 0.01 and one.r.shape == (3, 2)


# --- as environments --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDS)
def test_every_registered_world_passes_the_checks_of_gymnasium(name):
    env = gymnasium.make(name).unwrapped
    assert check_env(env) is None  # it raises on the first thing it dislikes
    assert env.observation_space.n == env.mdp.n_states and env.action_space.n == env.mdp.n_actions


def test_one_import_is_enough_to_make_a_world():
    """A fresh process that imports gymnasium only; `module:` before the id makes gymnasium import it."""
    code = "import gymnasium; print(*gymnasium.make('rlbook.worlds:rlbook/{}-v0').reset(seed=0))"
    for world, first in (("SurrogateCliff", "0 {}"), ("RandomWalk", "2 {}")):
        out = subprocess.run([sys.executable, "-c", code.format(world)], capture_output=True, text=True)
        assert (out.returncode, out.stdout.strip()) == (0, first), out.stderr


def test_the_registered_worlds_take_the_options_of_their_functions():
    """Three silent steps, then a reward of 1 on leaving the state where it is paid."""
    env = gymnasium.make("rlbook/HorizonBandit-v0", H=3)
    env.reset(seed=0)
    steps = [env.step(0)[:4] for _ in range(4)]
    assert [(float(r), done) for _, r, done, _ in steps] == [(0, False), (0, False), (0, False), (1, True)]
    assert gymnasium.make("rlbook/SurrogateCliff-v0", M=7.0).unwrapped.mdp.r[1, 1] == -7


def test_registering_twice_changes_nothing():
    before = dict(gymnasium.registry)
    worlds.register_envs()
    assert dict(gymnasium.registry) == before and set(IDS) <= set(before)


def test_an_environment_moves_as_the_table_says():
    """First states, next states and rewards of 6,000 steps, each frequency within 4 standard errors."""
    mdp = random_mdp(4, 3, 2)
    env, rng = mdp.env(), np.random.default_rng(0)
    starts = np.zeros(3)
    for seed in range(1000):
        starts[env.reset(seed=seed)[0]] += 1
    assert (np.abs(starts / 1000 - mdp.rho) <= 4 * np.sqrt(mdp.rho * (1 - mdp.rho) / 1000)).all()
    counts, state = np.zeros(mdp.P.shape), env.reset(seed=0)[0]
    for action in rng.integers(2, size=6000):
        after, reward, terminated, truncated, _ = env.step(action)
        assert reward == mdp.r[state, action] and not terminated and not truncated
        counts[state, action, after] += 1
        state = after
    n = counts.sum(axis=2, keepdims=True)
    assert n.min() > 100
    assert (np.abs(counts / n - mdp.P) <= 4 * np.sqrt(mdp.P * (1 - mdp.P) / n) + 1e-12).all()


def test_the_same_seed_gives_the_same_episode():
    def episode(seed):
        env = two_state().env()
        return [env.reset(seed=seed)[0], *(env.step(t % 2)[0] for t in range(40))]

    assert episode(1) == episode(1) != episode(2)


def test_terminal_states_terminate_and_time_limits_truncate():
    """Two flags: the cliff ends by itself after one step, the two-state world only by its limit of three."""
    env = surrogate_cliff().env(max_steps=3)
    env.reset(seed=0)
    assert env.step(0)[2:4] == (True, False)
    env = two_state().env(max_steps=3)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    env = fork().env(max_steps=2)  # it ends in the very step that reaches the limit
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (True, True)]


def test_a_registered_world_is_cut_at_its_limit():
    """The two-state world never ends by itself: 200 steps, and only the last is truncated."""
    env = gymnasium.make("rlbook/TwoState-v0")
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(200)] == [False] * 199 + [True]


def test_the_default_limit_lets_a_long_bandit_come_to_its_reward():
    """H = 300: the reward is paid by the step after the 300 silent ones, as termination, not truncation."""
    env = gymnasium.make("rlbook/HorizonBandit-v0", H=300)
    env.reset(seed=0)
    steps = [env.step(1)[1:4] for _ in range(301)]
    assert steps == [(0.0, False, False)] * 300 + [(1.0, True, False)]
    env = gymnasium.make("rlbook/HorizonBandit-v0", H=300, max_steps=7)
    env.reset(seed=0)
    assert [env.step(1)[3] for _ in range(7)] == [False] * 6 + [True]


def test_an_episode_without_a_limit_is_never_truncated():
    env = two_state().env()
    env.reset(seed=0)
    assert not any(any(env.step(1)[2:4]) for _ in range(1000))


def test_a_step_before_the_first_reset_is_refused():
    with pytest.raises(ValueError, match=r"^step: expected a call of reset\(\) first"):
        two_state().env().step(0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        gymnasium.make("rlbook/TwoState-v0").step(0)


@pytest.mark.parametrize("action", [-1, 2, 0.5, 1.0, "left", None, float("nan")], ids=str)
def test_an_action_that_is_no_action_is_refused(action):
    env = two_state().env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^action: expected a whole number from 0 to 1, got "):
        env.step(action)


def test_an_unknown_world_or_option_is_refused_with_what_exists():
    with pytest.raises(ValueError, match="^world: expected one of TwoState, .*LengthBandit, got 'Cliff'$"):
        worlds.make_env("Cliff")
    with pytest.raises(TypeError, match="gama"):
        gymnasium.make("rlbook/TwoState-v0", gama=0.5)
