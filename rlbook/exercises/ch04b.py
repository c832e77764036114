"""Exercises of notebook 04b."""

import numpy as np

from rlbook.checks import Wrong, attempt, choose, exercise, expect


def mixture_ratio(pi, pi_new, alpha):
    """(56) entry by entry; what notebook 04b goes on with while exercise 4b.1 is open."""
    ratio = np.zeros(pi.shape)
    for s, a in np.ndindex(*pi.shape):
        if pi[s, a] > 0:
            ratio[s, a] = (1 - alpha) + alpha * pi_new[s, a] / pi[s, a]
    return ratio


def gain_and_eps(d, A, pi_new, gamma):
    """(58) as literal sums; what notebook 04b goes on with while exercise 4b.2 is open."""
    states, actions = range(A.shape[0]), range(A.shape[1])
    mean = [sum(pi_new[s, a] * A[s, a] for a in actions) for s in states]
    return sum(d[s] * mean[s] for s in states) / (1 - gamma), max(abs(x) for x in mean)


def quiet(answer, *args):
    """`attempt` on read-only arrays, without NumPy's warnings about 0 / 0."""

    def guarded(*copies):
        for copy in copies:
            if isinstance(copy, np.ndarray):
                copy.setflags(write=False)
        with np.errstate(all="ignore"):
            return answer(*copies)

    return attempt(guarded if callable(answer) else answer, *args)


@exercise("4b.1", "The ratio of a mixture (56)", answer="my_ratio")
def ratio(answer):
    """Two states, three actions; in state 0 the old policy never takes action 2, the new one does."""
    pi = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5]])
    new = np.array([[0, 0.25, 0.75], [0.5, 0.5, 0]])
    # pi_alpha = .8 pi + .2 new = (.4, .45, .15), (.26, .34, .4); over pi: (.8, .9, -), (1.3, 34/30, .8)
    want = [[0.8, 0.9, 0], [1.3, 34 / 30, 0.8]]
    mistakes = {
        # .2 pi + .8 new = (.1, .3, .6), (.44, .46, .1)
        "swapped": ([[0.2, 0.6, 0], [2.2, 46 / 30, 0.2]], "alpha is the share of the new policy."),
        "forgets alpha": ([[0, 0.5, 0], [2.5, 5 / 3, 0]], "This is the ratio of the candidate itself."),
        "forgets the old part": ([[0, 0.1, 0], [0.5, 1 / 3, 0]], "A share 1 - alpha stays as it was."),
        "upside down": ([[1.25, 10 / 9, 0], [1 / 1.3, 30 / 34, 1.25]], "The mixture stands on top."),
        "no ratio": ([[0.4, 0.45, 0.15], [0.26, 0.34, 0.4]], "This is the mixture (55); divide it by pi."),
        # 1 everywhere except where pi is 0: what alpha = 0 gives
        "ignores the candidate": ([[1, 1, 0], [1, 1, 1]], "That is right at alpha = 0 only."),
    }
    given = "two states, three actions, alpha = 0.2"
    got = quiet(answer, pi, new, 0.2)
    if not isinstance(got, np.ndarray):
        raise Wrong(f"expected a NumPy array, got {type(got).__name__}")
    if got.shape == pi.shape and not np.isfinite(got[0, 2]):
        text = f"pi(2|0) = 0 gave {got[0, 2]}, expected 0: the old policy never draws that action"
        raise Wrong(text, "divides by zero")
    expect(got, want, given, mistakes)
    expect(quiet(answer, pi, new, 0.0), [[1, 1, 0], [1, 1, 1]], "alpha = 0")
    expect(quiet(answer, pi, new, 1.0), [[0, 0.5, 0], [2.5, 5 / 3, 0]], "alpha = 1")
    # one state: .75 * (.1, .9) + .25 * (.3, .7) = (.15, .85)
    got = quiet(answer, np.array([[0.1, 0.9]]), np.array([[0.3, 0.7]]), 0.25)
    expect(got, [[1.5, 0.85 / 0.9]], "one state, two actions, alpha = 0.25")


