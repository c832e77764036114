"""Solutions and plausible wrong answers of notebook 00 (for teachers and the tests)."""

SOLUTIONS = {
    "0.1": """
def my_return(reward, discount):
    return float((discount ** np.arange(len(reward)) * reward).sum())
"""
}

MUTANTS = {
    "0.1": {
        "no discount": ("discount ** np.arange(len(reward)) * reward", "reward"),
        "discounts from the first step": ("np.arange(len(reward))", "np.arange(1, len(reward) + 1)"),
        "same discount for all later steps": (
            "np.arange(len(reward))",
            "np.minimum(np.arange(len(reward)), 1)",
        ),
        "discounts the wrong end": ("* reward)", "* reward[::-1])"),
        "a return for every step": """
def my_return(reward, discount):
    G = np.array(reward, dtype=float)
    for t in reversed(range(len(reward) - 1)):
        G[t] += discount * G[t + 1]
    return G
""",
    }
}
