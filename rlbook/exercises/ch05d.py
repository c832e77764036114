"""Exercises of notebook 05d, and the ready answers that its later cells use while one is unsolved."""

from math import erf, sqrt

import numpy as np

from rlbook.checks import Wrong, attempt, choose, exercise, expect

LN2, LN3 = np.log(2), np.log(3)


@exercise("5d.1", "The length-normalised sequence ratio (107)", answer="my_ratio")
def sequence_ratio(answer):
    """Ragged rows by hand, with junk where the padding is; then random rows against a product and a root."""
    old = np.array([[-1.0, -2.0, -3.0], [-0.5, -4.0, -1.5], [-2.5, -1.0, -1.0]])
    # token ratios (2, 8, junk), (1, 27, 1), (1/2, junk, junk): 16^(1/2) = 4, 27^(1/3) = 3, 1/2
    steps = np.array([[LN2, 3 * LN2, LN2], [0.0, 3 * LN3, 0.0], [-LN2, 2 * LN2, 3 * LN2]])
    mask = np.array([[True, True, False], [True, True, True], [True, False, False]])
    expect(
        attempt(answer, old + steps, old, mask),
        want=[4, 3, 0.5],
        given="token ratios (2, 8), (1, 27, 1) and (1/2), padded to three",
        mistakes={
            "product, no root": ([16, 27, 0.5], "This is the weight (105); (107) takes its T-th root."),
            "arithmetic mean": ([5, 29 / 3, 0.5], "Average the logarithms, then take exp."),
            "divides by the padded length": (
                [16 ** (1 / 3), 3, 0.5 ** (1 / 3)],
                "Each response has its own length: the sum of its row of the mask.",
            ),
            "no mask": (
                # (2 8 2)^(1/3), 3, (1/2 4 8)^(1/3)
                [32 ** (1 / 3), 3, 16 ** (1 / 3)],
                "Padding holds junk, which must not count.",
            ),
            "masks the length only": (
                [32**0.5, 3, 16],
                "The sum over tokens needs the mask as well: padding holds junk.",
            ),
            "upside down": ([1 / 4, 1 / 3, 2], "The new policy stands above, the old one below."),
            "stays a logarithm": ([2 * LN2, LN3, -LN2], "A ratio is the exp of this."),
        },
    )
    rng = np.random.default_rng(5)
    new, old = -rng.exponential(size=(2, 6, 7))
    length = np.array([7, 1, 3, 5, 2, 6])
    want = [np.prod(np.exp((new - old)[i, :n])) ** (1 / n) for i, n in enumerate(length)]
    expect(
        attempt(answer, new, old, np.arange(7) < length[:, None]),
        want,
        given="six random responses, 1-7 tokens",
    )


