"""Chapter 4, bounds. The outsiders: numbers worked out on paper, J itself, finite differences, bisection.

Names with `erratum` show where the printed text needs a correction or a caveat.
"""

from math import inf, log

import numpy as np
import pytest

from rlbook.bounds import (
    centred_bound,
    cpi_epsilon,
    cpi_lower_bound,
    distribution_shift,
    hoelder_bound,
    kl,
    max_kl,
    mean_kl,
    mixture,
    occupancy_gap_bound,
    performance_difference,
    policy_advantage,
    surrogate,
    total_variation,
    trpo_lower_bound,
)
from rlbook.cpi import greedy, step_size
from rlbook.estimation import softmax
from rlbook.mdp import TabularMDP
from rlbook.worlds import delayed_penalty, random_mdp, surrogate_cliff, tied_policy, two_state

M2 = two_state()
LOGITS = np.array([[0.0, 0.5], [1.0, 0.0]])
PI, PI_NEW = softmax(LOGITS), softmax([[0.0, -0.5], [0.0, 1.0]])

CLIFF = surrogate_cliff()
RARELY = np.array([[1 - 1e-4, 1e-4], [0.999, 0.001], [0.5, 0.5]])  # the old policy of Ex. 4.1.1
OFF = np.array([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]])  # its new policy: a1, then b


def random_pairs(n, seed=0):
    """n random MDPs, each with an old and a new policy; every third new policy is near the old one."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        mdp = random_mdp(rng, rng.integers(2, 6), rng.integers(2, 4), gamma=(0.3, 0.6, 0.9, 0.97)[i % 4])
        logits = rng.normal(0, 2, mdp.r.shape)
        move = rng.normal(0, 0.1 if i % 3 == 0 else 2, mdp.r.shape)
        yield mdp, softmax(logits), softmax(logits + move)


# --- the decomposition: (48)-(53) -------------------------------------------------------------------


def test_the_two_state_world_gives_the_known_decomposition():
    """(48)-(53) on M2: reference numbers from an independent computation. Here the shift helps."""
    assert performance_difference(M2, PI, PI_NEW) == pytest.approx(10.533459 - 4.547626, abs=1e-6)
    assert surrogate(M2, PI, PI_NEW) == pytest.approx(10.300741, abs=5e-7)
    assert distribution_shift(M2, PI, PI_NEW) == pytest.approx(0.232718, abs=5e-7)
    assert hoelder_bound(M2, PI, PI_NEW) == pytest.approx(0.6044, abs=5e-5)


def test_the_surrogate_promises_080_where_performance_falls_to_minus_90():
    """Ex. 4.1.1 by hand: d = (.1, 9e-6, .), d' = (.1, .09, .), mean advantages (.80901909, -100.899)."""
    gain = 10 * (0.1 * 0.80901909 - 9e-6 * 100.899)
    assert gain == pytest.approx(0.79993818, abs=1e-12)
    assert surrogate(CLIFF, RARELY, OFF) - 8.091e-5 == pytest.approx(gain, abs=1e-12)
    shift = 10 * (0.09 - 9e-6) * -100.899
    assert shift == pytest.approx(-90.80001909, abs=1e-12)
    assert distribution_shift(CLIFF, RARELY, OFF) == pytest.approx(shift, abs=1e-11)
    assert performance_difference(CLIFF, RARELY, OFF) == pytest.approx(-90 - 8.091e-5, abs=1e-11)
    assert hoelder_bound(CLIFF, RARELY, OFF) == pytest.approx(10 * 2 * 0.089991 * 100.899, abs=1e-9)
    assert hoelder_bound(CLIFF, RARELY, OFF) == pytest.approx(181.600, abs=5e-4)
    assert centred_bound(CLIFF, RARELY, OFF) == pytest.approx(10 * 0.089991 * (0.80901909 + 100.899))


