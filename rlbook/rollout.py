"""Segments of experience from vectorised gymnasium environments, and what training returns.

A step that ends an episode keeps the observation it really led to: `next_obs` is taken before the
reset, so a truncated episode can be bootstrapped from where it was cut.
"""

import json
import math
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode

from rlbook import policies, validate


@dataclass
class Segment:
    """T steps of N environments side by side; arrays run over time first."""

    obs: np.ndarray  # (T, N, D) float32
    action: np.ndarray  # (T, N) int64 or (T, N, d) float32, as sampled (before clipping)
    params: torch.Tensor  # (T, N, K) distribution parameters the actions were drawn from
    reward: np.ndarray  # (T, N) float64
    terminated: np.ndarray  # (T, N) bool
    truncated: np.ndarray  # (T, N) bool
    last_obs: np.ndarray  # (N, D) observation after the last step
    cut_obs: np.ndarray  # (C, D) final observations of the C truncated steps, in order of (t, n)
    episode_return: list = field(default_factory=list)  # undiscounted returns of finished episodes

    def values(self, value):
        """V(s_t) and V(s_{t+1}) (T, N) float64; a terminated step's V(s_{t+1}) is 0, a cut one's is real."""
        T, N = self.reward.shape
        with torch.no_grad():
            obs = np.concatenate([self.obs.reshape(T * N, -1), self.last_obs, self.cut_obs])
            v = value(torch.from_numpy(obs)).squeeze(-1).double().numpy()
        now = v[: T * N].reshape(T, N)
        after = np.concatenate([now[1:], v[None, T * N : (T + 1) * N]])
        after[self.terminated] = 0.0
        after[self.truncated] = v[(T + 1) * N :]
        return now, after

    def flat(self):
        """(obs, action, params) as torch tensors with time and environments in one axis."""
        n = self.reward.size
        action = torch.from_numpy(self.action).reshape(n, *self.action.shape[2:])
        return torch.from_numpy(self.obs).reshape(n, -1), action, self.params.reshape(n, -1)


