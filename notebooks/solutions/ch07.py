"""Solutions and typical wrong answers of notebook 07."""

SOLUTIONS = {
    "7.1": '''
def my_lost(w, step):
    """Whether w + step, rounded to bfloat16, is w again (B,); no w is 0 or a power of two."""
    spacing = 2.0 ** (np.floor(np.log2(np.abs(w))) - 7)
    return np.abs(step) < spacing / 2
''',
    "7.2": '''
def my_bytes(n, guide, bfloat16):
    """Bytes (4,): trained weights, their gradients, AdamW's moments, frozen start and guide."""
    frozen = 2 if bfloat16 else 4
    return np.array([4 * n, 4 * n, 2 * 4 * n, frozen * (n + guide)])
''',
    # The moments were not restored: step 1 of AdamW has size lr in every coordinate, however small the slope.
    "7.3": 'my_bug = "c"',
    "7.4": '''
def my_combine(means, tokens):
    """The gradient (d,) of the batch's token mean from those of its pieces (K, d), tokens (K,)."""
    return tokens @ means / tokens.sum()
''',
}

MUTANTS = {
    "7.1": {
        "a whole spacing": ("spacing / 2", "spacing"),
        "one spacing for all weights": (
            "2.0 ** (np.floor(np.log2(np.abs(w))) - 7)",
            "2.0**-7 * np.ones(len(w))",
        ),
        "one bit too many": ("- 7", "- 8"),
        "forgets the sign of the step": ("np.abs(step)", "step"),
        "says which are kept": ("np.abs(step) <", "np.abs(step) >="),
    },
    "7.2": {
        "trained weights in 16 bits": ("[4 * n, 4 * n", "[2 * n, 4 * n"),
        "all of it in 16 bits": ("[4 * n, 4 * n, 2 * 4 * n", "[2 * n, 2 * n, 2 * 2 * n"),
        "one moment": ("2 * 4 * n", "4 * n"),
        "forgets the start": ("(n + guide)", "guide"),
        "forgets the guide": ("(n + guide)", "n"),
        "frozen models in 32 bits": ("2 if bfloat16 else 4", "4"),
        "moments of frozen models": ("2 * 4 * n", "2 * 4 * (n + guide)"),
        "always 16 bits": ("2 if bfloat16 else 4", "2"),
    },
    "7.3": {
        "the start's weights": 'my_bug = "a"',
        "ten times the step size": 'my_bug = "b"',
        "other random numbers": 'my_bug = "d"',
    },
    "7.4": {
        "mean of the means": ("tokens @ means / tokens.sum()", "means.mean(0)"),
        "sum of the means": ("tokens @ means / tokens.sum()", "means.sum(0)"),
        "forgets to divide": (" / tokens.sum()", ""),
        "divides by the pieces": ("tokens.sum()", "len(tokens)"),
        "divides by the tokens of the last piece": ("tokens.sum()", "tokens[-1]"),
        "weights the wrong way round": (
            "tokens @ means / tokens.sum()",
            "(1 / tokens) @ means / (1 / tokens).sum()",
        ),
    },
}