def test_performance_differences_and_the_decomposition_on_1000_random_mdps():
    """(48), (49), (53): against J of both policies, to 1e-10."""
    for mdp, pi, pi_new in random_pairs(1000):
        J, J_new = mdp.evaluate(pi).J, mdp.evaluate(pi_new).J
        assert performance_difference(mdp, pi, pi_new) == pytest.approx(J_new - J, abs=1e-10)
        split = surrogate(mdp, pi, pi_new) + distribution_shift(mdp, pi, pi_new)
        assert split == pytest.approx(J_new, abs=1e-10)


def test_the_surrogate_in_its_ratio_form():
    """(50)-(52), (75): the printed form, with ratios to the old policy, as a loop; needs pi > 0."""
    for mdp, pi, pi_new in random_pairs(20, seed=1):
        old, new = mdp.evaluate(pi), mdp.evaluate(pi_new)
        L, shift = old.J, 0.0
        for s, a in np.ndindex(mdp.r.shape):
            term = pi[s, a] * pi_new[s, a] / pi[s, a] * old.A[s, a] / (1 - mdp.gamma)
            L, shift = L + old.d[s] * term, shift + (new.d[s] - old.d[s]) * term
        assert surrogate(mdp, pi, pi_new) == pytest.approx(L, abs=1e-11)
        assert distribution_shift(mdp, pi, pi_new) == pytest.approx(shift, abs=1e-11)


def test_the_surrogate_touches_performance_at_the_old_policy():
    """(51), (65): L(pi) = J(pi), and finite differences of L there give the known gradient of J on M2."""
    assert surrogate(M2, PI, PI) == pytest.approx(4.547626, abs=5e-7)
    gradient = np.zeros((2, 2))
    for s, a in np.ndindex(2, 2):
        step = np.zeros((2, 2))
        step[s, a] = 1e-5
        up, down = (surrogate(M2, PI, softmax(LOGITS + sign * step)) for sign in (1, -1))
        gradient[s, a] = (up - down) / 2e-5
    want = [[1.095319, -1.095319], [-1.962040, 1.962040]]
    np.testing.assert_allclose(gradient, want, rtol=0, atol=1e-6)


def test_the_old_policy_may_leave_actions_out():
    """(51) with pi = 0 where pi_new > 0: the ratio form would be 0/0. From (a1, g) to (a1, b): .9, -90."""
    safe = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    assert performance_difference(CLIFF, safe, OFF) == pytest.approx(-90.9, abs=1e-11)
    assert surrogate(CLIFF, safe, OFF) == pytest.approx(0.9 - 90.9, abs=1e-11)
    assert distribution_shift(CLIFF, safe, OFF) == pytest.approx(0, abs=1e-11)


def test_erratum_the_tabular_maximiser_of_l_does_not_fall_off_the_cliff():
    """Ex. 4.1.1: the new policy of the text is not (54). Greedy, (a1, g), is: L - J = .80903, J = .9."""
    best = greedy(CLIFF, RARELY)
    assert best[:2].tolist() == [[0, 1], [1, 0]]
    gain = surrogate(CLIFF, RARELY, best) - 8.091e-5
    assert gain == pytest.approx(0.80901909 + 10 * 9e-6 * 0.101, abs=1e-12)
    assert gain > surrogate(CLIFF, RARELY, OFF) - 8.091e-5
    assert CLIFF.evaluate(best).J == pytest.approx(0.9, abs=1e-12)


# --- bounds on the shift: after (53) ----------------------------------------------------------------


