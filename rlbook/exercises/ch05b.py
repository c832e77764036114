"""Exercises of notebook 05b, and the ready answers that its later cells use while one is unsolved."""

from itertools import product
from math import comb

import numpy as np
import torch

from rlbook.checks import Wrong, attempt, choose, exercise, expect
from rlbook.llm import advantages


@exercise("5b.1", "The group advantage (90), (91)", answer="my_advantage")
def group_advantage(answer):
    """Two groups, rows mixed, by hand; equal groups, alone and beside others; groups nearly equal."""
    rewards, group = np.array([1.0, 0.2, 0, 0, 0.6, 0]), np.array([0, 1, 0, 0, 1, 0])
    # group 0 is (1, 0, 0, 0): mean 1/4, variance 3/16, so (3, -1, -1, -1) / sqrt 3;
    # group 1 is (0.2, 0.6): mean 0.4, deviation 0.2, so (-1, 1)
    want = np.array([3**0.5, -1, -(3**-0.5), -(3**-0.5), 1, -(3**-0.5)])
    centred = np.array([0.75, -0.2, -0.25, -0.25, 0.2, -0.25])
    size = np.array([4, 2, 4, 4, 2, 4])
    # the six together: mean 0.3, variance (0.49 + 0.01 + 0.09 * 4) / 6
    whole = rewards - 0.3
    spread = (0.86 / 6) ** 0.5
    expect(
        attempt(answer, rewards, group, 1e-8),
        want=want,
        given="rewards 1, 0.2, 0, 0, 0.6, 0 in groups 0, 1, 0, 0, 1, 0, eps 1e-8",
        mistakes={
            "sample standard deviation": (
                want * np.sqrt((size - 1) / size),
                "(90) divides the squares by G, not by G - 1 (ddof=0).",
            ),
            "whole batch": (whole / spread, "Compare within a group: rows of one prompt only."),
            "standard deviation of the whole batch": (
                centred / spread,
                "The mean is the group's, the deviation is not.",
            ),
            "not divided": (centred, "This is (98), Dr. GRPO's advantage."),
            "divided by the variance": (
                centred / (np.where(size == 4, 3 / 16, 0.04) + 1e-8),
                "Divide by the root of the variance.",
            ),
            "sign": (-want, "A reward above the mean is good."),
            "leave-one-out baseline": (
                want * size / (size - 1),
                "(90) is the mean of all G rewards, the row's own among them.",
            ),
            "no mean": (
                want + np.where(size == 4, 0.25 / (3 / 16) ** 0.5, 0.4 / 0.2),
                "Subtract the group's mean before you divide.",
            ),
        },
        atol=1e-6,
    )
    ties = np.full(6, 0.7)
    expect(
        attempt(answer, ties, np.zeros(6, int), 0.0),
        want=np.zeros(6),
        given="six rewards of 0.7, eps 0",
        mistakes={
            "no guard for ties": (
                -np.ones(6),
                "In floating point the mean of six times 0.7 is not 0.7. Ask whether max equals min.",
            ),
        },
        atol=1e-6,
    )
    rewards, group = np.array([0.7, 0, 0.7, 0.7, 0.7, 0.7, 0.7, 1]), np.array([0, 1, 0, 0, 0, 0, 0, 1])
    expect(
        attempt(answer, rewards, group, 0.0),
        want=[0, -1, 0, 0, 0, 0, 0, 1],
        given="six rewards of 0.7 in one group, 0 and 1 in another, eps 0",
        mistakes={
            "guard on the whole batch": (
                [-1] * 7 + [1],
                "Rewards of other groups differ, those of the first do not: ask in each group.",
            ),
        },
        atol=1e-6,
    )
    expect(
        # mean 2/3, variance 2/9: 1/3 and -2/3 over sqrt(2)/3
        attempt(answer, np.array([1.0, 0, 1]), np.zeros(3, int), 0.0),
        want=[0.5**0.5, -(2**0.5), 0.5**0.5],
        given="rewards 1, 0, 1, eps 0",
        mistakes={
            "first compared with last": (np.zeros(3), "The one between differs: compare max with min."),
        },
        atol=1e-6,
    )
    expect(
        # the variance is 25e-10, with eps 125e-10; 5e-5 / sqrt(125e-10) = 1 / sqrt 5
        attempt(answer, np.array([0.5, 0.5001]), np.zeros(2, int), 1e-8),
        want=np.array([-1, 1]) / 5**0.5,
        given="rewards 0.5 and 0.5001, eps 1e-8",
        mistakes={
            "eps outside the root": (
                np.array([-1, 1]) * 5 / 5.001,
                "(90) adds eps to the variance, before the root.",
            ),
            "no eps": (np.array([-1.0, 1.0]), "(90) adds eps to the variance."),
            "near ties taken for ties": (np.zeros(2), "These two differ: only equal rewards get 0."),
        },
        atol=1e-6,
    )
    expect(
        attempt(answer, np.array([0.5, 0.5 + 1e-7]), np.zeros(2, int), 0.0),
        want=[-1, 1],
        given="rewards 0.5 and 0.5000001, eps 0",
        mistakes={
            "tolerance in the guard": (np.zeros(2), "These two differ too: ask for max > min, exactly."),
        },
        atol=1e-6,
    )
    expect(
        # group 7 is (2, 5, 8): mean 5, variance 6; with eps 3 the root is 3; group 2 is alone
        attempt(answer, np.array([2.0, 9, 5, 8]), np.array([7, 2, 7, 7]), 3.0),
        want=[-1, 0, 0, 1],
        given="rewards 2, 9, 5, 8 in groups 7, 2, 7, 7, eps 3",
        atol=1e-6,
    )


