"""Solutions and typical wrong answers of notebook 05a."""

SOLUTIONS = {
    "5a.1": '''
def my_optimum(p_ref, R, beta):
    """(87) The distribution (N,) that maximises E[R] - beta KL(pi || p_ref); p_ref > 0."""
    R = R - R.max()
    weight = p_ref * np.exp(R / beta)
    return weight / weight.sum()
''',
    "5a.2": '''
def my_scores(R, logp, logp_ref, mask, beta):
    """(89) u (B,): the reward of each completion less beta times its summed log-ratio, k1."""
    log_ratio = np.where(mask, logp - logp_ref, 0)
    return R - beta * log_ratio.sum(axis=1)
''',
    "5a.3": '''
def my_advantages(u, group, eps):
    """(90), (91) Group-normalised advantages (B,) of the scores u (B,)."""
    A = np.zeros(len(u))
    for g in np.unique(group):
        mine = group == g
        mean, var = u[mine].mean(), u[mine].var()
        A[mine] = (u[mine] - mean) / np.sqrt(var + eps)
    return A
''',
    "5a.4": '''
def my_log_probs(logits, ids, n_prompt):
    """log pi (L - n_prompt,) of the tokens after the prompt; logits (L, V), ids (L,)."""
    top = logits.max(axis=-1, keepdims=True)
    norm = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    logp = logits - norm
    rows, tokens = logp[n_prompt - 1 : -1], ids[n_prompt:]
    return rows[np.arange(len(tokens)), tokens]
''',
    # The broken program takes the policy of one update ago as its reference, so the penalty is about 0.
    "5a.5": 'my_bug = "b"',
}

MUTANTS = {
    "5a.1": {
        "multiplies by beta": ("R / beta", "R * beta"),
        "missing beta": ("R / beta", "R"),
        "forgets the reference": ("p_ref * ", ""),
        "not normalised": (
            "    R = R - R.max()\n    weight = p_ref * np.exp(R / beta)\n    return weight / weight.sum()",
            "    return p_ref * np.exp(R / beta)",
        ),
        "sign": ("np.exp(R / beta)", "np.exp(-R / beta)"),
        "greedy": ("weight / weight.sum()", "(weight == weight.max()) * 1.0"),
        "p for log p": ("p_ref * np.exp(R / beta)", "np.exp(p_ref + R / beta)"),
        "overflows": ("    R = R - R.max()\n", ""),
        "subtracts another number than the largest": ("R.max()", "R.mean()"),
    },
    "5a.2": {
        "no mask on padding": ("np.where(mask, logp - logp_ref, 0)", "logp - logp_ref"),
        "mean over tokens": ("log_ratio.sum(axis=1)", "log_ratio.sum(axis=1) / mask.sum(axis=1)"),
        "KL direction": ("logp - logp_ref", "logp_ref - logp"),
        "missing beta": ("beta * ", ""),
        "mean over the batch": ("log_ratio.sum(axis=1)", "log_ratio.sum(axis=1).mean()"),
        "k2 for k1": ("logp - logp_ref", "(logp - logp_ref) ** 2 / 2"),
        "k3 for k1": ("logp - logp_ref", "np.exp(logp_ref - logp) - 1 + logp - logp_ref"),
        "last token only": (
            "log_ratio.sum(axis=1)",
            "log_ratio[np.arange(len(R)), mask.sum(axis=1) - 1]",
        ),
    },
    "5a.3": {
        "ddof=1": ("u[mine].var()", "u[mine].var(ddof=1) if mine.sum() > 1 else 0.0"),
        "eps outside the root": ("np.sqrt(var + eps)", "(np.sqrt(var) + eps)"),
        "whole-batch baseline": ("u[mine].mean(), u[mine].var()", "u.mean(), u.var()"),
        "no division": (" / np.sqrt(var + eps)", ""),
        "divides by the variance": ("np.sqrt(var + eps)", "(var + eps)"),
        "no mean": ("(u[mine] - mean)", "u[mine]"),
        "batch deviation": ("u[mine].var()", "u.var()"),
        "missing eps": ("np.sqrt(var + eps)", "(np.sqrt(var) if var else 1)"),
        "eps as a floor": ("var + eps", "max(var, eps)"),
    },
    "5a.4": {
        "row of the token itself": ("logp[n_prompt - 1 : -1]", "logp[n_prompt:]"),
        "reads the token before": ("ids[n_prompt:]", "ids[n_prompt - 1 : -1]"),
        "raw logits": ("logits - norm", "logits"),
        "prompt counted": ("logp[n_prompt - 1 : -1], ids[n_prompt:]", "logp[:-1], ids[1:]"),
        "no log": (
            "return rows[np.arange(len(tokens)), tokens]",
            "return np.exp(rows)[np.arange(len(tokens)), tokens]",
        ),
        "sum over tokens": ("len(tokens)), tokens]", "len(tokens)), tokens].sum()"),
        "softmax over positions": ("axis=-1", "axis=0"),
        "overflows": ("top + np.log(np.exp(logits - top)", "np.log(np.exp(logits)"),
        "one maximum for the table": ("logits.max(axis=-1, keepdims=True)", "logits.max()"),
        "no finite log of a small probability": ("logits.max(", "logits.mean("),
        "adds to the probability": ("logp = logits - norm", "logp = np.log(np.exp(logits - norm) + 1e-12)"),
    },
    "5a.5": {
        "sign of the penalty": 'my_bug = "a"',
        "k1 in the loss": 'my_bug = "c"',
        "beta ten times too large": 'my_bug = "d"',
    },
}