def test_every_bound_holds_on_1000_random_mdps():
    """|DSP| <= centred <= Hoelder, the occupancy gap, CPI (59) and its tight form, TRPO; none is idle."""
    worst = dict.fromkeys(("hoelder", "centred", "gap", "cpi", "tight", "trpo"), 0.0)

    def record(name, value, bound):
        assert value <= bound * (1 + 1e-9) + 1e-12, name
        worst[name] = max(worst[name], value / bound)

    rng = np.random.default_rng(0)
    for mdp, pi, pi_new in random_pairs(1000, seed=2):
        d, d_new = mdp.evaluate(pi).d, mdp.evaluate(pi_new).d
        shift = distribution_shift(mdp, pi, pi_new)
        record("hoelder", abs(shift), hoelder_bound(mdp, pi, pi_new))
        record("centred", abs(shift), centred_bound(mdp, pi, pi_new))
        assert centred_bound(mdp, pi, pi_new) <= hoelder_bound(mdp, pi, pi_new) + 1e-12
        record("gap", np.abs(d_new - d).sum(), occupancy_gap_bound(mdp, pi, pi_new))
        L, J_new = surrogate(mdp, pi, pi_new), mdp.evaluate(pi_new).J
        record("trpo", L - J_new, L - trpo_lower_bound(mdp, pi, pi_new))

        alpha, old = 10 ** rng.uniform(-4, 0), mdp.evaluate(pi).J
        g, eps = policy_advantage(mdp, pi, pi_new), cpi_epsilon(mdp, pi, pi_new)
        lost = alpha * g - (mdp.evaluate(mixture(pi, pi_new, alpha)).J - old)
        loose, tight = (alpha * g - cpi_lower_bound(alpha, g, eps, mdp.gamma, t) for t in (False, True))
        assert tight <= loose
        record("cpi", lost, loose)
        record("tight", lost, tight)
    assert worst["hoelder"] > 0.95 and worst["centred"] > 0.9999 and worst["gap"] > 0.5
    assert worst["cpi"] > 0.07 and worst["tight"] > 0.1 and worst["trpo"] > 0.15


def test_erratum_the_penalty_has_a_sign_and_the_printed_bound_is_not_the_sharpest():
    """After (53), on M2: the "penalty" is a gain of .232718. Hoelder: .6044; the centred bound is met."""
    assert distribution_shift(M2, PI, PI_NEW) > 0
    assert centred_bound(M2, PI, PI_NEW) == pytest.approx(0.232718, abs=5e-7)
    assert hoelder_bound(M2, PI, PI_NEW) > 2.5 * centred_bound(M2, PI, PI_NEW)


def test_erratum_the_constant_between_policy_change_and_occupancy_change():
    """Missing in the text: 2 gamma / (1 - gamma) E_d TV, on the cliff 18 (.1 * .9999 + 9e-6 * .999)."""
    assert occupancy_gap_bound(CLIFF, RARELY, OFF) == pytest.approx(18 * (0.09999 + 8.991e-6), abs=1e-12)
    gap = np.abs(CLIFF.evaluate(OFF).d - CLIFF.evaluate(RARELY).d).sum()
    assert gap == pytest.approx(2 * 0.089991, abs=1e-12)
    assert gap < occupancy_gap_bound(CLIFF, RARELY, OFF)


# --- mixtures and distances: (55)-(57), (66), (67) --------------------------------------------------


def test_a_mixture_by_hand():
    """(55): a quarter of the way from (.8, .2) to (0, 1); the ends are the two policies."""
    pi, pi_new = [[0.8, 0.2], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]
    np.testing.assert_allclose(mixture(pi, pi_new, 0.25), [[0.6, 0.4], [0.5, 0.5]], rtol=1e-15)
    np.testing.assert_array_equal(mixture(pi, pi_new, 0), pi)
    np.testing.assert_array_equal(mixture(pi, pi_new, 1), pi_new)


def test_along_a_mixture_l_is_linear_and_so_are_ratio_and_distance():
    """(56), (57): ratio 1 - alpha + alpha ratio', TV alpha TV', L = J + alpha g."""
    for i, (mdp, pi, pi_new) in enumerate(random_pairs(50, seed=3)):
        alpha = (0.1, 0.5, 0.9)[i % 3]
        mix = mixture(pi, pi_new, alpha)
        np.testing.assert_allclose(mix / pi, 1 - alpha + alpha * (pi_new / pi), rtol=1e-12)
        np.testing.assert_allclose(total_variation(pi, mix), alpha * total_variation(pi, pi_new), atol=1e-15)
        line = mdp.evaluate(pi).J + alpha * (surrogate(mdp, pi, pi_new) - mdp.evaluate(pi).J)
        assert surrogate(mdp, pi, mix) == pytest.approx(line, abs=1e-10)


