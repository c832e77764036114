"""Chapter 4: conservative policy iteration, exact and from samples."""

from typing import NamedTuple

import numpy as np

from rlbook import validate
from rlbook.bounds import cpi_epsilon, mixture, policy_advantage
from rlbook.td import returns_to_go


class History(NamedTuple):
    """K iterations of CPI; entry k of alpha, g and eps leads from policy k to policy k + 1."""

    J: np.ndarray  # (K + 1,) exact performance
    alpha: np.ndarray  # (K,) step size
    g: np.ndarray  # (K,) surrogate gain of the candidate, exact or estimated
    eps: np.ndarray  # (K,) largest mean advantage, exact or estimated
    pi: np.ndarray  # (K + 1, S, A) policies; pi[-1] is the last


def step_size(g, eps, gamma):
    """(61), (63) Step size min(1, (1 - gamma)^2 g / (4 gamma eps)), clamped to [0, 1].

    | argument | range    | meaning                                              |
    | -------- | -------- | ---------------------------------------------------- |
    | g        | any      | (58) surrogate gain, with its factor 1 / (1 - gamma) |
    | eps      | >= 0     | (58) largest mean advantage                          |
    | gamma    | [0, 1)   | discount                                             |

    0 where g <= 0 (the printed ratio would step backwards); 1 where g > 0 and gamma or eps is 0
    (the penalty is 0; the printed ratio would divide by it).
    """
    g, eps = validate.number("g", g), validate.number("eps", eps, low=0.0)
    gamma = validate.number("gamma", gamma, 0.0, 1.0, open_high=True)
    gain, penalty = (1 - gamma) ** 2 * max(g, 0.0), 4 * gamma * eps
    if gain == 0:
        return 0.0
    return 1.0 if gain >= penalty else gain / penalty


def greedy(mdp, pi):
    """(54), (62) The candidate that maximises L: in each state the action of largest advantage.

    Where several actions tie, they keep the shares that pi gives them (equal shares if it gives
    none), so a state with nothing to gain keeps its policy. States that pi never visits do not
    change L; they are made greedy too, so that J cannot fall. Returns (S, A).
    """
    found = mdp.evaluate(pi)
    return _best(found.A, mdp.policy(pi), 1e-10 * np.abs(found.Q).max())


def exact(mdp, pi, iterations):
    """(54)-(64), Box 4.5: CPI with exact advantages. J never falls.

    | argument   | shape      | meaning          |
    | ---------- | ---------- | ---------------- |
    | mdp        | TabularMDP | the world        |
    | pi         | (S, A)     | first policy     |
    | iterations | int >= 1   | mixture updates  |

    Returns a `History`.
    """
    pis, steps = [mdp.policy(pi)], []
    for _ in range(validate.integer("iterations", iterations)):
        candidate = greedy(mdp, pis[-1])
        g, eps = policy_advantage(mdp, pis[-1], candidate), cpi_epsilon(mdp, pis[-1], candidate)
        steps.append((step_size(g, eps, mdp.gamma), g, eps))
        pis.append(mixture(pis[-1], candidate, steps[-1][0]))
    return _history(mdp, pis, steps)


def sampled(mdp, pi, iterations, rollouts, horizon, rng, eps=None, held_out=True):
    """(62)-(64), Box 4.5: CPI from rollouts with Monte-Carlo advantages. Stops when g is not positive.

    | argument   | shape            | meaning                                                    |
    | ---------- | ---------------- | ---------------------------------------------------------- |
    | mdp, pi    |                  | as in `exact`                                              |
    | iterations | int >= 1         | at most so many updates                                    |
    | rollouts   | int >= 1         | rollouts a batch                                           |
    | horizon    | int >= 1         | steps a rollout; leaves out about gamma^horizon of J       |
    | rng        | generator or int | source of randomness                                       |
    | eps        | number or None   | None: the batch maximum, which misses states not seen      |
    | held_out   | bool             | estimate g on a second batch; on the first it is too large |

    The candidate is greedy among the actions seen; a state not seen keeps its policy. J in the
    `History` is exact, to look at; the algorithm does not use it. The last step may have alpha 0.
    """
    rng = np.random.default_rng(rng)
    iterations, rollouts = validate.integer("iterations", iterations), validate.integer("rollouts", rollouts)
    fixed_eps = None if eps is None else validate.number("eps", eps, low=0.0)
    pis, steps = [mdp.policy(pi)], []
    for _ in range(iterations):
        walk = mdp.sample(pis[-1], rollouts, horizon, rng)
        V, A, seen = _estimate(walk, mdp.r.shape, mdp.gamma)
        candidate = _best(np.where(seen, A, -np.inf), pis[-1])
        eps = np.abs((candidate * A).sum(axis=1)).max() if fixed_eps is None else fixed_eps
        if held_out:
            walk = mdp.sample(pis[-1], rollouts, horizon, rng)
        g = _gain(walk, pis[-1], candidate, V, mdp.gamma)
        steps.append((step_size(g, eps, mdp.gamma), g, eps))
        pis.append(mixture(pis[-1], candidate, steps[-1][0]))
        if g <= 0:
            break
    return _history(mdp, pis, steps)


def _best(score, pi, tolerance=0.0):
    """The policy on the best-scored actions of each state, shared among ties as pi shares them."""
    best = score >= score.max(axis=1, keepdims=True) - tolerance
    kept = pi * best
    kept = np.where(kept.sum(axis=1, keepdims=True) > 0, kept, best)
    return kept / kept.sum(axis=1, keepdims=True)


def _estimate(walk, shape, gamma):
    """Values (S,), advantages (S, A) and which pairs were seen, from every visit weighted by gamma^t.

    The weight makes late returns, which the horizon cuts short, count for little. Unseen: 0.
    """
    state, G = walk.state[:, :-1], _returns(walk, gamma)
    weight = np.broadcast_to(gamma ** np.arange(G.shape[1]), G.shape)
    visits, total = np.zeros(shape), np.zeros(shape)
    np.add.at(visits, (state, walk.action), weight)
    np.add.at(total, (state, walk.action), weight * G)
    seen, met = visits > 0, visits.sum(axis=1)
    V = np.divide(total.sum(axis=1), met, out=np.zeros(shape[0]), where=met > 0)
    Q = np.divide(total, visits, out=np.zeros(shape), where=seen)
    return V, np.where(seen, Q - V[:, None], 0.0), seen


def _gain(walk, pi, candidate, baseline, gamma):
    """g of (58) from rollouts of pi: the mean of sum_t gamma^t (ratio - 1) (G_t - baseline(s_t)).

    The ratio minus 1 averages to 0 in every state, so the baseline changes no mean.
    """
    state, G = walk.state[:, :-1], _returns(walk, gamma)
    ratio = candidate[state, walk.action] / pi[state, walk.action]
    weight = gamma ** np.arange(G.shape[1])
    return float((weight * (ratio - 1) * (G - baseline[state])).sum(axis=1).mean())


def _returns(walk, gamma):
    return returns_to_go(walk.reward.T, gamma).T


def _history(mdp, pis, steps):
    J = [mdp.evaluate(pi).J for pi in pis]
    return History(np.array(J), *np.array(steps, dtype=float).T, np.array(pis))
