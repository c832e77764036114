"""Chapter 4, conservative policy iteration. The outsiders: hand numbers, enumeration, repeated sampling."""

from itertools import product

import numpy as np
import pytest

from rlbook import cpi
from rlbook.bounds import cpi_epsilon, cpi_lower_bound, mixture, policy_advantage, surrogate
from rlbook.estimation import softmax
from rlbook.mdp import TabularMDP
from rlbook.worlds import random_mdp, surrogate_cliff, two_state

M2 = two_state()
PI = softmax([[0.0, 0.5], [1.0, 0.0]])


def random_problems(n, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        mdp = random_mdp(rng, rng.integers(2, 5), rng.integers(2, 4), gamma=(0.3, 0.6, 0.9, 0.97)[i % 4])
        yield mdp, softmax(rng.normal(0, 1.5, mdp.r.shape))


# --- the step: (61), (63) ---------------------------------------------------------------------------


def test_the_step_by_hand():
    """(61): .25 * 1 / (4 * .5 * 2) = .0625; with g = 20 the printed ratio is 1.25, so 1."""
    assert cpi.step_size(1.0, 2.0, 0.5) == pytest.approx(0.0625, abs=1e-15)
    assert cpi.step_size(20.0, 2.0, 0.5) == 1
    assert cpi.step_size(0.79993818, 100.899, 0.9) == pytest.approx(2.20225e-5, abs=5e-11)


def test_the_step_maximises_the_bound():
    """(61) against a grid over [0, 1] of (60), inside and at the edge."""
    grid = np.linspace(0, 1, 10001)
    for g, eps, gamma in ((1.0, 2.0, 0.5), (3.0, 1.0, 0.7), (50.0, 1.0, 0.5), (0.2, 0.02, 0.9)):
        best = max(grid, key=lambda alpha, p=(g, eps, gamma): cpi_lower_bound(alpha, *p))
        assert cpi.step_size(g, eps, gamma) == pytest.approx(best, abs=1e-4)


def test_erratum_the_step_is_clamped_where_the_printed_ratio_is_negative_or_divides_by_zero():
    """(61), (63): no gain, no step; no penalty (gamma or eps 0), a whole step; 0 / 0 stays."""
    assert cpi.step_size(-1.0, 2.0, 0.5) == 0 and cpi.step_size(0.0, 2.0, 0.5) == 0
    assert cpi.step_size(1e-9, 2.0, 0.0) == 1 and cpi.step_size(1e-9, 0.0, 0.5) == 1
    assert cpi.step_size(0.0, 0.0, 0.5) == 0 and cpi.step_size(-1.0, 0.0, 0.0) == 0


def test_erratum_without_its_factor_the_gain_makes_the_step_too_small():
    """(62) drops the 1 / (1 - gamma) that (58) has: at gamma = .9 the step shrinks from .0187 to .00187."""
    g, eps = 10.196613, 1.514807
    assert cpi.step_size(g, eps, 0.9) == pytest.approx(0.0186980, abs=5e-8)
    assert cpi.step_size(0.1 * g, eps, 0.9) == pytest.approx(0.00186980, abs=5e-9)
    first = policy_advantage(M2, PI, cpi.greedy(M2, PI))
    assert first == pytest.approx(g, abs=5e-7)  # the package keeps the factor


# --- the candidate: (54), (62) ----------------------------------------------------------------------


def test_the_candidate_has_the_largest_surrogate_of_all_deterministic_policies():
    """(54): enumeration of all A^S; L is linear in each state's row, so no stochastic policy beats them."""
    for mdp, pi in random_problems(24):
        identity = np.eye(mdp.n_actions)
        every = [identity[list(a)] for a in product(range(mdp.n_actions), repeat=mdp.n_states)]
        best = max(surrogate(mdp, pi, new) for new in every)
        assert surrogate(mdp, pi, cpi.greedy(mdp, pi)) == pytest.approx(best, abs=1e-10)


def test_tied_actions_keep_the_shares_of_the_old_policy():
    """(54): both actions of the end state tie for ever; of three equal arms, two were in use."""
    pi = [[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]
    assert cpi.greedy(surrogate_cliff(), pi)[2].tolist() == [0.2, 0.8]
    arms = TabularMDP(np.ones((1, 4, 1)), [[1, 1, 0, 1]], [1], 0.5)
    np.testing.assert_allclose(cpi.greedy(arms, [[0.1, 0.3, 0.6, 0.0]]), [[0.25, 0.75, 0, 0]])
    np.testing.assert_allclose(cpi.greedy(arms, [[0.0, 0.0, 1.0, 0.0]]), [[1 / 3, 1 / 3, 0, 1 / 3]])
    rounded = TabularMDP(np.ones((1, 2, 1)), [[1, 1 + 1e-13]], [1], 0.5)  # rounding is no reason
    np.testing.assert_allclose(cpi.greedy(rounded, [[0.4, 0.6]]), [[0.4, 0.6]])


def test_a_state_never_visited_becomes_greedy_too():
    """On the cliff with a0 for sure, L ignores s1; leaving b there would cost later."""
    assert cpi.greedy(surrogate_cliff(), [[1, 0], [0, 1], [0.5, 0.5]])[1].tolist() == [1, 0]


def test_a_full_greedy_step_never_lowers_performance():
    """(54) on 100 random MDPs: the policy improvement theorem, by J itself."""
    for mdp, pi in random_problems(100, seed=1):
        assert mdp.evaluate(cpi.greedy(mdp, pi)).J >= mdp.evaluate(pi).J - 1e-10


# --- exact: Box 4.5 ---------------------------------------------------------------------------------


def test_exact_cpi_on_the_two_state_world():
    """(64), Box 4.5: known first step; J = 4.547626, 15.379 after 200, 15.8213 after 400 of 15.824176."""
    run = cpi.exact(M2, PI, 400)
    first = (run.alpha[0], run.g[0], run.eps[0])
    np.testing.assert_allclose(first, [0.0186980, 10.196613, 1.514807], rtol=0, atol=5e-7)
    np.testing.assert_allclose(run.pi[1], mixture(PI, [[1, 0], [0, 1]], 0.0186980), rtol=0, atol=1e-7)
    assert run.J[0] == pytest.approx(4.547626, abs=5e-7)
    assert run.J[200] == pytest.approx(15.379, abs=5e-4) and run.J[400] == pytest.approx(15.8213, abs=5e-5)
    assert (np.diff(run.J) >= -1e-12).all() and run.J[-1] < 15.824176
    assert run.pi.shape == (401, 2, 2) and run.alpha.shape == run.g.shape == run.eps.shape == (400,)


def test_each_exact_step_gains_what_the_bound_promises():
    """(60) along the run, with J recomputed: monotone on 20 random MDPs."""
    for mdp, pi in random_problems(20, seed=2):
        run = cpi.exact(mdp, pi, 40)
        J = np.array([mdp.evaluate(p).J for p in run.pi])
        np.testing.assert_allclose(run.J, J, rtol=0, atol=1e-12)
        steps = zip(run.alpha, run.g, run.eps, strict=True)
        promised = np.array([cpi_lower_bound(*step, mdp.gamma) for step in steps])
        assert (np.diff(J) >= promised - 1e-12).all() and (promised >= 0).all()


def test_without_a_future_one_step_is_enough():
    """gamma = 0: alpha = 1, and the best reward of the first state is earned at once."""
    run = cpi.exact(two_state(gamma=0.0), PI, 3)
    assert run.alpha[0] == 1 and run.J[1] == run.J[3] == 1
    assert run.alpha[1:].tolist() == [0, 0]


# --- sampled: Box 4.5 with (62)-(64) ----------------------------------------------------------------


def test_the_sampled_gain_is_unbiased_and_the_step_follows_from_it():
    """(62)-(64): the mean of g over 40 seeds within 4 standard errors of the exact 10.196613."""
    runs = [cpi.sampled(M2, PI, 1, rollouts=100, horizon=120, rng=seed) for seed in range(40)]
    g = np.array([run.g[0] for run in runs])
    assert abs(g.mean() - 10.196613) < 4 * g.std() / np.sqrt(40) < 0.6
    for run in runs:
        alpha = (0.1**2 / 3.6) * run.g[0] / run.eps[0]
        assert run.alpha[0] == pytest.approx(alpha, rel=1e-12)
        np.testing.assert_allclose(run.pi[1], mixture(PI, [[1, 0], [0, 1]], alpha), rtol=0, atol=1e-12)
        assert run.eps[0] == pytest.approx(1.514807, rel=0.2)


def test_sampled_cpi_climbs_and_its_first_50_steps_are_those_of_exact_cpi():
    """Box 4.5: J stays near the exact run, and repeats with the seed."""
    run, again = (cpi.sampled(M2, PI, 50, rollouts=100, horizon=80, rng=3) for _ in range(2))
    np.testing.assert_allclose(run.J, cpi.exact(M2, PI, 50).J, rtol=0.05)
    np.testing.assert_array_equal(run.J, again.J)
    assert run.J[-1] > 9


def coin_arms(n_arms=10):
    """One decision among arms that all lead to +1 or -1 with probability 1/2: every gain is exactly 0."""
    P, r = np.zeros((4, n_arms, 4)), np.zeros((4, n_arms))
    P[0, :, 1:3] = 0.5
    P[1:, :, 3] = 1
    r[1], r[2] = 1, -1
    return TabularMDP(P, r, [1, 0, 0, 0], 0.9)


def test_erratum_the_gain_of_the_batch_that_chose_the_candidate_is_too_large():
    """(63): about 20 draws an arm. The largest of ten means of +-.9 is near .9 * 1.54 / sqrt(20) = .31."""
    mdp, uniform = coin_arms(), np.full((4, 10), 0.1)

    def gains(held_out):
        runs = (cpi.sampled(mdp, uniform, 1, 200, 2, seed, held_out=held_out) for seed in range(200))
        return np.array([run.g[0] for run in runs])

    own, fresh = gains(held_out=False), gains(held_out=True)
    assert abs(fresh.mean()) < 4 * fresh.std() / np.sqrt(200) < 0.1
    assert own.mean() == pytest.approx(0.31, abs=0.05)


def test_sampled_cpi_stops_when_the_fresh_batch_shows_no_gain():
    """(63): half of the candidates look bad on fresh data; then alpha is 0 and the policy stays."""
    runs = [cpi.sampled(coin_arms(), np.full((4, 10), 0.1), 30, 50, 2, seed) for seed in range(10)]
    for run in runs:
        assert len(run.g) < 30 and run.g[-1] <= 0 and (run.g[:-1] > 0).all()
        assert run.alpha[-1] == 0 and len(run.J) == len(run.pi) == len(run.g) + 1
        np.testing.assert_array_equal(run.pi[-1], run.pi[-2])


def test_erratum_the_largest_advantage_of_a_batch_is_not_conservative():
    """(63): 50 states, about 1.3 visits each. The batch maximum falls short of eps of its own candidate."""
    n = 50
    P, r = np.zeros((n + 1, 2, n + 1)), np.zeros((n + 1, 2))
    P[:, :, n] = 1
    r[:n, 1] = np.random.default_rng(0).standard_t(2, n)
    mdp, uniform = TabularMDP(P, r, np.r_[np.full(n, 1 / n), 0], 0.5), np.full((n + 1, 2), 0.5)
    short = []
    for seed in range(40):
        run = cpi.sampled(mdp, uniform, 1, rollouts=64, horizon=1, rng=seed, held_out=False)
        candidate = (run.pi[1] - (1 - run.alpha[0]) * uniform) / run.alpha[0]
        short.append(run.eps[0] / cpi_epsilon(mdp, uniform, candidate.clip(0, 1)))
    assert np.mean(np.array(short) < 0.9) > 0.5 and np.mean(short) < 0.9


def test_a_given_eps_replaces_that_of_the_batch_in_every_step():
    """eps = 20 in (63): alpha = .01 g / (3.6 * 20)."""
    run = cpi.sampled(M2, PI, 3, 100, 60, rng=0, eps=20.0)
    assert run.eps.tolist() == [20.0] * 3
    np.testing.assert_allclose(run.alpha, 0.01 * run.g / 72, rtol=1e-12)


def test_states_and_actions_not_seen_keep_out_of_the_candidate():
    """(62) from one rollout that only ever meets state 0 and action 0: nothing to compare, g = 0, no step."""
    mdp = surrogate_cliff()
    pi = np.array([[1.0, 0.0], [0.4, 0.6], [0.5, 0.5]])
    run = cpi.sampled(mdp, pi, 5, rollouts=1, horizon=1, rng=0)
    assert (run.g.tolist(), run.alpha.tolist()) == ([0.0], [0.0])
    np.testing.assert_array_equal(run.pi[-1], pi)