def test_total_variation_is_half_the_l1_distance():
    """(.8, .2) to (.5, .5): .3; no overlap: 1; the largest gain of any event's probability."""
    tv = total_variation([[0.8, 0.2], [1, 0], [0.4, 0.6]], [[0.5, 0.5], [0, 1], [0.4, 0.6]])
    np.testing.assert_allclose(tv, [0.3, 1, 0], rtol=0, atol=1e-15)


def test_kl_is_old_to_new_with_its_two_edges():
    """(66): (1/2, 1/2) to (1/4, 3/4) is log(2)/2 + log(2/3)/2 = .143841; the reverse is .130812."""
    a, b = [[0.5, 0.5]], [[0.25, 0.75]]
    assert kl(a, b)[0] == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3), abs=1e-15)
    assert kl(b, a)[0] == pytest.approx(0.25 * log(0.5) + 0.75 * log(1.5), abs=1e-15)
    assert kl([[0.5, 0.5]], [[0.0, 1.0]])[0] == inf
    assert kl([[0.0, 1.0]], [[0.5, 0.5]])[0] == pytest.approx(log(2), abs=1e-15)
    assert kl([[0.0, 1.0]], [[0.0, 1.0]])[0] == 0


def test_the_largest_kl_counts_every_state_and_the_mean_only_those_visited():
    """(66), (67) on the cliff: b with .002 for .001 weighs 9e-6 in the mean and 1 in the maximum."""
    new = RARELY.copy()
    new[1] = 0.998, 0.002
    step = 0.999 * log(0.999 / 0.998) + 0.001 * log(0.5)
    assert max_kl(RARELY, new) == pytest.approx(step, rel=1e-9)
    assert mean_kl(CLIFF, RARELY, new) == pytest.approx(9e-6 * step, rel=1e-9)
    assert mean_kl(M2, PI, PI_NEW) == pytest.approx([0.518393, 0.481607] @ kl(PI, PI_NEW), abs=1e-6)


def test_a_state_never_visited_adds_nothing_to_the_mean_kl_even_if_infinite():
    """(67): a0 for sure never sees s1, so giving up b there costs 0 in the mean, infinity in the maximum."""
    pi, new = [[1, 0], [0.5, 0.5], [0.5, 0.5]], [[1, 0], [1, 0], [0.5, 0.5]]
    assert mean_kl(CLIFF, pi, new) == 0 and max_kl(pi, new) == inf
    visits = TabularMDP(CLIFF.P, CLIFF.r, [0.5, 0.5, 0], 0.9)
    assert mean_kl(visits, pi, new) == inf


@pytest.mark.parametrize(
    "limit, radius, want", [("mean", 1e-2, -4.40), ("mean", 1e-4, -4.4e-4), ("max", 1e-4, 1.156e-4)]
)
def test_erratum_a_limit_on_the_mean_kl_lets_the_policy_fall_off_the_cliff(limit, radius, want):
    """(66) against (67) with tied logits: the best L inside each region, by bisection along the class."""
    start = np.log(1e-4 / 0.9999)
    old = tied_policy(start)
    low, high = start, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        new = tied_policy(middle)
        size = mean_kl(CLIFF, old, new) if limit == "mean" else max_kl(old, new)
        low, high = (middle, high) if size <= radius else (low, middle)
    inside = [surrogate(CLIFF, old, tied_policy(theta)) for theta in np.linspace(start, low, 50)]
    assert (np.diff(inside) > 0).all()  # L rises all the way, so the edge is the maximiser
    new = tied_policy(low)
    assert CLIFF.evaluate(new).J == pytest.approx(want, rel=1e-2)
    assert (CLIFF.evaluate(new).J > 8.091e-5) == (limit == "max")
    if radius == 1e-2:
        assert new[0, 1] == pytest.approx(0.0958, abs=5e-5) and new[1, 1] == pytest.approx(0.515, abs=5e-4)


