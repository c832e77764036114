"""Solutions and typical wrong answers of notebook 03a."""

SOLUTIONS = {
    "3a.1": '''
def my_weights(reward, mask, gamma):
    """(T, N): gamma^t times the reward-to-go of step t, 0 after the end of a trajectory."""
    power = gamma ** np.arange(len(reward))[:, None]
    earned = power * np.where(mask, reward, 0.0)
    G = earned[::-1].cumsum(axis=0)[::-1]  # sum over k >= t of gamma^k r_k
    return np.where(mask, G, 0.0)
''',
    "3a.2": '''
def my_gradient(logits, state, action, weight):
    """(39) Estimate (S, A) from N trajectories of T steps; state, action, weight (T, N)."""
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = np.zeros(logits.shape)
    np.add.at(total, (state, action), weight)
    total -= total.sum(axis=1, keepdims=True) * pi
    return total / state.shape[1]
''',
    "3a.3": '''
def my_best_baseline(p, score, G):
    """The b of smallest variance of score * (G - b); p (n,), score (n, d), G (n,)."""
    weight = p * (score**2).sum(axis=1)
    return weight @ G / weight.sum()
''',
    # The trajectories are drawn once, before the loop. Ascent then maximises a fixed sum of weight times
    # log pi: no noise, and it stops at pi(a|s) in proportion to the summed weights, far from the optimum.
    "3a.4": 'my_bug = "b"',
}

MUTANTS = {
    "3a.1": {
        "missing gamma^t": ("np.where(mask, G, 0.0)", "np.where(mask, G / power, 0.0)"),
        "rewards after the end": ("np.where(mask, reward, 0.0)", "reward"),
        "no mask": """
def my_weights(reward, mask, gamma):
    earned = gamma ** np.arange(len(reward))[:, None] * reward
    return earned[::-1].cumsum(axis=0)[::-1]
""",
        "return from the start": ("np.where(mask, G, 0.0)", "np.where(mask, G[0], 0.0)"),
        "rewards so far": ("earned[::-1].cumsum(axis=0)[::-1]", "earned.cumsum(axis=0)"),
        "no discount": ("gamma ** np.arange(len(reward))", "1.0 ** np.arange(len(reward))"),
        "next return": ("np.where(mask, G, 0.0)", "np.where(mask, G - earned, 0.0)"),
    },
    "3a.2": {
        "divides by steps": ("state.shape[1]", "state.size"),
        "missing 1/N": (" / state.shape[1]", ""),
        "without pi": ("    total -= total.sum(axis=1, keepdims=True) * pi\n", ""),
        "sign": ("return total", "return -total"),
        "lost visits": """
def my_gradient(logits, state, action, weight):
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    total = np.zeros(logits.shape)
    total[state, action] += weight
    total[state] -= weight[..., None] * pi[state]
    return total / state.shape[1]
""",
        "softmax over states": ("np.exp(logits).sum(axis=1, keepdims=True)", "np.exp(logits).sum(axis=0)"),
    },
    "3a.3": {
        "mean return": ("p * (score**2).sum(axis=1)", "p"),
        "ignores the probabilities": ("p * (score**2)", "(score**2)"),
        "score not squared": ("(score**2).sum(axis=1)", "np.sqrt((score**2).sum(axis=1))"),
        "not divided": (" / weight.sum()", ""),
        "sign": ("return weight", "return -weight"),
        "one component": ("(score**2).sum(axis=1)", "score[:, 0] ** 2"),
    },
    "3a.4": {
        "trajectory form": 'my_bug = "a"',
        "next return": 'my_bug = "c"',
        "per step": 'my_bug = "d"',
    },
}
