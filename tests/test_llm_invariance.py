"""Parts of a batch, padding, degenerate groups and metrics, for every method: what one gradient step must not
depend on, and what it reports.
"""

import dataclasses
import statistics

import numpy as np
import pytest
import torch
from test_llm_batch import NAN, ragged
from test_llm_methods import EVERY, prompts, same, value_and_gradient

from rlbook.llm import methods

# --- rows left out, parts of a batch, padding -------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "dr_grpo", "rloo"])
def test_truncated_rows_are_compared_but_not_summed(name):
    """Overlong filtering: the other rows keep their advantages, and the means are over them."""
    logp, R = ragged(8)
    keep, method = ~R.truncated, methods.get(name, mask_truncated=True, kl="loss_k2", kl_coef=0.1)
    plain = methods.get(name, kl="loss_k2", kl_coef=0.1)
    wanted = plain.objective(logp[keep], R.rows(keep), [a[keep] for a in plain.advantages(R)]).value
    found = method.objective(logp, R)
    assert 0 < keep.sum() < len(R) and found.metrics["tokens"] == R.mask[keep].sum()
    assert same(value_and_gradient(found.value, logp), value_and_gradient(wanted, logp))
    cut = dataclasses.replace(R, truncated=torch.ones(len(R)))
    value, gradient = value_and_gradient(method.objective(logp, cut).value, logp)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("shared", [{}, {"kl": "loss_k3", "kl_coef": 0.2}, {"mask_truncated": True}])
@pytest.mark.parametrize("name, options", EVERY)
def test_micro_batches_add_up_to_the_batch(name, options, shared):
    """Any split of the rows: across groups, rows of one source only, single rows."""
    logp, R = ragged(9, sizes=(5, 4, 3), guides=1 if options else 0, values=(0.0, 0.0, 0.5, 1.0))
    method = methods.get(name, **options, **shared)
    A = method.advantages(R)
    whole = value_and_gradient(method.objective(logp, R).value, logp)
    order = torch.randperm(len(R), generator=torch.Generator().manual_seed(1))
    for split in (order.split(5), order.split(1), (R.source.nonzero()[:, 0], (1 - R.source).nonzero()[:, 0])):
        found = [method.objective(logp[i], R.rows(i), [a[i] for a in A], R).value for i in split if len(i)]
        assert same(value_and_gradient(sum(found), logp), whole)


@pytest.mark.parametrize("shared", [{}, {"kl": "loss_k2"}, {"kl": "loss_k3"}, {"kl": "exact"}])
@pytest.mark.parametrize("name, options", EVERY)
def test_padding_never_matters(name, options, shared):
    """NaN and infinities where mask is 0: the same bits of value and gradient, and none on the padding."""
    logp, R = ragged(10, guides=1 if options else 0)
    pad, exact = ~R.mask, torch.rand(R.mask.shape, dtype=torch.float64)
    method = methods.get(name, **options, **shared, kl_coef=0.3)
    clean = value_and_gradient(method.objective(logp, R, exact_kl=exact).value, logp)
    for garbage in (NAN, float("inf"), -float("inf"), 1e30):
        fill = {f: getattr(R, f).masked_fill(pad, garbage) for f in ("logp_old", "logp_ref", "logp_guide")}
        dirty = logp.detach().masked_fill(pad, garbage).requires_grad_()
        objective = method.objective(
            dirty, dataclasses.replace(R, **fill), exact_kl=exact.masked_fill(pad, garbage)
        )
        found = value_and_gradient(objective.value, dirty)
        assert torch.equal(found[0], clean[0]) and torch.equal(found[1], clean[1])
        assert (found[1][pad] == 0).all() and (found[1][R.mask] != 0).any()
        assert np.isfinite([x for x in objective.metrics.values() if not isinstance(x, dict)]).all()


