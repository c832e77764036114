"""Exercises of notebook 03b, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook import td
from rlbook.checks import Wrong, attempt, choose, exercise, expect
from rlbook.estimation import softmax


def critic_gradient(w, features, reward, next_features, terminated, discount):
    """Semi-gradient, one sample at a time; what notebook 03b goes on with while exercise 3b.1 is open."""
    total = np.zeros(len(w))
    for x, r, x_next, ended in zip(features, reward, next_features, terminated, strict=True):
        future = 0.0 if ended else discount * (w @ x_next)
        total -= (r + future - w @ x) * x
    return total / len(reward)


def segment_advantage(reward, value, next_value, terminated, truncated, discount):
    """(46) by the package's gae at lambda = 1; the ready answer of exercise 3b.2."""
    return td.gae(reward, value, next_value, terminated, truncated, discount, 1.0)[0]


def actor_gradient(score, advantage, mask):
    """(39) step by step; the ready answer of exercise 3b.3."""
    total = np.zeros(score.shape[2])
    for t, i in np.argwhere(mask):
        total += advantage[t, i] * score[t, i]
    return total / score.shape[1]


def two_programs(mdp, logits, updates, lr=0.02, period=25):
    """J and the length of each update of the two programs of exercise 3b.4."""
    curves = []
    for every in (1, period):
        theta, J, length = logits, [], []
        for k in range(updates):
            if k % every == 0:
                gradient = mdp.policy_gradient(theta)
            J.append(mdp.evaluate(softmax(theta)).J)
            length.append(lr * np.linalg.norm(gradient))
            theta = theta + lr * gradient
        curves.append((np.array(J), np.array(length)))
    return curves


def array(answer, *args):
    """What the answer returns; an array, because later cells compute with it."""
    got = attempt(answer, *args)
    if isinstance(got, (list, tuple)):
        raise Wrong(f"expected a NumPy array, got {type(got).__name__}")
    return got


@exercise("3b.1", "The critic's semi-gradient (45)", answer="my_critic_gradient")
def critic(answer):
    """Three transitions by hand, one of them terminal, one without error; then one feature."""
    w, features = np.array([1.0, 2.0]), np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    next_features, reward = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]), np.array([1.0, 5.0, 2.0])
    # V = (1, 3, 2), V' = (2, 2, 0); delta = (1 + 1 - 1, 5 - 3, 2 - 2) = (1, 2, 0)
    # -(1 (1, 0) + 2 (1, 1)) / 3 = (-1, -2/3)
    mistakes = {
        # adds gamma delta phi' of the first step: (0, 0.5) / 3
        "through the target": ([-1, -0.5], "Hold the target fixed: V(s') is a number here."),
        "sign": ([1, 2 / 3], "This is what you subtract from w; it must lower the error."),
        # delta = (1, 5 + 1 - 3 = 3, 0)
        "no terminal mask": ([-4 / 3, -1], "After a terminal step the target is the reward alone."),
        "sum instead of mean": ([-3, -2], "The loss is a mean over the N samples."),
        "forgets the half": ([-2, -4 / 3], "It is half of the squared error."),
        "no discount": ([-4 / 3, -2 / 3], "gamma multiplies V(s')."),  # delta = (2, 2, 0)
        "features of the next state": ([-4 / 3, -1 / 3], "V(s) is the one that moves."),
        "skips terminal steps": ([-1 / 3, 0], "A terminal step still teaches: its target is the reward."),
        # delta = (2, 5, 2)
        "forgets V(s)": ([-7 / 3, -7 / 3], "The error is the target minus V(s)."),
    }
    args = (w, features, reward, next_features, np.array([False, True, False]), 0.5)
    expect(
        array(answer, *args), [-1, -2 / 3], "w (1, 2), three samples, the second ends, gamma 0.5", mistakes
    )
    # V = (2, 4, 1), V' = (4, 2, 6), delta = (0 + 3.6 - 2, 1 + 1.8 - 4, -1 - 1) = (1.6, -1.2, -2)
    # -(1.6 * 1 - 1.2 * 2 - 2 * 0.5) / 3 = 0.6
    args = (
        np.array([2.0]),
        np.array([[1.0], [2.0], [0.5]]),
        np.array([0.0, 1.0, -1.0]),
        np.array([[2.0], [1.0], [3.0]]),
        np.array([False, False, True]),
        0.9,
    )
    expect(array(answer, *args), [0.6], "one feature, three samples, the last ends, gamma 0.9")


