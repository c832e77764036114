"""Exercises of notebook 04d, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook import td
from rlbook.checks import Wrong, attempt, choose, exercise, expect
from rlbook.estimation import softmax


@exercise("4d.1", "The clipped surrogate (78)", answer="my_clipped")
def clipped_surrogate(answer):
    """Both sides of the band with both signs by hand; then another band, and random pairs."""
    ratio, advantage = np.array([0.5, 0.9, 1.5] * 2), np.repeat([2.0, -2.0], 3)
    expect(
        # A = 2: min(1, 1.6), min(1.8, 1.8), min(3, 2.4); A = -2: min(-1, -1.6), -1.8, min(-3, -2.4)
        attempt(answer, ratio, advantage, 0.2),
        want=[1, 1.8, 2.4, -1.6, -1.8, -3],
        given="ratios 0.5, 0.9, 1.5 with A = 2, then with A = -2, eps 0.2",
        mistakes={
            "always clips": (
                [1.6, 1.8, 2.4, -1.6, -1.8, -2.4],
                "A good action at ratio 0.5 and a bad one at 1.5 went the wrong way: both count in full.",
            ),
            "max for min": ([1.6, 1.8, 3, -1, -1.8, -2.4], "The larger of the two is the optimistic one."),
            "clips above only": (
                [1, 1.8, 2.4, -1, -1.8, -3],
                "A ratio of 0.5 with a negative advantage should be held at 0.8.",
            ),
            "clips below only": (
                [1, 1.8, 3, -1.6, -1.8, -3],
                "A ratio of 1.5 with a positive advantage should be held at 1.2.",
            ),
            "no clip": ([1, 1.8, 3, -1, -1.8, -3], "This is ratio times advantage, the term of (77)."),
            "minimum of the ratios": (
                [1, 1.8, 2.4, -1, -1.8, -2.4],
                "The minimum is over the two products: for A < 0 the larger ratio gives the smaller product.",
            ),
            "clips the product": (
                [1, 1.2, 1.2, -1, -1.8, -3],
                "The band is around 1, so it is the ratio that is clipped.",
            ),
            "sign": ([-1, -1.8, -2.4, 1.6, 1.8, 3], "(78) is to be made large; the loss is its negative."),
        },
    )
    expect(
        # eps 0.5, band (0.5, 1.5): min(1.6, 1.5) 1 = 1.5; -max(0.4, 0.5) 3 = -1.5; A = 0 gives 0
        attempt(answer, np.array([1.6, 0.4, 7.0]), np.array([1.0, -3.0, 0.0]), 0.5),
        want=[1.5, -1.5, 0],
        given="ratios 1.6, 0.4, 7 with A = 1, -3, 0, eps 0.5",
    )
    rng = np.random.default_rng(0)
    ratio, advantage = rng.lognormal(0, 1, (20, 2)), rng.normal(size=(20, 2))
    # by cases: a positive advantage is capped above, a negative one held below
    want = np.where(advantage > 0, np.minimum(ratio, 1.1), np.maximum(ratio, 0.9)) * advantage
    expect(attempt(answer, ratio, advantage, 0.1), want, given="a table of 40 random pairs, eps 0.1")


# Five steps of one copy: step 1 ends an episode, step 3 is cut by a time limit, step 4 is the last we have.
# next_value is what the network says about the state each step led to, also where that must not count.
SEGMENT = dict(
    reward=np.array([1.0, 3.0, 2.0, 1.0, 2.0]),
    value=np.array([2.0, 2.0, 1.0, 4.0, 3.0]),
    next_value=np.array([2.0, 6.0, 4.0, 8.0, 6.0]),
    terminated=np.array([False, True, False, False, False]),
    truncated=np.array([False, False, False, True, False]),
)


@exercise("4d.2", "Generalised advantages and value targets, with both flags (80), (81)", answer="my_gae")
def advantages_and_targets(answer):
    """One segment by hand with an end, a cut and an open end; then a random one as a double sum."""
    # delta = (1 + 1 - 2, 3 + 0 - 2, 2 + 2 - 1, 1 + 4 - 4, 2 + 3 - 3) = (0, 1, 3, 1, 2), gamma lambda = 1/4
    # A_4 = 2, A_3 = 1 (the sum stops), A_2 = 3 + 1/4 = 3.25, A_1 = 1, A_0 = 0 + 1/4
    given = "rewards 1, 3, 2, 1, 2, step 1 terminated, step 3 truncated, gamma 1/2, lambda 1/2"
    advantage, target = pair(answer, *SEGMENT.values(), 0.5, 0.5)
    mistakes = {
        # delta_1 = 3 + 3 - 2 = 4, so A_1 = 4 and A_0 = 1
        "no terminal mask": ([1, 4, 3.25, 1, 2], "Step 1 ended the episode: nothing follows, so V(s') = 0."),
        # delta_3 = 1 - 4 = -3, so A_3 = -3 and A_2 = 3 - 3/4
        "a cut taken for an end": (
            [0.25, 1, 2.25, -3, 2],
            "Step 3 was only cut: the future goes on unseen, and V(s') stands for it.",
        ),
        # A_3 = 1 + 2/4 = 1.5, A_2 = 3 + 1.5/4
        "sum crosses the cut": (
            [0.25, 1, 3.375, 1.5, 2],
            "Step 4 belongs to another episode: the sum stops at a cut.",
        ),
        # A_2 = 3.25, A_1 = 1 + 3.25/4, A_0 = A_1 / 4
        "sum crosses the end": (
            [0.453125, 1.8125, 3.25, 1, 2],
            "Step 2 belongs to another episode: the sum stops at an end.",
        ),
        # A_1 = 1, A_0 = 1/2; A_2 = 3.5
        "lambda without gamma": ([0.5, 1, 3.5, 1, 2], "Each further step counts gamma lambda less."),
        "no sum": ([0, 1, 3, 1, 2], "These are the TD errors; (80) adds those that follow."),
        # runs from the front: A_0 = 0, A_1 = 1, A_2 = 3 (after an end), A_3 = 1 + 3/4, A_4 = 2 (after a cut)
        "runs forwards": ([0, 1, 3, 1.75, 2], "A_t needs the steps after t, not those before."),
    }
    # (0.25, 1, 3.25, 1, 2) has mean 1.5 and population variance 1.075
    z = (np.array([0.25, 1, 3.25, 1, 2]) - 1.5) / np.sqrt(1.075)
    mistakes["normalised"] = (z, "(80) is raw. Normalise later, for the policy loss only.")
    expect(advantage, [0.25, 1, 3.25, 1, 2], "advantages, " + given, mistakes, atol=1e-6)
    mistakes = {
        "target without V": ([0.25, 1, 3.25, 1, 2], "The target is a value: advantage plus V(s)."),
        # delta + V
        "one-step target": ([2, 3, 4, 5, 5], "Add V to the advantage (80), not to the TD error."),
        "target from normalised advantages": (
            SEGMENT["value"] + z,
            "The target is in units of reward: use the raw advantage.",
        ),
        "target adds V of the next state": (
            [2.25, 7, 7.25, 9, 8],
            "The target is for V(s), so V(s) is added back.",
        ),
    }
    expect(target, [2.25, 3, 4.25, 5, 5], "targets, " + given, mistakes, atol=1e-6)
    rng = np.random.default_rng(3)
    columns = [rng.normal(size=12) for _ in range(3)] + [np.arange(12) == 7, np.isin(np.arange(12), [3, 10])]
    advantage, target = pair(answer, *columns, 0.9, 0.8)
    want = double_sum(*columns, 0.9, 0.8)
    expect(advantage, want, "advantages of 12 random steps, gamma 0.9, lambda 0.8", atol=1e-6)
    expect(target, want + columns[1], "targets of 12 random steps, gamma 0.9, lambda 0.8", atol=1e-6)


@exercise("4d.3", "The loss of PPO, minus (85)", answer="my_loss")
def combined_loss(answer):
    """Two samples by hand; then one where each of the three parts is off in turn."""
    ratio, advantage = np.array([1.5, 0.5]), np.array([2.0, 3.0])
    value, target = np.array([1.0, 4.0]), np.array([3.0, 3.0])
    probs = np.array([[0.5, 0.5], [0.25, 0.75]])
    first = ratio, advantage, value, target, probs
    # (78): 1.2 * 2 = 2.4 and 0.5 * 3 = 1.5, mean 1.95; (82): 4 and 1, mean 2.5;
    # (83): ln 2 and (1/4) ln 4 + (3/4) ln (4/3), mean H; loss = -(1.95 - 0.4 * 2.5 + 0.1 H) = -0.95 - 0.1 H
    H = (np.log(2) + 0.25 * np.log(4) + 0.75 * np.log(4 / 3)) / 2
    expect(
        attempt(answer, *first, 0.2, 0.4, 0.1),
        want=-0.95 - 0.1 * H,
        given="ratios 1.5, 0.5, A = 2, 3, V = 1, 4, targets 3, 3, probabilities (1/2, 1/2), (1/4, 3/4), "
        "eps 0.2, c1 0.4, c2 0.1",
        mistakes={
            "sign": (
                0.95 + 0.1 * H,
                "This is the objective (85). A loss to minimise is minus it.",
            ),
            "value sign": (-2.95 - 0.1 * H, "This loss falls when the critic gets worse."),
            "entropy sign": (-0.95 + 0.1 * H, "The bonus must lower the loss of a more random policy."),
            "half the value loss": (-1.45 - 0.1 * H, "(82) has no 1/2: c1 already sets the weight."),
            "sum for mean": (-1.9 - 0.2 * H, "(85) is a mean over the samples."),
            "coefficients swapped": (-1.7 - 0.4 * H, "c1 weighs the value loss, c2 the entropy."),
            "no clip": (-1.25 - 0.1 * H, "The policy term is (78), not ratio times advantage."),
            "forgets the critic": (-1.95 - 0.1 * H, "The value loss is missing."),
            # ln 2 + ln 4 + ln (4/3) over two rows and two actions: the mean of -p ln p over all entries
            "entropy averaged over actions": (-0.95 - 0.05 * H, "(83) is a sum over actions."),
        },
    )
    flat = np.full((1, 3), 1 / 3)
    # ratio 1, A = 0, V on target: only the bonus is left, -0.5 ln 3
    expect(
        attempt(answer, np.ones(1), np.zeros(1), np.ones(1), np.ones(1), flat, 0.2, 0.4, 0.5),
        want=-0.5 * np.log(3),
        given="A = 0, V on target, three equally likely actions, c2 0.5",
    )
    # ratio 0.5, A = -1: min(-0.5, -0.9) = -0.9; error 2 - 5 = -3, 0.25 * 9 = 2.25; sum -(-0.9 - 2.25)
    expect(
        attempt(answer, np.array([0.5]), -np.ones(1), np.array([2.0]), np.array([5.0]), flat, 0.1, 0.25, 0.0),
        want=3.15,
        given="ratio 0.5, A = -1, V = 2, target 5, eps 0.1, c1 0.25, c2 0",
    )


@exercise("4d.4", "Find the bug from the curves", answer="my_bug")
def bug(answer):
    """Only one of the four makes the logged ratios 1 for ever."""
    choose(
        answer,
        right="b",
        wrong={
            "a": (
                "clip range ten times too wide",
                "Then ratios would leave the band and the log would say so.",
            ),
            "c": (
                "max for min",
                "With max good ratios run above 1.2, and the log would count them.",
            ),
            "d": (
                "advantage sign",
                "A flipped sign moves ratios out of the band too; the log would show it.",
            ),
        },
    )


def pair(answer, *args):
    """The two arrays that the answer returns."""
    got = attempt(answer, *args)
    if not isinstance(got, (list, tuple)) or len(got) != 2:
        raise Wrong(f"expected the pair advantage, target, got {type(got).__name__}")
    return got


def double_sum(reward, value, next_value, terminated, truncated, discount, lam):
    """(80) as the literal sum: L_i steps, up to and with the first end, cut or last step."""
    advantage = np.zeros(len(reward))
    for i in range(len(reward)):
        for t in range(i, len(reward)):
            after = 0.0 if terminated[t] else next_value[t]
            advantage[i] += (discount * lam) ** (t - i) * (reward[t] + discount * after - value[t])
            if terminated[t] or truncated[t]:
                break
    return advantage


def by_cases(ratio, advantage, eps):
    """The ready answer to 4d.1."""
    return np.where(advantage > 0, np.minimum(ratio, 1 + eps), np.maximum(ratio, 1 - eps)) * advantage


def two_flags(reward, value, next_value, terminated, truncated, gamma, lam):
    """The ready answer to 4d.2."""
    return td.gae(reward, value, next_value, terminated, truncated, gamma, lam)


def three_parts(ratio, advantage, value, target, probs, eps, c1, c2):
    """The ready answer to 4d.3."""
    critic, bonus = (value - target) ** 2, -(probs * np.log(probs)).sum(axis=1)
    return -(by_cases(ratio, advantage, eps) - c1 * critic + c2 * bonus).mean()


def two_programs(logits, state, action, advantage, steps, step_size):
    """The curves of 4d.4: (KL from the sampling policy, logged share outside), (2, steps + 1) each.

    Gradient ascent on one batch with eps 0.2, tabular softmax; row 0 a sound program, row 1 a broken one.
    """
    kl, logged = np.empty((2, 2, steps + 1))
    sampled = softmax(logits)
    share = np.bincount(state, minlength=len(logits)) / len(state)
    for program in range(2):
        theta = logits.copy()
        for k in range(steps + 1):
            pi = softmax(theta)
            old = pi if program else sampled
            ratio = pi[state, action] / old[state, action]
            kl[program, k] = share @ (sampled * np.log(sampled / pi)).sum(axis=1)
            logged[program, k] = np.mean(np.abs(ratio - 1) > 0.2)
            flows = np.where(advantage > 0, ratio <= 1.2, ratio >= 0.8)
            pull = np.zeros_like(theta)
            np.add.at(pull, (state, action), flows * ratio * advantage / len(state))
            theta = theta + step_size * (pull - pi * pull.sum(axis=1, keepdims=True))
    return kl, logged
