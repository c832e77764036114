"""Solutions and typical wrong answers of notebook 05d."""

SOLUTIONS = {
    "5d.1": '''
def my_ratio(logp, logp_old, mask):
    """(107) One ratio a response: (B, T) log-probabilities and mask to (B,)."""
    total = np.where(mask, logp - logp_old, 0.0).sum(axis=1)
    return np.exp(total / mask.sum(axis=1))
''',
    "5d.2": '''
def my_gspo(logp, logp_old, mask, reward, low, high):
    """(109) for one group of G responses: log-probabilities and mask (G, T), reward (G,); a number."""
    total = np.where(mask, logp - logp_old, 0.0).sum(axis=1)
    s = np.exp(total / mask.sum(axis=1))
    if reward.max() == reward.min():
        return 0.0
    A = (reward - reward.mean()) / reward.std()
    return np.minimum(s * A, np.clip(s, 1 - low, 1 + high) * A).mean()
''',
    "5d.3": '''
def my_weight(ratio, advantage, tau_pos, tau_neg):
    """(121) What stands before the score of each token, shaped as `ratio` and `advantage`."""
    tau = np.where(advantage > 0, tau_pos, tau_neg)
    sigmoid = 1 / (1 + np.exp(-np.clip(tau * (ratio - 1), -500, 500)))
    gate = 4 * sigmoid * (1 - sigmoid)
    return gate * ratio * advantage
''',
    # The broken program averages over the padded row: it divides by the width of the batch.
    "5d.4": 'my_bug = "b"',
}

TERM = "np.minimum(s * A, np.clip(s, 1 - low, 1 + high) * A)"
GUARD = "    if reward.max() == reward.min():\n        return 0.0\n"
MUTANTS = {
    "5d.1": {
        "product, no root": ("total / mask.sum(axis=1)", "total"),
        "arithmetic mean": (
            "    return np.exp(total / mask.sum(axis=1))",
            "    return np.where(mask, np.exp(logp - logp_old), 0.0).sum(axis=1) / mask.sum(axis=1)",
        ),
        "divides by the padded length": ("mask.sum(axis=1)", "mask.shape[1]"),
        "no mask": (
            "    total = np.where(mask, logp - logp_old, 0.0).sum(axis=1)\n"
            "    return np.exp(total / mask.sum(axis=1))",
            "    return np.exp((logp - logp_old).mean(axis=1))",
        ),
        "masks the length only": ("np.where(mask, logp - logp_old, 0.0)", "(logp - logp_old)"),
        "upside down": ("logp - logp_old", "logp_old - logp"),
        "stays a logarithm": ("np.exp(total / mask.sum(axis=1))", "total / mask.sum(axis=1)"),
    },
    "5d.2": {
        "sign": ("return np.minimum", "return -np.minimum"),
        "unbiased deviation": ("reward.std()", "reward.std(ddof=1)"),
        "no deviation": (" / reward.std()", ""),
        "max for min": ("np.minimum", "np.maximum"),
        "always clips": (TERM, "(np.clip(s, 1 - low, 1 + high) * A)"),
        "dual clip": (
            f"    return {TERM}.mean()\n",
            f"    term = {TERM}\n    return np.where(A < 0, np.maximum(term, 3 * A), term).mean()\n",
        ),
        "clips above only": ("np.clip(s, 1 - low, 1 + high)", "np.minimum(s, 1 + high)"),
        "clips below only": ("np.clip(s, 1 - low, 1 + high)", "np.maximum(s, 1 - low)"),
        "widths swapped": ("1 - low, 1 + high", "1 - high, 1 + low"),
        "product ratio": ("np.exp(total / mask.sum(axis=1))", "np.exp(total)"),
        "clips tokens": (
            f"    return {TERM}.mean()\n",
            "    s, A = np.exp(np.where(mask, logp - logp_old, 0.0)), A[:, None]\n"
            f"    return (({TERM} * mask).sum(axis=1) / mask.sum(axis=1)).mean()\n",
        ),
        "mean over tokens": (f"{TERM}.mean()", f"np.average({TERM}, weights=mask.sum(axis=1))"),
        "sum over the group": (".mean()\n", ".sum()\n"),
        "no guard for ties": (GUARD, ""),
    },
    "5d.3": {
        "gate without the ratio": ("gate * ratio * advantage", "gate * advantage"),
        "gate as printed": ("4 * sigmoid * (1 - sigmoid)", "2 * (tau / 2 * (ratio - 1))"),
        "temperatures swapped": ("tau_pos, tau_neg)\n    sig", "tau_neg, tau_pos)\n    sig"),
        "temperature by the side of r": ("np.where(advantage > 0", "np.where(ratio > 1"),
        "no factor 4": ("4 * sigmoid", "sigmoid"),
        "sech not squared": ("4 * sigmoid * (1 - sigmoid)", "np.sqrt(4 * sigmoid * (1 - sigmoid))"),
        "value for slope": ("return gate * ratio * advantage", "return 4 / tau * sigmoid * advantage"),
        "no advantage": ("gate * ratio * advantage", "gate * ratio"),
        "overflow": (
            "    sigmoid = 1 / (1 + np.exp(-np.clip(tau * (ratio - 1), -500, 500)))\n"
            "    gate = 4 * sigmoid * (1 - sigmoid)\n",
            "    e = np.exp(tau * (ratio - 1))\n    gate = 4 * e / (1 + e) ** 2\n",
        ),
    },
    "5d.4": {
        "sums the log-ratios": 'my_bug = "a"',
        "clip range ten times too wide": 'my_bug = "c"',
        "averages the ratios": 'my_bug = "d"',
    },
}
