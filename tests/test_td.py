"""Chapter 1, second half. The outsiders: hand numbers, printed sums as loops, enumeration, differences."""

from itertools import product

import numpy as np
import pytest

from rlbook.td import gae, n_step_return, returns_to_go, td_error, td_lambda, td_loss_gradient
from rlbook.worlds import fork

GAMMA, LAM = 0.9, 0.8
T = 9
ENDED = np.isin(np.arange(T), [2])  # the episode ends after step 2, is cut after step 5, and runs on
CUT = np.isin(np.arange(T), [5])


def stream(shape, seed=0):
    """Random rewards and values; next_value is a table of its own, as after a reset it must be."""
    rng = np.random.default_rng(seed)
    return dict(zip(("reward", "value", "next_value"), rng.standard_normal((3, *shape)), strict=True))


def literal_n_step(reward, next_value, ended, cut, gamma, n, t):
    """n rewards from t on and a bootstrap; fewer where the episode ends, is cut, or the data stop."""
    G, scale = 0.0, 1.0
    for k in range(n):
        i = t + k
        G += scale * reward[i]
        scale *= gamma
        if ended[i]:
            return G
        if cut[i] or i == len(reward) - 1 or k == n - 1:
            return G + scale * next_value[i]


def literal_lambda_return(reward, next_value, gamma, lam, t):
    """(1 - lam) sum_n lam^(n-1) G^(n); the last G^(n) before an end or cut has all the weight left."""
    N = next(i for i in (2, 5, T - 1) if i >= t) - t + 1
    G = [literal_n_step(reward, next_value, ENDED, CUT, gamma, n, t) for n in range(1, N + 1)]
    return (1 - lam) * sum(lam ** (n - 1) * G[n - 1] for n in range(1, N)) + lam ** (N - 1) * G[-1]


def chain(here, ahead):
    """Make `ahead` the next entry of `here`, except over an end or a cut, where another episode begins."""
    runs_on = ~(ENDED | CUT)[:-1]
    ahead[:-1][runs_on] = here[1:][runs_on]


# --- returns: (16), Ex. 1.4 -------------------------------------------------------------------------


def test_the_return_of_example_1_4_is_5_23():
    """Ex. 1.4 with rewards (1, 2, 3): 1 + 0.9 * 2 + 0.81 * 3; the mean of two rollouts estimates J."""
    assert returns_to_go([1, 2, 3], 0.9)[0] == pytest.approx(5.23, abs=1e-14)
    two = returns_to_go([[1, 0], [2, 0], [3, 1]], 0.9)[0]
    np.testing.assert_allclose(two, [5.23, 0.81], rtol=0, atol=1e-14)
    assert two.mean() == pytest.approx(3.02, abs=1e-14)


def test_the_return_is_the_discounted_sum_of_what_follows():
    """(16), (38) as a double loop, for one stream and for three."""
    for shape in ((T,), (T, 3)):
        reward = stream(shape)["reward"]
        want = [sum(GAMMA**k * reward[t + k] for k in range(T - t)) for t in range(T)]
        np.testing.assert_allclose(returns_to_go(reward, GAMMA), want, rtol=0, atol=1e-13)


def test_a_steady_reward_of_one_is_worth_one_over_one_minus_gamma():
    """(16): the closed form of the geometric series, (1 - gamma^T) / (1 - gamma) from T steps on."""
    G = returns_to_go(np.ones(400), 0.9)
    assert G[0] == pytest.approx(10.0, abs=1e-12)
    np.testing.assert_allclose(G, (1 - 0.9 ** np.arange(400, 0, -1)) / 0.1, rtol=1e-12)


def test_rewards_passed_in_are_not_changed():
    reward = np.ones(3)
    returns_to_go(reward, 1.0)
    assert reward.tolist() == [1, 1, 1]


# --- TD errors: (9), Ex. 1.9 ------------------------------------------------------------------------


def test_the_td_target_and_error_of_example_1_9():
    """(9), Ex. 1.9: y = 1 + 0.9 * 0.7 = 1.63, delta = 1.43."""
    delta = td_error(1.0, 0.2, 0.7, 0.9, False)
    assert delta == pytest.approx(1.43, abs=1e-15)
    assert delta + 0.2 == pytest.approx(1.63, abs=1e-15)


