"""Exercises of notebook 06a, and the ready answers that its later cells use while one is unsolved."""

from math import sqrt

import numpy as np

from rlbook.checks import Wrong, attempt, choose, exercise, expect


@exercise("6a.1", "Advantages P1 and P2, apart and together", answer="my_advantages")
def advantages(answer):
    """Two prompts by hand, compared apart and then together; ties; random rows against loops."""
    rewards = np.array([1.0, 0, 0, 0, 1, 0, 0, 0, 3, 1])
    source = np.array([0, 0, 0, 0, 1, 1, 0, 0, 1, 1])
    group = np.array([5] * 6 + [2] * 4)
    # apart. Prompt 5: own mean 1/4, deviation sqrt(3)/4; guide 1/2, 1/2. Prompt 2: own tied; guide 2, 1
    apart = np.array([sqrt(3), *[-1 / sqrt(3)] * 3, 1, -1, 0, 0, 1, -1])
    # together. Prompt 5: mean 1/3, deviation sqrt(2)/3. Prompt 2: mean 1, variance (1 + 1 + 4 + 0) / 4
    root = sqrt(2)
    together = np.array([root, *[-1 / root] * 3, root, -1 / root, *np.array([-1, -1, 2, 0]) / sqrt(1.5)])
    unbiased = np.array([1.5, *[-0.5] * 3, 1 / root, -1 / root, 0, 0, 1 / root, -1 / root])
    prompts_mixed = np.zeros(10)
    for rows in (source == 0, source == 1):
        x = rewards[rows]
        prompts_mixed[rows] = (x - x.mean()) / x.std()
    centred = np.array([0.75, -0.25, -0.25, -0.25, 0.5, -0.5, 0, 0, 1, -1])
    deviation = np.array([*[sqrt(3) / 4] * 4, 0.5, 0.5, 1, 1, 1, 1])  # 1 where the set is tied: 0 / 1
    given = "prompt 5: own (1, 0, 0, 0), guide (1, 0); prompt 2: own (0, 0), guide (3, 1); apart"
    expect(
        _quiet(answer, rewards, source, group, False),
        want=apart,
        given=given,
        mistakes={
            "pooled": (together, "P1 and P2 compare each source among its own."),
            "all prompts together": (prompts_mixed, "Rows of different prompts are not compared."),
            "unbiased deviation": (unbiased, "The deviation divides by the number of rows."),
            "no deviation": (centred, "P1 and P2 divide by the deviation."),
            "1e-6 beside the deviation": (centred / (deviation + 1e-6), "Add nothing to the deviation."),
            "1e-4 beside the deviation": (centred / (deviation + 1e-4), "Add nothing to the deviation."),
            "sign": (-apart, "A reward above the mean gives a positive advantage."),
        },
        atol=1e-6,
    )
    expect(
        _quiet(answer, rewards, source, group, True),
        want=together,
        given=given.replace("apart", "together"),
        mistakes={
            "always apart": (apart, "With pooled=True both sources of a prompt share mean and deviation."),
        },
        atol=1e-6,
    )
    tied = np.array([0.0, 0, 0, 0.7, 0.7, 0.7]), np.array([0, 0, 0, 1, 1, 1]), np.zeros(6)
    got = np.asarray(_quiet(answer, *tied, False), dtype=float)
    if got.shape == (6,) and not np.abs(got).max() < 1e-3:
        raise Wrong(
            "own (0, 0, 0), guide (0.7, 0.7, 0.7), apart: expected zeros, got "
            f"{np.array2string(got, precision=3)}. Equal rewards give 0 / 0, or in floating point worse",
            "no guard for ties",
        )
    expect(got, np.zeros(6), given="own (0, 0, 0), guide (0.7, 0.7, 0.7), apart", atol=1e-3)
    rng = np.random.default_rng(0)
    rewards, source, group = rng.normal(size=30), rng.permutation(30) % 2, rng.permutation(30) % 3
    for pooled in (False, True):
        want = np.zeros(30)
        for i in range(30):
            x = [rewards[k] for k in range(30) if group[k] == group[i] and (pooled or source[k] == source[i])]
            want[i] = (rewards[i] - sum(x) / len(x)) / np.sqrt(np.mean(np.square(x)) - np.mean(x) ** 2)
        given = f"30 random rows of three prompts, pooled={pooled}"
        expect(_quiet(answer, rewards, source, group, pooled), want, given=given, atol=1e-6)