@pytest.mark.parametrize("value", [0.1, 0.0, 1.0])
@pytest.mark.parametrize("name, options", EVERY[1:])
def test_groups_of_equal_rewards_contribute_exactly_nothing(name, options, value):
    logp, R = ragged(12, values=(value,), guides=1 if options else 0)
    found = methods.get(name, **options).objective(logp, R)
    number, gradient = value_and_gradient(found.value, logp)
    assert number == 0 and (gradient == 0).all()
    assert found.metrics["dead_groups"] == 1 and not any(p["live"] for p in found.metrics["parts"].values())


# --- metrics ----------------------------------------------------------------------------------------


def test_dead_groups_tokens_and_ratios():
    logp, R = ragged(13, sizes=(4, 3, 5))
    R = dataclasses.replace(R, rewards=torch.where(R.group == 2, 0.1, R.rewards + R.source.cumsum(0)))
    R = dataclasses.replace(R, rewards=torch.where(R.group == 7, torch.arange(12.0).double(), R.rewards))
    metrics = methods.get("dapo").objective(logp, R).metrics
    ratio = (logp - R.logp_old).exp()[R.mask].tolist()
    dead = [len({R.rewards[i].item() for i in rows}) == 1 for rows in prompts(R)]
    assert metrics["dead_groups"] == pytest.approx(statistics.fmean(dead)) and 0 < sum(dead) < 3
    assert metrics["tokens"] == len(ratio)
    assert metrics["ratio_mean"] == pytest.approx(statistics.fmean(ratio))
    assert metrics["ratio_max"] == pytest.approx(max(ratio)) and metrics["held"] == 0
    (part,) = metrics["parts"].values()
    assert {k: part[k] for k in ("tokens", "ratio_max", "live")} == {
        "tokens": len(ratio), "ratio_max": metrics["ratio_max"], "live": True}  # fmt: skip


@pytest.mark.parametrize("name, clip", [("grpo", (0.2, 0.2)), ("dapo", (0.1, 0.3)), ("dr_grpo", (0.3, 0.1)),
                                        ("gspo", (0.05, 0.1)), ("rloo", (0.2, 0.2))])  # fmt: skip
def test_the_clip_fraction_counts_the_tokens_that_lost_their_gradient(name, clip):
    for seed in range(5):
        logp, R = ragged(seed)
        found = methods.get(name, clip=clip).objective(logp, R)
        _, gradient = value_and_gradient(found.value, logp)
        (A,) = methods.get(name).advantages(R)
        lost = (gradient == 0) & R.mask & (A != 0)[:, None]
        assert 0 < lost.sum() < R.mask.sum()
        assert found.metrics["clip_fraction"] == pytest.approx((lost.sum() / R.mask.sum()).item())
    assert methods.get("sapo").objective(logp, R).metrics["clip_fraction"] == 0


@pytest.mark.parametrize("far", [25.0, -25.0])
@pytest.mark.parametrize("name, tokens", [("sapo", 1), ("grpo", 1), ("gspo", 0), ("reinforce", 2)])
def test_held_tokens_get_no_gradient_and_are_counted(name, tokens, far):
    """A log-ratio of 25 in a row of two: the token is beyond 20, the row's mean is not, its sum is."""
    logp, R = ragged(14, sizes=(4,), T=2)
    place = torch.zeros_like(logp)
    place[0, 0] = far
    R = dataclasses.replace(R, logp_old=logp.detach() - place, rewards=torch.tensor([1.0, 2, 3, 4]).double())
    if far < 0:  # no clip binds on a bad answer made likelier, nor on a good one made less likely
        R = dataclasses.replace(R, rewards=-R.rewards)
    found = methods.get(name).objective(logp, R)
    _, gradient = value_and_gradient(found.value, logp)
    assert found.metrics["held"] == tokens
    assert (gradient[0] == 0).tolist() == [tokens > 0, tokens > 1] and (gradient[1:] * R.mask[1:] != 0).any()
