"""Chapter 4, first half: what a policy change does to performance, and bounds on it.

`pi` is the old policy, `pi_new` the new one, both (S, A). "Mean advantage" is the advantage of the
old policy averaged over the actions of the new one, (S,). Expectations are taken under the new
policy's actions, not by ratios to the old, so the old policy may leave actions out.
"""

import numpy as np

from rlbook import validate

UNVISITED = 1e-15  # an occupancy below this is the rounding of a linear solve


def performance_difference(mdp, pi, pi_new):
    """(48), (49) Performance difference lemma: J(pi_new) - J(pi) from the new occupancy.

    | argument   | shape      | meaning              |
    | ---------- | ---------- | -------------------- |
    | mdp        | TabularMDP | S states, A actions  |
    | pi, pi_new | (S, A)     | old and new policy   |

    Returns a float: the new occupancy times the mean advantage of the old policy, over 1 - gamma.
    """
    _, d_new, mean, _ = _compare(mdp, pi, pi_new)
    return float(d_new @ mean) / (1 - mdp.gamma)


def surrogate(mdp, pi, pi_new):
    """(51) Local surrogate L: J(pi) plus the mean advantage under the OLD occupancy, over 1 - gamma.

    Arguments as in `performance_difference`. L(pi) = J(pi), and its gradient there is that of J.
    """
    d, _, mean, old = _compare(mdp, pi, pi_new)
    return old.J + float(d @ mean) / (1 - mdp.gamma)


def distribution_shift(mdp, pi, pi_new):
    """(52) Distribution-shift term: what L leaves out, J(pi_new) = L + DSP (53).

    Arguments as in `performance_difference`. It may be positive: a shift is not always a penalty.
    """
    d, d_new, mean, _ = _compare(mdp, pi, pi_new)
    return float((d_new - d) @ mean) / (1 - mdp.gamma)


def hoelder_bound(mdp, pi, pi_new):
    """(53) The bound printed after it: |DSP| <= ||d_new - d||_1 max_s |mean advantage| / (1 - gamma)."""
    d, d_new, mean, _ = _compare(mdp, pi, pi_new)
    return float(np.abs(d_new - d).sum() * np.abs(mean).max()) / (1 - mdp.gamma)


def centred_bound(mdp, pi, pi_new):
    """(53) A sharper bound: |DSP| <= 1/2 ||d_new - d||_1 (max_s - min_s of mean advantage) / (1 - gamma).

    d_new - d sums to 0, so a constant may be taken off the mean advantage. At most `hoelder_bound`.
    """
    d, d_new, mean, _ = _compare(mdp, pi, pi_new)
    return float(0.5 * np.abs(d_new - d).sum() * np.ptp(mean)) / (1 - mdp.gamma)


def occupancy_gap_bound(mdp, pi, pi_new):
    """(52) How far occupancies can move: ||d_new - d||_1 <= 2 gamma / (1 - gamma) E_d[TV(pi, pi_new)].

    The book says that the gap goes to 0 with the policy change; this is the constant.
    """
    d = _compare(mdp, pi, pi_new)[0]
    return float(2 * mdp.gamma / (1 - mdp.gamma) * (d @ total_variation(pi, pi_new)))


def mixture(pi, pi_new, alpha):
    """(55), (64) Mixture policy (1 - alpha) pi + alpha pi_new, alpha in [0, 1]."""
    pi, pi_new = _policies(pi, pi_new)
    alpha = validate.number("alpha", alpha, 0.0, 1.0)
    return (1 - alpha) * pi + alpha * pi_new


def total_variation(pi, pi_new):
    """Total variation per state, (S,): half the L1 distance of the action laws, in [0, 1]."""
    pi, pi_new = _policies(pi, pi_new)
    return 0.5 * np.abs(pi_new - pi).sum(axis=1)


