"""Solutions and typical wrong answers of notebook 04d."""

SOLUTIONS = {
    "4d.1": '''
def my_clipped(ratio, advantage, eps):
    """(78) The clipped surrogate of each sample, shaped as `ratio` and `advantage`."""
    return np.minimum(ratio * advantage, np.clip(ratio, 1 - eps, 1 + eps) * advantage)
''',
    "4d.2": '''
def my_gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """(80), (81) Advantages and value targets of one segment; all columns have shape (T,)."""
    delta = reward + gamma * np.where(terminated, 0.0, next_value) - value
    carry = gamma * lam * ~(terminated | truncated)
    advantage, running = np.zeros(len(reward)), 0.0
    for t in reversed(range(len(reward))):
        running = advantage[t] = delta[t] + carry[t] * running
    target = advantage + value
    return advantage, target
''',
    "4d.3": '''
def my_loss(ratio, advantage, value, target, probs, eps, c1, c2):
    """Minus (85): a number to minimise. Columns (m,), probs (m, A) of the new policy."""
    policy = np.minimum(ratio * advantage, np.clip(ratio, 1 - eps, 1 + eps) * advantage)
    critic = (value - target) ** 2
    entropy = -(probs * np.log(probs)).sum(axis=1)
    return -np.mean(policy - c1 * critic + c2 * entropy)
''',
    # The broken program takes the old log-probabilities from the policy as it is now, before every step.
    "4d.4": 'my_bug = "b"',
}

MUTANTS = {
    "4d.1": {
        "always clips": (
            "np.minimum(ratio * advantage, np.clip(ratio, 1 - eps, 1 + eps) * advantage)",
            "np.clip(ratio, 1 - eps, 1 + eps) * advantage",
        ),
        "max for min": ("np.minimum", "np.maximum"),
        "clips above only": ("np.clip(ratio, 1 - eps, 1 + eps)", "np.minimum(ratio, 1 + eps)"),
        "clips below only": ("np.clip(ratio, 1 - eps, 1 + eps)", "np.maximum(ratio, 1 - eps)"),
        "no clip": ("np.clip(ratio, 1 - eps, 1 + eps)", "ratio"),
        "minimum of the ratios": (
            "np.minimum(ratio * advantage, np.clip(ratio, 1 - eps, 1 + eps) * advantage)",
            "np.minimum(ratio, np.clip(ratio, 1 - eps, 1 + eps)) * advantage",
        ),
        "clips the product": (
            "np.clip(ratio, 1 - eps, 1 + eps) * advantage",
            "np.clip(ratio * advantage, 1 - eps, 1 + eps)",
        ),
        "sign": ("return np", "return -np"),
    },
    "4d.2": {
        "no terminal mask": ("np.where(terminated, 0.0, next_value)", "next_value"),
        "a cut taken for an end": ("np.where(terminated, 0", "np.where(terminated | truncated, 0"),
        "sum crosses the cut": ("~(terminated | truncated)", "~terminated"),
        "sum crosses the end": ("~(terminated | truncated)", "~truncated"),
        "lambda without gamma": ("carry = gamma * lam", "carry = lam"),
        "no sum": ("delta[t] + carry[t] * running", "delta[t]"),
        "runs forwards": (
            "    for t in reversed(range(len(reward))):\n"
            "        running = advantage[t] = delta[t] + carry[t] * running\n",
            "    for t in range(len(reward)):\n"
            "        running = advantage[t] = delta[t] + (carry[t - 1] * running if t else 0)\n",
        ),
        "normalised": (
            "    target =",
            "    advantage = (advantage - advantage.mean()) / advantage.std()\n    target =",
        ),
        "target without V": ("target = advantage + value", "target = advantage"),
        "one-step target": ("target = advantage + value", "target = delta + value"),
        "target from normalised advantages": (
            "target = advantage + value",
            "target = (advantage - advantage.mean()) / advantage.std() + value",
        ),
        "target adds V of the next state": ("target = advantage + value", "target = advantage + next_value"),
    },
    "4d.3": {
        "sign": ("return -np", "return np"),
        "value sign": ("- c1 * critic", "+ c1 * critic"),
        "entropy sign": ("+ c2 * entropy", "- c2 * entropy"),
        "half the value loss": ("(value - target) ** 2", "0.5 * (value - target) ** 2"),
        "sum for mean": ("np.mean", "np.sum"),
        "coefficients swapped": ("c1 * critic + c2 * entropy", "c2 * critic + c1 * entropy"),
        "no clip": ("np.clip(ratio, 1 - eps, 1 + eps)", "ratio"),
        "forgets the critic": (" - c1 * critic", ""),
        "entropy averaged over actions": (".sum(axis=1)", ".mean(axis=1)"),
    },
    "4d.4": {
        "clip range ten times too wide": 'my_bug = "a"',
        "max for min": 'my_bug = "c"',
        "advantage sign": 'my_bug = "d"',
    },
}
