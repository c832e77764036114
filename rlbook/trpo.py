"""Chapter 4: trust-region policy optimisation."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from tqdm.auto import trange

from rlbook import policies, validate
from rlbook.rollout import Collector, History, NonFiniteLoss, one_thread, result
from rlbook.td import gae


def conjugate_gradient(matvec, b, iters=10, tol=1e-10):
    """(73) Solve A x = b for a symmetric positive A known only by x -> A x.

    | argument | shape       | meaning                                         |
    | -------- | ----------- | ----------------------------------------------- |
    | matvec   | (n,) -> (n,) | x -> A x                                       |
    | b        | (n,)        | right side                                      |
    | iters    | int >= 1    | at most so many products                        |
    | tol      | >= 0        | stop when the squared residual falls to tol     |

    Returns x (n,). b = 0 gives 0. A singular A is fine if b lies in its range and tol > 0; with tol = 0
    the search goes on after it has converged, along rounding errors, and may end in NaN.
    """
    iters = validate.integer("iters", iters)
    validate.number("tol", tol, 0.0)
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), r @ r
    for _ in range(iters):
        if rr <= tol:
            break
        Ap = matvec(p)
        alpha = rr / (p @ Ap)
        x, r = x + alpha * p, r - alpha * Ap
        rr, before = r @ r, rr
        p = r + rr / before * p
    return x


def fisher_product(policy, obs, damping=0.0):
    """(72) x -> (A + damping) x, where A is the Hessian of the mean KL(old || new) at new = old.

    The graph of the KL gradient is built once; each product is one backward pass through it.
    """
    weights = list(policy.parameters())
    params = policy(obs)
    kl = policy.kl(params.detach(), params).mean()
    slope = _flat(torch.autograd.grad(kl, weights, create_graph=True))

    def product(x):
        return _flat(torch.autograd.grad(slope @ x, weights, retain_graph=True)) + damping * x

    return product


def surrogate(policy, obs, action, logp_old, advantage):
    """(69) Empirical surrogate: the mean of ratio times advantage.

    obs (m, D), action (m,) or (m, d), logp_old and advantage (m,).
    """
    for name, x in (("logp_old", logp_old), ("advantage", advantage)):
        if x.shape != obs.shape[:1]:  # (m, 1) would broadcast to (m, m)
            raise ValueError(f"{name}: expected shape {tuple(obs.shape[:1])}, got {tuple(x.shape)}")
    return ((policy.log_prob(policy(obs), action) - logp_old).exp() * advantage).mean()


@dataclass(frozen=True)
class Step:
    """What one `step` did."""

    accepted: bool
    shrinks: int  # how often the step was shortened (the number of tries if none was accepted)
    kl: float  # (70) of the accepted step, 0 if none
    gain: float  # surrogate after minus before, 0 if none


def step(policy, obs, action, advantage, delta=0.01, damping=0.1, cg_iters=10, shrink=0.5, max_shrinks=10):
    """Box 4.6.4, steps 3-6: one trust-region update of `policy`, in place.

    | argument    | shape          | meaning                                               |
    | ----------- | -------------- | ----------------------------------------------------- |
    | obs, action | (m, D), (m,..) | the batch, drawn with the policy as it is now         |
    | advantage   | (m,)           | advantage estimates                                   |
    | delta       | > 0            | largest mean KL(old || new) (70)                      |
    | damping     | >= 0           | added to the Fisher matrix, in (73) and in (74) alike |
    | shrink      | (0, 1)         | xi: try beta xi^j, j = 0 .. max_shrinks               |

    If no try satisfies both conditions the policy stays as it was. Returns a `Step`. Raises
    FloatingPointError, and moves nothing, if the gradient is not finite.
    """
    _check_step(delta, damping, cg_iters, shrink, max_shrinks)
    weights = list(policy.parameters())
    with torch.no_grad():
        params_old = policy(obs)
        logp_old = policy.log_prob(params_old, action)
    before = surrogate(policy, obs, action, logp_old, advantage)
    g = _flat(torch.autograd.grad(before, weights))  # (71)
    if not torch.isfinite(g).all():
        raise FloatingPointError("advantage: the gradient of the surrogate is not finite")
    product = fisher_product(policy, obs, damping)
    s = conjugate_gradient(product, g, cg_iters, tol=1e-10 * (g @ g).item())  # in any unit of reward
    sAs = s @ product(s)
    if sAs <= 0:  # g = 0: nothing to gain
        return Step(False, 0, 0.0, 0.0)
    beta = (2 * delta / sAs).sqrt()  # (74)
    old = parameters_to_vector(weights).detach().clone()
    with torch.no_grad():
        for j in range(int(max_shrinks) + 1):
            vector_to_parameters(old + beta * shrink**j * s, weights)
            kl = policy.kl(params_old, policy(obs)).mean().item()
            gain = (surrogate(policy, obs, action, logp_old, advantage) - before).item()
            if gain >= 0 and kl <= delta:
                return Step(True, j, kl, gain)
        vector_to_parameters(old, weights)
    return Step(False, max_shrinks + 1, 0.0, 0.0)


def _check_step(delta, damping, cg_iters, shrink, max_shrinks):
    validate.number("delta", delta, 0.0, open_low=True)
    validate.number("damping", damping, 0.0)
    validate.integer("cg_iters", cg_iters)
    validate.number("shrink", shrink, 0.0, 1.0, open_low=True, open_high=True)
    validate.integer("max_shrinks", max_shrinks, low=0)


@dataclass(frozen=True)
class Config:
    """Settings of TRPO; the names of the book where it has one."""

    total_steps: int = 100_000
    n_envs: int = 8
    n_steps: int = 128
    delta: float = 0.01
    damping: float = 0.1
    cg_iters: int = 10
    shrink: float = 0.5  # xi
    max_shrinks: int = 10
    discount: float = 0.99
    lam: float = 0.95
    value_lr: float = 1e-3
    value_epochs: int = 10
    value_minibatch: int = 128
    normalise: bool = True  # advantages of the batch to mean 0, deviation 1 (not in the book)
    hidden: tuple = (64, 64)

    def __post_init__(self):
        validate.settings(
            self,
            whole=("total_steps", "n_envs", "n_steps", "cg_iters", "value_epochs", "value_minibatch"),
            positive=("value_lr",),
            unit=("discount", "lam"),
            switch=("normalise",),
        )
        _check_step(self.delta, self.damping, self.cg_iters, self.shrink, self.max_shrinks)


def train(env_id, config=None, *, seed=0, progress=True):
    """Box 4.6.4: TRPO on a gymnasium environment; returns a `Result`.

    history: env_steps, episode_return (NaN where no episode ended), kl, accepted, shrinks, gain,
    value_loss, seconds. Raises as `ppo.train`.
    """
    config = config or Config()
    collector = Collector(env_id, config.n_envs, seed)
    policy, value = policies.build(collector.observation_space, collector.action_space, config.hidden, seed)
    adam = torch.optim.Adam(value.parameters(), lr=config.value_lr, fused=True)
    rng, history = np.random.default_rng(seed), History()
    batch = config.n_envs * config.n_steps
    start = time.perf_counter()
    with one_thread():
        for k in trange(
            max(1, config.total_steps // batch), disable=not progress, desc=f"TRPO {env_id}", leave=False
        ):
            segment = collector.collect(policy, config.n_steps)
            now, after = segment.values(value)
            advantage, target = gae(
                segment.reward, now, after, segment.terminated, segment.truncated, config.discount, config.lam
            )
            if config.normalise:
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            obs, action, _ = segment.flat()
            advantage, target = (torch.from_numpy(x.ravel()).float() for x in (advantage, target))
            try:
                taken = step(
                    policy, obs, action, advantage, config.delta, config.damping, config.cg_iters,
                    config.shrink, config.max_shrinks,
                )  # fmt: skip
                value_loss = fit(value, adam, obs, target, config.value_epochs, config.value_minibatch, rng)
            except FloatingPointError as error:
                raise NonFiniteLoss(
                    f"iteration {k}: {error}: rewards from {segment.reward.min():g} to "
                    f"{segment.reward.max():g}; result holds the last finite parameters",
                    result(policy, value, history, env_id, config),
                ) from error
            history.add(
                env_steps=(k + 1) * batch,
                episode_return=np.mean(segment.episode_return) if segment.episode_return else np.nan,
                kl=taken.kl,
                accepted=taken.accepted,
                shrinks=taken.shrinks,
                gain=taken.gain,
                value_loss=value_loss,
                seconds=time.perf_counter() - start,
            )
    collector.close()
    return result(policy, value, history, env_id, config)


def fit(value, optimiser, obs, target, epochs, minibatch, rng):
    """Regress value(obs) on target (81) by minibatch steps on (82); returns the last loss.

    Raises FloatingPointError before a step on a loss that is not finite.
    """
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(target)), max(1, len(target) // minibatch)):
            rows = torch.from_numpy(rows)
            loss = (value(obs[rows]).squeeze(-1) - target[rows]).square().mean()
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss of the value network is {loss.item()}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return loss.item()


def _flat(tensors):
    return torch.cat([t.reshape(-1) for t in tensors])
