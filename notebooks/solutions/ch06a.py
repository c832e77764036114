"""Solutions and typical wrong answers of notebook 06a."""

SOLUTIONS = {
    "6a.1": '''
def my_advantages(rewards, source, group, pooled):
    """P1 and P2, or with pooled=True one comparison of both sources: an advantage a row (B,)."""
    A = np.zeros(len(rewards))
    for g in np.unique(group):
        sets = [group == g] if pooled else [(group == g) & (source == s) for s in (0, 1)]
        for rows in sets:
            x = rewards[rows]
            if len(x) and x.max() > x.min():
                A[rows] = (x - x.mean()) / x.std()
    return A
''',
    "6a.2": '''
def my_pull(logp, logp_guide, mask, advantage, gamma):
    """Derivative of P4 with respect to the log-probability of each token (B, T), 0 on padding."""
    r = np.exp(np.where(mask, logp - logp_guide, 0.0))
    weight = gamma * r / (r + gamma) ** 2
    return np.where(mask, weight * advantage[:, None], 0.0) / mask.sum()
''',
    # The ratio to the policy that sampled is 1 in the first pass: the same weight everywhere.
    "6a.3": 'my_bug = "c"',
    "6a.4": '''
def my_mix(logp, below, mask, advantage, source, gamma, low, high):
    """P8: one number. The ratios divide by exp(below); source is 1 on rows of the guide."""
    A = advantage[:, None]
    r = np.exp(np.where(mask, logp - below, 0.0))
    shaped = r / (r + gamma) * A
    clipped = np.minimum(r * A, np.clip(r, 1 - low, 1 + high) * A)
    term = np.where(source[:, None] == 1, shaped, clipped)
    total = np.where(mask, term, 0.0).sum()
    return total / mask.sum()
''',
}

MUTANTS = {
    "6a.1": {
        "pooled": ("if pooled else", "if True else"),
        "all prompts together": ("(group == g) & (source == s)", "(group > -1) & (source == s)"),
        "unbiased deviation": ("x.std()", "x.std(ddof=1)"),
        "no deviation": ("(x - x.mean()) / x.std()", "x - x.mean()"),
        "1e-6 beside the deviation": ("x.std()", "(x.std() + 1e-6)"),
        "1e-4 beside the deviation": ("x.std()", "(x.std() + 1e-4)"),
        "sign": ("(x - x.mean())", "(x.mean() - x)"),
        "always apart": ("if pooled else", "if False else"),
        "no guard for ties": (
            "            if len(x) and x.max() > x.min():\n                A[rows] = (x - x.mean()) / x.std()",
            "            if len(x):\n                A[rows] = (x - x.mean()) / max(x.std(), 1e-300)",
        ),
    },
    "6a.2": {
        "derivative of f without r": ("gamma * r / (r + gamma) ** 2", "gamma / (r + gamma) ** 2"),
        "f held constant": ("gamma * r / (r + gamma) ** 2", "r / (r + gamma)"),
        "no shaping": ("gamma * r / (r + gamma) ** 2", "r"),
        "imitation": ("gamma * r / (r + gamma) ** 2", "np.ones_like(r)"),
        "ratio upside down": ("logp - logp_guide", "logp_guide - logp"),
        "the sequence's ratio": (
            "np.exp(np.where(mask, logp - logp_guide, 0.0))",
            "np.exp(np.where(mask, logp - logp_guide, 0.0).sum(1, keepdims=True))",
        ),
        "clips the guide's rows": (
            "gamma * r / (r + gamma) ** 2",
            "np.where(abs(r - 1) <= 0.2, gamma * r / (r + gamma) ** 2, 0.0)",
        ),
        "sum over tokens": (" / mask.sum()", ""),
        "mean over completions": ("/ mask.sum()", "/ mask.sum(1)[:, None] / len(mask)"),
        "divides by the rows": ("/ mask.sum()", "/ len(mask)"),
        "half of P5": ("/ mask.sum()", "/ (2 * mask.sum())"),
        "counts the padding": ("/ mask.sum()", "/ mask.size"),
        "no mask": (
            "    r = np.exp(np.where(mask, logp - logp_guide, 0.0))\n"
            "    weight = gamma * r / (r + gamma) ** 2\n"
            "    return np.where(mask, weight * advantage[:, None], 0.0) / mask.sum()",
            "    r = np.exp(logp - logp_guide)\n"
            "    weight = gamma * r / (r + gamma) ** 2\n"
            "    return weight * advantage[:, None] / mask.sum()",
        ),
        "NaN times 0": (
            "    r = np.exp(np.where(mask, logp - logp_guide, 0.0))\n"
            "    weight = gamma * r / (r + gamma) ** 2\n"
            "    return np.where(mask, weight * advantage[:, None], 0.0) / mask.sum()",
            "    r = np.exp(logp - logp_guide)\n"
            "    weight = gamma * r / (r + gamma) ** 2\n"
            "    return mask * weight * advantage[:, None] / mask.sum()",
        ),
        "sign": ("return np.where", "return -np.where"),
        "without the advantage": ("weight * advantage[:, None]", "weight"),
    },
    "6a.3": {
        "derivative of f without r": 'my_bug = "a"',
        "no shaping": 'my_bug = "b"',
        "clips the guide's rows": 'my_bug = "d"',
    },
    "6a.4": {
        "a mean for each set": (
            "    total = np.where(mask, term, 0.0).sum()\n    return total / mask.sum()",
            "    sets = [mask & (source[:, None] == s) for s in (0, 1)]\n"
            "    return sum(term[tokens].mean() for tokens in sets)",
        ),
        "sums, as in version 000": ("return total / mask.sum()", "return total"),
        "mean over completions": (
            "    total = np.where(mask, term, 0.0).sum()\n    return total / mask.sum()",
            "    return (np.where(mask, term, 0.0).sum(1) / mask.sum(1)).mean()",
        ),
        "counts the padding": ("/ mask.sum()", "/ mask.size"),
        "clips the guide's rows": ("source[:, None] == 1", "source[:, None] == 2"),
        "no shaping": ("r / (r + gamma) * A", "r * A"),
        "shapes every row": ("source[:, None] == 1", "source[:, None] >= 0"),
        "sources swapped": ("source[:, None] == 1", "source[:, None] == 0"),
        "max for min": ("np.minimum", "np.maximum"),
        "always clips": (
            "np.minimum(r * A, np.clip(r, 1 - low, 1 + high) * A)",
            "np.clip(r, 1 - low, 1 + high) * A",
        ),
        "no clip": ("np.minimum(r * A, np.clip(r, 1 - low, 1 + high) * A)", "r * A"),
        "widths swapped": ("1 - low, 1 + high", "1 - high, 1 + low"),
        "sign": ("return total", "return -total"),
    },
}
