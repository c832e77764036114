"""Exercises of notebook 05c, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook.checks import attempt, choose, exercise, expect


@exercise("5c.1", "How many groups carry a signal", answer="my_live_share")
def live_share(answer):
    """Five chances by hand; then another size of group, and a sum over all outcomes of one group."""
    p = np.array([0.0, 0.1, 0.5, 0.8, 1.0])
    right, wrong = p**3, (1 - p) ** 3  # 0, .001, .125, .512, 1 and 1, .729, .125, .008, 0
    expect(
        # G = 3: 1 - .001 - .729 = .27; 1 - .125 - .125 = .75; 1 - .512 - .008 = .48
        attempt(answer, p, 3),
        want=[0, 0.27, 0.75, 0.48, 0],
        given="p = 0, 0.1, 0.5, 0.8, 1 and G = 3",
        mistakes={
            "share of dead groups": (right + wrong, "These are the groups without a signal."),
            "forgets groups that are all right": (1 - wrong, "A prompt that is always solved is dead too."),
            "forgets groups that are all wrong": (1 - right, "A prompt that is never solved is dead too."),
            "events taken as independent": (
                (1 - right) * (1 - wrong),
                "All right and all wrong exclude each other: their chances add.",
            ),
            "exactly one right": (3 * p * (1 - p) ** 2, "Two right of three is a mixed group as well."),
            "variance of one completion": (p * (1 - p), "The answer must depend on G."),
        },
    )
    p = np.array([[0.02, 0.98], [0.3, 0.7]])
    # the groups of 8 with 1 to 7 right, one by one
    mixed = sum(choices(8, k) * p**k * (1 - p) ** (8 - k) for k in range(1, 8))
    expect(
        attempt(answer, p, 8),
        mixed,
        given="p = 0.02, 0.98, 0.3, 0.7 in a table, G = 8",
        mistakes={
            "holds for G = 2 and 3 only": (8 * p * (1 - p), "G p (1 - p) is no chance: 2 at p = 0.5, G = 8.")
        },
    )


@exercise("5c.2", "DAPO's objective (101), (102)", answer="my_dapo")
def objective(answer):
    """Two completions by hand, one of them longer, each with a ratio outside the band; then padding."""
    ratio = np.array([[1.5, 0.5, 1.0], [0.5, 7.0, 9.0]])
    mask = np.array([[True, True, True], [True, False, False]])
    A, old = np.array([2.0, -1.0]), np.log([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    expect(
        # row 0, A = 2: min(3, 2.5) + min(1, 1.8) + min(2, 2) = 5.5; row 1, A = -1: min(-.5, -.9) = -.9
        # 4 active tokens: 4.6 / 4
        attempt(answer, old + np.log(ratio), old, mask, A, 0.1, 0.25),
        want=1.15,
        given="ratios (1.5, 0.5, 1), A = 2 and (0.5), A = -1, band 0.9 to 1.25, two positions of padding",
        mistakes={
            "mean over completions": (
                (5.5 / 3 - 0.9) / 2,
                "This is (97): divide by all tokens of the batch at once.",
            ),
            "counts the padding": (4.6 / 6, "N_tok counts active tokens only."),
            # padding of row 1: min(-7, -1.25) + min(-9, -1.25) = -16
            "sums the padding": ((4.6 - 16) / 6, "What stands in the padding must not matter."),
            # band .75 .. 1.1: 2.2 + 1 + 2 - .75
            "widths swapped": (4.45 / 4, "The first width is the lower one: 1 - low."),
            # band .9 .. 1.1: 2.2 + 1 + 2 - .9
            "one width for both sides": (4.3 / 4, "The upper edge is 1 + high."),
            # max: 3 + 1.8 + 2 - .5
            "max for min": (6.3 / 4, "The larger of the two is the optimistic one."),
            # 2.5 + 1.8 + 2 - .9
            "always clips": (5.4 / 4, "A good token at ratio 0.5 went the wrong way: it counts in full."),
            # 3 + 1 + 2 - .5
            "no clip": (5.5 / 4, "Nothing limits the ratio here."),
            "sign": (-1.15, "(102) is to be made large; the loss is its negative."),
        },
    )
    rng = np.random.default_rng(0)
    old, move, A = rng.normal(size=(6, 5)), 0.5 * rng.normal(size=(6, 5)), rng.normal(size=6)
    mask = np.arange(5) < np.array([5, 1, 3, 2, 4, 1])[:, None]
    total = 0.0
    for i, t in zip(*np.nonzero(mask), strict=True):  # by cases: capped above if good, held below if bad
        r = np.exp(move[i, t])
        total += (min(r, 1.28) if A[i] > 0 else max(r, 0.8)) * A[i]
    move[~mask] = np.nan
    expect(
        attempt(answer, old + move, old, mask, A, 0.2, 0.28),
        total / 16,
        given="six random completions, 16 tokens, NaN in the padding, band 0.8 to 1.28",
    )


@exercise("5c.4", "The soft punishment of long completions", answer="my_punishment")
def punishment(answer):
    """Five lengths by hand; then another limit, and the longest buffer."""
    length = np.array([3, 12, 14, 18, 20])
    expect(
        # free up to 20 - 8 = 12 tokens, then -1/8 a token: -2/8, -6/8, -8/8
        attempt(answer, length, 20, 8),
        want=[0, 0, -0.25, -0.75, -1],
        given="3, 12, 14, 18, 20 tokens, at most 20, buffer 8",
        mistakes={
            "sign": ([0, 0, 0.25, 0.75, 1], "A punishment lowers the reward."),
            "pays short completions": (
                [1.125, 0, -0.25, -0.75, -1],
                "Up to the buffer nothing happens: 0, not more.",
            ),
            "divides by the limit": ([0, 0, -0.1, -0.3, -0.4], "The line must reach -1 at the limit."),
            "only at the limit": ([0, 0, 0, 0, -1], "That is the hard form: the line starts at 12."),
            "all of the buffer": ([0, 0, -1, -1, -1], "A step. The punishment is a line over the buffer."),
            "line from the start": (-length / 20, "Completions below 12 tokens are free."),
            "starts one buffer late": ([0, 0, 0, 0, 0], "The buffer lies below the limit, not above it."),
        },
    )
    expect(
        attempt(answer, np.array([1, 5, 10, 13]), 10, 10),
        [-0.1, -0.5, -1, -1],
        given="1, 5, 10, 13 tokens, at most 10, buffer 10 (never below -1)",
    )


@exercise("5c.3", "Find the bug from the curves", answer="my_bug")
def bug(answer):
    """Where the two dashed curves stop tells the four apart."""
    choose(
        answer,
        right="c",
        wrong={
            "a": ("symmetric clip", "Then the bad token would still stop at 0.8."),
            "b": ("max for min", "Then the good token would not stop at all."),
            "d": (
                "clip of the log-ratio",
                "exp(0.28) = 1.32 and exp(-0.2) = 0.82 are other numbers than those in the figure.",
            ),
        },
    )


def choices(n, k):
    """n over k, as the product that defines it."""
    return np.prod([(n - i) / (i + 1) for i in range(k)])


def not_all_equal(p, G):
    """The ready answer to 5c.1."""
    p = np.asarray(p, dtype=float)
    return 1 - p**G - (1 - p) ** G


def by_cases(logp, logp_old, mask, advantage, low, high):
    """The ready answer to 5c.2."""
    ratio, A = np.exp(np.where(mask, logp - logp_old, 0.0)), np.asarray(advantage)[:, None]
    held = np.where(A > 0, np.minimum(ratio, 1 + high), np.maximum(ratio, 1 - low))
    return (held * A)[mask].mean()


def line(length, longest, buffer):
    """The ready answer to 5c.4."""
    return np.clip((longest - buffer - np.asarray(length)) / buffer, -1, 0)


def two_programs(steps, step_size):
    """The curves of 5c.3: ratios (2 programs, 2 tokens, steps + 1).

    Token 0 has probability .01 and A = 1, token 1 has .5 and A = -1; each is one logit against the rest.
    Gradient ascent on the clipped term; row 0 a sound program, row 1 a broken one.
    """
    bands = [(0.8, 1.28), (0.72, 1.2)]
    ratios = np.ones((2, 2, steps + 1))
    for program, (low, high) in enumerate(bands):
        for token, (start, A) in enumerate(((0.01, 1.0), (0.5, -1.0))):
            logit = np.log(start / (1 - start))
            for k in range(1, steps + 1):
                p = 1 / (1 + np.exp(-logit))
                r = p / start
                flows = r <= high if A > 0 else r >= low
                logit += step_size * flows * A * r * (1 - p)
                ratios[program, token, k] = 1 / (1 + np.exp(-logit)) / start
    return ratios