@exercise("5b.2", "The objective of GRPO (97)", answer="my_objective")
def objective(answer):
    """Two rows by hand, one of them padded; then a random ragged batch as three nested loops."""
    ratio = np.array([[1.5, 1.0, 1.0], [0.4, 1.5, 1.0]])
    mask = np.array([[1, 0, 0], [1, 1, 1]], bool)
    A = np.array([2.0, -1.0])
    # row 0: min(3, 1.2 * 2) = 2.4, one token; row 1: min(-0.4, -0.8) = -0.8, min(-1.5, -1.2) = -1.5, -1;
    # (2.4 / 1 + (-0.8 - 1.5 - 1) / 3) / 2 = (2.4 - 1.1) / 2
    expect(
        attempt(answer, np.log(ratio) - 1, np.full((2, 3), -1.0), mask, A, 0.2),
        want=0.65,
        given="ratios (1.5) and (0.4, 1.5, 1), A = 2 and -1, eps 0.2",
        mistakes={
            "mean over all tokens": ((2.4 - 3.3) / 4, "(97) is a mean over rows of a mean over tokens."),
            # padding has ratio 1: (2.4 + 2 + 2) / 3
            "no mask": ((6.4 / 3 - 1.1) / 2, "Row 0 has one token; what follows is padding."),
            "divides by the width": ((0.8 - 1.1) / 2, "T_i is the row's own number of tokens."),
            "sum over tokens": ((2.4 - 3.3) / 2, "Each row is divided by its T_i."),
            "max for min": ((3 - 2.6 / 3) / 2, "The larger of the two products is the optimistic one."),
            "clips above only": (
                (2.4 - 2.9 / 3) / 2,
                "A ratio of 0.4 with a negative advantage is held at 0.8.",
            ),
            "clips below only": ((3 - 1.1) / 2, "A ratio of 1.5 with a positive advantage is held at 1.2."),
            "always clips": (
                (2.4 - 1) / 2,
                "A bad token at ratio 1.5 went the wrong way: it counts in full.",
            ),
            "no clip": ((3 - 2.9 / 3) / 2, "This is ratio times advantage."),
            # 1/r: min(4/3, 8/5) = 4/3; min(-2.5, -1.2) = -2.5, min(-2/3, -0.8) = -0.8, -1
            "ratio upside down": ((4 / 3 - 4.3 / 3) / 2, "The ratio is new over old."),
            "sign": (-0.65, "(97) is to be made large; the loss is minus it."),
            # geometric mean of row 1: 0.6^(1/3) = 0.843, inside the band
            "sequence ratio": ((2.4 - 0.6 ** (1 / 3)) / 2, "(95) is one ratio for each token."),
        },
    )
    rng = np.random.default_rng(0)
    logp, old = rng.normal(-1, 0.4, (2, 7, 5))
    mask = np.arange(5) < rng.integers(1, 6, 7)[:, None]
    A = rng.normal(size=7)
    expect(
        attempt(answer, logp, old, mask, A, 0.1),
        want=literal(logp, old, mask, A, 0.1),
        given="seven random rows of one to five tokens, eps 0.1",
    )
    far = np.where(mask, logp, 1000.0)
    given = "the same with log-probabilities of 1000 under the padding"
    with np.errstate(all="ignore"):
        got = attempt(answer, far, old, mask, A, 0.1)
    if not np.isfinite(got).all():  # nan equals nothing, so expect could not name it
        hint = "exp overflows there, and infinity times a mask of 0 is no number. Use np.where before exp."
        raise Wrong(f"{given}: expected a number, got {got}. {hint}", "overflow under the padding")
    expect(got, want=literal(logp, old, mask, A, 0.1), given=given)


