"""Chapter 2: exact MDPs.

The outsiders: known numbers, sums of powers, enumeration, value iteration, samples, finite differences.
No test here solves a linear system: that is how the code under test does it.
"""

from dataclasses import FrozenInstanceError
from itertools import product
from math import sqrt

import numpy as np
import pytest

from rlbook.estimation import softmax
from rlbook.mdp import TabularMDP
from rlbook.td import returns_to_go
from rlbook.worlds import horizon_bandit, random_mdp, surrogate_cliff, two_state

M2 = two_state()
LOGITS = np.array([[0.0, 0.5], [1.0, 0.0]])
PI = softmax(LOGITS)
HORIZON = 200  # 0.9^200 = 7e-10


def random_problems(n, seed=0):
    """n random MDPs of 2-5 states, 2-3 actions and mixed discounts, each with random logits."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        mdp = random_mdp(rng, rng.integers(2, 6), rng.integers(2, 4), gamma=(0.3, 0.6, 0.9, 0.97)[i % 4])
        yield mdp, rng.normal(0, 1.5, mdp.r.shape)


def backup_V(mdp, pi, V):
    """The right side of (26), as loops."""
    S, A = mdp.r.shape
    return np.array(
        [
            sum(
                pi[s, a] * (mdp.r[s, a] + mdp.gamma * sum(mdp.P[s, a, t] * V[t] for t in range(S)))
                for a in range(A)
            )
            for s in range(S)
        ]
    )


def backup_Q(mdp, pi, Q):
    """The right side of (27), as loops."""
    S, A = mdp.r.shape
    next_value = [sum(pi[t, b] * Q[t, b] for b in range(A)) for t in range(S)]
    return np.array(
        [
            [
                mdp.r[s, a] + mdp.gamma * sum(mdp.P[s, a, t] * next_value[t] for t in range(S))
                for a in range(A)
            ]
            for s in range(S)
        ]
    )


def value_iteration(mdp, choose):
    """V = choose(Q) repeated until nothing moves; `choose` (S, A) -> (S,) is a mean or a maximum."""
    V = np.zeros(mdp.n_states)
    while True:
        Q = mdp.r + mdp.gamma * np.einsum("sat,t->sa", mdp.P, V)
        if np.abs(choose(Q) - V).max() < 1e-13:
            return choose(Q), Q
        V = choose(Q)


def state_laws(mdp, pi, steps):
    """P(s_t = s) for t = 0 .. steps - 1, one step of the chain after the other."""
    law, laws = mdp.rho, []
    for _ in range(steps):
        laws.append(law)
        law = np.einsum("s,sa,sat->t", law, pi, mdp.P)
    return np.array(laws)


# --- the tuple, its policies and its samples: (1), (8), (10)-(16) -----------------------------------


def test_an_mdp_is_five_checked_tables_that_nobody_can_change():
    """(10): rows sum to 1, the caller's arrays are copied, and the copies are read-only."""
    P = np.array(M2.P)
    mdp = TabularMDP(P, M2.r, M2.rho, 0.9)
    P[0, 0] = 7
    np.testing.assert_allclose(mdp.P.sum(axis=2), 1, rtol=0, atol=1e-15)
    assert mdp.P[0, 0].tolist() == [0.9, 0.1]
    assert (mdp.n_states, mdp.n_actions, mdp.gamma) == (2, 2, 0.9)
    for table in (mdp.P, mdp.r, mdp.rho):
        with pytest.raises(ValueError, match="read-only"):
            table.flat[0] = 0
    with pytest.raises(FrozenInstanceError):
        mdp.gamma = 0.5


def test_n_states_and_n_actions_are_not_mixed_up():
    mdp = random_mdp(0, 4, 3)
    assert (mdp.n_states, mdp.n_actions) == (4, 3)


def test_equal_state_and_action_give_equal_reward():
    """(1), (11): every sampled reward is the table's entry for its state and action, nothing else."""
    walk = M2.sample(PI, n=50, horizon=20, rng=0)
    table = {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 0.0, (1, 1): 2.0}
    seen = {pair: set() for pair in table}
    pairs = zip(walk.state[:, :-1].ravel(), walk.action.ravel(), walk.reward.ravel(), strict=True)
    for s, a, r in pairs:
        seen[int(s), int(a)].add(float(r))
    assert seen == {pair: {r} for pair, r in table.items()}