def _quiet(answer, *args):
    """`attempt` without NumPy's warnings: 0 / 0 is one of the mistakes."""
    with np.errstate(all="ignore"):
        return attempt(answer, *args)


@exercise("6a.2", "What P4 does to a token of the guide", answer="my_pull")
def pull(answer):
    """Four tokens by hand with junk in the padding; then random rows against differences of P4."""
    ratio = np.array([[0.25, 1.0, 0.001, 1.0, 1.0], [0.75, 0.25, 1.0, 1.0, 1.0]])
    mask = np.arange(5) < np.array([[3], [1]])
    B, guide = np.array([2.0, -1.0]), np.log([[0.4, 0.3, 0.2, 0.5, 0.6], [0.5, 0.6, 0.7, 0.4, 0.3]])

    def table(w, tokens=mask):  # w / 4 times B, on four tokens
        return np.where(tokens, w, 0.0) * B[:, None] / 4

    # gamma = .25. r f'(r) = .25 r / (r + .25)^2: 1/4 at r = .25, .16 at 1, .1875 at .75, and at .001
    rare = 0.00025 / 0.063001
    weight = np.array([[0.25, 0.16, rare, 0.16, 0.16], [0.1875, 0.25, 0.16, 0.16, 0.16]])
    none = [0, 0, 0, 0]
    expect(
        attempt(answer, guide + np.log(ratio), guide, mask, B, 0.25),
        want=table(weight),
        given="ratios (0.25, 1, 0.001) with B = 2 and (0.75) with B = -1, padded to five, gamma 0.25",
        mistakes={
            "derivative of f without r": (
                table([[1, 0.16, 0.25 / 0.063001, 0, 0], [0.25, *none]]),
                "d f(r) / d log pi = f'(r) r: the ratio moves with the probability.",
            ),
            "f held constant": (
                table([[0.5, 0.8, 1 / 251, 0, 0], [0.75, *none]]),
                "f(r) times the score is another objective: f depends on pi as well.",
            ),
            "no shaping": (table(ratio), "This is plain importance weighting: f is missing."),
            "imitation": (table(np.ones((2, 5))), "Every token has its own weight."),
            "ratio upside down": (
                # r = 4, 1, 1000, 4/3: 1/18.0625, .16, 250/1000.25^2, (1/3)/(19/12)^2
                table([[1 / 18.0625, 0.16, 250 / 1000500.0625, 0, 0], [48 / 361, *none]]),
                "pi stands above the guide's probability.",
            ),
            "the sequence's ratio": (
                # .25 x 1 x .001 on each token of the first row: .25 x .00025 / .25025^2
                table([[0.0000625 / 0.0626250625] * 5, [0.1875] * 5]),
                "P4 has the ratio of each token, not of the completion.",
            ),
            "clips the guide's rows": (
                table([[0, 0.16, 0, 0, 0], [0, *none]]),
                "P4 has no clip: a ratio far below 1 still moves.",
            ),
            "sum over tokens": (4 * table(weight), "P4 is a mean over all tokens of the guide."),
            "mean over completions": (
                table(weight) * 4 * np.array([[1 / 6], [1 / 2]]),
                "P4 divides by all tokens at once, not row by row.",
            ),
            "divides by the rows": (table(weight) * 2, "P4 divides by all tokens, not by the completions."),
            "half of P5": (table(weight) / 2, "The factor 1/2 belongs to P5, not to P4."),
            "counts the padding": (table(weight) * 0.4, "Divide by the active tokens."),
            "no mask": (table(weight, tokens=True), "Padding holds junk and gets no pull."),
            "sign": (-table(weight), "P4 is to be made large."),
            "without the advantage": (
                np.where(mask, weight, 0) / 4,
                "A bad completion of the guide pushes the other way.",
            ),
        },
    )
    rng = np.random.default_rng(1)
    guide, move, B = -rng.exponential(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=5)
    mask, step = np.arange(4) < np.array([4, 1, 3, 2, 4])[:, None], 1e-5

    def value(x, i):  # P4's summand of row i
        return B[i] / 14 * np.exp(x) / (np.exp(x) + 0.1)

    want = np.zeros((5, 4))
    for i, t in zip(*np.nonzero(mask), strict=True):
        want[i, t] = (value(move[i, t] + step, i) - value(move[i, t] - step, i)) / (2 * step)
    move[~mask] = np.nan
    given = "five random completions, 14 tokens, NaN in the padding, gamma 0.1"
    got = np.asarray(_quiet(answer, guide + move, guide, mask, B, 0.1), dtype=float)
    if got.shape == mask.shape and np.allclose(got[mask], want[mask]) and np.isnan(got[~mask]).any():
        raise Wrong(f"{given}: NaN came out. NaN times 0 is NaN: choose with np.where", "NaN times 0")
    expect(got, want, given=given, atol=1e-8)