def kl(pi, pi_new):
    """(66), (67) KL(old || new) per state, (S,), in nats.

    0 log 0 = 0. Infinite where the new policy gives up an action that the old one takes; an action
    that only the new one takes adds nothing.
    """
    pi, pi_new = _policies(pi, pi_new)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(pi > 0, pi * (np.log(pi) - np.log(pi_new)), 0.0)
    return np.maximum(terms.sum(axis=1), 0.0)  # never below 0 by rounding


def max_kl(pi, pi_new):
    """(66) The largest KL(old || new) over states, visited or not."""
    return float(kl(pi, pi_new).max())


def mean_kl(mdp, pi, pi_new):
    """(67) Mean KL(old || new) under the old occupancy. States that pi never visits do not count."""
    d = _compare(mdp, pi, pi_new)[0]
    visited = d > UNVISITED
    return float(d[visited] @ kl(pi, pi_new)[visited])


def policy_advantage(mdp, pi, pi_new):
    """(58) g = L(pi_new) - J(pi), with its factor 1 / (1 - gamma), which (62) leaves out."""
    d, _, mean, _ = _compare(mdp, pi, pi_new)
    return float(d @ mean) / (1 - mdp.gamma)


def cpi_epsilon(mdp, pi, pi_new):
    """(58) eps = max_s |mean advantage|, over all states, visited or not."""
    return float(np.abs(_compare(mdp, pi, pi_new)[2]).max())


def cpi_lower_bound(alpha, g, eps, gamma, tight=False):
    """(60) CPI bound: the mixture (55) gains at least alpha g - 2 gamma eps alpha^2 / (1 - gamma)^2.

    | argument | range    | meaning                                                            |
    | -------- | -------- | ------------------------------------------------------------------ |
    | alpha    | [0, 1]   | share of the new policy in the mixture                             |
    | g, eps   | eps >= 0 | (58), of the new policy                                            |
    | gamma    | [0, 1)   | discount                                                           |
    | tight    | bool     | (1 - gamma) (1 - gamma (1 - alpha)) for (1 - gamma)^2: never lower |

    Holds for mixtures only. With alpha read as the largest TV of any policy change it is false; use
    `trpo_lower_bound` there. Source: Kakade and Langford 2002, Theorem 4.1, for the tight form.
    """
    alpha = validate.number("alpha", alpha, 0.0, 1.0)
    g, eps = validate.number("g", g), validate.number("eps", eps, low=0.0)
    gamma = validate.number("gamma", gamma, 0.0, 1.0, open_high=True)
    second = 1 - gamma * (1 - alpha) if tight else 1 - gamma
    return alpha * g - 2 * gamma * eps * alpha**2 / ((1 - gamma) * second)


def trpo_lower_bound(mdp, pi, pi_new):
    """(66) Bound for any policy change: J(pi_new) >= L - 4 gamma max|A| max_s TV^2 / (1 - gamma)^2.

    By Pinsker, TV^2 <= KL / 2: this is why a limit on the largest KL is a guarantee. A limit on the
    mean KL (67) is not. Source: Schulman et al. 2015, Theorem 1.
    """
    old = _compare(mdp, pi, pi_new)[3]
    penalty = 4 * mdp.gamma * np.abs(old.A).max() * total_variation(pi, pi_new).max() ** 2
    return surrogate(mdp, pi, pi_new) - float(penalty) / (1 - mdp.gamma) ** 2


def _policies(pi, pi_new):
    pi = validate.distributions("pi", pi, ndim=2)
    return pi, validate.distributions("pi_new", pi_new, shape=pi.shape)


def _compare(mdp, pi, pi_new):
    """Old and new occupancy (S,), mean advantage (S,), and the `Evaluation` of the old policy."""
    pi, pi_new = mdp.policy(pi), validate.distributions("pi_new", pi_new, shape=mdp.r.shape)
    old = mdp.evaluate(pi)
    return old.d, mdp.evaluate(pi_new).d, (pi_new * old.A).sum(axis=1), old
