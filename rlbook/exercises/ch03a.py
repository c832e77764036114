"""Exercises of notebook 03a."""

import numpy as np

from rlbook.checks import Wrong, attempt, choose, exercise, expect
from rlbook.estimation import softmax
from rlbook.exact_gradients import trajectory_gradients


def weights(reward, mask, gamma):
    """gamma^t times (38) as literal sums; what notebook 03a goes on with while exercise 3a.1 is open."""
    T = len(reward)
    earned = gamma ** np.arange(T)[:, None] * np.where(mask, reward, 0.0)
    found = np.array([earned[t:].sum(axis=0) for t in range(T)])
    return np.where(mask, found, 0.0)


def gradient(logits, state, action, weight):
    """(39) one pair at a time; what notebook 03a goes on with while exercise 3a.2 is open."""
    pi, found = softmax(logits), np.zeros(logits.shape)
    for s, a in np.ndindex(logits.shape):
        found[s] += weight[(state == s) & (action == a)].sum() * ((np.arange(logits.shape[1]) == a) - pi[s])
    return found / state.shape[1]


def best_baseline(p, score, G):
    """The lowest point of the parabola through three variances; stands in for exercise 3a.3."""

    def second_moment(b):
        return p @ (score**2 * (G - b)[:, None] ** 2).sum(axis=1)

    low, mid, high = (second_moment(b) for b in (-1.0, 0.0, 1.0))
    return 0.5 * (low - high) / (low + high - 2 * mid)


def two_programs(mdp, logits, steps, rng):
    """J along a correct and a broken run of Box 3.3, (2, steps + 1): the figure of exercise 3a.4."""

    def performance(theta):
        return mdp.evaluate(softmax(theta)).J

    theta, paths = [logits, logits], [[performance(logits)] * 2]
    first = mdp.sample(softmax(logits), 20, 40, rng)
    for _ in range(steps):
        batches = mdp.sample(softmax(theta[0]), 20, 40, rng), first
        estimates = map(trajectory_gradients, theta, batches, [mdp.gamma] * 2)
        theta = [x + 0.1 * each.mean(axis=0) for x, each in zip(theta, estimates, strict=True)]
        paths.append([performance(x) for x in theta])
    return np.transpose(paths)


def guarded(answer, *args):
    """`attempt` with read-only arrays; the result must be an array or a number, not a list."""

    def call(*copies):
        for copy in copies:
            if isinstance(copy, np.ndarray):
                copy.setflags(write=False)
        return answer(*copies)

    got = attempt(call if callable(answer) else answer, *args)
    if isinstance(got, (list, tuple)):
        raise Wrong(f"expected a NumPy array, got {type(got).__name__}")
    return got


@exercise("3a.1", "What multiplies each score: gamma^t times (38)", answer="my_weights")
def step_weights(answer):
    """Two trajectories of three and two steps; what stands after the end belongs to another episode."""
    reward = np.array([[1.0, 8.0], [2.0, 4.0], [4.0, 6.0]])
    mask = np.array([[True, True], [True, True], [True, False]])
    # first column, gamma = 1/2: G = (1 + 1 + 1, 2 + 2, 4) = (3, 4, 4), times (1, 1/2, 1/4)
    # second: G = (8 + 2, 4), times (1, 1/2); its 6 does not count
    want = [[3, 10], [2, 2], [1, 0]]
    mistakes = {
        "missing gamma^t": ([[3, 10], [4, 4], [4, 0]], "This is G_t; (31) discounts step t."),
        # second column with the 6: G = (8 + 2 + 1.5, 4 + 3, 6)
        "rewards after the end": ([[3, 11.5], [2, 3.5], [1, 0]], "A reward after the end leaks into G."),
        "no mask": ([[3, 11.5], [2, 3.5], [1, 1.5]], "Steps after the end must not count at all."),
        "return from the start": ([[3, 10], [3, 10], [3, 0]], "This is G_0, as in (34)."),
        # discounted sums up to and including t: (1, 1 + 1, 2 + 1) and (8, 8 + 2)
        "rewards so far": ([[1, 8], [2, 10], [3, 0]], "An action has no say in rewards before it."),
        "no discount": ([[7, 12], [6, 4], [4, 0]], "Rewards that come later count less."),
        # gamma^(t+1) G_(t+1): (1/2 * 4, 1/4 * 4, 0) and (1/2 * 4, 0)
        "next return": ([[2, 2], [1, 0], [0, 0]], "The reward of step t is the first that its action earns."),
    }
    given = "lengths 3 and 2, gamma = 0.5"
    expect(guarded(answer, reward, mask, 0.5), want, given, mistakes)
    rng = np.random.default_rng(3)
    reward, mask = rng.normal(size=(6, 4)), np.arange(6)[:, None] < np.array([6, 1, 4, 3])
    for gamma in (0.9, 1.0, 0.0):
        given = f"lengths 6, 1, 4 and 3, gamma = {gamma:g}"
        expect(guarded(answer, reward, mask, gamma), weights(reward, mask, gamma), given)