def test_the_td_update_of_example_1_9_gives_0_343():
    """Ex. 1.9: V(A) = 0.2 + 0.1 * 1.43; V(B) stays, whatever lambda is."""
    for lam in (0.0, 0.8, 1.0):
        V = td_lambda([0], [1.0], [1], [False], [False], 0.9, lam, 0.1, [0.2, 0.7])
        np.testing.assert_allclose(V, [0.343, 0.7], rtol=0, atol=1e-15)


def test_td_errors_are_elementwise():
    """(9) on (T, N) with a terminal step: a loop over all entries."""
    x, ended = stream((T, 2)), np.stack([ENDED, ~ENDED], axis=1)
    got = td_error(**x, discount=GAMMA, terminated=ended)
    for i in np.ndindex(T, 2):
        ahead = 0 if ended[i] else GAMMA * x["next_value"][i]
        assert got[i] == pytest.approx(x["reward"][i] + ahead - x["value"][i], abs=1e-15)


def test_a_terminal_step_does_not_bootstrap():
    """(9), (80): 1 - 0.2 = 0.8; if V(s') = 5 leaked in, 0.9 * 5 = 4.5 would be added."""
    step = dict(reward=[1.0], value=[0.2], next_value=[5.0], discount=0.9)
    assert td_error(**step, terminated=[True]) == pytest.approx([0.8])
    assert td_error(**step, terminated=[False]) == pytest.approx([0.8 + 4.5])
    ends, cuts = ((gae(**step, terminated=[e], truncated=[not e], lam=0.95)) for e in (True, False))
    assert ends[0] == pytest.approx([0.8]) and ends[1] == pytest.approx([1.0])
    assert cuts[0] == pytest.approx([5.3]) and cuts[1] == pytest.approx([5.5])


# --- n-step returns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, T, 50])
def test_an_n_step_return_is_n_rewards_and_a_bootstrap(n):
    """A loop for each start, with an end and a cut in the middle; n may be longer than the data."""
    x = stream((T, 2))
    ended, cut = np.stack([ENDED, CUT], axis=1), np.stack([CUT, ENDED], axis=1)
    got = n_step_return(x["reward"], x["next_value"], ended, cut, GAMMA, n)
    for t, j in np.ndindex(T, 2):
        columns = (a[:, j] for a in (x["reward"], x["next_value"], ended, cut))
        assert got[t, j] == pytest.approx(literal_n_step(*columns, GAMMA, n, t), abs=1e-13)
    alone = n_step_return(x["reward"][:, 0], x["next_value"][:, 0], ENDED, CUT, GAMMA, n)
    np.testing.assert_array_equal(alone, got[:, 0])


def test_one_step_is_the_td_target_and_many_are_the_return():
    """The two ends of Remark 1.5, each computed by another function."""
    x, none = stream((T,)), np.zeros(T)
    one = n_step_return(x["reward"], x["next_value"], ENDED, CUT, GAMMA, 1)
    np.testing.assert_allclose(
        one - x["value"], td_error(**x, discount=GAMMA, terminated=ENDED), rtol=0, atol=1e-15
    )
    last = np.arange(T) == T - 1
    many = n_step_return(x["reward"], x["next_value"], last, none, GAMMA, T)
    np.testing.assert_allclose(many, returns_to_go(x["reward"], GAMMA), rtol=0, atol=1e-13)


def test_more_steps_trade_bias_for_variance():
    """Remark 1.5 by enumeration: five fair coins pay 0 or 1, and V(s') is too high by 2 everywhere.

    An n-step target then has bias gamma^n * 2 and variance (1 + gamma^2 + .. + gamma^(2n-2)) / 4.
    """
    coins = np.array(list(product((0.0, 1.0), repeat=5))).T  # (5, 32): all rollouts, equally likely
    true = returns_to_go(np.full(6, 0.5), GAMMA)  # V of the states before each coin, and 0.5 left at the end
    guess = np.repeat(true[1:, None] + 2, 32, axis=1)
    none = np.zeros_like(coins)
    for n in range(1, 6):
        target = n_step_return(coins, guess, none, none, GAMMA, n)[0]
        assert target.mean() - true[0] == pytest.approx(2 * GAMMA**n, abs=1e-12)
        assert target.var() == pytest.approx(sum(GAMMA ** (2 * k) for k in range(n)) / 4, abs=1e-12)


# --- GAE: (80), (81) --------------------------------------------------------------------------------