@exercise("3b.2", "The advantage of a segment (46)", answer="my_advantage")
def advantage(answer):
    """Three steps by hand: nothing ends, then an end, then a cut, inside the segment."""
    reward, value, next_value = (
        np.array([1.0, 2.0, 3.0]),
        np.array([4.0, 6.0, 2.0]),
        np.array([6.0, 2.0, 8.0]),
    )
    no, second = np.zeros(3, bool), np.array([False, True, False])
    # G = (1 + 2.75, 2 + 3.5, 3 + 4) = (3.75, 5.5, 7)
    mistakes = {
        # G = (2.75, 3.5, 3)
        "no bootstrap at the end": (
            [-1.25, -2.5, 1],
            "The episode is not over: ask the critic.",
        ),
        "forgets V(s)": ([3.75, 5.5, 7], "This is the return; the advantage compares it with V(s)."),
        "one-step error": (
            [0, -3, 5],
            "Sum the rewards to the end of the segment first.",
        ),
        "no discount": ([10, 7, 9], "Every step ahead costs a factor gamma."),  # G = (14, 13, 11)
        "sign": ([0.25, 0.5, -5], "Better than expected means positive."),
        # G_2 = 3 + 1
        "value of the wrong state": ([-1, -2, 2], "The last step bootstraps from the state it leads to."),
    }
    given = "rewards 1, 2, 3, values 4, 6, 2, next values 6, 2, 8, no flags, gamma 0.5"
    expect(array(answer, reward, value, next_value, no, no, 0.5), [-0.25, -0.5, 5], given, mistakes)
    # G = (1 + 1, 2, 7)
    mistakes = {
        "bootstraps from the end": ([-1.5, -3, 5], "After a terminal step nothing follows."),  # G_1 = 2 + 1
        "runs on into the next episode": ([-0.25, -0.5, 5], "The sum stops where the episode stops."),
    }
    given = "the same, with an end after the second step"
    expect(array(answer, reward, value, next_value, second, no, 0.5), [-2, -4, 5], given, mistakes)
    # the cut step leads to a value of 12, after the reset comes one of 2: G_1 = 2 + 6, G_0 = 1 + 4
    mistakes = {
        "a cut is not an end": ([-2, -4, 5], "A truncated episode would have gone on: bootstrap."),
        "runs on past the cut": ([-0.25, -0.5, 5], "The sum stops where the episode stops."),
        "value after the reset": (
            [-1.5, -3, 5],
            "value[t + 1] is the state after the reset.",
        ),
    }
    given = "next values 6, 12, 8, with a time limit after the second step"
    cut_value = np.array([6.0, 12.0, 8.0])
    expect(array(answer, reward, value, cut_value, no, second, 0.5), [1, 2, 5], given, mistakes)
    # a single step that ends: 1 - 4
    one = np.ones(1)
    expect(
        array(answer, one, 4 * one, 9 * one, one > 0, one < 0, 0.9), [-3], "one step that ends the episode"
    )
    # both flags on the last step: it ended, whatever the limit says; 2 steps, G = (1 + 0.9 * 2, 2)
    two = np.array([1.0, 2.0])
    last = np.array([False, True])
    got = array(answer, two, np.zeros(2), np.array([0.0, 9.0]), last, last, 0.9)
    expect(got, [2.8, 2], "an end in the very step of the time limit", atol=1e-9)


@exercise("3b.3", "The mean over trajectories (39)", answer="my_actor_gradient")
def actor(answer):
    """Two trajectories of 1 and 3 steps, the padding full of nines; then three of equal length."""
    score = np.full((3, 2, 2), 9.0)
    score[0, 0], score[:, 1] = (1, 0), [(0, 1), (1, 1), (2, 0)]
    weight, mask = np.array([[2.0, 1.0], [5.0, 2.0], [5.0, 3.0]]), np.array([[1, 1], [0, 1], [0, 1]], bool)
    # sums (2, 0) and (0, 1) + (2, 2) + (6, 0) = (8, 3), mean (5, 1.5)
    mistakes = {
        "mean over steps": ([2.5, 0.75], "This divides by the 4 steps; there are 2 trajectories."),
        # ((2, 0) + (8, 3) / 3) / 2
        "mean of means": ([7 / 3, 0.5], "Each trajectory counts with its sum, not with its mean."),
        "divides by the padded size": ([5 / 3, 0.5], "Divide by the number of trajectories only."),
        # padding adds 9 * 5 twice: (8 + 2 + 90, 3 + 90) / 2
        "no mask": ([50, 46.5], "What stands in the padding must not count."),
        "no mean": ([10, 3], "Take the mean over the trajectories."),
        "sign": ([-5, -1.5], "This is a gradient to climb, not a loss."),
        # scores (1, 0) + (0, 1) + (1, 1) + (2, 0) = (4, 2)
        "forgets the advantage": ([2, 1], "Each score counts with its advantage."),
    }
    given = "trajectories of 1 and 3 steps, advantages 2 and 1, 2, 3"
    expect(array(answer, score, weight, mask), [5, 1.5], given, mistakes)
    # two steps, three trajectories: sums 1 + 2, 2 + 0, 6 - 4; mean 7/3
    score = np.array([[1.0, 2.0, 3.0], [1.0, 0.0, -1.0]])[:, :, None]
    weight = np.array([[1.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    expect(array(answer, score, weight, np.ones((2, 3), bool)), [7 / 3], "three trajectories of two steps")
    # one trajectory of one step: 2 * 3
    got = array(answer, np.full((4, 1, 1), 3.0), np.full((4, 1), 2.0), np.arange(4)[:, None] < 1)
    expect(got, [6], "one trajectory of one step, padded to four")


@exercise("3b.4", "Find the bug from the curve", answer="my_choice")
def bug(answer):
    """Program 2 repeats one gradient 25 times: its worker works on an old copy."""
    wrong = {
        "a": (
            "delay",
            "A delay only shifts a smooth curve; after update 25 no two would agree.",
        ),
        "c": ("noise", "Estimates from samples all differ; these are equal, 25 at a time."),
        "d": ("lost updates", "A lost update has the length 0; no length here is 0."),
    }
    choose(answer, "b", wrong)
