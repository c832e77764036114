"""Chapter 2: exact tabular Markov decision processes.

Everything here is linear algebra on small tables, so every other number in the book can be held
against it. S states, A actions.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from rlbook import validate
from rlbook.estimation import softmax


class Evaluation(NamedTuple):
    """What `TabularMDP.evaluate` returns; exact up to the rounding of a linear solve."""

    V: np.ndarray  # (S,)   (21) state values
    Q: np.ndarray  # (S, A) (22) action values
    A: np.ndarray  # (S, A) (23) advantages
    d: np.ndarray  # (S,)   (19) discounted occupancy, sums to 1
    J: float  # (17) performance


class Trajectories(NamedTuple):
    """n sampled rollouts of `horizon` steps."""

    state: np.ndarray  # (n, horizon + 1) int
    action: np.ndarray  # (n, horizon) int
    reward: np.ndarray  # (n, horizon)


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """(10) A discounted MDP with a finite number of states and actions.

    | argument | shape     | meaning                                  |
    | -------- | --------- | ---------------------------------------- |
    | P        | (S, A, S) | P[s, a, s'] = P(s' | s, a)               |
    | r        | (S, A)    | (1), (11) deterministic reward r(s, a)   |
    | rho      | (S,)      | law of the first state                   |
    | gamma    | [0, 1)    | discount                                 |

    The tables are copied and made read-only. Raises ValueError on shapes that do not fit, rows that
    are no distribution, NaN or infinity, gamma outside [0, 1).
    """

    P: np.ndarray
    r: np.ndarray
    rho: np.ndarray
    gamma: float

    def __post_init__(self):
        r = validate.array("r", self.r, ndim=2)
        n_states, n_actions = r.shape
        P = validate.distributions("P", self.P, shape=(n_states, n_actions, n_states))
        rho = validate.distributions("rho", self.rho, shape=(n_states,))
        for name, table in (("P", P), ("r", r), ("rho", rho)):
            table.setflags(write=False)
            object.__setattr__(self, name, table)
        object.__setattr__(self, "gamma", validate.number("gamma", self.gamma, 0.0, 1.0, open_high=True))

    @property
    def n_states(self):
        """S."""
        return self.r.shape[0]

    @property
    def n_actions(self):
        """A."""
        return self.r.shape[1]

    @cached_property
    def terminal(self):
        """(S,) bool: states that no action leaves and where every reward is 0, so V = 0 for ever."""
        stays = np.einsum("sas->sa", self.P) == 1
        return stays.all(axis=1) & (self.r == 0).all(axis=1)

    def policy(self, pi):
        """(12) `pi` as a checked (S, A) table of action probabilities."""
        return validate.distributions("pi", pi, shape=self.r.shape)

    def transition(self, pi):
        """P_pi (S, S) and r_pi (S,): next-state law and mean reward when actions follow pi."""
        pi = self.policy(pi)
        return (pi[:, None, :] @ self.P)[:, 0, :], (pi * self.r).sum(axis=1)

    def evaluate(self, pi):
        """(17)-(30) Exact values, advantages, occupancy and performance of a policy.

        | argument | shape  | meaning           |
        | -------- | ------ | ----------------- |
        | pi       | (S, A) | pi[s, a] = pi(a|s) |

        Returns an `Evaluation` (V, Q, A, d, J). Raises ValueError if pi is no policy.
        """
        P_pi, r_pi = self.transition(pi)
        resolvent = np.eye(self.n_states) - self.gamma * P_pi
        V = np.linalg.solve(resolvent, r_pi)  # (26) V = r_pi + gamma P_pi V
        Q = self.r + self.gamma * (self.P @ V)  # (25)
        d = (1 - self.gamma) * np.linalg.solve(resolvent.T, self.rho)  # (19)
        return Evaluation(V, Q, Q - V[:, None], d, float(self.rho @ V))

    def state_law(self, pi, t):
        """(8) d_t: the law (S,) of the state at step t, (P_pi^T)^t rho."""
        P_pi, _ = self.transition(pi)
        return self.rho @ np.linalg.matrix_power(P_pi, validate.integer("t", t, low=0))

    def policy_gradient(self, logits):
        """(36) Exact gradient (S, A) of J for the tabular softmax policy with these logits (S, A).

        With softmax scores the expectation of (36) becomes d(s) pi(a|s) A(s, a) / (1 - gamma).
        """
        pi = softmax(validate.array("logits", logits, shape=self.r.shape))
        found = self.evaluate(pi)
        return found.d[:, None] * pi * found.A / (1 - self.gamma)

    def optimal(self):
        """(18) An optimal policy (S, A), deterministic, and its J, by policy iteration.

        Ties keep the current action, so the iteration ends after finitely many steps.
        """
        states = np.arange(self.n_states)
        action = self.r.argmax(axis=1)
        while True:
            pi = np.eye(self.n_actions)[action]
            found = self.evaluate(pi)
            gain = found.Q.max(axis=1) - found.Q[states, action]
            better = gain > 1e-10 * np.abs(found.Q).max()  # relative: rewards may have any unit
            if not better.any():
                return pi, found.J
            action = np.where(better, found.Q.argmax(axis=1), action)

    def sample(self, pi, n, horizon, rng):
        """(13)-(15) n rollouts of `horizon` steps with a NumPy generator (or an int seed).

        Returns `Trajectories`. The rollouts do not stop at terminal states: there the state stays
        and the reward is 0.
        """
        pi = self.policy(pi)
        n, horizon = validate.integer("n", n), validate.integer("horizon", horizon)
        rng = np.random.default_rng(rng)
        act, move = _cumulative(pi), _cumulative(self.P)
        state = np.empty((n, horizon + 1), dtype=np.int64)
        action = np.empty((n, horizon), dtype=np.int64)
        state[:, 0] = _draw(_cumulative(self.rho), rng.random((n, 1)))
        for t in range(horizon):
            action[:, t] = _draw(act[state[:, t]], rng.random((n, 1)))
            state[:, t + 1] = _draw(move[state[:, t], action[:, t]], rng.random((n, 1)))
        return Trajectories(state, action, self.r[state[:, :-1], action])

    def env(self, max_steps=None):
        """This MDP as a gymnasium environment; episodes end at `terminal` states.

        max_steps truncates an episode (gymnasium's TimeLimit); without it an MDP that has no
        terminal state runs for ever.
        """
        from rlbook.envs import TabularEnv  # gymnasium loads only when asked for

        return TabularEnv.limited(self, max_steps)


def _cumulative(p):
    c = p.cumsum(axis=-1)
    return c / c[..., -1:]


def _draw(cumulative, uniform):
    """Inverse of the cumulative law: the first index whose cumulative probability exceeds `uniform`."""
    return (cumulative <= uniform).sum(axis=-1)