def test_erratum_38_loses_what_lies_beyond_a_time_limit():
    """r = 1 for ever, cut after 20 steps: (38) gives 8.784 of 10, short by 1.216 = .9^20 * 10; V at the cut
    gives it back.
    """
    assert 10 - returns_to_go(np.ones(20), 0.9)[0] == pytest.approx(1.216, abs=5e-4)
    cut = np.arange(20) == 19
    value = np.full(20, 10.0)
    _, target = gae(np.ones(20), value, value, ~cut & cut, cut, 0.9, 1.0)
    assert target[0] == pytest.approx(10, abs=1e-12)


@pytest.mark.parametrize("shape", [(T,), (T, 3)])
def test_gae_is_the_double_sum_of_the_book(shape):
    """(80) written out, O(T^2): the sum over l of (gamma lambda)^l delta_{t+l} up to the next end or cut."""
    x = stream(shape)
    rng = np.random.default_rng(1)
    ended, cut = rng.random((2, *shape)) < 0.2
    got, _ = gae(**x, terminated=ended, truncated=cut, discount=GAMMA, lam=LAM)
    assert ended.any() and cut.any()
    for start in np.ndindex(shape):
        want = 0.0
        for i in range(start[0], T):
            here = (i, *start[1:])
            ahead = 0.0 if ended[here] else GAMMA * x["next_value"][here]
            want += (GAMMA * LAM) ** (i - start[0]) * (x["reward"][here] + ahead - x["value"][here])
            if ended[here] or cut[here]:
                break
        assert got[start] == pytest.approx(want, abs=1e-13)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.8, 1.0])
def test_gae_targets_are_truncated_lambda_returns(lam):
    """(81), and (80) with it: the weighted sum of n-step returns, with an end and a cut inside."""
    x = stream((T,), seed=2)
    chain(x["value"], x["next_value"])
    advantage, target = gae(**x, terminated=ENDED, truncated=CUT, discount=GAMMA, lam=lam)
    want = [literal_lambda_return(x["reward"], x["next_value"], GAMMA, lam, t) for t in range(T)]
    np.testing.assert_allclose(target, want, rtol=0, atol=1e-13)
    np.testing.assert_allclose(advantage, want - x["value"], rtol=0, atol=1e-13)


def test_gae_with_lambda_zero_is_the_td_error():
    """(80), (9): lam = 0."""
    x = stream((T,))
    got, target = gae(**x, terminated=ENDED, truncated=CUT, discount=GAMMA, lam=0.0)
    want = x["reward"] + GAMMA * np.where(ENDED, 0, x["next_value"])
    np.testing.assert_allclose(target, want, rtol=0, atol=1e-15)
    np.testing.assert_allclose(got, want - x["value"], rtol=0, atol=1e-15)


def test_gae_with_lambda_one_is_the_return_less_the_value():
    """(80): with V(s') the value of the next step, the sum telescopes to gamma^L V_end + return - V."""
    rng = np.random.default_rng(3)
    reward, table = rng.standard_normal(T), rng.standard_normal(T + 1)
    none = np.zeros(T)
    got, _ = gae(reward, table[:-1], table[1:], none, none, GAMMA, 1.0)
    for t in range(T):
        G = sum(GAMMA**k * reward[t + k] for k in range(T - t)) + GAMMA ** (T - t) * table[-1]
        assert got[t] == pytest.approx(G - table[t], abs=1e-13)


def test_nothing_flows_back_over_an_end_or_a_cut():
    """(80): what happens from step 6 on leaves the advantages of steps 0-5 as they are."""
    x = stream((T,))
    before, _ = gae(**x, terminated=ENDED, truncated=CUT, discount=GAMMA, lam=LAM)
    x["reward"][6:] += 100
    after, _ = gae(**x, terminated=ENDED, truncated=CUT, discount=GAMMA, lam=LAM)
    np.testing.assert_array_equal(before[:6], after[:6])
    assert (after[6:] > before[6:] + 99).all()


# --- TD(lambda) -------------------------------------------------------------------------------------


def walk(n_streams, seed=0):
    """States, rewards and next states of `n_streams` walks over four states, T steps each."""
    rng = np.random.default_rng(seed)
    state, next_state = rng.integers(4, size=(2, T, n_streams))
    return state, rng.standard_normal((T, n_streams)), next_state