def test_a_policy_is_one_distribution_for_each_state():
    """(12): the checked table comes back; anything else is refused."""
    np.testing.assert_array_equal(M2.policy([[1, 0], [0.25, 0.75]]), [[1, 0], [0.25, 0.75]])
    with pytest.raises(ValueError, match=r"^pi: .* got 0.9 \(row \(1,\)\)"):
        M2.policy([[1, 0], [0.5, 0.4]])


def test_sampled_states_and_actions_have_the_stated_laws():
    """(13)-(15): frequencies of s_0, of a given s and of s' given (s, a), each within 4 standard errors."""
    mdp, logits = next(random_problems(1, seed=5))
    pi = softmax(logits)
    walk = mdp.sample(pi, n=4000, horizon=10, rng=1)
    assert walk.state.shape == (4000, 11) and walk.action.shape == walk.reward.shape == (4000, 10)
    s, a, t = walk.state[:, :-1].ravel(), walk.action.ravel(), walk.state[:, 1:].ravel()

    def agrees(draws, n, law):
        error = np.sqrt(law * (1 - law) / n)
        return (np.abs(np.bincount(draws, minlength=len(law)) / n - law) <= 4 * error + 1e-12).all()

    assert agrees(walk.state[:, 0], 4000, mdp.rho)
    for i in range(mdp.n_states):
        assert (s == i).sum() > 300 and agrees(a[s == i], (s == i).sum(), pi[i])
        for j in range(mdp.n_actions):
            here = (s == i) & (a == j)
            assert agrees(t[here], here.sum(), mdp.P[i, j])


