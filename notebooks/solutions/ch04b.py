"""Solutions and typical wrong answers of notebook 04b."""

SOLUTIONS = {
    "4b.1": '''
def my_ratio(pi, pi_new, alpha):
    """(56) pi_alpha / pi (S, A), and 0 where pi is 0; pi and pi_new (S, A), alpha in [0, 1]."""
    mix = (1 - alpha) * pi + alpha * pi_new
    return np.divide(mix, pi, out=np.zeros(pi.shape), where=pi > 0)
''',
    "4b.2": '''
def my_gain(d, A, pi_new, gamma):
    """(58) The pair g, eps from occupancy d (S,) and advantages A (S, A) of the old policy."""
    mean = (pi_new * A).sum(axis=1)
    return d @ mean / (1 - gamma), np.abs(mean).max()
''',
    "4b.3": '''
def my_step(g, eps, gamma):
    """(61) The step in [0, 1] that maximises the bound (60)."""
    gain, penalty = (1 - gamma) ** 2 * g, 4 * gamma * eps
    if gain <= 0:
        return 0.0
    if gain >= penalty:
        return 1.0
    return gain / penalty
''',
    # The dashed curve passes every height ten times as late: at k = 242 what the solid one passes at 24.
    # 1 / (1 - gamma) = 10. Twice eps makes it twice as late; the two others never pass 8 or 13.2.
    "4b.4": 'my_bug = "c"',
}

MUTANTS = {
    "4b.1": {
        "swapped": ("(1 - alpha) * pi + alpha * pi_new", "alpha * pi + (1 - alpha) * pi_new"),
        "forgets alpha": ("(1 - alpha) * pi + alpha * pi_new", "pi_new"),
        "forgets the old part": ("(1 - alpha) * pi + alpha * pi_new", "alpha * pi_new"),
        "upside down": ("np.divide(mix, pi, ", "np.divide(pi, mix, "),
        "no ratio": ("np.divide(mix, pi, out=np.zeros(pi.shape), where=pi > 0)", "mix"),
        "divides by zero": ("np.divide(mix, pi, out=np.zeros(pi.shape), where=pi > 0)", "mix / pi"),
        "ignores the candidate": ("(1 - alpha) * pi + alpha * pi_new", "pi"),
    },
    "4b.2": {
        "missing 1 - gamma": (" / (1 - gamma)", ""),
        "ignores d": ("d @ mean", "mean.mean()"),
        "adds states": ("d @ mean", "mean.sum()"),
        "ignores the candidate": ("(pi_new * A).sum(axis=1)", "A.mean(axis=1)"),
        "absolute gain": ("d @ mean", "d @ np.abs(mean)"),
        "best action": ("(pi_new * A).sum(axis=1)", "A.max(axis=1)"),
        "no absolute value": ("np.abs(mean).max()", "mean.max()"),
        "single advantage": ("np.abs(mean).max()", "np.abs(A).max()"),
        "mean, not maximum": ("np.abs(mean).max()", "d @ np.abs(mean)"),
        "of the average": ("np.abs(mean).max()", "abs(d @ mean)"),
        "with 1 / (1 - gamma)": ("np.abs(mean).max()", "np.abs(mean).max() / (1 - gamma)"),
    },
    "4b.3": {
        "missing square": ("(1 - gamma) ** 2", "(1 - gamma)"),
        "missing 1 - gamma": ("(1 - gamma) ** 2 * g", "g"),
        "missing gamma": ("4 * gamma * eps", "4 * eps"),
        "where the bound is zero": ("4 * gamma", "2 * gamma"),
        "upside down": """
def my_step(g, eps, gamma):
    return min(1.0, (1 - gamma) ** 2 / (4 * gamma) * eps / g)
""",
        "no upper limit": ("if gain >= penalty:", "if penalty == 0:"),
        "steps backwards": """
def my_step(g, eps, gamma):
    return min(1.0, (1 - gamma) ** 2 / (4 * gamma) * g / eps)
""",
        "absolute gain": ("(1 - gamma) ** 2 * g", "(1 - gamma) ** 2 * abs(g)"),
        "jumps on a loss": """
def my_step(g, eps, gamma):
    ratio = (1 - gamma) ** 2 / (4 * gamma) * g / eps
    return ratio if 0 < ratio < 1 else 1.0
""",
        "divides by zero": """
def my_step(g, eps, gamma):
    return max(0.0, min(1.0, (1 - gamma) ** 2 / (4 * gamma) * g / eps))
""",
        "stops for nothing": ("if gain <= 0:", "if gain <= 0 or penalty == 0:"),
    },
    "4b.4": {
        "old candidate": 'my_bug = "a"',
        "mixes with the start": 'my_bug = "b"',
        "eps twice as large": 'my_bug = "d"',
    },
}
