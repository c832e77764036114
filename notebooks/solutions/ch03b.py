"""Solutions of notebook 03b, and wrong answers that its checks must name."""

SOLUTIONS = {
    "3b.1": '''
def my_critic_gradient(w, features, reward, next_features, terminated, discount):
    """Semi-gradient (d,) of half the mean squared TD error of the critic w . features."""
    future = np.where(terminated, 0.0, next_features @ w)
    delta = reward + discount * future - features @ w
    return -delta @ features / len(reward)
''',
    "3b.2": '''
def my_advantage(reward, value, next_value, terminated, truncated, discount):
    """Advantages (T,): n-step returns to the end of the segment or episode, minus V(s_t)."""
    G = np.empty(len(reward))
    for t in reversed(range(len(reward))):
        if terminated[t]:
            future = 0.0
        elif truncated[t] or t == len(reward) - 1:
            future = next_value[t]
        else:
            future = G[t + 1]
        G[t] = reward[t] + discount * future
    return G - value
''',
    "3b.3": '''
def my_actor_gradient(score, advantage, mask):
    """Estimate (d,) of the gradient: mean over trajectories of the sum over their steps."""
    terms = np.where(mask[:, :, None], advantage[:, :, None] * score, 0.0)
    return terms.sum(axis=(0, 1)) / mask.shape[1]
''',
    "3b.4": 'my_choice = "b"',
}

MUTANTS = {
    "3b.1": {
        "through the target": (
            "-delta @ features /",
            "-delta @ (features - discount * np.where(terminated[:, None], 0.0, next_features)) /",
        ),
        "sign": ("-delta @", "delta @"),
        "no terminal mask": ("np.where(terminated, 0.0, next_features @ w)", "next_features @ w"),
        "sum instead of mean": (" / len(reward)", ""),
        "forgets the half": ("-delta", "-2 * delta"),
        "no discount": ("discount * future", "future"),
        "features of the next state": ("-delta @ features", "-delta @ next_features"),
        "skips terminal steps": ("-delta @", "-(delta * ~terminated) @"),
        "forgets V(s)": (" - features @ w", ""),
    },
    "3b.2": {
        "no bootstrap at the end": (
            "elif truncated[t] or t == len(reward) - 1:",
            "elif t == len(reward) - 1:\n            future = 0.0\n        elif truncated[t]:",
        ),
        "forgets V(s)": ("return G - value", "return G"),
        "one-step error": ("future = G[t + 1]", "future = next_value[t]"),
        "no discount": ("discount * future", "future"),
        "sign": ("return G - value", "return value - G"),
        "value of the wrong state": ("future = next_value[t]", "future = value[t]"),
        "bootstraps from the end": ("future = 0.0", "future = next_value[t]"),
        "runs on into the next episode": ("if terminated[t]:", "if terminated[t] and t == len(reward) - 1:"),
        "a cut is not an end": ("if terminated[t]:", "if terminated[t] or truncated[t]:"),
        "runs on past the cut": ("truncated[t] or t ==", "t =="),
        "value after the reset": ("future = next_value[t]", "future = [*value[1:], next_value[-1]][t]"),
    },
    "3b.3": {
        "mean over steps": ("mask.shape[1]", "mask.sum()"),
        "mean of means": (
            "terms.sum(axis=(0, 1)) / mask.shape[1]",
            "(terms.sum(axis=0) / mask.sum(axis=0)[:, None]).mean(axis=0)",
        ),
        "divides by the padded size": ("mask.shape[1]", "mask.size"),
        "no mask": (
            "np.where(mask[:, :, None], advantage[:, :, None] * score, 0.0)",
            "advantage[:, :, None] * score",
        ),
        "no mean": (" / mask.shape[1]", ""),
        "sign": ("return terms", "return -terms"),
        "forgets the advantage": ("advantage[:, :, None] * score", "score"),
    },
    "3b.4": {
        "delay": 'my_choice = "a"',
        "noise": 'my_choice = "c"',
        "lost updates": 'my_choice = "d"',
    },
}
