"""Exercises of notebook 06c, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook.checks import attempt, choose, exercise, expect


@exercise("6c.1", "A score at a budget of tokens", answer="my_at_budget")
def at_budget(answer):
    """Five updates by hand, three of them measured; then another run, and budgets at a measurement."""
    tokens = np.array([100.0, 200, 400, 500, 1000])
    scores = np.array([0.1, np.nan, 0.2, np.nan, 0.6])
    expect(
        # 640 lies 240 of 600 tokens after the measurement at 400: .2 + .4 * .4
        attempt(answer, tokens, scores, 640.0),
        want=0.36,
        given="measured .1 at 100, .2 at 400, .6 at 1000 tokens; budget 640",
        mistakes={
            "last measurement before the budget": (0.2, "The run went on learning after it: draw the line."),
            "next measurement": (0.6, "That one had more tokens than the budget allows."),
            # 500 tokens counted as score 0: .6 * 140 / 500
            "missing scores as 0": (0.168, "Where nothing was measured there is no point, not a 0."),
            # 640 / 1000 * 5 = 3.2 updates: .2 + .4 * .2 / 2
            "by updates": (0.24, "Equal shares of the updates are not equal shares of the tokens."),
            # 100, 300, 700, 1200, 2200: .1 + .1 * 540 / 600
            "adds up the tokens again": (0.19, "`tokens` counts from the start of the run already."),
            "mean of the two neighbours": (0.4, "The nearer measurement counts more."),
        },
    )
    rng = np.random.default_rng(0)
    tokens, scores = np.cumsum(rng.integers(50, 300, size=12)).astype(float), rng.random(12)
    scores[[0, 3, 4, 8]] = np.nan
    a, b = 7, 9  # measured; 8 is not
    for share in (0.0, 0.3, 1.0):
        want = (1 - share) * scores[a] + share * scores[b]
        budget = (1 - share) * tokens[a] + share * tokens[b]
        expect(attempt(answer, tokens, scores, budget), want, given=f"twelve updates, budget {budget:.0f}")


@exercise("6c.2", "What a handful of seeds says", answer="my_summary")
def summary(answer):
    """Five seeds by hand, then four: the median of an even number."""
    x = np.array([0.7, 0.2, 0.9, 0.6, 0.8])
    sem = 1.96 * np.std(x, ddof=1) / np.sqrt(5)
    expect(
        # sorted .2 .6 .7 .8 .9; outside only if all five fall on one side: 2 / 2**5
        attempt(answer, x),
        want=[0.7, 0.2, 0.9, 0.9375],
        given="scores .7, .2, .9, .6, .8",
        mistakes={
            "mean for median": ([0.64, 0.2, 0.9, 0.9375], "One bad seed drags the mean."),
            "one side only": (
                [0.7, 0.2, 0.9, 0.96875],
                "All seeds may lie above the true median, or all below: both miss it.",
            ),
            "quartiles for the range": (
                [0.7, 0.6, 0.8, 0.9375],
                "These are the quartiles; the range is wider.",
            ),
            "normal interval": (
                [0.7, 0.64 - sem, 0.64 + sem, 0.9375],
                "Lowest and highest, no formula.",
            ),
            "always 95 %": ([0.7, 0.2, 0.9, 0.95], "With two seeds it cannot be what it is with fifty."),
            "chance of missing": ([0.7, 0.2, 0.9, 0.0625], "That is the chance that the range misses it."),
            "first and last": ([0.7, 0.7, 0.8, 0.9375], "The seeds come in no order."),
            "middle of the list": ([0.9, 0.2, 0.9, 0.9375], "Sort before you take the middle one."),
        },
    )
    expect(
        attempt(answer, np.array([0.1, 0.9, 0.3, 0.6])),  # between .3 and .6; 1 - 2 / 16
        want=[0.45, 0.1, 0.9, 0.875],
        given="scores .1, .9, .3, .6",
        mistakes={
            "upper of the two middle ones": ([0.6, 0.1, 0.9, 0.875], "Take the point between the two."),
            "lower of the two middle ones": ([0.3, 0.1, 0.9, 0.875], "Take the point between the two."),
        },
    )
    expect(attempt(answer, np.array([0.4])), [0.4, 0.4, 0.4, 0.0], given="one seed")


@exercise("6c.3", "Find the bug from the log", answer="my_bug")
def bug(answer):
    """Dead groups, gradient norm and the guide's reward tell the four apart."""
    choose(
        answer,
        right="c",
        wrong={
            "a": ("guide never right", "Then the guide's reward in the table would be 0."),
            "b": (
                "ratio to the guide",
                "Then the groups would be alive, with a gradient that is far too large, not 0.",
            ),
            "d": ("no step", "A step size of 0 does not touch the gradient: it would not be 0."),
        },
    )


