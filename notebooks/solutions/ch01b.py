"""Solutions of notebook 01b, and wrong answers that its checks must name."""

SOLUTIONS = {
    "1b.1": '''
def my_gradient(features, theta, action, reward, baseline):
    """Mean of (reward - baseline) * score over the sampled actions, shape (d,)."""
    z = np.exp(features @ theta)
    pi = z / z.sum()
    score = features[action] - pi @ features
    return (reward - baseline) @ score / len(action)
''',
    "1b.2": '''
def my_leave_one_out(reward):
    """Baseline (N,) of each sample: the mean of the other rewards."""
    return (reward.sum() - reward) / (len(reward) - 1)
''',
    "1b.3": '''
def my_td_update(value, s, reward, s_next, terminated, discount, step_size):
    """A new table of values after one TD(0) update."""
    new = value.copy()
    target = reward + (0.0 if terminated else discount * value[s_next])
    new[s] += step_size * (target - value[s])
    return new
''',
    "1b.4": '''
def my_lambda_return(reward, next_value, terminated, discount, lam):
    """lambda-returns (T,) of one stretch of T steps."""
    G = np.empty(len(reward))
    later = next_value[-1]
    for t in reversed(range(len(reward))):
        mixture = (1 - lam) * next_value[t] + lam * later
        G[t] = later = reward[t] + discount * mixture * (not terminated[t])
    return G
''',
    "1b.5": 'my_choice = "b"',
}

MUTANTS = {
    "1b.1": {
        "no expected features": (" - pi @ features", ""),
        "uniform expectation": ("pi @ features", "features.mean(axis=0)"),
        "sum instead of mean": (" / len(action)", ""),
        "ignores the baseline": ("(reward - baseline)", "reward"),
        "adds the baseline": ("reward - baseline", "reward + baseline"),
        "sign": ("(reward - baseline)", "(baseline - reward)"),
    },
    "1b.2": {
        "own mean": (
            "(reward.sum() - reward) / (len(reward) - 1)",
            "np.full(len(reward), reward.mean())",
        ),
        "divides by N": ("(len(reward) - 1)", "len(reward)"),
        "keeps the own reward": ("(reward.sum() - reward)", "np.full(len(reward), reward.sum())"),
        "returns the advantage": ("return ", "return reward - "),
        "one neighbour": ("(reward.sum() - reward) / (len(reward) - 1)", "np.roll(reward, 1)"),
    },
    "1b.3": {
        "no discount": ("discount * value", "value"),
        "sign": ("+= step_size", "-= step_size"),
        "no step size": ("step_size * ", ""),
        "updates the next state": ("new[s]", "new[s_next]"),
        "flag upside down": ("if terminated", "if not terminated"),
        "forgets V(s)": ("(target - value[s])", "target"),
        "discounts the reward": (
            "reward + (0.0 if terminated else discount * value[s_next])",
            "discount * (reward + (0.0 if terminated else value[s_next]))",
        ),
        "no terminal mask": ("(0.0 if terminated else discount * value[s_next])", "discount * value[s_next]"),
        "skips terminal steps": ("new[s] +=", "new[s] += (not terminated) *"),
        "no update": ("return new", "return value"),
        "changes its argument": ("value.copy()", "value"),
    },
    "1b.4": {
        "lambda swapped": (
            "(1 - lam) * next_value[t] + lam * later",
            "lam * next_value[t] + (1 - lam) * later",
        ),
        "no bootstrap at the end": (
            "G[t] = later = reward[t] + discount * mixture * (not terminated[t])",
            "G[t] = later = reward[t] + discount * mixture * (not terminated[t]) * (t < len(G) - 1)",
        ),
        "lambda part not discounted": (
            "reward[t] + discount * mixture * (not terminated[t])",
            "reward[t] + ((1 - lam) * discount * next_value[t] + lam * later * (discount if t == len(G) - 1 "
            "else 1)) * (not terminated[t])",
        ),
        "forgets 1 - lambda": (
            "mixture = (1 - lam) * next_value[t] + lam * later",
            "mixture = next_value[t] + lam * later * (t < len(G) - 1)",
        ),
        "one-step target": ("(1 - lam) * next_value[t] + lam * later", "next_value[t]"),
        "Monte-Carlo return": ("(1 - lam) * next_value[t] + lam * later", "later"),
        "no terminal mask": (" * (not terminated[t])", ""),
        "runs forwards": (
            "    later = next_value[-1]\n    for t in reversed(range(len(reward))):",
            "    later = next_value[0]\n    for t in range(len(reward)):",
        ),
        "sum runs past the end": (
            "mixture * (not terminated[t])",
            "((1 - lam) * next_value[t] * (not terminated[t]) + lam * later)",
        ),
        "value past the end": (
            "mixture * (not terminated[t])",
            "((1 - lam) * next_value[t] + lam * later * (not terminated[t]))",
        ),
    },
    "1b.5": {
        "no discount": 'my_choice = "a"',
        "rewards only": 'my_choice = "c"',
        "large steps": 'my_choice = "d"',
    },
}
