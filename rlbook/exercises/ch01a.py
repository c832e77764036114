"""Exercises of notebook 01a."""

import numpy as np

from rlbook.checks import attempt, choose, exercise, expect


@exercise("1a.1", "Monte-Carlo value with its standard error (Ex. 1.4)", answer="my_value_estimate")
def value_estimate(answer):
    """Two rollouts by hand, then three, then the discounts 0 and 1."""
    # returns 1 + .9*2 + .81*3 = 5.23 and 2 + .81*1 = 2.81: mean 4.02, difference 2.42.
    # Two numbers have standard deviation (N - 1) 2.42 / sqrt(2) = 1.7112, so the mean has 2.42 / 2 = 1.21.
    rewards = np.array([[1.0, 2.0, 3.0], [2.0, 0.0, 1.0]])
    expect(
        attempt(answer, rewards, 0.9),
        want=[4.02, 1.21],
        given="rewards ((1, 2, 3), (2, 0, 1)), gamma = 0.9",
        mistakes={
            # returns 6 and 3
            "no discount": ([4.5, 1.5], "Column t counts for gamma to the power t."),
            # 0.9 * 4.02 and 0.9 * 1.21
            "discount starts one step early": ([3.618, 1.089], "The first reward is not discounted."),
            # returns 3 + 1.8 + .81 = 5.61 and 1 + 1.62 = 2.62
            "rewards in reverse": ([4.115, 1.495], "Column 0 is the first reward."),
            "standard deviation for standard error": (
                [4.02, 2.42 / np.sqrt(2)],
                "That is the spread of one return; the mean of N returns varies less.",
            ),
            # sqrt(1.21^2 / 2): deviations are +-1.21
            "divides the variance by N": (
                [4.02, 1.21 / np.sqrt(2)],
                "With the mean taken from the same N returns the squares are divided by N - 1.",
            ),
            # 2.42^2 / 2 / 2
            "variance of the mean": ([4.02, 1.4641], "One root is missing."),
        },
    )
    # gamma = .5: returns 4 + 8/8 = 5, 1 + 1 = 2, 1 + .5 + .25 + .125 = 1.875; mean 8.875 / 3;
    # sum of squares 25 + 4 + 3.515625 = 32.515625, minus 8.875^2 / 3, over 2, over 3, root
    rewards = np.array([[4.0, 0.0, 0.0, 8.0], [0.0, 2.0, 4.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    want = [8.875 / 3, np.sqrt((32.515625 - 8.875**2 / 3) / 6)]
    expect(attempt(answer, rewards, 0.5), want, given="three rollouts of four steps, gamma = 0.5")
    # gamma = 0 leaves 4, 0, 1: mean 5/3, squares 17 - 25/3, over 2, over 3, root
    want = [5 / 3, np.sqrt((17 - 25 / 3) / 6)]
    expect(attempt(answer, rewards, 0.0), want, given="the same with gamma = 0")
    expect(attempt(answer, np.full((5, 3), -2.0), 1.0), [-6.0, 0.0], given="five equal rollouts, gamma = 1")


@exercise("1a.2", "Self-normalised importance sampling (Remark 1.3)", answer="my_snis")
def self_normalised(answer):
    """Three samples by hand; then a change of scale and a shift, which must go through."""
    # (1.6*1 + .4*3 + .4*3) / (1.6 + .4 + .4) = 4 / 2.4
    f, w = np.array([1.0, 3.0, 3.0]), np.array([1.6, 0.4, 0.4])
    expect(
        attempt(answer, f, w),
        want=4 / 2.4,
        given="f = (1, 3, 3), w = (1.6, 0.4, 0.4)",
        mistakes={
            "divides by N": (4 / 3, "That is plain importance sampling."),
            "normalises twice": (4 / 7.2, "Once the weights sum to 1, no further division is due."),
            "ignores the weights": (7 / 3, "The weights must matter."),
            # (1/1.6 + 3/.4 + 3/.4) / (1/1.6 + 2/.4) = 15.625 / 5.625
            "weights upside down": (15.625 / 5.625, "A large weight must pull the result towards its f."),
            # (2.56 + .48 + .48) / (2.56 + .32)
            "squares the weights": (3.52 / 2.88, "The weights enter to the first power, above and below."),
            # mean of f * (w / max w)
            "divides by the largest weight": (4 / 1.6 / 3, "The weights should sum to 1, not peak at 1."),
        },
    )
    expect(attempt(answer, f, 1000 * w), 4 / 2.4, given="the same with weights 1000 times as large")
    expect(attempt(answer, f - 10, w), 4 / 2.4 - 10, given="the same with 10 taken from f")
    expect(attempt(answer, np.array([7.0]), np.array([0.2])), 7.0, given="one sample, f = 7, w = 0.2")
    w = np.array([0.0, 0.5, 1.5, 0.0])  # (.5*4 - 1.5*2) / 2 = -.5
    expect(
        attempt(answer, np.array([9.0, 4.0, -2.0, 5.0]), w),
        -0.5,
        given="f = (9, 4, -2, 5), w = (0, .5, 1.5, 0)",
    )


@exercise("1a.3", "Effective sample size", answer="my_ess")
def effective_sample_size(answer):
    """Three weights by hand; then the two ends, N and 1."""
    # (1 + 1 + 2)^2 / (1 + 1 + 4) = 16 / 6
    expect(
        attempt(answer, np.array([1.0, 1.0, 2.0])),
        want=16 / 6,
        given="w = (1, 1, 2)",
        mistakes={
            "sum not squared": (4 / 6, "Scale the weights by 10: the result must not change."),
            "weights not squared": (4.0, "Below the line each weight is squared before the sum."),
            "upside down": (6 / 16, "Equal weights must give N."),
            "share of N": (16 / 18, "That is ESS / N."),
            "squares inside both sums": (1.0, "Above the line the sum comes first, then the square."),
            "divides by the largest weight": (2.0, "That is another measure, N for equal weights too."),
        },
    )
    expect(attempt(answer, np.array([1000.0, 1000.0, 2000.0])), 16 / 6, given="w = (1000, 1000, 2000)")
    expect(attempt(answer, np.full(7, 0.3)), 7.0, given="seven equal weights")
    expect(attempt(answer, np.array([0.0, 0.0, 5.0, 0.0])), 1.0, given="w = (0, 0, 5, 0)")
    # (3 + 4)^2 / (9 + 16) = 49 / 25
    expect(attempt(answer, np.array([3.0, 0.0, 4.0])), 49 / 25, given="w = (3, 0, 4)")


@exercise("1a.4", "Off-policy value of a contextual bandit (Ex. 1.6)", answer="my_off_policy_value")
def off_policy_value(answer):
    """Three samples by hand; then a log with the behaviour's exact frequencies, which gives J itself."""
    # weights .9/.5 = 1.8, .1/.5 = .2, .4/.8 = .5: (1.8*1 + .2*2 + .5*4) / 3 = 4.2 / 3
    s, a, r = np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([1.0, 2.0, 4.0])
    target, behaviour = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.5, 0.5], [0.8, 0.2]])
    expect(
        attempt(answer, s, a, r, target, behaviour),
        want=1.4,
        given="s = (0, 0, 1), a = (0, 1, 0), r = (1, 2, 4), weights (1.8, 0.2, 0.5)",
        mistakes={
            # (1/1.8 + 2/.2 + 4/.5) / 3
            "weights upside down": ((1 / 1.8 + 18) / 3, "What the target likes more must count for more."),
            "no weights": (7 / 3, "That is the value of the behaviour policy."),
            # pairs (0,0), (1,0), (0,1): weights 1.8, .5, .2
            "rows are actions": (3.6 / 3, "The tables are indexed by state first, then action."),
            "divides by the sum of the weights": (4.2 / 2.5, "The estimator of Ex. 1.6 divides by N."),
            # (.9*1 + .1*2 + .4*4) / 3
            "behaviour left out": (2.7 / 3, "Divide by the probability with which the action was drawn."),
            "sum for mean": (4.2, "Average over the samples."),
        },
    )
    # A log with each pair as often as d(s) pi(a|s) says gives J exactly: d = (1/2, 1/2), and the target
    # takes action 1 in state 0 and action 0 in state 1: J = (r(0,1) + r(1,0)) / 2 = (-3 + 8) / 2
    s, a = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 1, 0, 1, 1, 1])
    table = np.array([[2.0, -3.0], [8.0, 1.0]])
    target, behaviour = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.75, 0.25], [0.25, 0.75]])
    given = "a log with exactly the behaviour's frequencies"
    expect(attempt(answer, s, a, table[s, a], target, behaviour), 2.5, given)
    # on-policy all weights are 1: (3*2 - 3 + 8 + 3*1) / 8
    expect(
        attempt(answer, s, a, table[s, a], behaviour, behaviour), 14 / 8, "the same log, target = behaviour"
    )
    # three actions: weights .5/.25 = 2, .2/.5 = .4; (2*3 + .4*10) / 2 = 5
    target, behaviour = np.array([[0.3, 0.2, 0.5]]), np.array([[0.25, 0.5, 0.25]])
    s, a, r = np.array([0, 0]), np.array([2, 1]), np.array([3.0, 10.0])
    expect(
        attempt(answer, s, a, r, target, behaviour),
        5.0,
        given="one state, three actions, a = (2, 1), r = (3, 10)",
    )


