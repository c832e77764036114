"""A method's objective: a sum of terms, each a choice of rows, comparison, ratio, gate and aggregation.

    objective = sum over terms of  weight * aggregate(gate(ratio, advantage))  -  kl_coef * KL

Objectives are maximised. `rlbook.llm.methods` is the table of the methods made of such terms.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rlbook import validate
from rlbook.llm import gates, kl, ratios
from rlbook.llm.batch import GUIDE, POLICY

FLOOR = -20.0  # log-probabilities of the guide below this count as this


def everything(rollouts):
    """All rows."""
    return torch.ones_like(rollouts.source, dtype=torch.bool)


def policy(rollouts):
    """Rows sampled from the policy."""
    return rollouts.source == POLICY


def guide(rollouts):
    """Rows sampled from the guide: the paper's V."""
    return rollouts.source == GUIDE


def rewarded(rollouts):
    """Policy rows with a reward above 0: the paper's U."""
    return policy(rollouts) & (rollouts.rewards > 0)


def rewarded_guide(rollouts):
    """Rows sampled from the guide with a reward above 0."""
    return guide(rollouts) & (rollouts.rewards > 0)


def unrewarded(rollouts):
    """Policy rows with a reward of 0 or less: the paper's W."""
    return policy(rollouts) & (rollouts.rewards <= 0)


def guide_or_unrewarded(rollouts):
    """The paper's V and W together."""
    return guide(rollouts) | unrewarded(rollouts)


@dataclass(frozen=True)
class Term:
    """One summand of an objective. `rows`, `pool`, `counted` map Rollouts to a bool (B,)."""

    advantage: Callable  # rewards, group -> (B,)
    ratio: Callable  # logp, logp of the behaviour, mask -> (B, T) or (B, 1)
    gate: Callable  # ratio, advantage, **gate_options -> as ratio
    aggregate: Callable  # x, mask, counted -> scalar
    gate_options: dict = field(default_factory=dict)
    rows: Callable = policy  # the rows summed
    pool: Callable | None = None  # the rows whose rewards are compared; None: `rows`
    counted: Callable | None = None  # the rows whose tokens the mean divides by; None: `rows`
    behaviour: str = "old"  # the ratio divides by pi_old, by the "guide", or by pi_theta "itself": then
    # it is 1 and its gradient is the score, so the term imitates
    weight: float = 1.0


