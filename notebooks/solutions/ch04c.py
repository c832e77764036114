"""Solutions and typical wrong answers of notebook 04c."""

SOLUTIONS = {
    "4c.1": '''
def my_mean_kl(pi_old, pi_new, d):
    """(67) Mean KL(old || new) over states with weights d (S,); policies (S, A)."""
    taken = np.where(pi_old > 0, pi_old, 1.0)  # 0 log 0 = 0
    per_state = (pi_old * np.log(taken / pi_new)).sum(axis=1)
    return d @ per_state
''',
    "4c.2": '''
def my_fisher_product(pi, d, x):
    """(72) A x (S, A) for the softmax table pi (S, A), state weights d (S,) and x (S, A)."""
    mean = (pi * x).sum(axis=1, keepdims=True)
    return d[:, None] * pi * (x - mean)
''',
    "4c.3": '''
def my_step(theta, s, sAs, gain, kl, delta, shrink, max_shrinks):
    """Box 4.6.4: the first theta + shrink^j beta s that gains and keeps to delta, else theta."""
    beta = np.sqrt(2 * delta / sAs)
    for j in range(max_shrinks + 1):
        new = theta + shrink**j * beta * s
        if gain(new) >= 0 and kl(new) <= delta:
            return new
    return theta
''',
    # The dashed program moves by s 2 delta / (s^T A s). Its linear gain g^T (move) is 2 delta, whatever the
    # gradient, so J rises by 2 delta / (1 - gamma) = 0.2 an iteration; its KL is delta * 2 delta / (s^T A s),
    # small while the gradient is large.
    "4c.4": 'my_bug = "b"',
}

MUTANTS = {
    "4c.1": {
        "direction": ("(pi_old * np.log(taken / pi_new))", "(pi_new * np.log(pi_new / taken))"),
        "no state weights": ("d @ per_state", "per_state.mean()"),
        "sum over states": ("d @ per_state", "per_state.sum()"),
        "max over states": ("d @ per_state", "per_state.max()"),
        "sign": ("taken / pi_new", "pi_new / taken"),
        "total variation": ("(pi_old * np.log(taken / pi_new))", "0.5 * abs(pi_old - pi_new)"),
        "bits": ("np.log(", "np.log2("),
        "0 log 0": """
def my_mean_kl(pi_old, pi_new, d):
    with np.errstate(all="ignore"):
        return d @ (pi_old * np.log(pi_old / pi_new)).sum(axis=1)
""",
    },
    "4c.2": {
        "no mean": ("(x - mean)", "x"),
        "plain mean": ("(pi * x).sum(axis=1, keepdims=True)", "x.mean(axis=1, keepdims=True)"),
        "no state weights": ("d[:, None] * ", ""),
        "no policy weights": ("d[:, None] * pi * ", "d[:, None] * "),
        "one mean for all states": (".sum(axis=1, keepdims=True)", ".sum()"),
        "sign": ("(x - mean)", "(mean - x)"),
    },
    "4c.3": {
        "never shrinks": """
def my_step(theta, s, sAs, gain, kl, delta, shrink, max_shrinks):
    return theta + np.sqrt(2 * delta / sAs) * s
""",
        "no square root": ("np.sqrt(2 * delta / sAs)", "2 * delta / sAs"),
        "no factor 2": ("2 * delta", "delta"),
        "length of s": ("/ sAs", "/ (s @ s)"),
        "same try again": ("shrink**j", "shrink ** min(j, 1)"),
        "ignores the surrogate": ("gain(new) >= 0 and ", ""),
        "no fallback": ("    return theta\n", "    return new\n"),
        "one try too few": ("max_shrinks + 1", "max_shrinks"),
        "one try too many": ("max_shrinks + 1", "max_shrinks + 2"),
        "asks for more than equal": (">= 0", "> 0"),
        "never gives up": """
def my_step(theta, s, sAs, gain, kl, delta, shrink, max_shrinks):
    move = np.sqrt(2 * delta / sAs) * s
    while gain(theta + move) < 0 or kl(theta + move) > delta:
        move = shrink * move
    return theta + move
""",
    },
    "4c.4": {
        "no line search": 'my_bug = "a"',
        "damping": 'my_bug = "c"',
        "plain gradient": 'my_bug = "d"',
    },
}
