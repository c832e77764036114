"""Exercises of notebook 04c, and the literal forms that its later cells use while one is unsolved."""

import numpy as np

from rlbook.checks import Wrong, attempt, choose, exercise, expect


def fisher_times(pi, d, x):
    """(72) times x with the matrix written out; what notebook 04c goes on with while 4c.2 is open."""
    blocks = [d[s] * (np.diag(pi[s]) - np.outer(pi[s], pi[s])) for s in range(len(d))]
    return np.array([block @ row for block, row in zip(blocks, x, strict=True)])


def backtrack(theta, s, sAs, gain, kl, delta, shrink, max_shrinks):
    """Box 4.6.4, steps 4 to 6; what notebook 04c goes on with while exercise 4c.3 is open."""
    beta = np.sqrt(2 * delta / sAs)
    tries = [theta + beta * shrink**j * s for j in range(max_shrinks + 1)]
    good = [new for new in tries if gain(new) >= 0 and kl(new) <= delta]
    return good[0] if good else theta


@exercise("4c.1", "The mean KL divergence (67) of two policies", answer="my_mean_kl")
def mean_kl(answer):
    """Two states by hand; a missing action; three actions and one state."""
    half, third = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[0.25, 0.75], [0.5, 0.5]])
    # s0: .5 ln(.5/.25) + .5 ln(.5/.75) = .5 ln(4/3);  s1: .25 ln(.25/.5) + .75 ln(.75/.5)
    flat, steep = 0.5 * np.log(4 / 3), 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    want = 0.2 * flat + 0.8 * steep
    mistakes = {
        # the two rows swap their roles, so the two divergences do
        "direction": (0.2 * steep + 0.8 * flat, "The old policy is the one that weighs the logarithms."),
        "no state weights": ((flat + steep) / 2, "(67) weighs the states by d, not equally."),
        "sum over states": (flat + steep, "(67) is a mean over states with the weights d."),
        "max over states": (flat, "This is (66), the largest divergence; (67) is the mean."),
        "sign": (-want, "A divergence is never negative."),
        # |.25| + |.25| in each state, halved
        "total variation": (0.25, "This is the total variation: there is no logarithm in it."),
        "bits": (want / np.log(2), "Natural logarithms: the divergence is in nats."),
    }
    got = attempt(answer, half, third, np.array([0.2, 0.8]))
    expect(got, want, "rows (1/2, 1/2), (1/4, 3/4) to (1/4, 3/4), (1/2, 1/2), d = (0.2, 0.8)", mistakes)
    # an action that the old policy never takes adds 0: 1 ln(1 / .5) = ln 2
    got = attempt(answer, np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]), np.ones(1))
    if np.shape(got) == () and np.isnan(np.asarray(got, dtype=float)):
        raise Wrong("old (1, 0), new (1/2, 1/2): got nan. 0 times log 0 counts as 0", "0 log 0")
    expect(got, np.log(2), "old (1, 0), new (1/2, 1/2)")
    # 1/2 ln 2 + 1/4 ln(1/2) + 1/4 ln 1 = 1/4 ln 2
    got = attempt(answer, np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.5, 0.25]]), np.ones(1))
    expect(got, np.log(2) / 4, "one state, old (1/2, 1/4, 1/4), new (1/4, 1/2, 1/4)")


@exercise("4c.2", "The Fisher matrix of a softmax table times a vector (72)", answer="my_fisher_product")
def fisher_product(answer):
    """Two states and three actions by hand; constants give 0; a random table against the matrix."""
    pi = np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
    d, x = np.array([0.4, 0.6]), np.array([[1.0, 2.0, 4.0], [1.0, 0.0, 2.0]])
    # means of x under pi: .5 + .5 + 1 = 2 and .2 + 0 + 1 = 1.2; deviations (-1, 0, 2), (-.2, -1.2, .8)
    # times pi: (-.5, 0, .5), (-.04, -.36, .4); times d
    want = [[-0.2, 0, 0.2], [-0.024, -0.216, 0.24]]
    mistakes = {
        "no mean": ([[0.2, 0.2, 0.4], [0.12, 0, 0.6]], "The second part of the matrix, pi pi^T, is missing."),
        # plain means 7/3 and 1: deviations (-4/3, -1/3, 5/3), (0, -1, 1)
        "plain mean": (
            [[-0.8 / 3, -0.1 / 3, 0.5 / 3], [0, -0.18, 0.3]],
            "pi^T x is the mean of x under the policy; its actions are not equally likely.",
        ),
        "no state weights": ([[-0.5, 0, 0.5], [-0.04, -0.36, 0.4]], "Each state's block carries d(s)."),
        "no policy weights": ([[-0.4, 0, 0.8], [-0.12, -0.72, 0.48]], "diag(pi) weighs each entry of x."),
        # mean of both states together, 2 + 1.2 = 3.2: deviations (-2.2, -1.2, .8), (-2.2, -3.2, -1.2)
        "one mean for all states": (
            [[-0.44, -0.12, 0.08], [-0.264, -0.576, -0.36]],
            "The blocks of two states do not mix: each state has its own mean.",
        ),
        "sign": ([[0.2, 0, -0.2], [0.024, 0.216, -0.24]], "A Fisher matrix is never negative: x^T A x >= 0."),
    }
    expect(table(answer, pi, d, x), want, "2 states, 3 actions, d = (0.4, 0.6)", mistakes)
    same = np.array([[5.0, 5.0, 5.0], [-1.0, -1.0, -1.0]])
    expect(table(answer, pi, d, same), np.zeros((2, 3)), "x constant in each state")
    rng = np.random.default_rng(4)
    pi, d, x = rng.dirichlet(np.ones(2), size=4), rng.dirichlet(np.ones(4)), rng.normal(size=(4, 2))
    expect(table(answer, pi, d, x), fisher_times(pi, d, x), "4 states, 2 actions drawn at random")