@dataclass(frozen=True)
class Objective:
    """value: scalar to maximise; metrics: dict of floats, and `parts`, a dict of floats for each term."""

    value: torch.Tensor
    metrics: dict


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    terms: tuple
    kl_coef: float = 0.0
    kl: str = "reward_k1"
    mask_truncated: bool = False  # overlong filtering: truncated rows compare but are not summed

    def __post_init__(self):
        validate.number("kl_coef", self.kl_coef, 0.0)
        if self.kl not in kl.PLACES:
            raise ValueError(f"kl: expected one of {', '.join(kl.PLACES)}, got {self.kl!r}")
        if not isinstance(self.mask_truncated, bool):
            raise ValueError(f"mask_truncated: expected True or False, got {self.mask_truncated!r}")

    @property
    def needs_guide(self):
        """Whether some term sums completions of a guide."""
        return any(term.rows in (guide, rewarded_guide, guide_or_unrewarded) for term in self.terms)

    def scores(self, rollouts):
        """(89) The rewards (B,) that are compared: R, less the KL penalty where `kl` is "reward_k1"."""
        if not self.kl_coef or self.kl != "reward_k1":
            return rollouts.rewards
        _need(rollouts, "logp_ref")
        penalty = torch.where(rollouts.mask, kl.k1(rollouts.logp_old, rollouts.logp_ref), 0.0).sum(1)
        return rollouts.rewards - self.kl_coef * torch.where(policy(rollouts), penalty, 0.0)

    def advantages(self, rollouts):
        """One (B,) tensor a term, 0 on the rows outside its pool. Needs whole groups."""
        scores, found = self.scores(rollouts).detach(), []
        for term in self.terms:
            pool = (term.pool or term.rows)(rollouts)
            advantage = torch.zeros_like(scores)
            if pool.any():
                advantage[pool] = term.advantage(scores[pool], rollouts.group[pool])
            found.append(advantage)
        return found

    def objective(self, logp, rollouts, advantages=None, whole=None, exact_kl=None):
        """The objective of `rollouts` under new log-probabilities.

        | argument   | shape     | meaning                                                            |
        | ---------- | --------- | ------------------------------------------------------------------ |
        | logp       | (B, T)    | log pi_theta of the completion tokens, with a gradient             |
        | rollouts   |           | B rows: a batch, or a part of it                                   |
        | advantages | (B,) each | from `advantages` of the whole batch; None: computed from rollouts |
        |            | or (B, T) | one a token, from a critic                                         |
        | whole      |           | the optimiser step's Rollouts, if `rollouts` is a part of it       |
        | exact_kl   | (B, T)    | `kl.exact` of each token's state, where the option kl is "exact"   |
        """
        if logp.shape != rollouts.mask.shape:
            raise ValueError(f"logp: expected shape {tuple(rollouts.mask.shape)}, got {tuple(logp.shape)}")
        advantages = self.advantages(rollouts) if advantages is None else advantages
        shapes = (rollouts.rewards.shape, rollouts.mask.shape)
        if len(advantages) != len(self.terms) or any(a.shape not in shapes for a in advantages):
            raise ValueError(
                f"advantages: expected {len(self.terms)} of shape {tuple(shapes[0])} or {tuple(shapes[1])}, "
                f"got {[tuple(a.shape) for a in advantages]}"
            )
        whole = rollouts if whole is None else whole
        value, parts = logp.new_zeros(()), {}
        for term, advantage in zip(self.terms, advantages, strict=True):
            mask, counted = self._mask(term.rows, rollouts), self._mask(term.counted or term.rows, whole)
            old = rollouts.logp_old
            if term.behaviour == "guide" and mask.any():
                _need(rollouts, "logp_guide")
                old = rollouts.logp_guide.clamp(min=FLOOR)
            elif term.behaviour == "itself":
                old = logp.detach()
            ratio, A = term.ratio(logp, old.to(logp.dtype), mask), _column(advantage).to(logp.dtype)
            x = term.gate(ratio, A, **term.gate_options)
            value = value + term.weight * term.aggregate(x, mask, counted)
            part = parts[_part_name(term)] = _part(term, ratio.detach(), A, mask)
            if term.behaviour == "guide" and mask.any():
                part["held"] += int((rollouts.logp_guide < FLOOR)[mask].sum())
        value = value - self._penalty(logp, rollouts, whole, exact_kl)
        return Objective(value, _metrics(parts, advantages, rollouts))

    def _mask(self, rows, rollouts):
        chosen = rows(rollouts)
        if self.mask_truncated:
            chosen = chosen & ~rollouts.truncated
        return rollouts.mask & chosen[:, None]

    def _penalty(self, logp, rollouts, whole, exact_kl):
        """kl_coef times the KL of the policy's rows, aggregated as the first term is."""
        if not self.kl_coef or self.kl == "reward_k1":
            return 0.0
        mask = self._mask(policy, rollouts)
        if self.kl == "exact":
            if exact_kl is None or exact_kl.shape != logp.shape:
                found = None if exact_kl is None else tuple(exact_kl.shape)
                raise ValueError(f"exact_kl: expected shape {tuple(logp.shape)}, got {found}")
            tokens = exact_kl
        else:
            _need(rollouts, "logp_ref")
            estimate = {"loss_k1": kl.k1, "loss_k2": kl.k2, "loss_k3": kl.k3}[self.kl]
            tokens = estimate(torch.where(mask, logp, 0.0), torch.where(mask, rollouts.logp_ref, 0.0))
        return self.kl_coef * self.terms[0].aggregate(tokens, mask, self._mask(policy, whole))


def _column(advantage):
    return advantage if advantage.ndim == 2 else advantage[:, None]


def _need(rollouts, name):
    if getattr(rollouts, name) is None:
        raise ValueError(f"{name}: this method needs it, the rollouts have None")


def _part_name(term):
    return f"{term.rows.__name__}/{term.behaviour}"


def _part(term, ratio, advantage, mask):
    """What one term did: its tokens, whether anything moves, ratios, clipped and held tokens."""
    ratio, advantage = ratio.expand(mask.shape), advantage.expand(mask.shape)
    tokens = max(int(mask.sum()), 1)
    binds = gates.BINDS.get(term.gate, lambda ratio, advantage, **_: torch.zeros_like(mask))
    return {
        "tokens": int(mask.sum()),
        "live": bool((mask & (advantage != 0)).any()),
        "ratio_mean": ratio[mask].mean().item() if mask.any() else 1.0,
        "ratio_max": ratio[mask].max().item() if mask.any() else 1.0,
        "clip_fraction": int((binds(ratio, advantage, **term.gate_options) & mask).sum()) / tokens,
        "held": int(((ratio.log().abs() > ratios.LIMIT - 1e-5) & mask).sum()),
    }


def dead_groups(advantages, rollouts):
    """Share of groups in which no term has an advantage other than 0."""
    alive = torch.stack([((_column(a) != 0) & rollouts.mask).any(1) for a in advantages]).any(0)
    return 1 - len(torch.unique(rollouts.group[alive])) / len(torch.unique(rollouts.group))


def _metrics(parts, advantages, rollouts):
    """Totals over the terms; a token of two terms counts in each."""
    tokens = sum(part["tokens"] for part in parts.values())
    mean = {
        name: sum(part[name] * part["tokens"] for part in parts.values()) / max(tokens, 1)
        for name in ("ratio_mean", "clip_fraction")
    }
    return {
        **mean,
        "ratio_max": max(part["ratio_max"] for part in parts.values()),
        "dead_groups": dead_groups(advantages, rollouts),
        "tokens": tokens,
        "held": sum(part["held"] for part in parts.values()),
        "parts": parts,
    }
