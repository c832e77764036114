"""Chapter 3: the vanilla policy gradient (REINFORCE)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import trange

from rlbook import policies, validate
from rlbook.rollout import Collector, History, NonFiniteLoss, one_thread, result
from rlbook.td import returns_to_go
from rlbook.trpo import fit


def weights(reward, mask, discount, form="reward_to_go", discount_correction=True):
    """What multiplies each score in the gradient estimate: (34) or (35), (38).

    | argument            | shape  | meaning                                                          |
    | ------------------- | ------ | ---------------------------------------------------------------- |
    | reward              | (T, N) | one trajectory a column                                          |
    | mask                | (T, N) | true while the trajectory runs                                   |
    | discount            | [0, 1] | gamma                                                            |
    | form                |        | "trajectory": G_0 for every step (34); "reward_to_go": G_t (35)  |
    | discount_correction | bool   | reward_to_go: times gamma^t, which (35) lacks and the gradient   |
    |                     |        | of (31) has. False is the printed form and common practice       |

    Returns (T, N), 0 where the mask is false.
    """
    reward = validate.array("reward", reward, ndim=2)
    mask = validate.flags("mask", mask, reward.shape)
    G = returns_to_go(np.where(mask, reward, 0.0), discount)
    if form == "trajectory":
        G = np.broadcast_to(G[0], G.shape)
    elif form != "reward_to_go":
        raise ValueError(f"form: expected 'trajectory' or 'reward_to_go', got {form!r}")
    elif discount_correction:
        G = G * discount ** np.arange(len(G))[:, None]
    return np.where(mask, G, 0.0)


def objective(policy, obs, action, weight):
    """(39) The function whose gradient is the estimate: sum over steps of log pi times weight, over N.

    obs (T, N, D), action (T, N, ...), weight (T, N), 0 on steps that do not count.
    """
    if weight.shape != obs.shape[:2] or action.shape[:2] != obs.shape[:2]:
        raise ValueError(
            f"weight, action: expected shapes that begin with {tuple(obs.shape[:2])} as obs, "
            f"got {tuple(weight.shape)} and {tuple(action.shape)}"
        )
    T, N = weight.shape
    logp = policy.log_prob(policy(obs.reshape(T * N, -1)), action.reshape(T * N, *action.shape[2:]))
    return (logp * weight.reshape(-1)).sum() / N


@dataclass(frozen=True)
class Config:
    """Settings of the vanilla policy gradient."""

    iterations: int = 100
    trajectories: int = 16  # N, all rolled out side by side
    max_steps: int = 500  # trajectories still running are cut here
    lr: float = 5e-3
    discount: float = 0.99
    form: str = "reward_to_go"
    discount_correction: bool = False  # True gives the gradient of (31), and little weight to late steps
    baseline: str = "value"  # "none", "mean" (over the batch, leave-one-out) or "value" (a network)
    value_lr: float = 1e-2
    value_epochs: int = 5
    value_minibatch: int = 512
    hidden: tuple = (64, 64)

    def __post_init__(self):
        validate.settings(
            self,
            whole=("iterations", "trajectories", "max_steps", "value_epochs", "value_minibatch"),
            positive=("lr", "value_lr"),
            unit=("discount",),
            switch=("discount_correction",),
        )
        if self.form not in ("trajectory", "reward_to_go"):
            raise ValueError(f"form: expected 'trajectory' or 'reward_to_go', got {self.form!r}")
        if self.baseline not in ("none", "mean", "value"):
            raise ValueError(f"baseline: expected 'none', 'mean' or 'value', got {self.baseline!r}")
        if self.baseline == "mean" and self.trajectories < 2:
            raise ValueError(
                "baseline: 'mean' leaves one trajectory out, so it needs at least 2 trajectories"
            )


def train(env_id, config=None, *, seed=0, progress=True):
    """Box 3.3: vanilla policy gradient on a gymnasium environment; returns a `Result`.

    history: env_steps, episode_return (undiscounted), entropy, grad_norm, seconds. Raises as `ppo.train`.
    """
    config = config or Config()
    collector = Collector(env_id, config.trajectories, seed)
    policy, value = policies.build(collector.observation_space, collector.action_space, config.hidden, seed)
    adam = torch.optim.Adam(policy.parameters(), lr=config.lr, fused=True)
    critic = torch.optim.Adam(value.parameters(), lr=config.value_lr, fused=True)
    rng, history, steps = np.random.default_rng(seed), History(), 0
    start = time.perf_counter()
    with one_thread():
        for k in trange(config.iterations, disable=not progress, desc=f"REINFORCE {env_id}", leave=False):
            segment, mask = collector.episodes(policy, config.max_steps)
            G = weights(segment.reward, mask, config.discount, "reward_to_go", discount_correction=False)
            weight = weights(segment.reward, mask, config.discount, config.form, config.discount_correction)
            obs, action = torch.from_numpy(segment.obs), torch.from_numpy(segment.action)
            flat, running = obs.reshape(-1, obs.shape[-1]), torch.from_numpy(mask.reshape(-1))
            late = config.discount ** np.arange(len(G))[:, None] if config.discount_correction else 1.0
            if config.baseline == "value":
                with torch.no_grad():
                    b = value(flat).reshape(mask.shape).double().numpy()
                weight = np.where(mask, weight - late * b, 0.0)
            elif config.baseline == "mean":  # of the other trajectories at the same step
                others = (G.sum(axis=1, keepdims=True) - G) / (config.trajectories - 1)
                weight = np.where(mask, weight - late * others, 0.0)
            loss = -objective(policy, obs, action, torch.from_numpy(weight).float())
            adam.zero_grad()
            loss.backward()
            norm = torch.stack([p.grad.norm() for p in policy.parameters()]).norm()
            try:
                if not torch.isfinite(loss + norm):
                    raise FloatingPointError(f"the loss is {loss:g}, the norm of its gradient {norm:g}")
                adam.step()  # (40), with Adam's step sizes
                if config.baseline == "value":
                    target = torch.from_numpy(G.reshape(-1)).float()[running]
                    fit(
                        value, critic, flat[running], target, config.value_epochs, config.value_minibatch, rng
                    )
            except FloatingPointError as error:
                raise NonFiniteLoss(
                    f"iteration {k}: {error}: rewards from {segment.reward.min():g} to "
                    f"{segment.reward.max():g}; result holds the last finite parameters",
                    result(policy, value, history, env_id, config),
                ) from error
            steps += int(mask.sum())
            history.add(
                env_steps=steps,
                episode_return=(segment.reward * mask).sum(axis=0).mean(),
                entropy=policy.entropy(segment.params.reshape(mask.size, -1)).mean(),
                grad_norm=norm,
                seconds=time.perf_counter() - start,
            )
    collector.close()
    return result(policy, value, history, env_id, config)
