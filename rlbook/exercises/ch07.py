"""Exercises of notebook 07, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook.checks import attempt, choose, exercise, expect


@exercise("7.1", "What bfloat16 rounds away", answer="my_lost")
def lost(answer):
    """Nine sums by hand, on both sides of half a spacing; then other magnitudes and both signs."""
    small, tiny = 0.02001953125, 0.000598907470703125  # bfloat16 numbers: 164 / 2**13 and 157 / 2**18
    # spacing of bfloat16 is 2**(k - 7) between 2**k and 2**(k + 1); half of it:
    # w = 1.5: 1/256 = .0039   3: 1/128 = .0078   .75: 1/512 = .00195   small (k = -6): 2**-14 = .000061
    w = np.array([1.5, 1.5, 1.5, 3.0, 0.75, 0.75, 0.75, small, small])
    step = np.array([0.003, 0.005, 0.02, 0.005, 0.003, -0.0008, -0.003, 1e-4, 2e-5])
    expect(
        attempt(answer, w, step),
        want=[1, 0, 0, 1, 0, 1, 0, 0, 1],
        given=f"w = 1.5 1.5 1.5 3 .75 .75 .75 {small} {small}, "
        "step = .003 .005 .02 .005 .003 -.0008 -.003 1e-4 2e-5",
        mistakes={
            "a whole spacing": (
                [1, 1, 0, 1, 1, 1, 1, 1, 1],
                "A sum is rounded to the nearest number: beyond half a spacing it is the next one.",
            ),
            "one spacing for all weights": (
                [1, 0, 0, 0, 1, 1, 1, 1, 1],
                "1/256 is half a spacing between 1 and 2 only.",
            ),
            "one bit too many": (
                [0, 0, 0, 0, 0, 1, 0, 0, 1],
                "There are 7 bits behind the leading one, not 8.",
            ),
            "forgets the sign of the step": ([1, 0, 0, 1, 0, 1, 1, 0, 1], "A step down has a size too."),
            "says which are kept": ([0, 1, 1, 0, 1, 0, 1, 1, 0], "True marks the steps that are lost."),
        },
    )
    w = np.array([-1.5, -small, 100.0, 100.0, tiny])
    step = np.array([0.003, -1e-4, 0.2, 0.3, 1e-6])
    # 100: k = 6, half a spacing 1/4; tiny: k = -11, 2**-19 = 1.9e-6
    got = attempt(answer, w, step)
    expect(got, [1, 0, 1, 0, 1], given=f"w = -1.5 {-small} 100 100 {tiny}, step = .003 -1e-4 .2 .3 1e-6")


@exercise("7.2", "The memory of AdamW", answer="my_bytes")
def memory(answer):
    """Four numbers for two sizes and both precisions."""
    n, g = 100, 30
    expect(
        # 4 bytes x 100, 4 x 100, two moments of 4 x 100, 2 bytes x (100 + 30)
        attempt(answer, n, g, True),
        want=[400, 400, 800, 260],
        given="100 trained parameters, a guide of 30, bfloat16",
        mistakes={
            "trained weights in 16 bits": ([200, 400, 800, 260], "They keep 32 bits: exercise 7.1 says why."),
            "all of it in 16 bits": ([200, 200, 400, 260], "Only the frozen models are stored in 16 bits."),
            "one moment": ([400, 400, 400, 260], "AdamW keeps a mean of g and a mean of g squared."),
            "forgets the start": ([400, 400, 800, 60], "The KL to the start needs the start's weights."),
            "forgets the guide": ([400, 400, 800, 200], "The guide writes completions: it is in memory."),
            "frozen models in 32 bits": ([400, 400, 800, 520], "With bfloat16 they take 2 bytes each."),
            "moments of frozen models": ([400, 400, 1040, 260], "Frozen models have no moments."),
        },
    )
    expect(
        attempt(answer, 7, 0, False), [28, 28, 56, 28], given="7 trained parameters, no guide, float32",
        mistakes={"always 16 bits": ([28, 28, 56, 14], "In float32 frozen models take 4 bytes each.")},
    )  # fmt: skip


@exercise("7.3", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """The size of the first step after the stop tells the four apart."""
    choose(
        answer,
        right="c",
        wrong={
            "a": ("the start's weights", "Then the loss would jump back to where it began."),
            "b": ("ten times the step size", "Then every later step would be larger, not the first ones."),
            "d": ("other random numbers", "This loss has none, and the two programs would agree."),
        },
    )


@exercise("7.4", "A batch in pieces", answer="my_combine")
def combine(answer):
    """Two pieces by hand, one of them three times as long; then one piece, and five."""
    means, tokens = np.array([[4.0, 0.0], [0.0, 8.0]]), np.array([30, 10])
    expect(
        # (30 * 4 + 0) / 40 = 3, (0 + 10 * 8) / 40 = 2
        attempt(answer, means, tokens),
        want=[3, 2],
        given="gradients (4, 0) over 30 tokens and (0, 8) over 10 tokens",
        mistakes={
            "mean of the means": ([2, 4], "This weighs a token of the short piece three times as much."),
            "sum of the means": ([4, 8], "The gradient of a mean does not grow with the number of pieces."),
            "forgets to divide": ([120, 80], "Divide by the tokens of the whole batch."),
            "divides by the pieces": ([60, 40], "Divide by tokens, not by pieces."),
            "divides by the tokens of the last piece": ([12, 8], "All tokens of the batch: 30 + 10."),
            "weights the wrong way round": ([1, 6], "The longer piece counts more, not less."),
        },
    )
    expect(attempt(answer, means[:1], tokens[:1]), [4, 0], given="one piece")
    rng = np.random.default_rng(0)
    means, tokens = rng.normal(size=(5, 3)), np.array([1, 9, 4, 4, 20])
    each = np.repeat(means, tokens, axis=0)  # every token with the mean of its piece
    expect(attempt(answer, means, tokens), each.mean(0), given="five pieces, three parameters")


def half_a_spacing(w, step):
    """The ready answer to 7.1."""
    w, step = np.asarray(w, dtype=float), np.asarray(step, dtype=float)
    return np.abs(step) < 2.0 ** (np.floor(np.log2(np.abs(w))) - 8)


def parts(n, guide, bfloat16):
    """The ready answer to 7.2."""
    return np.array([4 * n, 4 * n, 8 * n, (2 if bfloat16 else 4) * (n + guide)])


def by_tokens(means, tokens):
    """The ready answer to 7.4."""
    return np.average(means, axis=0, weights=tokens)


def two_programs(steps, stop, lr=0.05):
    """The curves of 7.3: (loss, size of the step), each (2 programs, steps).

    AdamW without decay on a quadratic; both stop after `stop` steps and go on, row 1 without its moments.
    """
    curvature, found = np.array([1.0, 4.0, 0.25]), np.zeros((2, 2, steps))
    for program in range(2):
        x, m, v, t = np.array([1.0, -1.0, 1.5]), np.zeros(3), np.zeros(3), 0
        for k in range(steps):
            if program and k == stop:
                m, v, t = np.zeros(3), np.zeros(3), 0
            g, t = curvature * x, t + 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            move = lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            found[:, program, k] = curvature @ x**2 / 2, np.linalg.norm(move)
            x = x - move
    return found
