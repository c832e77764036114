"""Exercises of notebook 04a."""

import numpy as np

from rlbook.checks import attempt, choose, exercise, expect


def difference(A, pi, pi_new, d, d_new, gamma):
    """(48) as the literal double sum; what notebook 04a goes on with while exercise 4a.1 is open."""
    states, actions = range(A.shape[0]), range(A.shape[1])
    return sum(d_new[s] * pi_new[s, a] * A[s, a] for s in states for a in actions) / (1 - gamma)


def surrogate_gain(advantage, ratio, gamma):
    """(51) from rollouts, step by step; what notebook 04a goes on with while exercise 4a.2 is open."""
    steps = range(advantage.shape[1])
    return float(sum(gamma**t * np.mean(ratio[:, t] * advantage[:, t]) for t in steps))


def rollouts(pi, pi_new, H, error):
    """Ex. 4.1.2, the number of rollouts; what notebook 04a goes on with while exercise 4a.3 is open."""
    square = 1.0
    for _ in range(H):
        square *= sum(q * q / p for p, q in zip(pi, pi_new, strict=True))
    return float(square - 1) / error**2


@exercise("4a.1", "The performance difference (48)", answer="my_difference")
def performance(answer):
    """Two states by hand, each usual mistake another number; then a random world by the literal sum."""
    A = np.array([[2.0, -2.0], [3.0, -1.0]])  # .5 * 2 - .5 * 2 = 0 and .25 * 3 - .75 * 1 = 0
    pi, pi_new = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[0.75, 0.25], [0.75, 0.25]])
    d, d_new = np.array([0.75, 0.25]), np.array([0.25, 0.75])
    # mean advantages .75 * 2 - .25 * 2 = 1 and .75 * 3 - .25 = 2; (.25 * 1 + .75 * 2) / (1 - .5) = 3.5
    mistakes = {
        "old occupancy": (2.5, "That is the surrogate; the lemma counts the states of the new policy."),
        "old actions": (0.0, "Under its own actions a policy has advantage 0; take the new ones."),
        "missing 1 / (1 - gamma)": (1.75, "The weights gamma^t of all steps sum to more than 1."),
        "multiplies by 1 - gamma": (0.875, "The occupancy already holds a factor 1 - gamma."),
        "states not weighted": (6.0, "Not every state is visited equally often."),
        "shift only": (1.0, "That is the shift term; the lemma has the new occupancy alone."),
        # ratios (1.5, .5) and (3, 1/3): .75 * 1.5 * 2 - .25 * .5 * 2 = 2, .75 * 3 * 3 - .25 / 3 = 20/3
        "ratio twice": (11.0, "Weigh old actions by the ratio or take new actions, not both."),
    }
    expect(attempt(answer, A, pi, pi_new, d, d_new, 0.5), 3.5, "2 states, gamma = 0.5", mistakes)
    rng = np.random.default_rng(4)
    pi, pi_new = rng.dirichlet(np.ones(3), size=(2, 4))
    A, (d, d_new) = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(4), size=2)
    A -= (pi * A).sum(axis=1, keepdims=True)
    got = attempt(answer, A, pi, pi_new, d, d_new, 0.9)
    expect(got, difference(A, pi, pi_new, d, d_new, 0.9), "4 states, 3 actions, gamma = 0.9")
    got = attempt(answer, A, pi, pi_new, d, d_new, 0.0)
    expect(got, difference(A, pi, pi_new, d, d_new, 0.0), "gamma = 0")


