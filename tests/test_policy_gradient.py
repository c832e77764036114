"""Chapter 3, the forms of the policy gradient. The outsiders: enumeration of all trajectories, finite
differences, closed forms, hand numbers. Names with `erratum` show where the printed text needs a correction.
"""

from itertools import product

import numpy as np
import pytest

from rlbook.estimation import softmax
from rlbook.exact_gradients import trajectory_gradients, truncated_gradient
from rlbook.mdp import TabularMDP, Trajectories
from rlbook.worlds import delayed_penalty, length_bandit, random_mdp, two_state

M2 = two_state()
LOGITS = np.array([[0.0, 0.5], [1.0, 0.0]])
FORMS = ("trajectory", "reward_to_go", "printed")


def every_trajectory(mdp, pi, H):
    """All trajectories of H steps that can happen, as `Trajectories`, and their probabilities."""
    paths = [((s,), (), (), p) for s, p in enumerate(mdp.rho) if p > 0]
    for _ in range(H):
        paths = [
            (s + (t,), a + (b,), r + (mdp.r[s[-1], b],), p * pi[s[-1], b] * mdp.P[s[-1], b, t])
            for s, a, r, p in paths
            for b, t in product(range(mdp.n_actions), range(mdp.n_states))
            if pi[s[-1], b] * mdp.P[s[-1], b, t] > 0
        ]
    states, actions, rewards, p = zip(*paths, strict=True)
    return Trajectories(np.array(states), np.array(actions), np.array(rewards)), np.array(p)


def finite_difference(mdp, logits, H, step=1e-5):
    """Central differences of the truncated J, which is summed from the rewards of the laws of s_t."""

    def J(logits):
        pi, law, total = softmax(logits), mdp.rho, 0.0
        for t in range(H):
            total += mdp.gamma**t * np.einsum("s,sa,sa", law, pi, mdp.r)
            law = np.einsum("s,sa,sat->t", law, pi, mdp.P)
        return total

    gradient = np.zeros(logits.shape)
    for index in np.ndindex(logits.shape):
        e = np.zeros(logits.shape)
        e[index] = step
        gradient[index] = (J(logits + e) - J(logits - e)) / (2 * step)
    return gradient


# --- which form is the gradient: (32)-(36) ----------------------------------------------------------


def test_the_three_forms_on_the_two_state_world():
    """(34), (35) on M2 with 6 steps: reference numbers from an independent enumeration, six decimals."""
    true = [[0.579737, -0.579737], [-0.799148, 0.799148]]
    printed = [[0.713360, -0.713360], [-1.082585, 1.082585]]
    for form, want in (("trajectory", true), ("reward_to_go", true), ("printed", printed)):
        np.testing.assert_allclose(truncated_gradient(M2, LOGITS, 6, form), want, rtol=0, atol=6e-7)


@pytest.mark.parametrize("form", FORMS)
def test_the_exact_mean_is_the_sum_over_all_trajectories(form):
    """(32)-(35): each trajectory's score and returns, written as loops, weighted by its probability."""
    mdp = random_mdp(2, 3, 2, gamma=0.7)
    logits = np.random.default_rng(1).standard_normal((3, 2))
    pi, H, want = softmax(logits), 4, np.zeros((3, 2))
    walk, p = every_trajectory(mdp, pi, H)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    for states, actions, rewards, weight in zip(*walk, p, strict=True):
        for t in range(H):
            start = 0 if form == "trajectory" else t
            total = sum(0.7 ** (k - start) * rewards[k] for k in range(start, H))
            total *= 0.7**t if form == "reward_to_go" else 1
            want[states[t], actions[t]] += weight * total
            want[states[t]] -= weight * total * pi[states[t]]
    np.testing.assert_allclose(truncated_gradient(mdp, logits, H, form), want, rtol=0, atol=1e-12)
    mean = np.tensordot(p, trajectory_gradients(logits, walk, 0.7, form), 1)
    np.testing.assert_allclose(mean, want, rtol=0, atol=1e-12)


def test_two_of_the_forms_are_the_derivative_of_truncated_performance():
    """(31), (34), (35) with gamma^t: finite differences on 20 random MDPs."""
    rng = np.random.default_rng(3)
    for i in range(20):
        mdp = random_mdp(rng, 3, 2, gamma=(0.0, 0.5, 0.9, 0.99)[i % 4])
        logits, H = rng.standard_normal((3, 2)), 1 + i % 7
        want = finite_difference(mdp, logits, H)
        for form in ("trajectory", "reward_to_go"):
            np.testing.assert_allclose(truncated_gradient(mdp, logits, H, form), want, rtol=0, atol=1e-8)


def test_long_trajectories_give_the_occupancy_form():
    """(36): 400 steps, gamma^400 = 5e-19, against the known gradient of M2."""
    want = [[1.095319, -1.095319], [-1.962040, 1.962040]]
    np.testing.assert_allclose(truncated_gradient(M2, LOGITS, 400), want, rtol=0, atol=6e-7)


