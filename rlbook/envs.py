"""Tabular MDPs as gymnasium environments."""

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from rlbook import validate


class TabularEnv(gymnasium.Env):
    """Steps through a `TabularMDP`: observation and action are indices, rewards are r(s, a).

    `terminated` is true on reaching a state of `mdp.terminal`. The discount is not applied: it
    belongs to the objective and stays in `env.mdp.gamma`.
    """

    metadata = {"render_modes": []}

    def __init__(self, mdp):
        self.mdp = mdp
        self.observation_space = Discrete(mdp.n_states)
        self.action_space = Discrete(mdp.n_actions)
        self.state = None

    @classmethod
    def limited(cls, mdp, max_steps=None):
        """The environment, truncated after `max_steps` steps if given."""
        if max_steps is None:
            return cls(mdp)
        return gymnasium.wrappers.TimeLimit(cls(mdp), validate.integer("max_steps", max_steps))

    def reset(self, *, seed=None, options=None):
        """Draw the first state from rho; returns (state, {})."""
        super().reset(seed=seed)
        self.state = self._draw(self.mdp.rho)
        return self.state, {}

    def step(self, action):
        """Returns (next state, reward, terminated, truncated=False, {})."""
        if self.state is None:
            raise ValueError("step: expected a call of reset() first")
        if not self.action_space.contains(action):
            raise ValueError(
                f"action: expected a whole number from 0 to {self.mdp.n_actions - 1}, got {action!r}"
            )
        reward = float(self.mdp.r[self.state, action])
        self.state = self._draw(self.mdp.P[self.state, action])
        return self.state, reward, bool(self.mdp.terminal[self.state]), False, {}

    def _draw(self, p):
        return np.int64(self.np_random.choice(len(p), p=p / p.sum()))