@exercise("6a.3", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """The slope of the dashed line says what weight the broken program uses, and where."""
    choose(
        answer,
        right="c",
        wrong={
            "a": ("derivative of f without r", "Then the first step would add 4.9 to the log-odds."),
            "b": ("no shaping", "Then the start would be slower than the solid curve, not faster."),
            "d": ("clips the guide's rows", "Then a ratio of 0.001 would get no pull, and nothing moves."),
        },
    )


@exercise("6a.4", "The objective P8", answer="my_mix")
def mix(answer):
    """Two guide rows and three without reward by hand; padding; random rows against loops by cases."""
    ratio = np.array([[0.1, 1.5], [0.4, 7.0], [2.0, 0.5], [0.9, 3.0], [0.3, 5.0]])
    mask = np.array([[True, True], [True, False], [True, True], [True, False], [True, False]])
    A, source = np.array([2.0, 2.0, -1.0, -1.0, -1.0]), np.array([1, 1, 0, 0, 0])
    below = np.log([[0.5, 0.4], [0.3, 0.2], [0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    # V, gamma .1: f = 1/2, 15/16, .8, times 2: 4.475. W, band .8 to 1.28: -2 - .8 - .9 - .8 = -4.5. 7 tokens
    V, W = 4.475, -4.5
    clipped_V = 0.2 + 2.56 + 0.8  # min(.2, 1.6) + min(3, 2.56) + min(.8, 1.6)
    shaped_W = -(2 / 2.1 + 0.5 / 0.6 + 0.9 + 0.75)
    expect(
        attempt(answer, below + np.log(ratio), below, mask, A, source, 0.1, 0.2, 0.28),
        want=(V + W) / 7,
        given="guide ratios (0.1, 1.5), (0.4), A = 2; unrewarded (2, 0.5), (0.9), (0.3), A = -1; "
        "gamma 0.1, band 0.8 to 1.28",
        mistakes={
            "a mean for each set": (V / 3 + W / 4, "P8 divides both sums by the tokens of V and W together."),
            "sums, as in version 000": (V + W, "Version 001 divides by the tokens of V and W."),
            "mean over completions": (
                (2 * 0.71875 + 2 * 0.8 - 1.4 - 0.9 - 0.8) / 5,
                "P8 divides by all tokens at once.",
            ),
            "counts the padding": ((V + W) / 10, "Divide by the active tokens."),
            "clips the guide's rows": ((clipped_V + W) / 7, "The guide's rows go through f, without a clip."),
            "no shaping": ((0.2 + 3 + 0.8 + W) / 7, "The guide's rows go through f."),
            "shapes every row": ((V + shaped_W) / 7, "f is for the guide's rows only."),
            "sources swapped": ((clipped_V + shaped_W) / 7, "source is 1 on the guide's rows."),
            # max: -1.28 - .5 - .9 - .3
            "max for min": ((V - 2.98) / 7, "CLIP takes the smaller product, as PPO does."),
            # -1.28 - .8 - .9 - .8
            "always clips": ((V - 3.78) / 7, "A bad token at ratio 2 counts in full: -2 is below -1.28."),
            # -2 - .5 - .9 - .3
            "no clip": ((V - 3.7) / 7, "Below the band an unrewarded token is held."),
            # band .72 to 1.2: -2 - .72 - .9 - .72
            "widths swapped": ((V - 4.34) / 7, "low is the width below 1, high the width above."),
            "sign": (-(V + W) / 7, "P8 is to be made large."),
        },
    )
    rng = np.random.default_rng(2)
    below, move, A = -rng.exponential(size=(8, 5)), rng.normal(size=(8, 5)), rng.normal(size=8)
    source = np.array([0, 1, 1, 0, 0, 1, 0, 0])
    mask = np.arange(5) < np.array([5, 1, 3, 2, 4, 5, 1, 3])[:, None]
    total = 0.0
    for i, t in zip(*np.nonzero(mask), strict=True):
        r = np.exp(move[i, t])
        if source[i]:
            total += A[i] / (1 + 0.3 / r)
        else:
            total += A[i] * (min(r, 1.4) if A[i] > 0 else max(r, 0.9))
    move[~mask] = np.nan
    given = "eight random completions, 24 tokens, NaN in the padding, gamma 0.3, band 0.9 to 1.4"
    expect(attempt(answer, below + move, below, mask, A, source, 0.3, 0.1, 0.4), total / 24, given=given)


def row_by_row(rewards, source, group, pooled):
    """The ready answer to 6a.1."""
    rewards, A = np.asarray(rewards, dtype=float), np.zeros(len(rewards))
    pools = np.asarray(group) * 2 + (0 if pooled else np.asarray(source))
    for pool in np.unique(pools):
        x = rewards[pools == pool]
        if x.max() > x.min():
            A[pools == pool] = (x - x.mean()) / x.std()
    return A


def slope_of_p4(logp, logp_guide, mask, advantage, gamma):
    """The ready answer to 6a.2."""
    f = 1 / (1 + gamma * np.exp(np.where(mask, logp_guide - logp, 0.0)))
    return np.where(mask, f * (1 - f), 0.0) * np.asarray(advantage)[:, None] / np.sum(mask)


def by_sets(logp, below, mask, advantage, source, gamma, low, high):
    """The ready answer to 6a.4."""
    r, A = np.exp(np.where(mask, logp - below, 0.0)), np.asarray(advantage)[:, None]
    held = np.where(A > 0, np.minimum(r, 1 + high), np.maximum(r, 1 - low))
    shaped = np.asarray(source)[:, None] == 1
    return (np.where(shaped, r / (r + gamma), held) * A)[mask].mean()


def two_programs(steps, start=0.001, gamma=0.1, step_size=0.5):
    """The curves of 6a.3: log-odds of the guide's answer (2 programs, steps + 1).

    The guide always writes that answer, and its advantage is 1. Row 0 a sound program, row 1 a broken one.
    """
    odds = np.full((2, steps + 1), np.log(start / (1 - start)))
    for program in range(2):
        for k in range(steps):
            p = 1 / (1 + np.exp(-odds[program, k]))
            r = (p, 1.0)[program]
            odds[program, k + 1] = odds[program, k] + step_size * gamma * r / (r + gamma) ** 2 * (1 - p)
    return odds
