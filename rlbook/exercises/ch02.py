"""Exercises of notebook 02."""

import numpy as np

from rlbook.checks import Wrong, attempt, choose, exercise, expect


def q_backup(Q, P, r, pi, gamma):
    """(27) as the literal double sum; what notebook 02 goes on with while exercise 2.3 is open."""
    states, actions = range(r.shape[0]), range(r.shape[1])
    backed = np.empty(r.shape)
    for s in states:
        for a in actions:
            ahead = sum(P[s, a, t] * pi[t, b] * Q[t, b] for t in states for b in actions)
            backed[s, a] = r[s, a] + gamma * ahead
    return backed


def one_step_advantage(V, P, r, gamma):
    """(30) as the literal sum; what notebook 02 goes on with while exercise 2.4 is open."""
    states, actions = range(r.shape[0]), range(r.shape[1])
    return np.array(
        [[r[s, a] + gamma * sum(P[s, a, t] * V[t] for t in states) - V[s] for a in actions] for s in states]
    )


def array(answer, *args):
    """What the answer returns; an array, because later cells compute with it."""
    got = tables(answer, *args)
    if isinstance(got, (list, tuple)):
        raise Wrong(f"expected a NumPy array, got {type(got).__name__}")
    return got


def pair(answer, *args):
    """The two arrays that the answer returns."""
    got = tables(answer, *args)
    if not isinstance(got, (list, tuple)) or len(got) != 2:
        raise Wrong(f"expected the pair P_pi, r_pi, got {type(got).__name__}")
    if any(isinstance(part, (list, tuple)) for part in got):
        raise Wrong("expected two NumPy arrays, got lists")
    return got


def tables(answer, *args):
    """`attempt` with read-only arguments, like the tables of a `TabularMDP`."""

    def guarded(*copies):
        for copy in copies:
            if isinstance(copy, np.ndarray):
                copy.setflags(write=False)
        return answer(*copies)

    return attempt(guarded if callable(answer) else answer, *args)


# Two states, three actions. P(next state is 1 | s, a) is (0, 1/2, 1) in state 0 and (1/4, 1, 0) in state 1.
P = np.array([[[1, 0], [0.5, 0.5], [0, 1]], [[0.75, 0.25], [0, 1], [1, 0]]], dtype=float)
R = np.array([[1, 0, 2], [0, 3, 1]], dtype=float)
PI = np.array([[0.5, 0.5, 0], [0.2, 0.3, 0.5]])


@exercise("2.1", "The chain that a policy makes of a world", answer="my_chain")
def chain(answer):
    """P_pi and r_pi by hand; S = 2 and A = 3, so mixed-up axes show."""
    # P_pi(1|0) = .5 * 0 + .5 * .5 + 0 * 1 = .25;  P_pi(1|1) = .2 * .25 + .3 * 1 + .5 * 0 = .35
    # r_pi = (.5 * 1 + .5 * 0 + 0 * 2, .2 * 0 + .3 * 3 + .5 * 1) = (.5, 1.4)
    P_pi, r_pi = pair(answer, P, R, PI)
    given = "P_pi of a world with 2 states and 3 actions"
    mistakes = {
        "transposed": ([[0.75, 0.65], [0.25, 0.35]], "Row s must hold the law of the state after s."),
        # mean of (0, .5, 1) is .5, of (.25, 1, 0) is 5/12
        "ignores the policy": ([[0.5, 0.5], [7 / 12, 5 / 12]], "Actions are not equally likely."),
        # sums of (1, .5, 0 | 0, .5, 1) and (.75, 0, 1 | .25, 1, 0)
        "adds without weights": ([[1.5, 1.5], [1.75, 1.25]], "Each action counts with its probability."),
        # the sum over a of pi(a|s') P(s'|s,a): (.5 + .25 + 0, 0 + .15 + .5), (.375 + 0 + 0, .05 + .3 + 0)
        "policy of the next state": ([[0.75, 0.65], [0.375, 0.35]], "The action is drawn in s, not in s'."),
    }
    expect(P_pi, [[0.75, 0.25], [0.65, 0.35]], given, mistakes)
    mistakes = {
        "reward not weighted": ([1.0, 4 / 3], "Weigh the rewards as you weigh the transitions."),
        "reward summed": ([3.0, 4.0], "Weigh the rewards as you weigh the transitions."),
        # (1, 4/3) and (3, 4) above; the best reward that the policy can draw is 2 and 3
        "best reward": ([2.0, 3.0], "r_pi is the mean over the policy's actions, not the best of them."),
    }
    expect(r_pi, [0.5, 1.4], "r_pi of a world with 2 states and 3 actions", mistakes)
    # three states, one action that pushes right: averaging must change nothing
    push = np.array([[[0, 1, 0]], [[0, 0, 1]], [[0, 0, 1]]], dtype=float)
    P_pi, r_pi = pair(answer, push, np.array([[1.0], [2.0], [0.0]]), np.ones((3, 1)))
    expect(P_pi, push[:, 0], "P_pi with a single action")
    expect(r_pi, [1, 2, 0], "r_pi with a single action")