def test_td_zero_is_a_loop_over_a_dictionary():
    """(9), Ex. 1.9 many times: V[s] += eta * (r + gamma V[s'] - V[s]) in plain Python."""
    state, reward, next_state = (a[:, 0] for a in walk(1))
    start = np.array([1.0, -1.0, 0.5, 2.0])
    V = dict(enumerate(start))
    for t in range(T):
        ahead = 0 if ENDED[t] else GAMMA * V[next_state[t]]
        V[state[t]] += 0.3 * (reward[t] + ahead - V[state[t]])
    got = td_lambda(state, reward, next_state, ENDED, CUT, GAMMA, 0.0, 0.3, start)
    np.testing.assert_allclose(got, list(V.values()), rtol=0, atol=1e-14)
    assert start.tolist() == [1.0, -1.0, 0.5, 2.0]


def test_traces_accumulate_when_a_state_comes_back():
    """A -> A pays 1, A -> end pays 2; gamma = 1/2, lam = 0.8, eta = 0.1, from V = 0, on paper.

    Step 1: delta 1, trace 1, V = 0.1. Step 2: trace 0.4 + 1 = 1.4, delta 2 - 0.1 = 1.9, V = 0.1 + 0.266.
    """
    V = td_lambda([0, 0], [1.0, 2.0], [0, 1], [False, True], [False, False], 0.5, 0.8, 0.1, [0.0, 0.0])
    np.testing.assert_allclose(V, [0.366, 0.0], rtol=0, atol=1e-15)