@exercise("4a.2", "The surrogate from old rollouts (51)", answer="my_surrogate_gain")
def sampled_surrogate(answer):
    """Three rollouts of two steps by hand, each usual mistake another number; then other shapes."""
    advantage = np.array([[1.0, 4.0], [-2.0, 3.0], [2.0, -1.0]])
    ratio = np.array([[2.0, 0.5], [0.5, 4.0], [1.5, 2.0]])
    # ratio times advantage: step 0 (2, -1, 3), sum 4; step 1 (2, 12, -2), sum 12; (4 + .75 * 12) / 3 = 13/3
    mistakes = {
        # products (2, .5, 1.5) and (1, 2, 3): step 0 sums to 4, step 1 to 4 + 6 - 3 = 7
        "product of ratios": (9.25 / 3, "In (51) each step has its own ratio only."),
        "no ratio": (5.5 / 3, "These are old actions: without the ratio you average to about 0."),
        # (4 - 1 + .75 * (12 - 6)) / 3
        "subtracts 1": (7.5 / 3, "Right on average, but not (51): its ratio stands alone."),
        "no discount": (16 / 3, "Step t has the weight gamma^t."),
        # (.5 - 4 + 4/3 + .75 * (8 + .75 - .5)) / 3
        "upside down": ((4 / 3 - 3.5 + 6.1875) / 3, "The new policy's probability is on top."),
        "divides by 1 - gamma": (52 / 3, "The sum over steps already stands for 1 / (1 - gamma)."),
        "multiplies by 1 - gamma": (3.25 / 3, "This averages over d; (51) divides by 1 - gamma after that."),
        "mean over steps": (13 / 6, "Sum over the steps of a rollout, average over the rollouts."),
        "sum over rollouts": (13.0, "Sum over the steps of a rollout, average over the rollouts."),
        "first step discounted": (3.25, "Step 0 has weight 1."),
    }
    given = "3 rollouts of 2 steps, gamma = 0.75"
    expect(attempt(answer, advantage, ratio, 0.75), 13 / 3, given, mistakes)
    rng = np.random.default_rng(5)
    advantage, ratio = rng.normal(size=(4, 6)), rng.uniform(0, 3, size=(4, 6))
    want = surrogate_gain(advantage, ratio, 0.9)
    expect(attempt(answer, advantage, ratio, 0.9), want, "4 rollouts of 6 steps, gamma = 0.9")
    # (0 * 5 + .5 * 2 * 1) / 1: an action that the new policy gave up counts nothing
    got = attempt(answer, np.array([[5.0, 1.0]]), np.array([[0.0, 2.0]]), 0.5)
    expect(got, 1.0, "1 rollout, first ratio 0, gamma = 0.5")


@exercise("4a.3", "Rollouts that product weights need (Ex. 4.1.2)", answer="my_rollouts")
def needed(answer):
    """Two actions by hand; three actions; equal policies; the numbers of the book."""
    pi, pi_new = np.array([0.5, 0.5]), np.array([0.75, 0.25])
    # mean square .5625 / .5 + .0625 / .5 = 1.25; 1.25^2 - 1 = .5625; .5625 / .25^2 = 9
    mistakes = {
        # .25 / .75 + .25 / .25 = 4/3; (16/9 - 1) / .0625 = 112/9
        "policies swapped": (112 / 9, "The data are from the old policy: its law weighs the squares."),
        "forgets the minus 1": (25.0, "A variance is the mean square minus the squared mean."),
        "error not squared": (2.25, "Four times the data halve the error."),
        "variances added": (8.0, "The weight is a product of ratios, not a sum."),  # 2 * .25 / .0625
        "times H": (24.0, "The weight is a product of ratios, not a sum."),  # (2 * 1.25 - 1) / .0625
        "one step": (4.0, "There are H ratios in a weight."),  # .25 / .0625
        "multiplies by the error": (0.03515625, "A smaller error needs more rollouts."),  # .5625 * .0625
    }
    given = "pi = (0.5, 0.5), pi_new = (0.75, 0.25), H = 2, error = 0.25"
    expect(attempt(answer, pi, pi_new, 2, 0.25), 9.0, given, mistakes)
    # .0625 / .5 + .0625 / .25 + .25 / .25 = 1.375; .375 / .01 = 37.5
    pi, pi_new = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    unweighted = ((0.25 + 1 + 4) / 3 - 1) / 0.01  # the plain mean of the squared ratios
    mistakes = {"actions not weighted": (unweighted, "Actions are not equally likely under the old policy.")}
    expect(attempt(answer, pi, pi_new, 1, 0.1), 37.5, "3 actions, H = 1, error = 0.1", mistakes)
    expect(attempt(answer, pi, pi, 7, 0.1), 0.0, "equal policies, H = 7")
    coin, biased = np.array([0.5, 0.5]), np.array([0.1, 0.9])
    expect(attempt(answer, coin, biased, 10, 0.1), 100 * (1.64**10 - 1), "q = 0.9, H = 10", atol=1e-6)


@exercise("4a.4", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """The slope at 0 has the wrong sign: pi / pi_alpha falls where the new policy takes more."""
    wrong = {
        "b": ("Q for A", "With Q the curve would not start at 0: the mean of Q under pi is V."),
        "c": ("new occupancy", "That gives the true difference, which starts with the same slope as L."),
        "d": ("missing factor", "A factor keeps the line straight and its sign."),
    }
    choose(answer, "a", wrong)
