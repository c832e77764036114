"""Chapter 3: synchronous advantage actor-critic."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import trange

from rlbook import policies, validate
from rlbook.rollout import Collector, History, NonFiniteLoss, one_thread, result
from rlbook.td import gae


@dataclass(frozen=True)
class Config:
    """Settings of A2C (and, a worker each, of A3C)."""

    total_steps: int = 100_000
    n_envs: int = 8
    n_steps: int = 5
    lr: float = 7e-4
    anneal: bool = True  # the step size falls linearly to 0
    discount: float = 0.99
    lam: float = 1.0  # 1: n-step returns as in (46); 0: TD errors (44)
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    max_grad_norm: float | None = 0.5
    hidden: tuple = (64, 64)

    def __post_init__(self):
        validate.settings(
            self,
            whole=("total_steps", "n_envs", "n_steps"),
            positive=("lr",),
            optional=("max_grad_norm",),
            unit=("discount", "lam"),
            non_negative=("value_coef", "entropy_coef"),
            switch=("anneal",),
        )


def loss(policy, value, obs, action, advantage, target, config):
    """Minus the actor-critic objective of box 3.4.2 on a batch, with what it is made of.

    The actor's part is the mean of log pi times advantage, held fixed; the critic's (45) is a
    regression on fixed targets, so its gradient is the semi-gradient.
    obs (m, D), action (m,) or (m, d), advantage and target (m,).
    """
    for name, x in (("advantage", advantage), ("target", target)):
        if x.shape != obs.shape[:1]:  # (m, 1) would broadcast to (m, m)
            raise ValueError(f"{name}: expected shape {tuple(obs.shape[:1])}, got {tuple(x.shape)}")
    params = policy(obs)
    actor = (policy.log_prob(params, action) * advantage).mean()
    value_loss = (value(obs).squeeze(-1) - target).square().mean()
    entropy = policy.entropy(params).mean()
    total = -(actor - config.value_coef * value_loss + config.entropy_coef * entropy)
    return total, {"value_loss": value_loss, "entropy": entropy}


def optimiser(policy, value, config):
    """RMSprop over both networks, as in the A3C paper."""
    return torch.optim.RMSprop(
        [*policy.parameters(), *value.parameters()], lr=config.lr, alpha=0.99, eps=1e-5
    )


def gradient(policy, value, segment, config):
    """Set .grad of both networks from one segment; returns the loss (a float) and its parts."""
    now, after = segment.values(value)
    advantage, target = gae(
        segment.reward, now, after, segment.terminated, segment.truncated, config.discount, config.lam
    )
    obs, action, _ = segment.flat()
    advantage, target = (torch.from_numpy(x.ravel()).float() for x in (advantage, target))
    weights = [*policy.parameters(), *value.parameters()]
    total, parts = loss(policy, value, obs, action, advantage, target, config)
    for w in weights:
        w.grad = None
    total.backward()
    if config.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm)
    return total.item(), {name: x.item() for name, x in parts.items()}


def train(env_id, config=None, *, seed=0, progress=True):
    """Box 3.4.2: A2C on a gymnasium environment; returns a `Result`.

    history: env_steps, episode_return (NaN where no episode ended), value_loss, entropy, seconds.
    Raises as `ppo.train`.
    """
    config = config or Config()
    collector = Collector(env_id, config.n_envs, seed)
    policy, value = policies.build(collector.observation_space, collector.action_space, config.hidden, seed)
    update, history = optimiser(policy, value, config), History()
    batch = config.n_envs * config.n_steps
    iterations = max(1, config.total_steps // batch)
    start = time.perf_counter()
    with one_thread():
        for k in trange(iterations, disable=not progress, desc=f"A2C {env_id}", leave=False):
            segment = collector.collect(policy, config.n_steps)
            total, parts = gradient(policy, value, segment, config)
            if not np.isfinite(total):
                raise NonFiniteLoss(
                    f"the loss is {total} in iteration {k}: rewards from {segment.reward.min():g} to "
                    f"{segment.reward.max():g}; result holds the parameters before this iteration",
                    result(policy, value, history, env_id, config),
                )
            update.param_groups[0]["lr"] = config.lr * (1 - k / iterations if config.anneal else 1.0)
            update.step()
            history.add(
                env_steps=(k + 1) * batch,
                episode_return=np.mean(segment.episode_return) if segment.episode_return else np.nan,
                seconds=time.perf_counter() - start,
                **parts,
            )
    collector.close()
    return result(policy, value, history, env_id, config)
