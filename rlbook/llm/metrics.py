"""What a run measures: the columns of its history, and pass@k."""

import numpy as np

from rlbook import validate
from rlbook.llm.batch import GUIDE, POLICY

METRICS = {  # every column of a history: what it is, and what a healthy run shows
    "step": "number of the step, from 0",
    "reward": "mean reward of the policy's completions; should rise",
    "guide_reward": "mean reward of the guide's completions",
    "pass_at_1": "held out: chance that one completion is right; the number that counts",
    "pass_at_k": "held out: chance that one of eval_samples is right; falls if variety is lost",
    "entropy": "nats a token; sinks slowly; near 0 there is nothing left to explore",
    "kl_to_start": "held out: log pi - log start, summed over a completion; how far the policy has gone",
    "objective": "last value of the objective; near 0 by construction, says nothing about progress",
    "ratio_mean": "mean importance ratio after the last optimiser step but one; near 1",
    "ratio_max": "largest importance ratio of the step; above 10 expect trouble",
    "clip_fraction": "share of tokens whose gradient the clip removed; 0 in the first pass",
    "dead_groups": "share of groups whose completions all earn the same: no gradient from them",
    "redrawn": "dead groups that dynamic sampling threw away",
    "held": "tokens whose log-ratio left [-20, 20] or whose log-prob under the guide is below -20; best 0",
    "sampler_gap": "largest |ratio - 1| before the first update; rounding: 1e-4 at most on a CPU",
    "grad_norm": "norm of the gradient before it is clipped to max_grad_norm",
    "length": "mean tokens of a completion, the end token included",
    "truncated": "share of completions cut by the length limit",
    "tokens_per_second": "sampled tokens a second, verifying included",
    "sampled_tokens": "tokens sampled for training so far, the guide's included",
    "seconds": "training time so far, evaluation not included",
    "memory_mb": "resident memory of the process; on a GPU the most it allocated",
}
TIMINGS = ("seconds", "tokens_per_second", "memory_mb", "critic_seconds")


def pass_at_k(right, k):
    """Unbiased pass@k of problems with `right` (problems, samples) of 0 and 1: 1 - C(n-c, k) / C(n, k)."""
    right = validate.array("right", right, ndim=2)
    n, c = right.shape[1], right.sum(1)
    if not 1 <= k <= n:
        raise ValueError(f"k: expected 1 to {n} samples, got {k}")
    miss = np.prod([np.clip(n - c - i, 0, None) / (n - i) for i in range(k)], axis=0)
    return float((1 - miss).mean())


def joined(parts):
    """Metrics of one optimiser step from those of the parts its rows were split into."""

    def mean(name, by):
        tokens = sum(part[by] for part in parts)
        return sum(part[name] * part[by] for part in parts) / tokens if tokens else float("nan")

    own = sum(part["own_tokens"] for part in parts)
    return {
        **{name: sum(part[name] for part in parts) for name in ("objective", "held")},
        **{name: max(part[name] for part in parts) for name in ("ratio_max", "sampler_gap")},
        **{name: mean(name, "tokens") for name in ("ratio_mean", "clip_fraction")},
        "entropy": sum(part["entropy"] for part in parts) / own if own else float("nan"),
    }


def columns(rows):
    """{name: array} of a list of dicts; NaN where a row has no such entry."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, np.nan) for row in rows], dtype=float) for name in names}


def describe(answers):
    """Rewards and lengths of a batch."""
    own = [a for a in answers if a["source"] == POLICY]
    guided = [a["reward"] for a in answers if a["source"] == GUIDE]
    mean = lambda name: float(np.mean([a[name] for a in own]))  # noqa: E731
    row = {"reward": mean("reward"), "length": mean("length"), "truncated": mean("truncated")}
    return row | ({"guide_reward": float(np.mean(guided))} if guided else {})
