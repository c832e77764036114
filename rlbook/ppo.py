"""Chapter 4: proximal policy optimisation."""

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import trange

from rlbook import policies, validate
from rlbook.rollout import Collector, History, NonFiniteLoss, one_thread, result
from rlbook.td import gae


def clipped_surrogate(ratio, advantage, eps_low, eps_high):
    """(78) min(ratio A, clip(ratio, 1 - eps_low, 1 + eps_high) A), elementwise.

    | argument          | shape    | meaning                                   |
    | ----------------- | -------- | ----------------------------------------- |
    | ratio             | any      | pi_new / pi_old (76)                      |
    | advantage         | as ratio | A                                         |
    | eps_low, eps_high | >= 0     | the book's eps_clip on either side of 1   |

    torch; the book has eps_low = eps_high.
    """
    if ratio.shape != advantage.shape:
        raise ValueError(
            f"advantage: expected shape {tuple(ratio.shape)} as ratio, got {tuple(advantage.shape)}"
        )
    if not (eps_low >= 0 and eps_high >= 0):
        raise ValueError(f"eps_low, eps_high: expected numbers >= 0, got {eps_low} and {eps_high}")
    return torch.minimum(ratio * advantage, ratio.clamp(1 - eps_low, 1 + eps_high) * advantage)


def kl_penalty_surrogate(ratio, advantage, kl, kl_coef):
    """The penalised surrogate after (85), elementwise: ratio A - kl_coef KL(old || new)."""
    return ratio * advantage - kl_coef * kl


@dataclass(frozen=True)
class Config:
    """Settings of PPO; the names of the book where it has one."""

    total_steps: int = 100_000
    n_envs: int = 8
    n_steps: int = 32  # steps of each environment in one iteration
    epochs: int = 20  # K
    minibatch: int = 256  # M
    lr: float = 1e-3
    anneal: bool = True  # step size and clip range fall linearly to 0
    discount: float = 0.99  # gamma
    lam: float = 0.95  # lambda
    objective: str = "clip"  # or "kl": the penalised surrogate
    eps_low: float = 0.2  # eps_clip
    eps_high: float = 0.2
    kl_coef: float = 1.0  # beta of the penalty
    kl_target: float | None = None  # given: beta doubles above 1.5 times it, halves below it / 1.5
    value_coef: float = 0.5  # c1
    entropy_coef: float = 0.0  # c2
    normalise: bool = True  # advantages of a minibatch to mean 0, deviation 1 (not in the book)
    max_grad_norm: float | None = 0.5
    hidden: tuple = (64, 64)

    def __post_init__(self):
        validate.settings(
            self,
            whole=("total_steps", "n_envs", "n_steps", "epochs", "minibatch"),
            positive=("lr", "eps_low", "eps_high"),
            optional=("kl_target", "max_grad_norm"),
            unit=("discount", "lam"),
            non_negative=("value_coef", "entropy_coef", "kl_coef"),
            switch=("anneal", "normalise"),
        )
        if self.objective not in ("clip", "kl"):
            raise ValueError(f"objective: expected 'clip' or 'kl', got {self.objective!r}")


def loss(
    policy, value, obs, action, logp_old, params_old, advantage, target, config, shrink=1.0, kl_coef=0.0
):
    """Minus (85) on a minibatch: returns the loss and a dict of what it is made of.

    obs (M, D), action (M,) or (M, d), logp_old, advantage, target (M,), params_old (M, K).
    """
    for name, x in (("logp_old", logp_old), ("advantage", advantage), ("target", target)):
        if x.shape != obs.shape[:1]:  # (M, 1) would broadcast to (M, M)
            raise ValueError(f"{name}: expected shape {tuple(obs.shape[:1])}, got {tuple(x.shape)}")
    params = policy(obs)
    ratio = (policy.log_prob(params, action) - logp_old).exp()  # (76)
    kl = policy.kl(params_old, params)
    if config.objective == "clip":
        surrogate = clipped_surrogate(ratio, advantage, config.eps_low * shrink, config.eps_high * shrink)
    else:
        surrogate = kl_penalty_surrogate(ratio, advantage, kl, kl_coef)
    value_loss = (value(obs).squeeze(-1) - target).square().mean()  # (82)
    entropy = policy.entropy(params).mean()  # (83)
    total = -(surrogate.mean() - config.value_coef * value_loss + config.entropy_coef * entropy)  # (85)
    return total, {"kl": kl, "ratio": ratio, "value_loss": value_loss, "entropy": entropy}