@exercise("4c.3", "The step of Box 4.6.4, with a way out", answer="my_step")
def step(answer):
    """Each condition alone, both, none; beta = sqrt(2 * 0.01 / 2) = 0.1 throughout."""
    theta, s = np.array([1.0, 2.0]), np.array([3.0, 4.0])

    def go(gain, kl, shrink=0.5, max_shrinks=4):
        return table(answer, theta, s, 2.0, limited(gain), limited(kl), 0.01, shrink, max_shrinks)

    def length(new):
        return np.sqrt(((new - theta) ** 2).sum())  # 0.5 for the full step 0.1 s

    # .55 length^2 = .1375, .0344, .0086 at lengths .5, .25, .125: the third try, 0.1 / 4 s = (.075, .1)
    mistakes = {
        "never shrinks": ([1.3, 2.4], "The full step 0.1 s has KL 0.1375, above delta = 0.01."),
        # beta = 2 * .01 / 2 = .01, KL .55 * .0025: first try
        "no square root": ([1.03, 2.04], "beta is a square root: KL grows with the square of the step."),
        # beta = sqrt(.01 / 2): lengths .3536, .1768, .0884, KL .0688, .0172, .0043: third try
        "no factor 2": (
            theta + np.sqrt(0.005) / 4 * s,
            "The quadratic model is half of s^T A s, so (74) has a 2.",
        ),
        # beta = sqrt(.02 / 25): lengths .1414, .0707, KL .011, .00275: second try
        "length of s": (theta + np.sqrt(0.0008) / 2 * s, "(74) measures s with A: s^T A s, not s^T s."),
        # xi instead of xi^j: every later try is the second one
        "same try again": (theta, "Shrink the step further on each try: the j-th is xi^j beta s."),
        "one shrink only": ([1.15, 2.2], "One shrink is not enough here: KL is 0.0344."),
    }
    given = "beta = 0.1, KL 0.55 length^2, gain always 1"
    expect(go(lambda new: 1.0, lambda new: 0.55 * length(new) ** 2), [1.075, 2.1], given, mistakes)
    mistakes = {
        "ignores the surrogate": ([1.3, 2.4], "The first two tries make the surrogate worse."),
        "one condition is enough": ([1.3, 2.4], "Both conditions must hold at once."),
        "keeps the old": (theta, "A shorter step improves the surrogate: take it."),
    }
    given = "beta = 0.1, KL 0, gain 0.2 - length"
    expect(go(lambda new: 0.2 - length(new), lambda new: 0.0), [1.075, 2.1], given, mistakes)
    mistakes = {"no fallback": (theta + 0.1 / 16 * s, "No try met the KL limit, so none may be taken.")}
    expect(go(lambda new: 1.0, lambda new: 1.0), theta, "KL 1 on every try, max_shrinks = 4", mistakes)
    # the fifth try, j = 4, has length .5 / 16 = .03125 and is the first below .04
    want = theta + 0.1 / 16 * s
    mistakes = {"one try too few": (theta, "max_shrinks = 4 allows five tries: j = 0, 1, 2, 3, 4.")}
    given = "the fifth try is the first with a gain, max_shrinks = 4"
    expect(go(lambda new: 0.04 - length(new), lambda new: 0.0), want, given, mistakes)
    # length .5 / 32 = .0156 would be the first below .02, but j = 5 is not tried
    mistakes = {"one try too many": (theta + 0.1 / 32 * s, "max_shrinks = 4 allows five tries, not six.")}
    given = "only a sixth try would gain, max_shrinks = 4"
    expect(go(lambda new: 0.02 - length(new), lambda new: 0.0), theta, given, mistakes)
    mistakes = {"asks for more than equal": (theta, "A step that leaves the surrogate equal is allowed.")}
    expect(go(lambda new: 0.0, lambda new: 0.0), [1.3, 2.4], "gain 0, KL 0 on every try", mistakes)
    # shrink .9, tries .5, .45, .405, .3645: KL limit 1 length^2 <= .01 never; gain from .41 on
    want = theta + 0.081 * s
    given = "shrink = 0.9, gain 0.41 - length"
    expect(go(lambda new: 0.41 - length(new), lambda new: 0.0, 0.9), want, given)


@exercise("4c.4", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """Without the root of (74) the linear gain is 2 delta and the KL delta 2 delta / (s^T A s)."""
    wrong = {
        "a": ("no line search", "Without it the KL would lie above delta where the full step is too long."),
        "c": ("damping", "Damping shortens steps most where the Fisher matrix is small: late, not early."),
        "d": ("plain gradient", "A gradient scaled to the limit by its own g^T A g would use the limit up."),
    }
    choose(answer, "b", wrong)


def table(answer, *args):
    """What the answer returns; an array, because later cells compute with it."""
    got = attempt(answer, *args)
    if isinstance(got, (list, tuple)):
        raise Wrong(f"expected a NumPy array, got {type(got).__name__}")
    return got


def limited(function):
    """`function`, but a loop that never ends is ended."""
    calls = []

    def counted(x):
        calls.append(x)
        if len(calls) > 1000:
            raise Wrong("the search never ends: after max_shrinks shrinks give up", "never gives up")
        return function(np.asarray(x))

    return counted