@exercise("6c.4", "Which prompts carry a signal", answer="my_signal")
def signal(answer):
    """Three own and two guided completions by hand; then other sizes, against a sum over all outcomes."""
    p, q = np.array([0.2]), np.array([0.9])
    expect(
        # own dead: .008 + .512 = .52; guide dead: .81 + .01 = .82; both: .4264
        # together dead: .008 * .81 + .512 * .01 = .0116
        attempt(answer, p, q, 3, 2),
        want=[[0.5736], [0.9884]],
        given="p = .2 with 3 own completions, q = .9 with 2 of the guide",
        mistakes={
            "share of dead groups": ([[0.4264], [0.0116]], "These prompts are silent."),
            "both halves must be alive": (
                [[0.48 * 0.18], [0.9884]],
                "One live half is enough for a signal.",
            ),
            "forgets all right": (
                [[0.99488], [0.99488]],
                "Completions that are all right are silent as well.",
            ),
            # (3 * .2 + 2 * .9) / 5 = .48 in five completions
            "one mean chance": (
                [[0.5736], [1 - 0.48**5 - 0.52**5]],
                "The authors differ: all five are right with chance p^3 q^2.",
            ),
            "apart and together swapped": ([[0.9884], [0.5736]], "First apart, then together."),
            "adds dead chances": ([[1 - 0.52 - 0.82], [0.9884]], "Silent if both halves are: multiply."),
            "only the own half": ([[0.48], [0.9884]], "The guide's rows may differ among themselves too."),
        },
    )
    p, q, own, guided = np.array([0.0, 0.05, 0.5, 1.0]), np.array([1.0, 0.61, 0.3, 1.0]), 5, 3
    want = np.zeros((2, 4))
    for outcome in range(2 ** (own + guided)):  # every list of right and wrong
        right = [outcome >> i & 1 for i in range(own + guided)]
        k, m = sum(right[:own]), sum(right[own:])
        chance = p**k * (1 - p) ** (own - k) * q**m * (1 - q) ** (guided - m)
        want[0] += chance * (0 < k < own or 0 < m < guided)
        want[1] += chance * (0 < k + m < own + guided)
    expect(attempt(answer, p, q, own, guided), want, given="four pairs p, q, 5 own and 3 guided completions")


def line_between(tokens, scores, budget):
    """The ready answer to 6c.1."""
    at = np.flatnonzero(np.isfinite(scores))
    return float(np.interp(budget, np.asarray(tokens)[at], np.asarray(scores)[at]))


def ordered(scores):
    """The ready answer to 6c.2."""
    x = np.sort(np.asarray(scores, dtype=float))
    n = len(x)
    return np.array([(x[(n - 1) // 2] + x[n // 2]) / 2, x[0], x[-1], 1 - 0.5 ** (n - 1)])


def not_all_one(p, q, own, guided):
    """The ready answer to 6c.4."""
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    dead = [(x**n, (1 - x) ** n) for x, n in ((p, own), (q, guided))]
    (a, b), (c, d) = dead
    return np.array([1 - (a + b) * (c + d), 1 - a * c - b * d])


def two_logs(runs):
    """The runs of 6c.3: (correct, broken), each {column: (updates,)} of the first seed."""
    names = "sparse, mix_1 corrected", "sparse, mix_1 faithful"
    first = (runs[name]["seeds"][min(runs[name]["seeds"], key=int)] for name in names)
    return [{k: np.array(v, dtype=float) for k, v in log.items()} for log in first]