def test_erratum_35_as_printed_is_longer_and_turned():
    """(35) on M2, 6 steps: 1.313 times the norm, cosine .99899 to finite differences."""
    printed, true = truncated_gradient(M2, LOGITS, 6, "printed"), finite_difference(M2, LOGITS, 6)
    norms = np.linalg.norm(printed), np.linalg.norm(true)
    assert norms[0] / norms[1] == pytest.approx(1.313, abs=5e-4)
    assert (printed * true).sum() / (norms[0] * norms[1]) == pytest.approx(0.99899, abs=5e-6)


def test_erratum_35_as_printed_is_the_gradient_of_no_function():
    """A gradient has a symmetric Jacobian. Printed (35) on M2: asymmetry .0145 at a scale of .66."""

    def jacobian(form):
        J = np.zeros((4, 4))
        for i in range(4):
            e = 1e-5 * np.eye(4)[i].reshape(2, 2)
            up, down = (truncated_gradient(M2, LOGITS + x, 6, form) for x in (e, -e))
            J[:, i] = ((up - down) / 2e-5).ravel()
        return J

    J = jacobian("printed")
    assert np.abs(J - J.T).max() == pytest.approx(0.0145, abs=5e-5)
    assert np.abs(J).max() == pytest.approx(0.66, abs=5e-3)
    J = jacobian("reward_to_go")
    assert np.abs(J - J.T).max() < 1e-9


def test_erratum_35_as_printed_grows_with_the_horizon():
    """Each further step adds pi A weighted by the stationary law, undiscounted: no infinite-horizon limit."""
    pi = softmax(LOGITS)
    law, visits = np.array([1.0, 0.0]), np.zeros(2)
    for _ in range(100):
        visits += law
        law = np.einsum("s,sa,sat->t", law, pi, M2.P)
    np.testing.assert_allclose(visits, [47.0, 53.0], rtol=0, atol=0.05)
    A = np.array([[0.559652, -0.339446], [-0.557266, 1.514807]])  # known advantages of M2
    g200, g300 = (truncated_gradient(M2, LOGITS, H, "printed") for H in (200, 300))
    np.testing.assert_allclose(g300 - g200, 100 * law[:, None] * pi * A, rtol=0, atol=1e-4)
    right = [truncated_gradient(M2, LOGITS, H) for H in (200, 300)]
    np.testing.assert_allclose(*right, rtol=0, atol=1e-7)


# --- the chain with a late penalty ------------------------------------------------------------------


def shared_slope(theta, form):
    """d/dtheta on the chain when action 1 has logit theta in all 22 states."""
    return truncated_gradient(delayed_penalty(), [[0, theta]] * 22, 21, form)[:, 1].sum()


def test_erratum_35_as_printed_has_the_wrong_sign_on_the_chain():
    """J = p (1 - 3 * .9^20), so dJ/dtheta = .25 * .63527 at theta = 0; printed, .25 * (1 - 3) = -.5."""
    assert shared_slope(0.0, "reward_to_go") == pytest.approx(0.15882, abs=5e-6)
    assert shared_slope(0.0, "trajectory") == pytest.approx(0.25 * (1 - 3 * 0.9**20), abs=1e-14)
    assert shared_slope(0.0, "printed") == pytest.approx(-0.5, abs=1e-14)


@pytest.mark.parametrize("form, low, high", [("printed", 0.00325, 0.00335), ("reward_to_go", 0.62, 0.6353)])
def test_erratum_35_as_printed_descends_where_the_gradient_ascends(form, low, high):
    """200 ascent steps of .5 from J = .3176: printed to .0033, with gamma^t towards the supremum .6353."""
    theta = 0.0
    for _ in range(200):
        theta += 0.5 * shared_slope(theta, form)
    mdp = delayed_penalty()
    assert mdp.evaluate(np.full((22, 2), 0.5)).J == pytest.approx(0.3176, abs=5e-5)
    assert low < mdp.evaluate(softmax([[0, theta]] * 22)).J < high


# --- one trajectory at a time: (37)-(39) ------------------------------------------------------------


@pytest.mark.parametrize("form, want", [("trajectory", 1.5), ("reward_to_go", 0.5), ("printed", 3.5)])
def test_the_estimate_of_one_trajectory_by_hand(form, want):
    """(38), (39): one state, p = 1/2, actions 0, 1, 1, rewards 0, 4, 4, gamma = 1/2, so G = (3, 6, 4).

    The scores of action 1 are -1/2, 1/2, 1/2: 3/2; -3/2 + 6/4 + 4/8; -3/2 + 6/2 + 4/2.
    """
    walk = Trajectories(np.array([[0, 0, 0, 0]]), np.array([[0, 1, 1]]), np.array([[0.0, 4.0, 4.0]]))
    got = trajectory_gradients([[0.0, 0.0]], walk, 0.5, form)
    assert got.shape == (1, 1, 2)
    np.testing.assert_allclose(got[0, 0], [-want, want], rtol=0, atol=1e-15)