@exercise("2.2", "The discounted occupancy (19)", answer="my_occupancy")
def occupancy(answer):
    """A chain 0 -> 1 -> 2 -> 2 has d = (1/2, 1/4, 1/4) at gamma = 1/2."""
    line = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1]], dtype=float)
    mistakes = {
        "missing 1 - gamma": ([1, 0.5, 0.5], "The occupancy must sum to 1."),
        # (I - gamma P) x = rho gives x = (1, 0, 0): values flow back, probability does not
        "not transposed": ([0.5, 0, 0], "Probability flows from the rows of P_pi to its columns."),
        # laws (0,1,0), (0,0,1), (0,0,1), ... with weights 1/2, 1/4, 1/8, ...
        "forgets the start": ([0, 0.5, 0.5], "Step t = 0 counts as well, and most of all."),
        "no discount": ([0, 0, 1], "This is where the chain ends up; (19) weighs step t by gamma^t."),
    }
    given = "chain 0 -> 1 -> 2 -> 2 from state 0, gamma = 0.5"
    expect(array(answer, line, np.array([1.0, 0, 0]), 0.5), [0.5, 0.25, 0.25], given, mistakes, atol=1e-6)
    # d0 = .1 * .25 + .9 (.9 d0 + .6 d1), d1 = 1 - d0:  .73 d0 = .025 + .54, so d0 = .565 / .73
    drift = np.array([[0.9, 0.1], [0.6, 0.4]])
    start, want = np.array([0.25, 0.75]), [0.565 / 0.73, 0.165 / 0.73]
    expect(array(answer, drift, start, 0.9), want, "a random start, gamma = 0.9", atol=1e-6)
    expect(array(answer, drift, start, 0.0), start, "gamma = 0", atol=1e-6)


@exercise("2.3", "The Bellman backup for Q (27)", answer="my_backup")
def backup(answer):
    """Two states, three actions, gamma 1/2; each of the usual mistakes gives other numbers."""
    Q = np.array([[1, 2, 3], [10, 20, 30]], dtype=float)
    # V = (.5 * 1 + .5 * 2, .2 * 10 + .3 * 20 + .5 * 30) = (1.5, 23)
    # next: (1.5, 12.25, 23) in state 0; (.75 * 1.5 + .25 * 23, 23, 1.5) = (6.875, 23, 1.5) in state 1
    want = [[1.75, 6.125, 13.5], [3.4375, 14.5, 1.75]]
    mistakes = {
        # V = (3, 30), next (3, 16.5, 30) and (9.75, 30, 3)
        "max over actions": ([[2.5, 8.25, 17], [4.875, 18, 2.5]], "(27) takes the mean over the policy."),
        # V = (2, 20), next (2, 11, 20) and (6.5, 20, 2)
        "ignores the policy": ([[2, 5.5, 12], [3.25, 13, 2]], "The actions in s' are not equally likely."),
        "missing gamma": ([[2.5, 12.25, 25], [6.875, 26, 2.5]], "What comes later is discounted."),
        "missing reward": ([[0.75, 6.125, 11.5], [3.4375, 11.5, 0.75]], "The first step pays r(s, a)."),
        "discounts the reward": ([[1.25, 6.125, 12.5], [3.4375, 13, 1.25]], "The first reward is paid now."),
        # state 0: pi(.|0) on both rows of Q gives (1.5, 15); state 1: pi(.|1) gives (2.3, 23)
        "policy of the first state": (
            [[1.75, 4.125, 9.5], [3.7375, 14.5, 2.15]],
            "The next action is drawn in s', not in s.",
        ),
    }
    expect(array(answer, Q, P, R, PI, 0.5), want, "2 states, 3 actions, gamma = 0.5", mistakes)
    rng = np.random.default_rng(2)
    P4, PI4 = rng.dirichlet(np.ones(4), size=(4, 2)), rng.dirichlet([1, 1], size=4)
    R4, Q4 = rng.normal(size=(2, 4, 2))
    got = array(answer, Q4, P4, R4, PI4, 0.9)
    expect(got, q_backup(Q4, P4, R4, PI4, 0.9), "4 states, 2 actions drawn at random, gamma = 0.9")