@exercise("1a.5", "Find the bug from the curve", answer="my_diagnosis")
def diagnosis(answer):
    """The level and the shape of the curve that each bug gives, worked out below."""
    # p = (.6, .3, .1), q = (.2, .3, .5), f = (1, 2, 4), truth 1.6.
    # A: mean of (q/p) f under q: .04/.6 + 2*.09/.3 + 4*.25/.1 = 10.67.   B: 2.8 at N = 1, then down to 1.6.
    # C: weights (2, 1, .2): .2*2 + .3*2 + .5*.8 = 1.4.
    # D: .36/.2 + 2*.09/.3 + 4*.01/.5 = 2.48, mean weight 2.12.
    choose(
        answer,
        right="D",
        wrong={
            "A": (
                "weights upside down",
                "Add up q * (q/p) * f over the three points: the level would be above 10.",
            ),
            "B": ("self-normalised", "That bias is 1.2 at N = 1 and fades with N; this one does not move."),
            "C": ("weights capped", "A cap only lowers an estimate of a positive f; this one is too high."),
        },
    )


def two_programs(sizes, seeds, rng):
    """Estimates (seeds, len(sizes)) of two programs for exercise 1a.5, and the mean weight of each."""
    p, q, f = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5]), np.array([1.0, 2.0, 4.0])
    w, estimates, weight = p / q, [], []
    for law in (q, p):
        x = [rng.choice(3, p=law, size=(seeds, n)) for n in sizes]
        estimates.append(np.transpose([(w * f)[draws].mean(axis=1) for draws in x]))
        weight.append(w[x[-1]].mean())
    return *estimates, weight