def test_erratum_the_clipped_surrogate_gains_where_the_mean_kl_falls():
    """Ex. 4.1.1, tied class: the exact (78) is largest at ratio 1.2 of a1: pi(a1) = 1.2e-4, J = 9.49e-5."""
    start = np.log(1e-4 / 0.9999)
    old = tied_policy(start)
    found = CLIFF.evaluate(old)

    def clipped(theta):
        r = tied_policy(theta) / old
        return (found.d[:, None] * old * np.minimum(r * found.A, np.clip(r, 0.8, 1.2) * found.A)).sum() / 0.1

    edge = np.log(1.2e-4 / (1 - 1.2e-4))
    assert all(clipped(edge) > clipped(edge + step) for step in (-0.5, -1e-4, 1e-4, 0.5, 5, 20))
    assert CLIFF.evaluate(tied_policy(edge)).J == pytest.approx(9.49e-5, abs=5e-8)
    assert CLIFF.evaluate(old).J < 9e-5


def test_erratum_in_the_tied_class_the_maximiser_of_l_falls_off_the_cliff():
    """Ex. 4.1.1: along the class L rises without end, to L - J = .79993818, where J tends to -90."""
    start = np.log(1e-4 / 0.9999)
    old, thetas = tied_policy(start), np.linspace(start, 40, 60)
    L = np.array([surrogate(CLIFF, old, tied_policy(theta)) for theta in thetas])
    assert (np.diff(L[:40]) > 0).all() and L.argmax() >= 40
    assert L[-1] - CLIFF.evaluate(old).J == pytest.approx(0.79993818, abs=1e-8)
    assert CLIFF.evaluate(tied_policy(40.0)).J == pytest.approx(-90, abs=1e-9)


# --- batches: (69), (75) ----------------------------------------------------------------------------


def test_erratum_69_a_batch_mean_counts_late_states_in_full():
    """The 21 steps of an episode count alike in (69), by gamma^t in (65) and (75). On the chain of +1 and -3,
    one logit: the gradient of (65) is .15882, that of the batch mean .25 (1 - 3) / 21 = -.0238.
    """
    mdp = delayed_penalty()
    found = mdp.evaluate(np.full((22, 2), 0.5))
    slope = 0.25 * (found.A[:, 1] - found.A[:, 0])  # of E[A(s, a) pi / pi_old] in the logit of action 1
    assert found.d @ slope / (1 - mdp.gamma) == pytest.approx(0.15882, abs=5e-6)
    assert slope[:21].mean() == pytest.approx(-0.5 / 21, abs=1e-14)
    np.testing.assert_allclose(found.d[:21], 0.1 * 0.9 ** np.arange(21), rtol=1e-12)


# --- the CPI and TRPO bounds: (58)-(61) -------------------------------------------------------------


def test_the_bound_of_a_mixture_by_hand():
    """(60): .25 * 1 - 2 * .5 * 2 * .0625 / .25 = -.25. Tight: the last .25 becomes .5 * (1 - .375)."""
    assert cpi_lower_bound(0.25, 1.0, 2.0, 0.5) == pytest.approx(-0.25, abs=1e-15)
    assert cpi_lower_bound(0.25, 1.0, 2.0, 0.5, tight=True) == pytest.approx(0.25 - 0.125 / 0.3125, abs=1e-15)
    assert cpi_lower_bound(0.3, 2.0, 5.0, 0.0) == pytest.approx(0.6, abs=1e-15)


def test_gain_and_magnitude_of_the_candidate():
    """(58): by hand on the cliff; on M2 the greedy candidate's known numbers. g carries 1 / (1 - gamma)."""
    assert policy_advantage(CLIFF, RARELY, OFF) == pytest.approx(0.79993818, abs=1e-11)
    assert cpi_epsilon(CLIFF, RARELY, OFF) == pytest.approx(100.899, abs=1e-11)
    candidate = [[0, 1], [0, 1]]
    assert policy_advantage(M2, softmax(LOGITS), [[1, 0], [0, 1]]) == pytest.approx(10.196613, abs=5e-7)
    assert cpi_epsilon(M2, PI, candidate) == pytest.approx(1.514807, abs=5e-7)