def test_samples_repeat_with_the_seed_and_only_with_it():
    one, again, other = (M2.sample(PI, 5, 30, rng=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.state, again.state)
    np.testing.assert_array_equal(one.action, M2.sample(PI, 5, 30, np.random.default_rng(3)).action)
    assert (one.action != other.action).any()


def test_a_sampled_rollout_stays_silent_in_a_terminal_state():
    """(14) on the cliff: after at most two steps the state is `end` for good and pays 0."""
    walk = surrogate_cliff().sample(np.full((3, 2), 0.5), n=200, horizon=6, rng=0)
    assert (walk.state[:, 2:] == 2).all() and (walk.reward[:, 2:] == 0).all()
    assert set(np.unique(walk.reward[:, 1])) == {-100.0, 0.0, 1.0}


class LowestDraw(np.random.Generator):
    """A generator whose uniform numbers are all 0, the rarest draw of the half-open interval [0, 1)."""

    def random(self, size):
        return np.zeros(size)


@pytest.mark.parametrize("rng", [0, LowestDraw(np.random.PCG64())], ids=["seed", "lowest draw"])
def test_zero_probability_is_never_sampled(rng):
    walk = M2.sample([[0, 1], [1, 0]], n=2000, horizon=5, rng=rng)
    assert (walk.action == 1 - walk.state[:, :-1]).all()


def test_only_silent_states_that_nothing_leaves_are_terminal():
    """The one-shot bandit ends; without `one_shot` its last state pays for ever, so it is not terminal."""
    assert surrogate_cliff().terminal.tolist() == [False, False, True]
    assert horizon_bandit(3).terminal.tolist() == [False] * 4 + [True]
    assert not horizon_bandit(3, one_shot=False).terminal.any()
    stay_if_0 = TabularMDP([[[1, 0], [0, 1]], [[0, 1], [0, 1]]], np.zeros((2, 2)), [1, 0], 0.9)
    assert stay_if_0.terminal.tolist() == [False, True]


@pytest.mark.parametrize("t", [0, 1, 2, 3])
def test_the_law_of_the_state_at_step_t_is_the_sum_over_paths(t):
    """(8), (43): all paths s_0 a_0 ... s_t of a three-state MDP, each with its probability."""
    mdp = random_mdp(3, 3, 2)
    pi = softmax(np.random.default_rng(0).standard_normal((3, 2)))
    want = np.zeros(3)
    for states in product(range(3), repeat=t + 1):
        for actions in product(range(2), repeat=t):
            p = mdp.rho[states[0]]
            for k in range(t):
                p *= pi[states[k], actions[k]] * mdp.P[states[k], actions[k], states[k + 1]]
            want[states[-1]] += p
    np.testing.assert_allclose(mdp.state_law(pi, t), want, rtol=0, atol=1e-15)


def test_one_step_under_the_policy_by_hand():
    """transition() on M2 with pi = (1/2, 1/2), (1/4, 3/4): rows and mean rewards worked out on paper."""
    P_pi, r_pi = M2.transition([[0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_allclose(P_pi, [[0.55, 0.45], [0.225, 0.775]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(r_pi, [0.5, 1.5], rtol=0, atol=1e-15)


# --- performance, values, occupancies: (16)-(23) ----------------------------------------------------


def test_the_two_state_world_gives_the_known_numbers():
    """(17)-(23) on M2: reference numbers from an independent computation, six decimals."""
    found = M2.evaluate(PI)
    assert found.J == pytest.approx(4.547626, abs=5e-7)
    np.testing.assert_allclose(found.V, [4.547626, 4.707788], rtol=0, atol=5e-7)
    np.testing.assert_allclose(found.Q, [[5.107278, 4.208180], [4.150522, 6.222595]], rtol=0, atol=5e-7)
    np.testing.assert_allclose(found.A, [[0.559652, -0.339446], [-0.557266, 1.514807]], rtol=0, atol=5e-7)
    np.testing.assert_allclose(found.d, [0.518393, 0.481607], rtol=0, atol=5e-7)


def summed_return(rho):
    """The discounted mean rewards of M2 under PI from the first-state law `rho`, added up step by step."""
    mean_reward = state_laws(TabularMDP(M2.P, M2.r, rho, 0.9), PI, HORIZON) @ (PI * M2.r).sum(axis=1)
    return sum(0.9**t * r for t, r in enumerate(mean_reward))


def sampled_return(rho):
    """The mean of 4,000 sampled returns and four times its standard error."""
    walk = TabularMDP(M2.P, M2.r, rho, 0.9).sample(PI, 4000, HORIZON, rng=0)
    G = returns_to_go(walk.reward.T, 0.9)[0]
    return G.mean(), 4 * G.std() / sqrt(len(G))


def test_performance_is_the_discounted_sum_of_expected_rewards():
    """(17): gamma^t times the mean reward at step t, from two laws of the first state."""
    assert M2.evaluate(PI).J == pytest.approx(summed_return(M2.rho), abs=1e-7)
    rho = [0.3, 0.7]
    assert TabularMDP(M2.P, M2.r, rho, 0.9).evaluate(PI).J == pytest.approx(summed_return(rho), abs=1e-7)


def test_performance_is_the_mean_of_sampled_returns():
    """(16), (17): within 4 standard errors."""
    mean, error = sampled_return(M2.rho)
    assert abs(mean - M2.evaluate(PI).J) < error < 0.3


def test_values_are_sums_of_expected_rewards_from_each_state_and_action():
    """(21), (22): V starts in s; Q takes a in s and goes on from the law of the next state."""
    found = M2.evaluate(PI)
    for s in range(2):
        assert found.V[s] == pytest.approx(summed_return(np.eye(2)[s]), abs=1e-7)
        for a in range(2):
            want = M2.r[s, a] + 0.9 * summed_return(M2.P[s, a])
            assert found.Q[s, a] == pytest.approx(want, abs=1e-7)


def test_values_are_means_of_sampled_returns_from_each_state_and_action():
    """(21), (22) again, by rollouts: within 4 standard errors."""
    found = M2.evaluate(PI)
    for s in range(2):
        mean, error = sampled_return(np.eye(2)[s])
        assert abs(mean - found.V[s]) < error < 0.3
        for a in range(2):
            mean, error = sampled_return(M2.P[s, a])
            assert abs(M2.r[s, a] + 0.9 * mean - found.Q[s, a]) < 0.9 * error < 0.3


def test_the_occupancy_is_the_discounted_sum_of_state_laws():
    """(19): (1 - gamma) sum_t gamma^t P(s_t = s), term by term; it sums to 1."""
    for mdp, logits in random_problems(8):
        pi, steps = softmax(logits), int(np.ceil(np.log(1e-13) / np.log(mdp.gamma)))
        want = (1 - mdp.gamma) * mdp.gamma ** np.arange(steps) @ state_laws(mdp, pi, steps)
        found = mdp.evaluate(pi)
        np.testing.assert_allclose(found.d, want, rtol=0, atol=1e-12)
        assert found.d.sum() == pytest.approx(1, abs=1e-12)


def test_the_state_action_occupancy_factors_and_weighs_rewards():
    """(20): powers of the chain on pairs (s, a) give d(s) pi(a|s); its mean reward is (1 - gamma) J."""
    for mdp, logits in random_problems(8):
        pi, steps = softmax(logits), int(np.ceil(np.log(1e-13) / np.log(mdp.gamma)))
        chain = np.einsum("sat,tb->satb", mdp.P, pi).reshape(mdp.r.size, mdp.r.size)
        pair, occupancy = (mdp.rho[:, None] * pi).ravel(), np.zeros(mdp.r.size)
        for t in range(steps):
            occupancy += (1 - mdp.gamma) * mdp.gamma**t * pair
            pair = pair @ chain
        found = mdp.evaluate(pi)
        np.testing.assert_allclose((found.d[:, None] * pi).ravel(), occupancy, rtol=0, atol=1e-12)
        assert occupancy @ mdp.r.ravel() / (1 - mdp.gamma) == pytest.approx(found.J, abs=1e-10)


def test_evaluate_agrees_with_value_iteration_on_100_random_mdps():
    """(17), (21)-(23) to 1e-8."""
    for mdp, logits in random_problems(100):
        pi = softmax(logits)
        V, Q = value_iteration(mdp, lambda Q, pi=pi: (pi * Q).sum(axis=1))
        found = mdp.evaluate(pi)
        np.testing.assert_allclose(found.V, V, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.Q, Q, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.A, Q - V[:, None], rtol=0, atol=1e-8)
        assert found.J == pytest.approx(mdp.rho @ V, abs=1e-8)


def test_without_a_future_the_value_is_the_mean_reward():
    """gamma = 0: V = sum_a pi r, Q = r, d = rho."""
    mdp = two_state(gamma=0.0)
    found = mdp.evaluate(PI)
    np.testing.assert_allclose(found.V, [PI[0, 0], 2 * PI[1, 1]], rtol=1e-15)
    np.testing.assert_allclose(found.Q, [[1, 0], [0, 2]])
    np.testing.assert_allclose(found.d, [1, 0])


# --- optimal policies: (18) -------------------------------------------------------------------------


def test_the_best_policy_of_the_two_state_world():
    """(18): the four deterministic policies by name; policy iteration finds the last."""
    J = {(a, b): M2.evaluate(np.eye(2)[[a, b]]).J for a in range(2) for b in range(2)}
    want = {(0, 0): 8.767123, (0, 1): 13.214286, (1, 0): 0.0, (1, 1): 15.824176}
    assert J == pytest.approx(want, abs=5e-7)
    pi, best = M2.optimal()
    assert pi.tolist() == [[0, 1], [0, 1]]
    assert best == pytest.approx(15.824176, abs=5e-7)


def test_no_deterministic_policy_beats_the_optimal_one():
    """(18): brute force over all A^S deterministic policies of 24 MDPs."""
    for mdp, _ in random_problems(24, seed=1):
        identity = np.eye(mdp.n_actions)
        every = [identity[list(a)] for a in product(range(mdp.n_actions), repeat=mdp.n_states)]
        best = max(mdp.evaluate(pi).J for pi in every)
        assert mdp.optimal()[1] == pytest.approx(best, abs=1e-10)


def test_optimal_agrees_with_value_iteration_on_100_random_mdps():
    """(18) to 1e-8; the policy that comes back is deterministic and earns that J."""
    for mdp, _ in random_problems(100):
        pi, J = mdp.optimal()
        V, _ = value_iteration(mdp, lambda Q: Q.max(axis=1))
        assert J == pytest.approx(mdp.rho @ V, abs=1e-8)
        assert np.isin(pi, (0, 1)).all() and (pi.sum(axis=1) == 1).all()
        np.testing.assert_allclose(mdp.evaluate(pi).V, V, rtol=0, atol=1e-8)


@pytest.mark.parametrize("unit", [1e-11, 1e11])
def test_the_best_policy_does_not_depend_on_the_unit_of_reward(unit):
    """(18): rewards times a constant give the same policy and J times that constant."""
    for mdp, _ in random_problems(50):
        pi, J = mdp.optimal()
        scaled_pi, scaled_J = TabularMDP(mdp.P, unit * mdp.r, mdp.rho, mdp.gamma).optimal()
        np.testing.assert_array_equal(scaled_pi, pi)
        assert scaled_J == pytest.approx(unit * J, rel=1e-9)


def test_policy_iteration_ends_when_all_actions_tie():
    mdp = TabularMDP(np.full((3, 4, 3), 1 / 3), np.full((3, 4), 1e6), [1, 0, 0], 0.99)
    pi, J = mdp.optimal()
    assert J == pytest.approx(1e8) and pi.shape == (3, 4)


# --- Bellman equations and advantages: (24)-(30) ----------------------------------------------------


def test_the_state_value_is_the_policys_mean_action_value():
    """(24), as a loop over states and actions."""
    for mdp, logits in random_problems(20):
        pi = softmax(logits)
        found = mdp.evaluate(pi)
        for s in range(mdp.n_states):
            mean = sum(pi[s, a] * found.Q[s, a] for a in range(mdp.n_actions))
            assert mean == pytest.approx(found.V[s], abs=1e-12)


def test_the_action_value_is_a_reward_and_a_discounted_state_value():
    """(25), as a loop over s, a and s'."""
    for mdp, logits in random_problems(20):
        found = mdp.evaluate(softmax(logits))
        for s, a in np.ndindex(mdp.r.shape):
            ahead = sum(mdp.P[s, a, t] * found.V[t] for t in range(mdp.n_states))
            assert found.Q[s, a] == pytest.approx(mdp.r[s, a] + mdp.gamma * ahead, abs=1e-12)


@pytest.mark.parametrize("backup, name", [(backup_V, "V"), (backup_Q, "Q")])
def test_the_bellman_equations_hold(backup, name):
    """(26), (27): the operators, written as loops, leave V and Q where they are."""
    for mdp, logits in random_problems(20):
        pi = softmax(logits)
        value = getattr(mdp.evaluate(pi), name)
        np.testing.assert_allclose(backup(mdp, pi, value), value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backup, name", [(backup_V, "V"), (backup_Q, "Q")])
def test_the_bellman_operators_contract_towards_the_values(backup, name):
    """(26), (27): each application brings any table closer to V or Q by gamma in the sup norm, or more."""
    rng = np.random.default_rng(6)
    for mdp, logits in random_problems(20):
        pi = softmax(logits)
        value = getattr(mdp.evaluate(pi), name)
        guess = value + rng.normal(0, 10, value.shape)
        before = np.abs(guess - value).max()
        after = np.abs(backup(mdp, pi, guess) - value).max()
        assert 0 < after <= mdp.gamma * before + 1e-12


def test_the_advantage_is_centred_in_every_state():
    """(28): under the policy itself; under another policy it is not."""
    for mdp, logits in random_problems(50):
        pi = softmax(logits)
        found = mdp.evaluate(pi)
        np.testing.assert_allclose((pi * found.A).sum(axis=1), 0, rtol=0, atol=1e-12)
        assert np.abs((pi[:, ::-1] * found.A).sum(axis=1)).max() > 1e-6


def test_the_advantage_is_zero_on_average_under_the_occupancy():
    """(29), and for any other weighting of the states too."""
    rng = np.random.default_rng(7)
    for mdp, logits in random_problems(50):
        pi = softmax(logits)
        found = mdp.evaluate(pi)
        for weight in (found.d, rng.dirichlet(np.ones(mdp.n_states))):
            assert np.einsum("s,sa,sa->", weight, pi, found.A) == pytest.approx(0, abs=1e-12)


def test_the_advantage_has_a_one_step_form():
    """(30), as a loop: r(s, a) + gamma E V(s') - V(s)."""
    for mdp, logits in random_problems(20):
        found = mdp.evaluate(softmax(logits))
        for s, a in np.ndindex(mdp.r.shape):
            ahead = sum(mdp.P[s, a, t] * found.V[t] for t in range(mdp.n_states))
            want = mdp.r[s, a] + mdp.gamma * ahead - found.V[s]
            assert found.A[s, a] == pytest.approx(want, abs=1e-12)


# --- the policy gradient: (36) ----------------------------------------------------------------------


def test_the_policy_gradient_of_the_two_state_world():
    """(36) on M2: reference numbers from finite differences, six decimals."""
    want = [[1.095319, -1.095319], [-1.962040, 1.962040]]
    np.testing.assert_allclose(M2.policy_gradient(LOGITS), want, rtol=0, atol=5e-7)


def test_the_policy_gradient_is_the_derivative_of_performance_on_100_random_mdps():
    """(36): five-point central differences of J, to 1e-8."""
    h = 2e-3
    for mdp, logits in random_problems(100):

        def J(step, mdp=mdp, logits=logits):
            return mdp.evaluate(softmax(logits + step)).J

        numeric = np.zeros(mdp.r.shape)
        for s, a in np.ndindex(mdp.r.shape):
            e = np.zeros(mdp.r.shape)
            e[s, a] = h
            numeric[s, a] = (8 * (J(e) - J(-e)) - (J(2 * e) - J(-2 * e))) / (12 * h)
        np.testing.assert_allclose(mdp.policy_gradient(logits), numeric, rtol=0, atol=1e-8)