def train(env_id, config=None, *, seed=0, progress=True):
    """Box 4.7.4: PPO on a gymnasium environment; returns a `Result`.

    history: env_steps, episode_return (mean of the episodes that ended in the iteration, NaN if
    none did), kl, clip_fraction, value_loss, entropy, kl_coef, seconds.
    Raises ValueError on an unknown environment or a reward or observation that is not finite,
    NonFiniteLoss with the last good parameters if the loss or its gradient is not finite.
    """
    config = config or Config()
    collector = Collector(env_id, config.n_envs, seed)
    policy, value = policies.build(collector.observation_space, collector.action_space, config.hidden, seed)
    weights = [*policy.parameters(), *value.parameters()]
    adam = torch.optim.Adam(weights, lr=config.lr, eps=1e-5, fused=True)
    rng, history, kl_coef = np.random.default_rng(seed), History(), config.kl_coef
    batch = config.n_envs * config.n_steps
    iterations = max(1, config.total_steps // batch)
    start = time.perf_counter()
    with one_thread():
        for k in trange(iterations, disable=not progress, desc=f"PPO {env_id}", leave=False):
            segment = collector.collect(policy, config.n_steps)
            now, after = segment.values(value)
            advantage, target = gae(
                segment.reward, now, after, segment.terminated, segment.truncated, config.discount, config.lam
            )
            obs, action, params_old = segment.flat()
            logp_old = policy.log_prob(params_old, action)
            advantage, target = (torch.from_numpy(x.ravel()).float() for x in (advantage, target))
            shrink = 1 - k / iterations if config.anneal else 1.0
            adam.param_groups[0]["lr"] = config.lr * shrink
            good = copy.deepcopy((policy.state_dict(), value.state_dict()))
            for _ in range(config.epochs):
                for rows in np.array_split(rng.permutation(batch), max(1, batch // config.minibatch)):
                    rows = torch.from_numpy(rows)
                    a = advantage[rows]
                    if config.normalise and len(a) > 1:
                        a = (a - a.mean()) / (a.std() + 1e-8)
                    data = (x[rows] for x in (obs, action, logp_old, params_old))
                    total, parts = loss(policy, value, *data, a, target[rows], config, shrink, kl_coef)
                    adam.zero_grad()
                    total.backward()
                    norm = torch.nn.utils.clip_grad_norm_(weights, config.max_grad_norm or math.inf)
                    if not torch.isfinite(total + norm):
                        policy.load_state_dict(good[0])
                        value.load_state_dict(good[1])
                        raise NonFiniteLoss(
                            f"the loss is {total.item():g}, the norm of its gradient {norm.item():g} in "
                            f"iteration {k}: rewards from {segment.reward.min():g} to "
                            f"{segment.reward.max():g}, advantages up to {advantage.abs().max():g}, largest "
                            f"ratio {parts['ratio'].max().item():g}; "
                            "result holds the parameters before this iteration",
                            result(policy, value, history, env_id, config),
                        )
                    adam.step()
            with torch.no_grad():
                params = policy(obs)
                ratio = (policy.log_prob(params, action) - logp_old).exp()
                kl = policy.kl(params_old, params).mean().item()
            if config.kl_target is not None:
                kl_coef *= 2.0 if kl > 1.5 * config.kl_target else 0.5 if kl < config.kl_target / 1.5 else 1.0
            outside = (ratio < 1 - config.eps_low * shrink) | (ratio > 1 + config.eps_high * shrink)
            history.add(
                env_steps=(k + 1) * batch,
                episode_return=np.mean(segment.episode_return) if segment.episode_return else np.nan,
                kl=kl,
                clip_fraction=outside.float().mean(),
                value_loss=parts["value_loss"].detach(),
                entropy=parts["entropy"].detach(),
                kl_coef=kl_coef,
                seconds=time.perf_counter() - start,
            )
    collector.close()
    return result(policy, value, history, env_id, config)