@exercise("4b.2", "Gain and largest mean advantage (58)", answer="my_gain")
def gain(answer):
    """Two states, three actions. The mean advantages are 1/2 and -11/4."""
    d, gamma = np.array([0.8, 0.2]), 0.8
    A = np.array([[2, -1, 0], [-4, 1, 3]], dtype=float)
    new = np.array([[0.5, 0.5, 0], [0.75, 0.25, 0]])
    # .5 * 2 - .5 * 1 = .5;  -.75 * 4 + .25 * 1 = -2.75;  g = (.8 * .5 - .2 * 2.75) / .2 = -.75
    g, eps = two(quiet(answer, d, A, new, gamma))
    given = "g for mean advantages (0.5, -2.75), d = (0.8, 0.2), gamma = 0.8"
    mistakes = {
        "missing 1 - gamma": (-0.15, "d sums to 1; the discounted visits sum to 1 / (1 - gamma)."),
        "ignores d": (-5.625, "States count with their occupancy."),  # (.5 - 2.75) / 2 / .2
        "adds states": (-11.25, "States count with their occupancy."),  # (.5 - 2.75) / .2
        # means over actions 1/3 and 0; .8 / 3 / .2
        "ignores the candidate": (4 / 3, "Actions are drawn from the new policy."),
        "absolute gain": (4.75, "g has a sign: this candidate is worse than the old policy."),  # .95 / .2
        "best action": (11.0, "The candidate need not take the best action."),  # (.8 * 2 + .2 * 3) / .2
    }
    expect(g, -0.75, given, mistakes)
    mistakes = {
        "no absolute value": (0.5, "A state where the candidate is bad counts by its size."),
        "single advantage": (4.0, "First the mean over the candidate's actions, then the maximum."),
        "mean, not maximum": (0.95, "eps is the worst state, however rarely it is visited."),
        "of the average": (0.15, "First the absolute value in each state, then the maximum."),
        "with 1 / (1 - gamma)": (13.75, "Only g carries the factor."),
    }
    expect(eps, 2.75, "eps for mean advantages (0.5, -2.75)", mistakes)
    # gamma = 0, three states, a positive worst state; mean = (3, -2, 0), d leaves the last state out
    A = np.array([[3, 0], [-2, 5], [7, -7]], dtype=float)
    new = np.array([[1, 0], [1, 0], [0.5, 0.5]])
    g, eps = two(quiet(answer, np.array([0.25, 0.75, 0]), A, new, 0.0))
    expect(g, -0.75, "g for mean advantages (3, -2, 0), d = (0.25, 0.75, 0), gamma = 0")
    expect(eps, 3.0, "eps for mean advantages (3, -2, 0)")
    # a state that is never visited can be the worst one
    g, eps = two(quiet(answer, np.array([1.0, 0, 0]), A, new[:, ::-1].copy(), 0.5))
    expect(g, 0.0, "g for mean advantages (0, 5, 0), d = (1, 0, 0), gamma = 0.5")
    expect(eps, 5.0, "eps for mean advantages (0, 5, 0), also where d = 0")


def two(got):
    """The pair g, eps, or what came instead."""
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong(f"expected the pair g, eps, got {type(got).__name__}")
    return got


@exercise("4b.3", "The step size (61), with its edges", answer="my_step")
def step(answer):
    """Inside, then both edges, then the two places where the printed ratio divides by zero."""
    # (1 - .2)^2 * 1 / (4 * .2 * 4) = .64 / 3.2 = .2
    mistakes = {
        "missing square": (0.25, "(1 - gamma) comes twice."),  # .8 / 3.2
        "missing 1 - gamma": (0.3125, "(1 - gamma) comes twice."),  # 1 / 3.2
        "missing gamma": (0.04, "gamma stands below the line as well."),  # .64 / 16
        "where the bound is zero": (0.4, "At this step the bound has fallen back to 0."),  # .64 / 1.6
        "upside down": (1.0, "A larger eps must make the step smaller."),  # .64 / .8 * 4 = 3.2, held at 1
    }
    expect(quiet(answer, 1.0, 4.0, 0.2), 0.2, "g = 1, eps = 4, gamma = 0.2", mistakes)
    expect(quiet(answer, 3.0, 2.0, 0.5), 0.1875, "g = 3, eps = 2, gamma = 0.5")  # .25 * 3 / 4
    mistakes = {"no upper limit": (4.0, "A mixture has no share above 1.")}
    expect(quiet(answer, 20.0, 4.0, 0.2), 1.0, "g = 20, eps = 4, gamma = 0.2", mistakes)
    mistakes = {
        "steps backwards": (-0.2, "The printed ratio is negative; a mixture has no negative share."),
        "absolute gain": (0.2, "A candidate that looks worse is not mixed in."),
        "jumps on a loss": (1.0, "A candidate that looks worse is not mixed in."),
    }
    expect(quiet(answer, -1.0, 4.0, 0.2), 0.0, "g = -1, eps = 4, gamma = 0.2", mistakes)
    for g, eps, gamma, want in ((1.0, 4.0, 0.0, 1.0), (1.0, 0.0, 0.2, 1.0), (0.0, 0.0, 0.2, 0.0)):
        given = f"g = {g:.0f}, eps = {eps:.0f}, gamma = {gamma:.1f}"
        try:
            got = quiet(answer, g, eps, gamma)
        except ZeroDivisionError:
            raise Wrong(f"{given}: the ratio divides by zero", "divides by zero") from None
        nothing = {"stops for nothing": (0.0, "No penalty and a gain: nothing speaks against a full step.")}
        expect(got, want, given, nothing if want == 1 else None)
    expect(quiet(answer, -1.0, 0.0, 0.0), 0.0, "g = -1, eps = 0, gamma = 0")


@exercise("4b.4", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """The dashed curve is the solid one, ten times as slow: 1 / (1 - gamma) = 10."""
    wrong = {
        "a": ("old candidate", "Then J could never pass that of the first candidate, (0, 1): 13.2."),
        "b": ("mixes with the start", "Then the first step would be right and nothing would come after it."),
        "d": ("eps twice as large", "That halves the steps: the curve would be twice as slow. Measure it."),
    }
    choose(answer, "c", wrong)
