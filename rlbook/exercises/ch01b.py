"""Exercises of notebook 01b, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook import estimation, td
from rlbook.checks import Wrong, attempt, choose, exercise, expect


@exercise("1b.1", "The score-function gradient of a softmax policy, from samples (7)", answer="my_gradient")
def softmax_gradient(answer):
    """Three samples of a three-armed bandit by hand; then one baseline a sample."""
    # theta = (ln 2, 0): pi = (1/2, 1/4, 1/4), mean feature (1/2, 1/2),
    # scores (1/2, -1/2), (-1/2, 3/2), (-1/2, -1/2)
    features, theta = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), np.log([2.0, 1.0])
    action, reward = np.array([0, 1, 1]), np.array([4.0, 1.0, 3.0])
    expect(
        # reward - 1 = (3, 0, 2): (3 (1/2, -1/2) + 2 (-1/2, 3/2)) / 3 = (1/6, 1/2)
        attempt(answer, features, theta, action, reward, 1.0),
        want=[1 / 6, 1 / 2],
        given="features (1, 0), (0, 2), (0, 0), theta (ln 2, 0), actions 0 1 1, rewards 4 1 3, baseline 1",
        mistakes={
            # (3 (1, 0) + 2 (0, 2)) / 3
            "no expected features": ([1, 4 / 3], "The score is chosen features minus expected features."),
            # features less their plain mean (1/3, 2/3): (3 (2/3, -2/3) + 2 (-1/3, 4/3)) / 3
            "uniform expectation": ([4 / 9, 2 / 9], "The expected features are an average under the policy."),
            "sum instead of mean": ([1 / 2, 3 / 2], "The estimate is an average over the N samples."),
            # (4 (1/2, -1/2) + 4 (-1/2, 3/2)) / 3
            "ignores the baseline": ([0, 4 / 3], "The baseline has to come off each reward."),
            # (5 (1/2, -1/2) + 6 (-1/2, 3/2)) / 3
            "adds the baseline": ([-1 / 6, 13 / 6], "The baseline comes off the reward."),
            "sign": ([-1 / 6, -1 / 2], "This points downhill: F should grow along the gradient."),
        },
    )
    expect(
        # one baseline a sample: reward - baseline = (4 - 2, 1 - 3, 3 - 3) = (2, -2, 0):
        # (2 (1/2, -1/2) - 2 (-1/2, 3/2)) / 3 = (2/3, -4/3)
        attempt(answer, features, theta, action, reward, np.array([2.0, 3.0, 3.0])),
        want=[2 / 3, -4 / 3],
        given="the same samples with the baselines 2, 3, 3",
    )
    expect(
        # pi = (1/2, 1/2), one feature: scores -1 and 1; one sample of the second: (5 - 0) 1 = 5
        attempt(answer, np.array([[1.0], [3.0]]), np.zeros(1), np.array([1]), np.array([5.0]), 0.0),
        want=[5.0],
        given="one feature (1), (3), theta 0, one sample of action 1 with reward 5, baseline 0",
    )


@exercise("1b.2", "The leave-one-out baseline", answer="my_leave_one_out")
def leave_one_out(answer):
    """Means of the others by hand; two samples swap, equal rewards stay."""
    expect(
        # (2 + 6)/2, (1 + 6)/2, (1 + 2)/2
        attempt(answer, np.array([1.0, 2.0, 6.0])),
        want=[4, 3.5, 1.5],
        given="rewards 1, 2, 6",
        mistakes={
            "own mean": ([3, 3, 3], "Each reward still sits in its own baseline."),
            "divides by N": ([8 / 3, 7 / 3, 1], "N - 1 rewards are left, so N - 1 of them are averaged."),
            "keeps the own reward": ([4.5, 4.5, 4.5], "The sum still holds the reward of the sample itself."),
            "returns the advantage": ([-3, -1.5, 4.5], "Return the baseline; the reward comes off it later."),
            "one neighbour": ([6, 1, 2], "Average all the other rewards, not one of them."),
        },
    )
    expect(attempt(answer, np.array([5.0, -1.0])), want=[-1, 5], given="rewards 5, -1")
    expect(attempt(answer, np.full(4, 2.0)), want=[2, 2, 2, 2], given="four rewards of 2")


@exercise("1b.3", "One TD(0) update, with the terminal mask (9)", answer="my_td_update")
def td_update(answer):
    """One step by hand, not terminated and terminated; the table passed in must not change."""
    expect(
        # y = 1.5 + 0.5 * 3 = 3, delta = 3 - 2 = 1, V(1) = 2 + 0.1 * 1 = 2.1
        attempt(answer, np.array([0.5, 2.0, 3.0]), 1, 1.5, 2, False, 0.5, 0.1),
        want=[0.5, 2.1, 3],
        given="V = (0.5, 2, 3), step from 1 to 2 with reward 1.5, not terminated, gamma 0.5, eta 0.1",
        mistakes={
            "no discount": ([0.5, 2.25, 3], "gamma multiplies V(s')."),  # 2 + 0.1 (1.5 + 3 - 2)
            "sign": ([0.5, 1.9, 3], "Move V(s) towards the target, not away from it."),
            "no step size": ([0.5, 3, 3], "Move V(s) by eta times the error, not all the way."),
            "updates the next state": ([0.5, 2, 3.1], "The error belongs to the state that was left."),
            "flag upside down": ([0.5, 1.95, 3], "This step did not end the episode, so V(s') counts."),
            "forgets V(s)": ([0.5, 2.3, 3], "The error is the target minus V(s)."),  # 2 + 0.1 * 3
            # 2 + 0.1 (0.5 * 4.5 - 2)
            "discounts the reward": ([0.5, 2.025, 3], "gamma multiplies V(s'), not the reward."),
            "no update": ([0.5, 2, 3], "The table came back as it was: return the new one."),
        },
    )
    expect(
        # y = 1, delta = 1 - 0.2 = 0.8, V(0) = 0.2 + 0.5 * 0.8 = 0.6
        attempt(answer, np.array([0.2, 5.0]), 0, 1.0, 1, True, 0.9, 0.5),
        want=[0.6, 5],
        given="V = (0.2, 5), step from 0 to 1 with reward 1, terminated, gamma 0.9, eta 0.5",
        mistakes={
            "no terminal mask": ([2.85, 5], "After a terminal step the target is the reward alone."),
            "skips terminal steps": ([0.2, 5], "A terminal step still teaches: its target is the reward."),
        },
    )
    expect(
        # s' = s: delta = -2 + 0.5 * 4 - 4 = -4, V = 4 - 0.25 * 4 = 3
        attempt(answer, np.array([1.0, 4.0]), 1, -2.0, 1, False, 0.5, 0.25),
        want=[1, 3],
        given="V = (1, 4), step from 1 to 1 with reward -2, gamma 0.5, eta 0.25",
    )
    table = np.array([0.5, 2.0, 3.0])
    answer(table, 1, 1.0, 2, False, 0.5, 0.1)
    if table[1] != 2.0:
        raise Wrong(f"the table you were given now holds {table[1]:g} at state 1", "changes its argument")


@exercise("1b.4", "The lambda-return", answer="my_lambda_return")
def lambda_return(answer):
    """A short stretch by hand; then the two ends of lambda and a terminal step inside."""
    reward, next_value = np.array([1.0, 2.0, 2.0]), np.array([2.0, 4.0, 8.0])
    running = np.array([False, False, False])
    expect(
        # G_2 = 2 + 0.5 * 8 = 6
        # G_1 = 2 + 0.5 (0.75 * 4 + 0.25 * 6) = 4.25
        # G_0 = 1 + 0.5 (0.75 * 2 + 0.25 * 4.25) = 2.28125
        attempt(answer, reward, next_value, running, 0.5, 0.25),
        want=[2.28125, 4.25, 6],
        given="rewards 1, 2, 2, next values 2, 4, 8, no terminal step, gamma 0.5, lambda 0.25",
        mistakes={
            # G_1 = 2 + 0.5 (0.25 * 4 + 0.75 * 6), G_0 = 1 + 0.5 (0.25 * 2 + 0.75 * 4.75)
            "lambda swapped": ([3.03125, 4.75, 6], "lambda = 0 must give the one-step target."),
            # G_2 = 2, G_1 = 2 + 0.5 (3 + 0.5), G_0 = 1 + 0.5 (1.5 + 0.9375)
            "no bootstrap at the end": ([2.21875, 3.75, 2], "The last step bootstraps from its next value."),
            # G_1 = 2 + 0.5 * 3 + 0.25 * 6, G_0 = 1 + 0.5 * 1.5 + 0.25 * 5
            "lambda part not discounted": ([3, 5, 6], "gamma multiplies both parts of the mixture."),
            # G_1 = 2 + 0.5 (4 + 1.5), G_0 = 1 + 0.5 (2 + 1.1875)
            "forgets 1 - lambda": ([2.59375, 4.75, 6], "The two weights of the mixture add up to 1."),
            "one-step target": ([2, 4, 6], "This is r + gamma V(s'): lambda plays no part in it."),
            # 2 + 0.5 * 6, 1 + 0.5 * 5
            "Monte-Carlo return": ([3.5, 5, 6], "lambda weighs the next value against the next return."),
            "runs forwards": ([2, 3.75, 5.46875], "Start at the end: G_t needs the return that comes after."),
        },
    )
    expect(
        # G_1 = 2: terminal; G_0 = 1 + 0.5 (0.75 * 2 + 0.25 * 2) = 2
        attempt(answer, reward, next_value, np.array([False, True, False]), 0.5, 0.25),
        want=[2, 2, 6],
        given="the same steps, the second one terminal",
        mistakes={
            "no terminal mask": ([2.28125, 4.25, 6], "A terminal step is worth its reward and nothing more."),
            # G_1 = 2 + 0.5 * 0.25 * 6 = 2.75, G_0 = 1 + 0.5 (1.5 + 0.6875)
            "sum runs past the end": ([2.09375, 2.75, 6], "The next return belongs to another episode."),
            # G_1 = 2 + 0.5 * 0.75 * 4 = 3.5, G_0 = 1 + 0.5 (1.5 + 0.875)
            "value past the end": ([2.1875, 3.5, 6], "A terminal step does not bootstrap either."),
        },
    )
    expect(
        attempt(answer, np.array([3.0]), np.array([10.0]), np.array([False]), 0.9, 1.0),
        want=[12],  # 3 + 0.9 * 10
        given="one step with reward 3, next value 10, gamma 0.9, lambda 1",
    )


@exercise("1b.5", "Which bug made this curve?", answer="my_choice")
def bug_hunt(answer):
    """Where each bug would let the last state settle."""
    choose(
        answer,
        right="b",
        wrong={
            "a": ("no discount", "Without gamma V is the chance of the right exit, here 5/6."),
            "c": ("rewards only", "Without bootstrapping V is the mean reward of one step: 1/2."),
            "d": ("large steps", "A large eta makes the curve rough, but it stays around the right value."),
        },
    )


def gradient(features, theta, action, reward, baseline):
    """The ready answer to 1b.1."""
    score = estimation.softmax_score(features, theta)[action]
    return estimation.score_function_gradient(reward, score, baseline)


def others_mean(reward):
    """The ready answer to 1b.2."""
    return np.array([np.delete(reward, i).mean() for i in range(len(reward))])


def one_update(value, s, reward, s_next, terminated, discount, step_size):
    """The ready answer to 1b.3."""
    return td.td_lambda([s], [reward], [s_next], [terminated], [False], discount, 0.0, step_size, value)


def two_learners(rng, steps, seeds):
    """The curves of 1b.5: V of the last state, (seeds, steps + 1) each, for a sound and a broken TD(0).

    Both see the same walks on five states (gamma 0.95, eta 0.05, every value starts at 0.5).
    """
    n, discount, eta = 5, 0.95, 0.05
    start, end = n // 2, n
    streams = np.arange(seeds)
    state = np.full(seeds, start)
    tables = np.full((2, seeds, n + 1), 0.5)
    tables[:, :, end] = 0
    curves = np.empty((2, seeds, steps + 1))
    curves[:, :, 0] = 0.5
    for t in range(steps):
        right = rng.random(seeds) < 0.5
        reward = ((state == n - 1) & right).astype(float)
        reached = np.where(right, state + 1, state - 1)
        over = (reached < 0) | (reached == n)
        after_reset = np.where(over, start, reached)
        for table, follows in zip(tables, (np.where(over, end, reached), after_reset), strict=True):
            delta = reward + discount * table[streams, follows] - table[streams, state]
            table[streams, state] += eta * delta
        state = after_reset
        curves[:, :, t + 1] = tables[:, :, n - 1]
    return curves