@exercise("5d.2", "The objective of GSPO (108), (109) for one group", answer="my_gspo")
def gspo(answer):
    """Four responses by hand; a tie; a good response that lost ground; random groups against loops."""
    # rewards 1, 0, 0, 1: advantages +1, -1, -1, +1; s = (4 1)^(1/2) = 2, (1/4)^(1/2) = 1/2, 64^(1/2) = 8, 3
    # terms: min(2, 1.4) = 1.4, -max(0.5, 0.8) = -0.8, -max(8, 1.4) = -8, min(3, 1.4) = 1.4; sum -6
    steps = LN2 * np.array([[2.0, 0.0], [-2.0, 0.0], [2.0, 4.0], [LN3 / LN2, 5.0]])
    mask = np.array([[True, True], [True, True], [True, True], [True, False]])
    old = -np.array([[1.0, 2.0], [0.5, 1.0], [3.0, 2.5], [1.0, 1.0]])
    expect(
        attempt(answer, old + steps, old, mask, np.array([1.0, 0.0, 0.0, 1.0]), 0.2, 0.4),
        want=-1.5,
        given="rewards 1, 0, 0, 1, token ratios (4, 1), (1/4, 1), (4, 16), (3), low 0.2, high 0.4",
        mistakes={
            "sign": (1.5, "(109) is made large; this is the loss."),
            "unbiased deviation": (-1.5 * sqrt(3) / 2, "The deviation in (108) divides by G, not by G - 1."),
            "no deviation": (-0.75, "(108) divides by the deviation, here 1/2."),
            "max for min": (0.775, "The larger of the two products is the optimistic one."),
            "always clips": (0.15, "The minimum of both products: -8 is smaller than -1.4."),
            "dual clip": (-0.25, "(109) has no second limit: a bad response at s = 8 counts -8, not -3."),
            "clips above only": (-1.425, "A bad response at s = 1/2 is held at 0.8."),
            "clips below only": (-0.95, "A good response at s = 2 is held at 1.4."),
            "widths swapped": (-1.55, "low is the width below 1, high the width above."),
            "product ratio": (-15.5, "These are the weights (105), not their roots (107)."),
            # (96): rows (1.4 + 1)/2, -(0.8 + 1)/2, -(4 + 16)/2, 1.4
            "clips tokens": (-2.075, "This is GRPO's (96): the clip acts on one ratio a response."),
            "mean over tokens": (-13.4 / 7, "Each response counts once, whatever its length."),
            "sum over the group": (-6, "(109) is a mean over the group."),
        },
        atol=1e-6,
    )
    tie = np.full((3, 2), -1.0), np.full((3, 2), -1.0), np.full((3, 2), True), np.full(3, 0.7)
    with np.errstate(all="ignore"):
        got = np.asarray(attempt(answer, *tie, 0.2, 0.2), dtype=float)
    if got.shape == () and not abs(got) < 1e-3:
        raise Wrong(
            f"three rewards of 0.7: expected 0, got {got:.6g}. Nothing to compare: the advantage is 0, but "
            "the deviation is 0 or, in floating point, 1e-16",
            "no guard for ties",
        )
    expect(got, 0.0, given="three rewards of 0.7", atol=1e-3)
    expect(
        # A = 1, -1 and s = 1/2, 1: min(1/2, 0.8) - 1 = -1/2, mean -1/4
        attempt(
            answer,
            np.log([[0.25], [0.5]]),
            np.log([[0.5], [0.5]]),
            np.full((2, 1), True),
            np.eye(2)[0],
            0.2,
            0.2,
        ),
        want=-0.25,
        given="a good response at s = 1/2, a bad one at s = 1, low = high = 0.2",
        atol=1e-6,
    )
    rng = np.random.default_rng(6)
    for _ in range(4):
        new, old = -rng.exponential(0.5, size=(2, 5, 4))
        mask = np.arange(4) < rng.integers(1, 5, 5)[:, None]
        reward = rng.normal(size=5)
        want = 0.0
        for i in range(5):
            s = np.prod(np.exp(new - old)[i, mask[i]]) ** (1 / mask[i].sum())
            a = (reward[i] - reward.mean()) / reward.std()
            held = 1.3 if a > 0 and s > 1.3 else 0.9 if a < 0 and s < 0.9 else s
            want += held * a / 5
        expect(
            attempt(answer, new, old, mask, reward, 0.1, 0.3), want, given="five random responses", atol=1e-6
        )


