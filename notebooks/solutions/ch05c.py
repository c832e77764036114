"""Solutions and typical wrong answers of notebook 05c."""

SOLUTIONS = {
    "5c.1": '''
def my_live_share(p, G):
    """Chance that G completions are neither all right nor all wrong; p is an array."""
    return 1 - p**G - (1 - p) ** G
''',
    "5c.2": '''
def my_dapo(logp, logp_old, mask, advantage, low, high):
    """(102) without its KL term: one number. logp, logp_old, mask (B, T), advantage (B,)."""
    A = advantage[:, None]
    ratio = np.exp(np.where(mask, logp - logp_old, 0.0))
    term = np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)
    total = np.where(mask, term, 0.0).sum()
    return total / mask.sum()
''',
    # The lower width is .28 and the upper one .2.
    "5c.3": 'my_bug = "c"',
    "5c.4": '''
def my_punishment(length, longest, buffer):
    """What is added to the reward of completions of these lengths (B,)."""
    over = length - (longest - buffer)
    return np.clip(-over / buffer, -1.0, 0.0)
''',
}

MUTANTS = {
    "5c.1": {
        "share of dead groups": ("1 - p**G - (1 - p) ** G", "p**G + (1 - p) ** G"),
        "forgets groups that are all right": ("1 - p**G - (1 - p) ** G", "1 - (1 - p) ** G"),
        "forgets groups that are all wrong": ("1 - p**G - (1 - p) ** G", "1 - p**G"),
        "events taken as independent": ("1 - p**G - (1 - p) ** G", "(1 - p**G) * (1 - (1 - p) ** G)"),
        "exactly one right": ("1 - p**G - (1 - p) ** G", "G * p * (1 - p) ** (G - 1)"),
        "variance of one completion": ("1 - p**G - (1 - p) ** G", "p * (1 - p)"),
        "holds for G = 2 and 3 only": ("1 - p**G - (1 - p) ** G", "G * p * (1 - p)"),
    },
    "5c.2": {
        "mean over completions": (
            "    total = np.where(mask, term, 0.0).sum()\n    return total / mask.sum()",
            "    return (np.where(mask, term, 0.0).sum(1) / mask.sum(1)).mean()",
        ),
        "counts the padding": ("total / mask.sum()", "total / mask.size"),
        "sums the padding": (
            "    ratio = np.exp(np.where(mask, logp - logp_old, 0.0))\n"
            "    term = np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)\n"
            "    total = np.where(mask, term, 0.0).sum()\n    return total / mask.sum()",
            "    ratio = np.exp(logp - logp_old)\n"
            "    term = np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)\n"
            "    return term.mean()",
        ),
        "widths swapped": ("1 - low, 1 + high", "1 - high, 1 + low"),
        "one width for both sides": ("1 + high", "1 + low"),
        "max for min": ("np.minimum", "np.maximum"),
        "always clips": (
            "np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)",
            "np.clip(ratio, 1 - low, 1 + high) * A",
        ),
        "no clip": ("np.minimum(ratio * A, np.clip(ratio, 1 - low, 1 + high) * A)", "ratio * A"),
        "sign": ("return total", "return -total"),
    },
    "5c.3": {
        "symmetric clip": 'my_bug = "a"',
        "max for min": 'my_bug = "b"',
        "clip of the log-ratio": 'my_bug = "d"',
    },
    "5c.4": {
        "sign": ("return np.clip(-over / buffer, -1.0, 0.0)", "return np.clip(over / buffer, 0.0, 1.0)"),
        "pays short completions": ("np.clip(-over / buffer, -1.0, 0.0)", "np.maximum(-over / buffer, -1.0)"),
        "divides by the limit": ("-over / buffer", "-over / longest"),
        "only at the limit": ("np.clip(-over / buffer, -1.0, 0.0)", "-1.0 * (length >= longest)"),
        "all of the buffer": ("np.clip(-over / buffer, -1.0, 0.0)", "-1.0 * (over > 0)"),
        "line from the start": ("np.clip(-over / buffer, -1.0, 0.0)", "-length / longest"),
        "starts one buffer late": ("length - (longest - buffer)", "length - longest"),
    },
}
