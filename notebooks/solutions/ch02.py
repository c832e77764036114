"""Solutions and typical wrong answers of notebook 02."""

SOLUTIONS = {
    "2.1": '''
def my_chain(P, r, pi):
    """P_pi (S, S) and r_pi (S,) from P (S, A, S), r (S, A) and pi (S, A)."""
    P_pi = np.einsum("sa,sat->st", pi, P)
    r_pi = (pi * r).sum(axis=1)
    return P_pi, r_pi
''',
    "2.2": '''
def my_occupancy(P_pi, rho, gamma):
    """(19) d_pi (S,) from the chain P_pi (S, S), the law of the first state rho (S,) and the discount."""
    return (1 - gamma) * np.linalg.solve(np.eye(len(rho)) - gamma * P_pi.T, rho)
''',
    "2.3": '''
def my_backup(Q, P, r, pi, gamma):
    """(27) Right side of the Bellman equation for Q (S, A); P (S, A, S), r and pi (S, A)."""
    V = (pi * Q).sum(axis=1)
    return r + gamma * P @ V
''',
    "2.4": '''
def my_advantage(V, P, r, gamma):
    """(30) One-step advantage (S, A) from V (S,), P (S, A, S) and r (S, A)."""
    return r + gamma * P @ V - V[:, None]
''',
    # The buggy program adds gamma^k (P_pi^T)^k r_pi: the discounted visits of a walk that starts where the
    # reward is. Visits pile up in the end, which no correct backup, scaled or not, can make worth anything.
    "2.5": 'my_bug = "c"',
}

MUTANTS = {
    "2.1": {
        "transposed": ("sa,sat->st", "sa,sat->ts"),
        "ignores the policy": ('np.einsum("sa,sat->st", pi, P)', "P.mean(axis=1)"),
        "adds without weights": ('np.einsum("sa,sat->st", pi, P)', "P.sum(axis=1)"),
        "policy of the next state": ("sa,sat->st", "ta,sat->st"),
        "reward not weighted": ("(pi * r).sum(axis=1)", "r.mean(axis=1)"),
        "reward summed": ("(pi * r).sum(axis=1)", "r.sum(axis=1)"),
        "best reward": ("(pi * r).sum(axis=1)", "r.max(axis=1)"),
    },
    "2.2": {
        "missing 1 - gamma": ("(1 - gamma) * ", ""),
        "not transposed": ("P_pi.T", "P_pi"),
        "forgets the start": (", rho)", ", P_pi.T @ rho)"),
        "no discount": """
def my_occupancy(P_pi, rho, gamma):
    for _ in range(1000):
        rho = rho @ P_pi
    return rho
""",
    },
    "2.3": {
        "max over actions": ("(pi * Q).sum(axis=1)", "Q.max(axis=1)"),
        "ignores the policy": ("(pi * Q).sum(axis=1)", "Q.mean(axis=1)"),
        "missing gamma": ("gamma * P @ V", "P @ V"),
        "missing reward": ("r + gamma", "gamma"),
        "discounts the reward": ("r + gamma * P @ V", "gamma * (r + P @ V)"),
        "policy of the first state": """
def my_backup(Q, P, r, pi, gamma):
    return r + gamma * np.einsum("sat,sb,tb->sa", P, pi, Q)
""",
    },
    "2.4": {
        "V along the wrong axis": ("V[:, None]", "V"),
        "missing gamma": ("gamma * P", "P"),
        "missing V(s)": (" - V[:, None]", ""),
        "sign": ("r + gamma * P @ V - V[:, None]", "V[:, None] - r - gamma * P @ V"),
        "missing reward": ("r + gamma", "gamma"),
        "discounts V(s) too": ("gamma * P @ V - V[:, None]", "gamma * (P @ V - V[:, None])"),
    },
    "2.5": {
        "no discount": 'my_bug = "a"',
        "best action": 'my_bug = "b"',
        "scaled reward": 'my_bug = "d"',
    },
}