@exercise("5d.3", "What SAPO puts on the score of a token (120), (121)", answer="my_weight")
def soft_weight(answer):
    """Temperatures that make the sigmoid a simple fraction; then the slope of (117) by differences."""
    # tau+ = ln 3, tau- = ln 9. r = 2, A = 2: sigmoid 3/4, gate 4 (3/4)(1/4) = 3/4, weight 3/4 2 2 = 3
    # r = 1.5, A = -1: sigmoid 3/4, gate 3/4, -1.125; r = 0.5, A = -1: sigmoid 1/4, gate 3/4, -0.375
    # r = 1, A = 2: gate 1, weight 2; r = 2, A = -1: sigmoid 9/10, gate 0.36, -0.72
    ratio, advantage = np.array([2, 1.5, 0.5, 1, 2]), np.array([2.0, -1, -1, 2, -1])
    tau = np.where(advantage > 0, LN3, 2 * LN3)
    swapped, by_side = np.where(advantage > 0, 2 * LN3, LN3), np.where(ratio > 1, LN3, 2 * LN3)
    want = np.array([3, -1.125, -0.375, 2, -0.72])

    def weights(tau):
        return ratio * advantage / np.cosh(tau * (ratio - 1) / 2) ** 2

    expect(
        attempt(answer, ratio, advantage, LN3, 2 * LN3),
        want=want,
        given="r = 2, 1.5, 0.5, 1, 2 with A = 2, -1, -1, 2, -1, tau_pos ln 3, tau_neg ln 9",
        mistakes={
            "gate without the ratio": (want / ratio, "(121) also has r, from the derivative of r."),
            "gate as printed": (tau * (ratio - 1) * ratio * advantage, "At r = 1 the gate must be 1."),
            "temperatures swapped": (weights(swapped), "tau_pos is for A > 0."),
            "temperature by the side of r": (
                weights(by_side),
                "The sign of A chooses tau, not the side of r.",
            ),
            "no factor 4": (want / 4, "The slope of the sigmoid at 0 is 1/4; (117) makes up for it."),
            "sech not squared": (
                ratio * advantage / np.cosh(tau * (ratio - 1) / 2),
                "The gate is sech squared.",
            ),
            "value for slope": (
                4 / tau / (1 + np.exp(-tau * (ratio - 1))) * advantage,
                "This is f times A, the term of the objective. The gradient has its slope.",
            ),
            "no advantage": (want / advantage, "The advantage gives the sign and the size."),
        },
    )
    with np.errstate(all="ignore"):
        got = np.asarray(attempt(answer, np.array([400.0, 1e-8]), np.ones(2), 5.0, 5.0), dtype=float)
    if not np.isfinite(got).all():
        raise Wrong(
            f"r = 400, tau 5: expected 0, got {got.flat[0]}. exp(tau (r - 1)) is infinite there; with "
            "exp(-tau (r - 1)), or with cosh, the same formula goes to 0",
            "overflow",
        )
    expect(
        got,
        want=[0, 0],
        given="r = 400 and r = 1e-8, tau 5",
        atol=1e-6,
    )
    rng = np.random.default_rng(7)
    log_ratio, advantage, h = rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), 1e-5

    def term(x):
        tau = np.where(advantage > 0, 0.7, 2.5)
        return 4 / tau / (1 + np.exp(-tau * (np.exp(x) - 1))) * advantage

    slope = (term(log_ratio + h) - term(log_ratio - h)) / (2 * h)
    expect(
        attempt(answer, np.exp(log_ratio), advantage, 0.7, 2.5),
        want=slope,
        given="a table of 24 random pairs, tau_pos 0.7, tau_neg 2.5",
        atol=1e-6,
    )


@exercise("5d.4", "Find the bug from the curve", answer="my_bug")
def bug(answer):
    """Only one of the four lets short responses through and is right for the longest."""
    choose(
        answer,
        right="b",
        wrong={
            "a": (
                "sums the log-ratios",
                "A sum grows with the length: it would agree at one token and clip ever more.",
            ),
            "c": (
                "clip range ten times too wide",
                "Then all responses would be clipped less, also the longest.",
            ),
            "d": (
                "averages the ratios",
                "For ratios near 1 their average is close to (107): the curves would agree.",
            ),
        },
    )


def geometric(logp, logp_old, mask):
    """The ready answer to 5d.1."""
    return np.exp(np.where(mask, logp - logp_old, 0.0).sum(axis=1) / mask.sum(axis=1))


def one_group(logp, logp_old, mask, reward, low, high):
    """The ready answer to 5d.2."""
    s = geometric(logp, logp_old, mask)
    a = np.zeros(len(reward)) if np.ptp(reward) == 0 else (reward - reward.mean()) / reward.std()
    return np.minimum(s * a, np.clip(s, 1 - low, 1 + high) * a).mean()


def slope_times_ratio(ratio, advantage, tau_pos, tau_neg):
    """The ready answer to 5d.3."""
    z = np.clip(np.where(advantage > 0, tau_pos, tau_neg) * (ratio - 1), -500, 500)
    sigmoid = 1 / (1 + np.exp(-z))
    return 4 * sigmoid * (1 - sigmoid) * ratio * advantage


def two_programs(lengths, width, sigma, eps):
    """The curves of 5d.4, (2, len(lengths)): share of responses with a ratio outside 1 - eps to 1 + eps.

    Token log-ratios are independent, normal with mean -sigma^2 / 2 and deviation sigma. Row 0 is a sound
    program, row 1 a broken one.
    """
    shares = np.empty((2, len(lengths)))
    for j, T in enumerate(lengths):
        for row, n in enumerate((T, width)):
            mean, deviation = -(sigma**2) / 2 * T / n, sigma * sqrt(T) / n
            edges = [(x - mean) / deviation / sqrt(2) for x in np.log([1 - eps, 1 + eps])]
            shares[row, j] = 1 - (erf(edges[1]) - erf(edges[0])) / 2
    return shares