def test_the_batch_mean_is_the_exact_gradient_within_its_error():
    """(37)-(39): 4,000 trajectories of M2, each form around its own mean, within 4 standard errors."""
    walk = M2.sample(softmax(LOGITS), 4000, 20, rng=0)
    for form in FORMS:
        each = trajectory_gradients(LOGITS, walk, 0.9, form)
        error = each.std(axis=0) / np.sqrt(4000)
        assert (np.abs(each.mean(axis=0) - truncated_gradient(M2, LOGITS, 20, form)) < 4 * error).all()


def test_ascent_on_the_estimates_raises_performance():
    """(40), Box 3.3: 30 steps of .2 on batches of 50 lift M2 from 4.5 to above 6.5."""
    logits, rng = LOGITS.copy(), np.random.default_rng(0)
    for _ in range(30):
        walk = M2.sample(softmax(logits), 50, 40, rng)
        logits += 0.2 * trajectory_gradients(logits, walk, 0.9).mean(axis=0)
    assert M2.evaluate(softmax(logits)).J > 6.5


REPEATED = TabularMDP(np.ones((1, 2, 1)), [[0, 1]], [1], 0.9)  # a bandit played again and again


def variance_of_34(T, gamma=0.9):
    """Closed form on REPEATED at p = 1/2, scores s_t = +-1/2: Var of sum_{t,k} gamma^k s_t (s_k + 1/2)."""
    power = gamma ** np.arange(T)
    pairs = np.triu((power[:, None] + power) ** 2, 1).sum() / 16
    return pairs + power.sum() ** 2 * T / 16


def test_erratum_34_has_no_infinite_horizon_form():
    """The variance of (34) grows like T: 31.5, 663, 6585 at T = 10, 100, 1000. With gamma^t, 34.3."""
    np.testing.assert_allclose(
        [variance_of_34(T) for T in (10, 100, 1000)], [31.477, 663.45, 6584.5], rtol=1e-4
    )
    logits = [[0.0, 0.0]]

    def variances(T, seed):
        walk = REPEATED.sample([[0.5, 0.5]], 8000, T, seed)
        return [trajectory_gradients(logits, walk, 0.9, form)[:, 0, 1].var() for form in FORMS[:2]]

    walk, p = every_trajectory(REPEATED, np.array([[0.5, 0.5]]), 10)
    each = trajectory_gradients(logits, walk, 0.9, "trajectory")[:, 0, 1]
    assert p @ each**2 - (p @ each) ** 2 == pytest.approx(variance_of_34(10), rel=1e-12)
    at_100, at_200 = variances(100, 0), variances(200, 1)
    assert at_100[0] == pytest.approx(variance_of_34(100), rel=0.1)
    assert at_200[0] == pytest.approx(variance_of_34(200), rel=0.1) and at_200[0] > 1.8 * at_100[0]
    np.testing.assert_allclose([at_100[1], at_200[1]], 34.3, rtol=0.1)
    exact = truncated_gradient(REPEATED, logits, 400, "trajectory")[0, 1]
    assert exact == pytest.approx(0.25 / (1 - 0.9), abs=1e-12)  # 2.5: the mean is fine, the spread is not


# --- averages per trajectory and per step: (39), (47) -----------------------------------------------


def test_erratum_an_average_over_steps_prefers_short_trajectories():
    """(39) against (47): two arms, both pay 1, 1 and 10 steps; true gradient 0. Batches of two, enumerated:
    the mean over trajectories gives 0, the sum over all steps divided by their number gives .1125.
    """
    mdp = length_bandit(lengths=(1, 10), reward=(1, 1))
    pi, logits = np.full((11, 2), 0.5), np.zeros((11, 2))
    per_trajectory = per_step = 0.0
    for arms in product((0, 1), repeat=2):
        grads, steps = [], []
        for arm in arms:
            states = [0, *(int(s) for s in mdp.P[0, arm].nonzero()[0])]
            while len(states) < 11:
                states.append(int(mdp.P[states[-1], 0].argmax()))
            steps.append(sum(not mdp.terminal[s] for s in states[:-1]))
            actions, rewards = np.array([[arm] + [0] * 9]), np.array([[1.0] + [0.0] * 9])
            walk = Trajectories(np.array([states]), actions, rewards)
            grads.append(trajectory_gradients(logits, walk, 0.9)[0, 0, 0])
        per_trajectory += 0.25 * sum(grads) / 2
        per_step += 0.25 * sum(grads) / sum(steps)
    assert truncated_gradient(mdp, logits, 10)[0, 0] == pytest.approx(0, abs=1e-15)
    assert mdp.evaluate(pi).J == pytest.approx(1, abs=1e-14)
    assert per_trajectory == pytest.approx(0, abs=1e-15)
    assert per_step == pytest.approx(0.1125, abs=1e-12)