@exercise("2.4", "The one-step advantage (30)", answer="my_advantage")
def advantage(answer):
    """Two states and two actions first, where a wrong axis does not raise; then other shapes."""
    V = np.array([4.0, 10.0])
    # next: (.9 * 4 + .1 * 10, .2 * 4 + .8 * 10) = (4.6, 8.8) in state 0
    # and (.6 * 4 + .4 * 10, .1 * 4 + .9 * 10) = (6.4, 9.4) in state 1
    # r + .5 * next = (3.3, 4.4) and (3.2, 6.7); minus V(s)
    moves = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
    pays = np.array([[1.0, 0.0], [0.0, 2.0]])
    mistakes = {
        "V along the wrong axis": ([[-0.7, -5.6], [-0.8, -3.3]], "Row s must lose V(s)."),
        "missing gamma": ([[1.6, 4.8], [-3.6, 1.4]], "V(s') comes one step later."),
        "missing V(s)": ([[3.3, 4.4], [3.2, 6.7]], "This is Q; the advantage compares it with V(s)."),
        "sign": ([[0.7, -0.4], [6.8, 3.3]], "Better than the policy means positive."),
        "missing reward": ([[-1.7, 0.4], [-6.8, -5.3]], "The first step pays r(s, a)."),
        # .5 * (next - V) = (.3, 2.4) and (-1.8, -.3), plus r
        "discounts V(s) too": ([[1.3, 2.4], [-1.8, 1.7]], "Only V(s') lies in the future."),
    }
    want = [[-0.7, 0.4], [-6.8, -3.3]]
    expect(array(answer, V, moves, pays, 0.5), want, "2 states, 2 actions, gamma = 0.5", mistakes)
    # next of V = (4, 10): (4, 7, 10) and (5.5, 10, 4); times 0, so A = r - V(s)
    want = [[-3, -4, -2], [-10, -7, -9]]
    expect(array(answer, V, P, R, 0.0), want, "2 states, 3 actions, gamma = 0")
    # r + .9 * next - V(s) = (1 + 3.6 - 4, 6.3 - 4, 2 + 9 - 4) and (4.95 - 10, 3 + 9 - 10, 1 + 3.6 - 10)
    want = [[0.6, 2.3, 7], [-5.05, 2, -5.4]]
    expect(array(answer, V, P, R, 0.9), want, "2 states, 3 actions, gamma = 0.9")


@exercise("2.5", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """The buggy program lets probability, not value, flow: the end collects."""
    # where V(end) would level off: a, b and d leave it at 0, as r(end) = 0 and the end leads to itself
    wrong = {
        "a": ("no discount", "Without gamma the end stays at 0: it pays nothing and leads to itself."),
        "b": ("best action", "The best action raises the states; the end has nothing to choose from."),
        "d": ("scaled reward", "A tenth of the rewards makes a tenth of each value; the end stays at 0."),
    }
    choose(answer, "c", wrong)