def test_a_small_mixture_step_on_the_cliff_is_safe():
    """(60), (61): promised 8.808e-6, true 1.757e-5. The best step is .0044049; past .00881 it does harm."""
    g, eps = policy_advantage(CLIFF, RARELY, OFF), cpi_epsilon(CLIFF, RARELY, OFF)

    def gain(alpha):
        return performance_difference(CLIFF, RARELY, mixture(RARELY, OFF, alpha))

    alpha = step_size(g, eps, 0.9)
    assert alpha == pytest.approx(2.20225e-5, abs=5e-11)
    assert cpi_lower_bound(alpha, g, eps, 0.9) == pytest.approx(8.808e-6, abs=5e-10)
    assert gain(alpha) == pytest.approx(1.757e-5, abs=1e-8)
    grid = np.linspace(0.0044, 0.00441, 1001)
    best = max(grid, key=gain)
    assert best == pytest.approx(0.0044049, abs=1e-7) and gain(best) == pytest.approx(1.7618e-3, abs=5e-8)
    assert gain(0.00880) > 0 > gain(0.00882)


def test_erratum_the_mixture_bound_is_false_for_other_policy_changes():
    """(59) with alpha := max TV = .1: from uniform to .6 for a1 and b. L = -.05, J = -.06 < -.058."""
    mdp = surrogate_cliff(gamma=0.5, M=1.0)
    uniform = np.full((3, 2), 0.5)
    new = np.array([[0.4, 0.6], [0.4, 0.6], [0.5, 0.5]])
    assert surrogate(mdp, uniform, new) == pytest.approx(-0.05, abs=1e-15)
    J, alpha = mdp.evaluate(new).J, total_variation(uniform, new).max()
    assert (J, alpha) == (pytest.approx(-0.06, abs=1e-15), pytest.approx(0.1, abs=1e-15))
    g, eps = policy_advantage(mdp, uniform, new), cpi_epsilon(mdp, uniform, new)
    false_bound = surrogate(mdp, uniform, new) + cpi_lower_bound(alpha, 0.0, eps, 0.5)
    assert (g, eps) == (pytest.approx(-0.05, abs=1e-15), pytest.approx(0.2, abs=1e-15))
    assert false_bound == pytest.approx(-0.058, abs=1e-15) and false_bound > J
    assert trpo_lower_bound(mdp, uniform, new) == pytest.approx(-0.13, abs=1e-15)


def test_erratum_the_mean_distance_bounds_any_policy_change():
    """In the place of (59): J' >= L - 2 gamma eps E_d TV / (1 - gamma)^2, from (53) and the occupancy gap.

    On the example above eps = .2, E_d TV = (.5 + .125) / 10: -.05 - .05 = -.1, below J' = -.06.
    """

    def bound(mdp, pi, new):
        distance = mdp.evaluate(pi).d @ total_variation(pi, new)
        penalty = 2 * mdp.gamma * cpi_epsilon(mdp, pi, new) * distance / (1 - mdp.gamma) ** 2
        return surrogate(mdp, pi, new) - penalty

    new = [[0.4, 0.6], [0.4, 0.6], [0.5, 0.5]]
    small = surrogate_cliff(gamma=0.5, M=1.0)
    assert bound(small, np.full((3, 2), 0.5), new) == pytest.approx(-0.1, abs=1e-15)
    for mdp, pi, pi_new in random_pairs(100, seed=4):
        assert mdp.evaluate(pi_new).J >= bound(mdp, pi, pi_new) - 1e-10


def test_the_trpo_bound_by_hand():
    """M2: L - 3.6 * 1.514807 * TV^2 / .01, TV = sigmoid(1) - sigmoid(-1) in state 1. Cliff: |A| = 100.899."""
    tv = 1 / (1 + np.exp(-1)) - 1 / (1 + np.exp(1))
    want = 10.300741 - 3.6 * 1.514807 * tv**2 / 0.01
    assert trpo_lower_bound(M2, PI, PI_NEW) == pytest.approx(want, abs=1e-4)
    want = 0.79993818 + 8.091e-5 - 3.6 * 100.899 * 0.9999**2 / 0.01
    assert trpo_lower_bound(CLIFF, RARELY, OFF) == pytest.approx(want, rel=1e-12)