@exercise("5b.3", "The weight of a prompt under GRPO", answer="my_weight")
def weight(answer):
    """One case worked out on paper, then every outcome of a group listed."""
    # k right of 4 with p = 0.2: probabilities 0.4096, 0.1536, 0.0256 for k = 1, 2, 3;
    # sqrt(k (4 - k)) / 4 is sqrt 3 / 4, 1/2, sqrt 3 / 4; divided by p (1 - p) = 0.16
    spread = (0.4096 + 0.0256) * 3**0.5 / 4 + 0.1536 / 2
    # the sum of those three over k = 0..4, each k as likely as the others
    flat = (2 * 3**0.5 / 4 + 0.5) / 5
    expect(
        attempt(answer, 0.2, 4),
        want=spread / 0.16,
        given="p = 0.2, G = 4",
        mistakes={
            "limit of large groups": (2.5, "That is 1 / sqrt(p (1 - p)), what many completions would give."),
            "variance for standard deviation": (0.75, "That is 1 - 1/G, the weight without the division."),
            "forgets the wrong ones": (
                spread / 0.2,
                "Wrong completions pull as well: their mean score is -1 / (1 - p) times grad p.",
            ),
            "forgets the right ones": (spread / 0.8, "Right completions pull as well, by 1 / p."),
            "sum for mean": (4 * spread / 0.16, "(97) divides by G."),
            "mean over mixed groups only": (
                spread / 0.16 / (1 - 0.2**4 - 0.8**4),
                "Groups without a difference count too; they give 0.",
            ),
            "every k equally likely": (flat / 0.16, "k is binomial: weigh by its probability."),
            "scores not divided by p": (spread, "The mean score of a right completion is (1 / p) grad p."),
        },
        atol=1e-6,
    )
    for p, G in ((0.5, 2), (0.9, 3), (0.05, 6)):
        expect(attempt(answer, p, G), outcomes(p, G), f"p = {p}, G = {G}", atol=1e-6)


@exercise("5b.4", "Find the bug from the curves", answer="my_bug")
def bug(answer):
    """Of the four only division by the variance is faster on both prompts."""
    choose(
        answer,
        right="b",
        wrong={
            "a": (
                "no division",
                "Without the division every weight is 7/8, less than 1.86: both prompts would be slower.",
            ),
            "c": (
                "sample standard deviation",
                "That shrinks every advantage by sqrt(7/8): 6 % slower on both prompts.",
            ),
            "d": (
                "standard deviation of the whole batch",
                "One divisor for both prompts would slow the hard one; here it is faster.",
            ),
        },
    )


def literal(logp, logp_old, mask, advantage, eps):
    """(97) as it is printed; the ready answer to 5b.2."""
    total = 0.0
    for i in range(len(logp)):
        T, row = int(mask[i].sum()), 0.0
        for t in range(T):
            ratio = np.exp(logp[i, t] - logp_old[i, t])
            held = min(max(ratio, 1 - eps), 1 + eps)
            row += min(ratio * advantage[i], held * advantage[i])
        total += row / T
    return total / len(logp)


def by_group(rewards, group, eps):
    """The ready answer to 5b.1."""
    return advantages.z_score(torch.tensor(rewards), torch.tensor(group), eps=eps).numpy()


def outcomes(p, G):
    """c_G(p) over all 2^G outcomes of a group; a score is 1/p where right, -1/(1-p) where wrong."""
    total = 0.0
    for right in product((0.0, 1.0), repeat=G):
        right = np.array(right)
        if 0 < right.sum() < G:
            A = (right - right.mean()) / right.std()
            score = right / p - (1 - right) / (1 - p)
            total += np.prod(np.where(right, p, 1 - p)) * (A * score).mean()
    return total


def by_count(p, G):
    """The ready answer to 5b.3: the same over k, the number of right completions."""
    spread = [comb(G, k) * p**k * (1 - p) ** (G - k) * (k * (G - k)) ** 0.5 / G for k in range(G + 1)]
    return sum(spread) / (p * (1 - p))


def two_programs(start, G, steps, lr):
    """The curves of 5b.4, (2, steps + 1, prompts): exact ascent of GRPO and of a broken program.

    One logit a prompt; `start` are the chances of a right completion.
    """
    chance = np.empty((2, steps + 1, len(start)))
    for program in range(2):
        logit = np.log(start) - np.log1p(-np.asarray(start))
        for step in range(steps + 1):
            p = chance[program, step] = 1 / (1 + np.exp(-logit))
            slope = [by_count(x, G) * x * (1 - x) for x in p]
            if program:  # every mixed group: A = (R - mean) / variance
                slope = 1 - p**G - (1 - p) ** G
            logit = logit + lr * np.array(slope)
    return chance