def test_td_one_adds_up_to_the_monte_carlo_update():
    """lam = 1 for a small step: the whole change is eta times the sum of G_t - V(s_t) over visits of s."""
    state, reward, next_state = (a[:, 0] for a in walk(1, seed=4))
    next_state[:-1] = state[1:]
    last, start, eta = np.arange(T) == T - 1, np.array([1.0, -1.0, 0.5, 2.0]), 1e-7
    got = td_lambda(state, reward, next_state, last, np.zeros(T), GAMMA, 1.0, eta, start)
    want = np.zeros(4)
    for t in range(T):
        want[state[t]] += sum(GAMMA**k * reward[t + k] for k in range(T - t)) - start[state[t]]
    np.testing.assert_allclose((got - start) / eta, want, rtol=0, atol=1e-5)
    assert np.abs(want).max() > 1


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_td_lambda_adds_up_to_the_lambda_return_update(lam):
    """The same for any lam, with an end and a cut inside: eta times the sum of (81) less V(s_t)."""
    state, reward, next_state = (a[:, 0] for a in walk(1, seed=5))
    chain(state, next_state)
    start, eta = np.array([1.0, -1.0, 0.5, 2.0]), 1e-7
    got = td_lambda(state, reward, next_state, ENDED, CUT, GAMMA, lam, eta, start)
    want = np.zeros(4)
    for t in range(T):
        want[state[t]] += literal_lambda_return(reward, start[next_state], GAMMA, lam, t) - start[state[t]]
    np.testing.assert_allclose((got - start) / eta, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ended, cut", [(True, False), (False, True)], ids=["terminated", "truncated"])
def test_traces_are_cleared_where_an_episode_ends_or_is_cut(ended, cut):
    """The second episode leaves state 0 alone; without an end or a cut it reaches back to it."""
    args = dict(discount=0.9, lam=1.0, step_size=0.5, value=[0.0, 0.0, 0.0])
    two = td_lambda([0, 1], [1.0, 10.0], [2, 2], [ended, True], [cut, False], **args)
    np.testing.assert_allclose(two, [0.5, 5.0, 0.0], rtol=0, atol=1e-15)
    linked = td_lambda([0, 1], [1.0, 10.0], [2, 2], [False, True], [False, False], **args)
    np.testing.assert_allclose(linked, [0.5 + 0.5 * 0.9 * 10, 5.0, 0.0], rtol=0, atol=1e-15)


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not():
    """TD(lambda), one step, V(s') = 5: the target is 1 + 0.9 * 5 or 1."""
    step = dict(discount=0.9, lam=0.5, step_size=1.0, value=[0.2, 5.0])
    assert td_lambda([0], [1.0], [1], [False], [True], **step)[0] == pytest.approx(5.5)
    assert td_lambda([0], [1.0], [1], [True], [False], **step)[0] == pytest.approx(1.0)
    assert td_lambda([0], [1.0], [1], [True], [True], **step)[0] == pytest.approx(1.0)


def test_streams_side_by_side_learn_as_if_alone():
    """Three streams with different ends and cuts, from a shared start and from starts of their own."""
    state, reward, next_state = walk(3)
    ended, cut = np.random.default_rng(6).random((2, T, 3)) < 0.25
    for start in (np.zeros(4), np.random.default_rng(7).standard_normal((3, 4))):
        got = td_lambda(state, reward, next_state, ended, cut, GAMMA, LAM, 0.2, start)
        assert got.shape == (3, 4)
        for j in range(3):
            columns = (a[:, j] for a in (state, reward, next_state, ended, cut))
            alone = td_lambda(*columns, GAMMA, LAM, 0.2, np.broadcast_to(start, (3, 4))[j])
            np.testing.assert_allclose(got[j], alone, rtol=0, atol=1e-15)


# --- semi-gradient and residual gradient ------------------------------------------------------------

# fork(): A -> B, A -> C, B -> end (pays 1), C -> end; each makes up a quarter of all transitions
FORK = dict(state=[0, 0, 1, 2], reward=[0, 0, 1, 0], next_state=[1, 2, 3, 3], terminated=[0, 0, 1, 1])


def half_squared_error(value, transitions, weight, held=None):
    """Half the mean squared TD error; `held` values, if given, stand in the targets."""
    target = value if held is None else held
    loss = 0.0
    for s, r, t, ended, w in zip(*transitions, weight, strict=True):
        loss += w * (r + (0 if ended else GAMMA * target[t]) - value[s]) ** 2 / 2
    return loss


@pytest.mark.parametrize("residual", [False, True])
def test_td_loss_gradients_are_derivatives(residual):
    """Central differences of the loss: through both values, or with the targets held fixed."""
    rng = np.random.default_rng(8)
    state, reward, next_state = (a[:, 0] for a in walk(1, seed=8))
    transitions, value = (state, reward, next_state, ENDED), rng.standard_normal(4)
    weight, held, h = rng.dirichlet(np.ones(T)), None if residual else value, 1e-4
    up, down = (
        np.array([half_squared_error(value + e, transitions, weight, held) for e in step * np.eye(4)])
        for step in (h, -h)
    )
    numeric = (up - down) / (2 * h)
    got = td_loss_gradient(value, *transitions, GAMMA, residual, weight)
    np.testing.assert_allclose(got, numeric, rtol=0, atol=1e-10)


def test_without_weights_every_transition_counts_the_same():
    value = np.array([0.3, -0.2, 0.5, 0.0])
    got = td_loss_gradient(value, **FORK, discount=GAMMA, residual=True)
    want = td_loss_gradient(value, **FORK, discount=GAMMA, residual=True, weight=np.full(4, 0.25))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-16)
    assert got[1] == pytest.approx(((-1.2) + GAMMA * (GAMMA * -0.2 - 0.3)) / 4)  # from B -> end and A -> B


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_the_semi_gradient_rests_at_the_true_values(gamma):
    """On the fork they are (gamma/2, 1, 0): nothing moves there, but the residual gradient does."""
    true = np.array([gamma / 2, 1, 0, 0])
    np.testing.assert_allclose(td_loss_gradient(true, **FORK, discount=gamma), 0, rtol=0, atol=1e-16)
    assert np.abs(td_loss_gradient(true, **FORK, discount=gamma, residual=True)).max() > 0.1
    if gamma < 1:
        np.testing.assert_allclose(fork(gamma).evaluate(np.ones((4, 1))).V, true, rtol=0, atol=1e-15)


@pytest.mark.parametrize("gamma, want", [(1.0, (0.5, 0.75, 0.25)), (0.9, (0.45, 0.776, 0.224))])
def test_the_residual_gradient_rests_elsewhere(gamma, want):
    """The least-squares problem of the fork, solved by NumPy: rows of r + gamma V(s') - V(s) = 0."""
    rows = np.array([[1, -gamma, 0], [1, 0, -gamma], [0, 1, 0], [0, 0, 1]])
    best = np.linalg.lstsq(rows, np.array(FORK["reward"], dtype=float))[0]
    np.testing.assert_allclose(best, want, rtol=0, atol=5e-4)
    got = td_loss_gradient([*best, 0.0], **FORK, discount=gamma, residual=True)
    np.testing.assert_allclose(got, 0, rtol=0, atol=1e-15)
    assert np.abs(td_loss_gradient([*best, 0.0], **FORK, discount=gamma)).max() > 0.01
