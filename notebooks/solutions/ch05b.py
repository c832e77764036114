"""Solutions and typical wrong answers of notebook 05b."""

SOLUTIONS = {
    "5b.1": '''
def my_advantage(rewards, group, eps):
    """(90), (91) One advantage a completion; 0 where all rewards of a group are equal."""
    advantage = np.zeros(len(rewards))
    for g in np.unique(group):
        own = rewards[group == g]
        if own.max() > own.min():
            advantage[group == g] = (own - own.mean()) / np.sqrt(own.var() + eps)
    return advantage
''',
    "5b.2": '''
def my_objective(logp, logp_old, mask, advantage, eps):
    """(97) without its KL term: a number to maximise."""
    ratio = np.exp(np.where(mask, logp - logp_old, 0.0))
    A = advantage[:, None]
    term = np.minimum(ratio * A, np.clip(ratio, 1 - eps, 1 + eps) * A)
    return np.mean((term * mask).sum(axis=1) / mask.sum(axis=1))
''',
    "5b.3": '''
def my_weight(p, G):
    """c_G(p): the mean of w_k over k, the number of right completions among G."""
    from math import comb

    weight = 0.0
    for k in range(1, G):
        chance = comb(G, k) * p**k * (1 - p) ** (G - k)
        right, wrong = np.sqrt((G - k) / k), -np.sqrt(k / (G - k))
        weight += chance * (k * right / p - (G - k) * wrong / (1 - p)) / G
    return weight
''',
    # The broken program has var where std should be.
    "5b.4": 'my_bug = "b"',
}

_FORMULA = "(own - own.mean()) / np.sqrt(own.var() + eps)"
_MASKED = "np.mean((term * mask).sum(axis=1) / mask.sum(axis=1))"
_TERM = "np.minimum(ratio * A, np.clip(ratio, 1 - eps, 1 + eps) * A)"
_PULL = "(k * right / p - (G - k) * wrong / (1 - p)) / G"

MUTANTS = {
    "5b.1": {
        "sample standard deviation": ("own.var()", "own.var(ddof=1)"),
        "whole batch": (
            "(own - own.mean()) / np.sqrt(own.var() + eps)",
            "(own - rewards.mean()) / np.sqrt(rewards.var() + eps)",
        ),
        "leave-one-out baseline": ("(own - own.mean())", "len(own) / (len(own) - 1) * (own - own.mean())"),
        "standard deviation of the whole batch": ("own.var()", "rewards.var()"),
        "not divided": (_FORMULA, "own - own.mean()"),
        "divided by the variance": ("np.sqrt(own.var() + eps)", "(own.var() + eps)"),
        "sign": ("(own - own.mean())", "(own.mean() - own)"),
        "no mean": ("(own - own.mean())", "own"),
        "no guard for ties": ("        if own.max() > own.min():\n    ", "        if own.std() > 0:\n    "),
        "guard on the whole batch": ("own.max() > own.min()", "rewards.max() > rewards.min()"),
        "first compared with last": ("own.max() > own.min()", "own[0] != own[-1]"),
        "tolerance in the guard": ("own.max() > own.min()", "not np.allclose(own, own[0])"),
        "eps outside the root": ("np.sqrt(own.var() + eps)", "(own.std() + eps)"),
        "no eps": ("own.var() + eps", "own.var()"),
        "near ties taken for ties": ("own.max() > own.min()", "own.max() > own.min() + 1e-3"),
    },
    "5b.2": {
        "mean over all tokens": (_MASKED, "(term * mask).sum() / mask.sum()"),
        "no mask": (_MASKED, "np.mean(term)"),
        "divides by the width": (_MASKED, "np.mean(term * mask)"),
        "overflow under the padding": ("np.where(mask, logp - logp_old, 0.0)", "logp - logp_old"),
        "sum over tokens": (" / mask.sum(axis=1)", ""),
        "max for min": ("np.minimum", "np.maximum"),
        "clips above only": ("np.clip(ratio, 1 - eps, 1 + eps)", "np.minimum(ratio, 1 + eps)"),
        "clips below only": ("np.clip(ratio, 1 - eps, 1 + eps)", "np.maximum(ratio, 1 - eps)"),
        "always clips": (_TERM, "np.clip(ratio, 1 - eps, 1 + eps) * A"),
        "no clip": (_TERM, "ratio * A"),
        "ratio upside down": ("logp - logp_old", "logp_old - logp"),
        "sign": ("return np", "return -np"),
        "sequence ratio": (
            "    A = ",
            "    n = mask.sum(axis=1, keepdims=True)\n"
            "    ratio = np.exp(np.log(ratio).sum(axis=1, keepdims=True) / n)\n    A = ",
        ),
    },
    "5b.3": {
        "limit of large groups": "def my_weight(p, G):\n    return 1 / np.sqrt(p * (1 - p))",
        "variance for standard deviation": (
            "np.sqrt((G - k) / k), -np.sqrt(k / (G - k))",
            "1 - k / G, -k / G",
        ),
        "forgets the wrong ones": (" - (G - k) * wrong / (1 - p)", ""),
        "forgets the right ones": ("k * right / p - ", "-"),
        "sum for mean": (_PULL, _PULL.removesuffix(" / G")),
        "mean over mixed groups only": ("return weight", "return weight / (1 - p**G - (1 - p) ** G)"),
        "every k equally likely": ("comb(G, k) * p**k * (1 - p) ** (G - k)", "1 / (G + 1)"),
        "scores not divided by p": (
            "weight += chance * " + _PULL,
            "weight += chance * np.sqrt(k * (G - k)) / G",
        ),
    },
    "5b.4": {
        "no division": 'my_bug = "a"',
        "sample standard deviation": 'my_bug = "c"',
        "standard deviation of the whole batch": 'my_bug = "d"',
    },
}