@exercise("3a.2", "From weights to the estimate (39)", answer="my_gradient")
def estimate(answer):
    """Two states, three actions, two trajectories of two steps; state 1 is visited three times."""
    pi = np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]])
    state, action = np.array([[0, 1], [1, 1]]), np.array([[0, 2], [1, 2]])
    weight = np.array([[4.0, 2.0], [3.0, 5.0]])
    # state 0: 4 (1 - 1/2, -1/4, -1/4) = (2, -1, -1)
    # state 1: actions got (0, 3, 2 + 5), together 10: (0 - 2, 3 - 3, 7 - 5) = (-2, 0, 2); all halved
    want = np.array([[1, -0.5, -0.5], [-1, 0, 1]])
    across = pi / pi.sum(axis=0)  # sums to 1 over states
    mistakes = {
        "divides by steps": (want / 2, "(39) divides by N trajectories, not by the number of steps."),
        "missing 1/N": (want * 2, "(39) is a mean over N trajectories."),
        "without pi": ([[2, 0, 0], [0, 1.5, 3.5]], "The score also has a part - pi."),
        "sign": (-want, "(40) goes uphill, so this is the gradient of J, not of a loss."),
        # the last visit of state 1 has weight 5: (0, 3, 5) - 5 (.2, .3, .5), halved
        "lost visits": (
            [[1, -0.5, -0.5], [-0.5, 0.75, 1.25]],
            "x[index] += y counts an index that occurs twice only once.",
        ),
        "softmax over states": (
            [(np.array([4, 0, 0]) - 4 * across[0]) / 2, (np.array([0, 3, 7]) - 10 * across[1]) / 2],
            "Each state has a law over actions: rows of pi sum to 1.",
        ),
    }
    expect(guarded(answer, np.log(pi), state, action, weight), want, "2 states, 3 actions, N = 2", mistakes)
    rng = np.random.default_rng(4)
    logits, weight = rng.normal(size=(4, 2)), rng.normal(size=(5, 3))
    state, action = rng.integers(0, 3, size=(5, 3)), rng.integers(0, 2, size=(5, 3))

    def surrogate(x):  # its slope is (39)
        return (weight * (x[state, action] - np.log(np.exp(x).sum(axis=1))[state])).sum() / 3

    slope = np.zeros((4, 2))
    for i in np.ndindex(4, 2):
        nudge = np.zeros((4, 2))
        nudge[i] = 1e-5
        slope[i] = (surrogate(logits + nudge) - surrogate(logits - nudge)) / 2e-5
    got = guarded(answer, logits, state, action, weight)
    expect(got, slope, "4 states (one never visited), 2 actions, N = 3", atol=1e-7)


@exercise("3a.3", "The best constant baseline", answer="my_best_baseline")
def constant_baseline(answer):
    """Three outcomes with |score|^2 = 1, 5, 1; then random ones against the lowest point of a parabola."""
    p, G = np.array([0.5, 0.25, 0.25]), np.array([2.0, 6.0, 8.0])
    score = np.array([[1.0, 0.0], [-2.0, 1.0], [0.0, -1.0]])  # mean 0: .5 - .5 + 0 and .25 - .25
    # weights p |score|^2 = .5, 1.25, .25, together 2: b = (1 + 7.5 + 2) / 2 = 5.25
    root = p * np.sqrt([1, 5, 1])
    mistakes = {
        "mean return": (4.5, "This is E[G], near the best, but large scores should count more."),
        "ignores the probabilities": (40 / 7, "Both means are expectations under p."),
        "score not squared": (root @ G / root.sum(), "The variance holds the square of the score."),
        "not divided": (10.5, "Set the slope of the variance in b to zero and solve for b."),
        "sign": (-5.25, "The estimate is score times (G - b)."),
        "one component": (7 / 1.5, "Add the variances of all components of the gradient."),
    }
    expect(guarded(answer, p, score, G), 5.25, "p = (1/2, 1/4, 1/4), G = (2, 6, 8)", mistakes)
    rng = np.random.default_rng(5)
    p, score, G = rng.dirichlet(np.ones(6)), rng.normal(size=(6, 3)), rng.normal(size=6)
    score -= p @ score
    expect(guarded(answer, p, score, G), best_baseline(p, score, G), "6 outcomes, 3 parameters", atol=1e-8)


@exercise("3a.4", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """A smooth curve has no fresh samples in it."""
    wrong = {
        "a": ("trajectory form", "(34) has the same mean and more noise; this curve has none."),
        "c": ("next return", "New trajectories would shake the curve, whatever the weight."),
        "d": ("per step", "Dividing by 40 N makes each step 40 times smaller; it would not stop at once."),
    }
    choose(answer, "b", wrong)