class Collector:
    """Steps N copies of an environment with a policy and hands back `Segment`s."""

    def __init__(self, env_id, n_envs, seed, **env_options):
        try:
            self.envs = gymnasium.make_vec(
                env_id,
                num_envs=n_envs,
                vectorization_mode="sync",
                vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
                **env_options,
            )
        except (gymnasium.error.Error, ImportError) as error:
            raise ValueError(
                f"env_id: expected a registered environment, got {env_id!r} ({error})"
            ) from error
        self.env_id, self.n_envs = env_id, n_envs
        self.observation_space = self.envs.single_observation_space
        self.action_space = self.envs.single_action_space
        self.n_obs = policies.n_inputs(self.observation_space)
        self.obs_centre, self.obs_half = centre_and_half_range(self.observation_space)
        self.action_centre, self.action_half = centre_and_half_range(self.action_space)
        self.generator = torch.Generator().manual_seed(seed)
        self.obs = self._encode(self.envs.reset(seed=seed)[0])
        self.running = np.zeros(n_envs)

    def collect(self, policy, steps):
        """A `Segment` of `steps` steps a copy. Raises ValueError on a reward or observation not finite."""
        T, N = steps, self.n_envs
        discrete = isinstance(self.action_space, Discrete)
        obs = np.empty((T, N, self.n_obs), np.float32)
        action = np.empty(
            (T, N) if discrete else (T, N, *self.action_space.shape), np.int64 if discrete else np.float32
        )
        reward, terminated, truncated = np.empty((T, N)), np.empty((T, N), bool), np.empty((T, N), bool)
        params, cut_obs, finished = [], [], []
        with one_thread(), torch.inference_mode():
            for t in range(T):
                obs[t] = self.obs
                p = policy(torch.from_numpy(self.obs))
                params.append(p)
                action[t] = policy.sample(p, self.generator).numpy()
                after, reward[t], terminated[t], truncated[t], info = self.envs.step(self._to_env(action[t]))
                self.obs = self._encode(after)
                self.running += reward[t]
                if (done := terminated[t] | truncated[t]).any():
                    truncated[t] &= ~terminated[t]
                    finished += self.running[done].tolist()
                    self.running[done] = 0.0
                    cut = [np.asarray(info["final_obs"][n])[None] for n in np.flatnonzero(truncated[t])]
                    cut_obs += [self._encode(obs)[0] for obs in cut]
        cut = np.array(cut_obs, np.float32).reshape(-1, self.n_obs)
        final = np.zeros_like(obs)
        final[truncated] = cut
        self._refuse_not_finite("reward", reward)
        self._refuse_not_finite("observation", np.concatenate([obs, self.obs[None]]))
        self._refuse_not_finite("observation", final)
        params = torch.stack(params).clone()  # out of inference mode, so that it may enter a loss
        return Segment(obs, action, params, reward, terminated, truncated, self.obs, cut, finished)

    def episodes(self, policy, max_steps):
        """One trajectory from each copy, from its reset to its end or `max_steps`.

        Returns a `Segment` and a mask (T, N), true while a copy's first episode runs. Later steps
        of copies that ended early are there but do not count; `episode_return` stays empty.
        """
        seed = int(torch.randint(2**31, (1,), generator=self.generator))
        self.obs, self.running[:] = self._encode(self.envs.reset(seed=seed)[0]), 0.0
        parts, running, masks = [], np.ones(self.n_envs, bool), []
        while running.any() and sum(map(len, masks)) < max_steps:
            part = self.collect(policy, min(32, max_steps - sum(map(len, masks))))
            mask = np.empty(part.reward.shape, bool)
            for t, done in enumerate(part.terminated | part.truncated):
                mask[t] = running
                running &= ~done
            parts.append(part)
            masks.append(mask)
        mask = np.concatenate(masks)
        length = int(mask.any(axis=1).sum())  # the longest trajectory
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])[:length]
            for name in ("obs", "action", "reward", "terminated", "truncated")
        }
        params = torch.cat([part.params for part in parts])[:length]
        cut = np.concatenate([part.cut_obs for part in parts])[: int(columns["truncated"].sum())]
        observed = np.concatenate([*(part.obs for part in parts), self.obs[None]])
        return Segment(**columns, params=params, last_obs=observed[length], cut_obs=cut), mask[:length]

    def close(self):
        """Close the environments."""
        self.envs.close()

    def _refuse_not_finite(self, name, x):
        for t, n, *d in np.argwhere(~np.isfinite(x))[:1]:
            raise ValueError(
                f"{name}: expected finite {name}s, {self.env_id} gave {x[t, n, *d]} at step {t} of copy {n}"
            )

    def _encode(self, obs):
        if isinstance(self.observation_space, Discrete):
            return np.eye(self.n_obs, dtype=np.float32)[obs - self.observation_space.start]
        return ((obs - self.obs_centre) / self.obs_half).astype(np.float32)

    def _to_env(self, action):
        if isinstance(self.action_space, Discrete):
            return action + self.action_space.start
        action = self.action_centre + self.action_half * action
        return np.clip(action, self.action_space.low, self.action_space.high)


def centre_and_half_range(space):
    """What maps a Box to [-1, 1]; 0 and 1 if a bound is missing (or beyond 1e9) or there is no Box."""
    if not isinstance(space, Box) or not (np.abs([space.low, space.high]) < 1e9).all():
        return 0.0, 1.0
    low, high = (x.astype(np.result_type(x, np.float32)) for x in (space.low, space.high))
    return (high + low) / 2, np.where(high > low, (high - low) / 2, 1)


