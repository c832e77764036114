"""Solutions and typical wrong answers of notebook 06c."""

SOLUTIONS = {
    "6c.1": '''
def my_at_budget(tokens, scores, budget):
    """The score (a number) at `budget` tokens, on straight lines between the measurements."""
    measured = ~np.isnan(scores)
    return np.interp(budget, tokens[measured], scores[measured])
''',
    "6c.2": '''
def my_summary(scores):
    """Median, lowest, highest, and the chance that lowest .. highest holds the true median."""
    n = len(scores)
    return np.median(scores), np.min(scores), np.max(scores), 1 - 2 * 0.5**n
''',
    # P1, P2 as printed, with a guide that is always right.
    "6c.3": 'my_bug = "c"',
    "6c.4": '''
def my_signal(p, q, own, guided):
    """Two arrays: chance of a signal with authors compared apart, and together."""
    own_right, own_wrong = p**own, (1 - p) ** own
    guide_right, guide_wrong = q**guided, (1 - q) ** guided
    apart = 1 - (own_right + own_wrong) * (guide_right + guide_wrong)
    together = 1 - own_right * guide_right - own_wrong * guide_wrong
    return apart, together
''',
}

LAST = "    return np.median(scores), np.min(scores), np.max(scores), 1 - 2 * 0.5**n"
LINE = "np.interp(budget, tokens[measured], scores[measured])"
APART = "1 - (own_right + own_wrong) * (guide_right + guide_wrong)"
TOGETHER = "1 - own_right * guide_right - own_wrong * guide_wrong"

MUTANTS = {
    "6c.1": {
        "last measurement before the budget": (LINE, "scores[measured & (tokens <= budget)][-1]"),
        "next measurement": (LINE, "scores[measured & (tokens >= budget)][0]"),
        "missing scores as 0": (LINE, "np.interp(budget, tokens, np.nan_to_num(scores))"),
        "by updates": (
            LINE,
            "np.interp(\n        budget / tokens[-1] * len(tokens),"
            " np.flatnonzero(measured) + 1, scores[measured])",
        ),
        "adds up the tokens again": ("tokens[measured]", "np.cumsum(tokens)[measured]"),
        "mean of the two neighbours": (
            LINE,
            "(scores[measured & (tokens <= budget)][-1]\n"
            "        + scores[measured & (tokens >= budget)][0]) / 2",
        ),
    },
    "6c.2": {
        "mean for median": ("np.median(scores)", "np.mean(scores)"),
        "one side only": ("1 - 2 * 0.5**n", "1 - 0.5**n"),
        "quartiles for the range": (
            "np.min(scores), np.max(scores)",
            "np.quantile(scores, 0.25), np.quantile(scores, 0.75)",
        ),
        "normal interval": (
            LAST,
            "    m, h = np.mean(scores), 1.96 * np.std(scores, ddof=1) / np.sqrt(n)\n"
            "    return np.median(scores), m - h, m + h, 1 - 2 * 0.5**n",
        ),
        "always 95 %": ("1 - 2 * 0.5**n", "0.95"),
        "chance of missing": ("1 - 2 * 0.5**n", "2 * 0.5**n"),
        "first and last": ("np.min(scores), np.max(scores)", "scores[0], scores[-1]"),
        "middle of the list": ("np.median(scores)", "scores[n // 2]"),
        "upper of the two middle ones": ("np.median(scores)", "np.sort(scores)[n // 2]"),
        "lower of the two middle ones": ("np.median(scores)", "np.sort(scores)[(n - 1) // 2]"),
    },
    "6c.3": {
        "guide never right": 'my_bug = "a"',
        "ratio to the guide": 'my_bug = "b"',
        "no step": 'my_bug = "d"',
    },
    "6c.4": {
        "share of dead groups": ("return apart, together", "return 1 - apart, 1 - together"),
        "both halves must be alive": (
            APART,
            "(1 - own_right - own_wrong) * (1 - guide_right - guide_wrong)",
        ),
        "forgets all right": ("p**own, (1 - p) ** own\n    guide_right, guide_wrong = q**guided",
                              "0 * p, (1 - p) ** own\n    guide_right, guide_wrong = 0 * q"),
        "one mean chance": (
            TOGETHER,
            "1 - (\n        ((own * p + guided * q) / (own + guided)) ** (own + guided)"
            "\n        + (1 - (own * p + guided * q) / (own + guided)) ** (own + guided))",
        ),
        "apart and together swapped": ("return apart, together", "return together, apart"),
        "adds dead chances": (APART, "1 - (own_right + own_wrong) - (guide_right + guide_wrong)"),
        "only the own half": (APART, "1 - own_right - own_wrong"),
    },
}  # fmt: skip
