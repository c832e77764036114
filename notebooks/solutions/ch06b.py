"""Solutions and typical wrong answers of notebook 06b."""

SOLUTIONS = {
    "6b.1": '''
def my_bound(gain, L, S, m, step, K):
    """Bound on the smallest mean squared gradient of K updates with this step."""
    return (gain / (step * K) + L * step * S / 2) / m
''',
    "6b.2": '''
def my_clipped_mean(x, pi, phi, low, high):
    """Mean over samples of phi of x times the clipped weight pi / phi."""
    weight = np.clip(pi / phi, low, high)
    return phi @ (weight * x)
''',
    "6b.3": '''
def my_off_slope(pi, score, phi, R, gamma):
    """Derivative of P4 in the parameter of a bandit; all arrays over the arms."""
    r = pi / phi
    mean = phi @ R
    B = (R - mean) / np.sqrt(phi @ (R - mean) ** 2)
    weight = r * gamma / (r + gamma) ** 2
    return phi @ (weight * B * score)
''',
    # Without weights mu rests at sum phi R x / sum phi R = (-.24 + .06) / .6 = -.3.
    "6b.4": 'my_bug = "b"',
}

_MEAN = "phi @ (weight * x)"
_B = "    B = (R - mean) / np.sqrt(phi @ (R - mean) ** 2)\n"

MUTANTS = {
    "6b.1": {
        "no alignment": (" / m", ""),
        "multiplies by the alignment": (" / m", " * m"),
        "no half": (" / 2", ""),
        "step squared": ("L * step * S", "L * step**2 * S"),
        "gain not divided by K": ("(step * K)", "step"),
        "noise divided by K": ("S / 2", "S / 2 / K"),
        "forgets the noise": (" + L * step * S / 2", ""),
        "forgets the step in the first term": ("(step * K)", "K"),
        "alignment divides the gain only": (
            "(gain / (step * K) + L * step * S / 2) / m",
            "gain / (step * K) / m + L * step * S / 2",
        ),
    },
    "6b.2": {
        "no clip": ("np.clip(pi / phi, low, high)", "pi / phi"),
        "mean under the policy": (_MEAN, "pi @ (weight * x)"),
        "upper clip only": ("np.clip(pi / phi, low, high)", "np.minimum(pi / phi, high)"),
        "lower clip only": ("np.clip(pi / phi, low, high)", "np.maximum(pi / phi, low)"),
        "mean over the arms": (_MEAN, "(weight * x).mean()"),
        "self-normalised": (_MEAN, "phi @ (weight * x) / (phi @ weight)"),
        "ratio upside down": ("pi / phi", "phi / pi"),
        "clips the product": (
            "    weight = np.clip(pi / phi, low, high)\n    return phi @ (weight * x)",
            "    return phi @ np.clip(pi / phi * x, low, high)",
        ),
        "discards": (
            "    weight = np.clip(pi / phi, low, high)\n",
            "    weight = pi / phi\n    weight = weight * ((weight >= low) & (weight <= high))\n",
        ),
        "bias in place of the mean": (_MEAN, "phi @ (weight * x) - pi @ x"),
    },
    "6b.3": {
        "f' without r": ("weight = r * gamma", "weight = gamma"),
        "f in place of r f'": ("r * gamma / (r + gamma) ** 2", "r / (r + gamma)"),
        "plain importance weight": ("r * gamma / (r + gamma) ** 2", "r"),
        "no weight": ("r * gamma / (r + gamma) ** 2", "1.0"),
        "mean under the policy": ("return phi @", "return pi @"),
        "z-score under the policy": ("mean = phi @ R\n" + _B, "mean = pi @ R\n" + _B.replace("phi", "pi")),
        "deviation left out": (" / np.sqrt(phi @ (R - mean) ** 2)", ""),
        "raw rewards": (_B, "    B = R\n"),
        "no score": (" * score", ""),
        "variance for deviation": ("np.sqrt(phi @ (R - mean) ** 2)", "(phi @ (R - mean) ** 2)"),
        "sample deviation": ("np.sqrt(phi @ (R - mean) ** 2)", "R.std(ddof=1)"),
        "z-score over the arms": ("mean = phi @ R\n" + _B, "B = (R - R.mean()) / R.std()\n"),
        "ratio upside down": ("r = pi / phi", "r = phi / pi"),
    },
    "6b.4": {
        "step too large": 'my_bug = "a"',
        "clipped weights": 'my_bug = "c"',
        "weights upside down": 'my_bug = "d"',
    },
}
