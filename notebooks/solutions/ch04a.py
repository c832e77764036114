"""Solutions and typical wrong answers of notebook 04a."""

SOLUTIONS = {
    "4a.1": '''
def my_difference(A, pi, pi_new, d, d_new, gamma):
    """(48) J(pi_new) - J(pi) from advantages (S, A), policies (S, A) and occupancies (S,)."""
    mean_A = (pi_new * A).sum(axis=1)
    return d_new @ mean_A / (1 - gamma)
''',
    "4a.2": '''
def my_surrogate_gain(advantage, ratio, gamma):
    """(51) L - J(pi) from n rollouts of the old policy; advantage and ratio are (n, T)."""
    weight = gamma ** np.arange(advantage.shape[1])
    return (weight * ratio * advantage).sum(axis=1).mean()
''',
    "4a.3": '''
def my_rollouts(pi, pi_new, H, error):
    """Rollouts for a relative standard deviation `error` of J_IS; laws (A,)."""
    mean_square = (pi_new**2 / pi).sum()
    return (mean_square**H - 1) / error**2
''',
    # At alpha = 0 both curves are 0, so A is centred. The dashed one bends, so it is not a lost factor. The
    # new occupancy would give J, which has the slope of L at 0; the inverse ratio turns the slope round.
    "4a.4": 'my_bug = "a"',
}

MUTANTS = {
    "4a.1": {
        "old occupancy": ("d_new @", "d @"),
        "old actions": ("(pi_new * A)", "(pi * A)"),
        "missing 1 / (1 - gamma)": (" / (1 - gamma)", ""),
        "multiplies by 1 - gamma": ("/ (1 - gamma)", "* (1 - gamma)"),
        "states not weighted": ("d_new @ mean_A", "mean_A.sum()"),
        "shift only": ("d_new @", "(d_new - d) @"),
        "ratio twice": ("(pi_new * A)", "(pi_new * pi_new / pi * A)"),
    },
    "4a.2": {
        "product of ratios": ("weight * ratio", "weight * np.cumprod(ratio, axis=1)"),
        "no ratio": ("weight * ratio * advantage", "weight * advantage"),
        "subtracts 1": ("* ratio *", "* (ratio - 1) *"),
        "no discount": ("weight * ratio", "ratio"),
        "upside down": ("weight * ratio", "weight / ratio"),
        "divides by 1 - gamma": (".mean()", ".mean() / (1 - gamma)"),
        "multiplies by 1 - gamma": (".mean()", ".mean() * (1 - gamma)"),
        "mean over steps": (".sum(axis=1).mean()", ".mean()"),
        "sum over rollouts": (".sum(axis=1).mean()", ".sum()"),
        "first step discounted": ("np.arange(advantage.shape[1])", "np.arange(1, advantage.shape[1] + 1)"),
    },
    "4a.3": {
        "policies swapped": ("pi_new**2 / pi)", "pi**2 / pi_new)"),
        "forgets the minus 1": ("(mean_square**H - 1)", "mean_square**H"),
        "error not squared": ("error**2", "error"),
        "variances added": ("(mean_square**H - 1)", "H * (mean_square - 1)"),
        "times H": ("mean_square**H", "mean_square * H"),
        "one step": ("mean_square**H", "mean_square"),
        "multiplies by the error": ("/ error**2", "* error**2"),
        "actions not weighted": ("(pi_new**2 / pi).sum()", "((pi_new / pi) ** 2).mean()"),
    },
    "4a.4": {
        "Q for A": 'my_bug = "b"',
        "new occupancy": 'my_bug = "c"',
        "missing factor": 'my_bug = "d"',
    },
}
