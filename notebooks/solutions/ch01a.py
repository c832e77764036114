"""Answers to the exercises of notebook 01a, and wrong answers that the checks must name."""

SOLUTIONS = {
    "1a.1": """
def my_value_estimate(rewards, gamma):
    steps = np.arange(rewards.shape[1])
    G = rewards @ gamma**steps
    return G.mean(), G.std(ddof=1) / np.sqrt(len(G))
""",
    "1a.2": """
def my_snis(f, w):
    return (w * f).sum() / w.sum()
""",
    "1a.3": """
def my_ess(w):
    return w.sum() ** 2 / (w**2).sum()
""",
    "1a.4": """
def my_off_policy_value(s, a, r, target, behaviour):
    w = target[s, a] / behaviour[s, a]
    return (w * r).mean()
""",
    "1a.5": """
my_diagnosis = "D"
""",
}

MUTANTS = {
    "1a.1": {
        "no discount": ("rewards @ gamma**steps", "rewards.sum(axis=1)"),
        "discount starts one step early": ("gamma**steps", "gamma ** (steps + 1)"),
        "rewards in reverse": ("gamma**steps", "gamma ** steps[::-1]"),
        "standard deviation for standard error": (" / np.sqrt(len(G))", ""),
        "divides the variance by N": ("ddof=1", "ddof=0"),
        "variance of the mean": ("G.std(ddof=1) / np.sqrt(len(G))", "G.var(ddof=1) / len(G)"),
    },
    "1a.2": {
        "divides by N": ("/ w.sum()", "/ len(w)"),
        "normalises twice": ("(w * f).sum() / w.sum()", "(w / w.sum() * f).mean()"),
        "ignores the weights": ("(w * f).sum() / w.sum()", "f.mean()"),
        "weights upside down": ("(w * f).sum() / w.sum()", "(f / w).sum() / (1 / w).sum()"),
        "squares the weights": ("(w * f).sum() / w.sum()", "(w**2 * f).sum() / (w**2).sum()"),
        "divides by the largest weight": ("(w * f).sum() / w.sum()", "(w / w.max() * f).mean()"),
    },
    "1a.3": {
        "sum not squared": ("w.sum() ** 2", "w.sum()"),
        "weights not squared": ("(w**2).sum()", "w.sum()"),
        "upside down": ("w.sum() ** 2 / (w**2).sum()", "(w**2).sum() / w.sum() ** 2"),
        "share of N": ("/ (w**2).sum()", "/ (w**2).sum() / len(w)"),
        "squares inside both sums": ("w.sum() ** 2", "(w**2).sum()"),
        "divides by the largest weight": ("w.sum() ** 2 / (w**2).sum()", "w.sum() / w.max()"),
    },
    "1a.4": {
        "weights upside down": ("target[s, a] / behaviour[s, a]", "behaviour[s, a] / target[s, a]"),
        "no weights": ("(w * r)", "r"),
        "rows are actions": ("target[s, a] / behaviour[s, a]", "target[a, s] / behaviour[a, s]"),
        "divides by the sum of the weights": ("(w * r).mean()", "(w * r).sum() / w.sum()"),
        "behaviour left out": (" / behaviour[s, a]", ""),
        "sum for mean": (".mean()", ".sum()"),
    },
    "1a.5": {
        "weights upside down": ('"D"', '"A"'),
        "self-normalised": ('"D"', '"B"'),
        "weights capped": ('"D"', '"C"'),
    },
}