@dataclass
class Result:
    """What a `train` function returns: the policy, its history, and what made it."""

    policy: torch.nn.Module
    value: torch.nn.Module
    history: dict  # name -> array over iterations; env_steps and episode_return among them
    env_id: str
    config: dict

    def save(self, path):
        """Write `path` as a folder: weights.safetensors and result.json.

        JSON has no NaN and no infinity: they are written as the texts "nan", "inf" and "-inf".
        """
        from safetensors.torch import save_file

        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        weights = {f"policy.{k}": v for k, v in self.policy.state_dict().items()}
        weights |= {f"value.{k}": v for k, v in self.value.state_dict().items()}
        save_file(weights, path / "weights.safetensors")
        history = {
            name: [x if math.isfinite(x) else str(x) for x in np.asarray(column, float).tolist()]
            for name, column in self.history.items()
        }
        text = json.dumps({"env_id": self.env_id, "config": self.config, "history": history}, indent=1)
        (path / "result.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read what `save` wrote; ValueError if the folder does not hold a result."""
        from safetensors.torch import load_file

        path = Path(path)
        try:
            meta = json.loads((path / "result.json").read_text(encoding="utf-8"))
            weights = load_file(path / "weights.safetensors")
            env = gymnasium.make(meta["env_id"])
            env.close()
            hidden = meta["config"]["hidden"] = tuple(meta["config"]["hidden"])
            policy, value = policies.build(env.observation_space, env.action_space, hidden)
            for name, net in (("policy.", policy), ("value.", value)):
                net.load_state_dict(
                    {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}
                )
            history = {name: np.array(column, float) for name, column in meta["history"].items()}
        except Exception as error:  # whatever is wrong with the files
            raise ValueError(
                f"path: expected a saved result, got {path} ({type(error).__name__}: {error})"
            ) from error
        return cls(policy, value, history, meta["env_id"], meta["config"])


class NonFiniteLoss(RuntimeError):
    """Training stopped on a loss that is not a number; `result` holds the last good parameters."""

    def __init__(self, message, result):
        super().__init__(message)
        self.result = result


class History:
    """Columns of numbers, one row an iteration."""

    def __init__(self):
        self.columns = {}

    def __len__(self):
        return len(next(iter(self.columns.values()), ()))

    def add(self, **row):
        """Append one row; every row has the same names."""
        for name, x in row.items():
            self.columns.setdefault(name, []).append(float(x))

    def arrays(self):
        """{name: array}."""
        return {name: np.array(column) for name, column in self.columns.items()}


def result(policy, value, history, env_id, config):
    """A `Result` with the parameters as they are now."""
    return Result(policy, value, history.arrays(), env_id, asdict(config))


def evaluate(policy, env_id, episodes=100, seed=0, greedy=False, n_envs=10, **env_options):
    """Undiscounted returns (episodes,) of the first episodes of each of n_envs copies of an environment."""
    episodes, n_envs = validate.integer("episodes", episodes), validate.integer("n_envs", n_envs)
    quota = -(-episodes // n_envs)  # the same number from every copy, so that short episodes are not favoured
    collector = Collector(env_id, n_envs, seed, **env_options)
    returns, running = [[] for _ in range(n_envs)], np.zeros(n_envs)
    acting = _Greedy(policy) if greedy else policy
    while min(map(len, returns)) < quota:
        segment = collector.collect(acting, 64)
        for reward, done in zip(segment.reward, segment.terminated | segment.truncated, strict=True):
            running += reward
            for n in np.flatnonzero(done):
                returns[n].append(running[n])
                running[n] = 0.0
    collector.close()
    return np.array([r for row in returns for r in row[:quota]])[:episodes]


class _Greedy:
    """A policy that takes its most likely action."""

    def __init__(self, policy):
        self.policy = policy

    def __call__(self, obs):
        return self.policy(obs)

    def sample(self, params, generator):
        return self.policy.mode(params)


@contextmanager
def one_thread():
    """Run torch on one thread inside: small networks are faster so, and sums repeat."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
