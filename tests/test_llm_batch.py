"""Rollouts refuses what does not fit and names it. `ragged` draws the batches of the other tests."""

import dataclasses

import pytest
import torch

from rlbook.llm.batch import GUIDE, POLICY, Rollouts

NAN, INF = float("nan"), float("inf")


def ragged(seed, sizes=(4, 4, 4), guides=0, T=6, spread=0.4, values=(0.0, 0.25, 1.0)):
    """(logp with a gradient, Rollouts) in float64: groups of these sizes in mixed order, ragged rows.

    The first `guides` rows of each group come from the guide. Log-ratios to pi_old have standard
    deviation `spread`: on both sides of every band. Rewards are drawn from `values`.
    """
    g = torch.Generator().manual_seed(seed)
    B, sizes = sum(sizes), torch.tensor(sizes)
    place = torch.cat([torch.arange(n) for n in sizes.tolist()])
    order = torch.randperm(B, generator=g)
    group = torch.repeat_interleave(5 * torch.arange(len(sizes)) - 3, sizes)[order]
    source = torch.where(place < guides, GUIDE, POLICY)[order]
    length = torch.randint(1, T + 1, (B,), generator=g)
    length[0] = T
    mask = torch.arange(T) < length[:, None]
    old = -2 * torch.rand(B, T, generator=g, dtype=torch.float64)
    near = (old + spread * torch.randn(3, B, T, generator=g, dtype=torch.float64)).clamp(max=-1e-3)
    rewards = torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), (B,), generator=g)]
    ids = torch.randint(9, (B, T), generator=g)
    truncated = torch.rand(B, generator=g) < 0.3
    prompt = torch.randint(9, (B, 3), generator=g)
    return near[0].requires_grad_(), Rollouts(
        prompt, ids, mask, old, rewards, group, source, truncated, near[1], near[2], prompt > 0
    )


def fields(**changes):
    """The fields of a good batch of 3 rows and 2 tokens, some of them replaced."""
    good = {
        "prompt_ids": torch.zeros(3, 4, dtype=torch.long),
        "completion_ids": torch.zeros(3, 2, dtype=torch.long),
        "mask": torch.tensor([[1, 1], [1, 0], [1, 1]]),
        "logp_old": torch.full((3, 2), -1.0),
        "rewards": torch.tensor([1.0, 0.0, 0.5]),
        "group": torch.tensor([4, 4, 9]),
        "source": torch.tensor([0, 1, 0]),
        "truncated": torch.tensor([False, False, True]),
    }
    return good | changes


def test_masks_become_bool_and_the_rest_is_kept():
    made = fields(mask=torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), truncated=torch.tensor([0, 0, 1]))
    R = Rollouts(**made)
    assert len(R) == 3 and R.mask.dtype == R.truncated.dtype == torch.bool
    assert R.mask.tolist() == [[True, True], [True, False], [True, True]]
    assert R.truncated.tolist() == [False, False, True]
    assert R.logp_ref is None and R.logp_guide is None and R.prompt_mask is None
    assert all(getattr(R, name) is made[name] for name in ("completion_ids", "rewards", "group", "logp_old"))


def test_rows_picks_the_same_rows_of_every_field():
    _, R = ragged(0, guides=1)
    index = torch.tensor([5, 0, 7])
    picked, chosen = R.rows(index), R.rows(R.source == GUIDE)
    assert len(picked) == 3 and len(chosen) == 3
    for field in dataclasses.fields(R):
        whole = getattr(R, field.name)
        assert torch.equal(getattr(picked, field.name), whole[index])
        assert torch.equal(getattr(chosen, field.name), whole[R.source == 1])
    assert Rollouts(**fields()).rows(index[1:2]).logp_ref is None


def test_padding_may_hold_anything():
    odd = torch.tensor([[-1.0, -1.0], [-1.0, NAN], [-1.0, -1.0]])
    R = Rollouts(**fields(logp_old=odd, logp_ref=odd, logp_guide=odd.nan_to_num(nan=INF)))
    assert R.logp_old[1, 1].isnan() and R.logp_ref[1, 1].isnan() and R.logp_guide[1, 1].isinf()


def changed(name, where, value):
    """A good batch with one number of one field replaced."""
    field = (fields() | {"logp_ref": torch.full((3, 2), -1.0), "logp_guide": torch.full((3, 2), -1.0)})[name]
    field = field.clone()
    field[where] = value
    return {name: field}


BAD = [
    ("completion_ids", {"completion_ids": torch.zeros(6)}, r"expected shape \(B, T\).*got \(6,\)"),
    ("completion_ids", {"completion_ids": torch.zeros(0, 2)}, r"got \(0, 2\)"),
    ("prompt_ids", {"prompt_ids": torch.zeros(2, 4)}, r"expected shape \(3, 4\), got \(2, 4\)"),
    ("prompt_mask", {"prompt_mask": torch.ones(3, 3)}, r"expected shape \(3, 4\), got \(3, 3\)"),
    ("mask", {"mask": torch.ones(3, 3)}, r"expected shape \(3, 2\), got \(3, 3\)"),
    ("logp_old", {"logp_old": torch.zeros(3)}, r"expected shape \(3, 2\), got \(3,\)"),
    ("logp_ref", {"logp_ref": torch.zeros(2, 2)}, r"expected shape \(3, 2\)"),
    ("logp_guide", {"logp_guide": torch.zeros(3, 1)}, r"expected shape \(3, 2\)"),
    ("rewards", {"rewards": torch.zeros(3, 1)}, r"expected shape \(3,\), got \(3, 1\)"),
    ("group", {"group": torch.zeros(2)}, r"expected shape \(3,\), got \(2,\)"),
    ("source", {"source": torch.zeros(3, 2)}, r"expected shape \(3,\)"),
    ("truncated", {"truncated": torch.zeros(3, 2)}, r"expected shape \(3,\)"),
    ("mask", changed("mask", (0, 0), 2), "expected 0 and 1 only"),
    ("source", changed("source", 1, 2), "expected 0 and 1 only"),
    ("mask", changed("mask", 1, 0), r"at least one token in every row, got none in rows \[1\]"),
    ("rewards", changed("rewards", 2, NAN), r"expected finite numbers, got nan at \(2,\)"),
    ("rewards", changed("rewards", 0, -INF), r"expected finite numbers, got -inf at \(0,\)"),
    ("logp_old", changed("logp_old", (2, 1), -INF), r"expected finite numbers, got -inf at \(2, 1\)"),
    ("logp_ref", changed("logp_ref", (1, 0), NAN), r"expected finite numbers, got nan at \(1, 0\)"),
    ("logp_guide", changed("logp_guide", (0, 1), -INF), r"expected finite numbers, got -inf at \(0, 1\)"),
    ("rewards", {"rewards": [1.0, 0.0, 0.5]}, "expected a torch tensor, got list"),
    ("logp_old", {"logp_old": None}, "expected a torch tensor, got NoneType"),
    ("logp_ref", {"logp_ref": 0.0}, "expected a torch tensor, got float"),
]


@pytest.mark.parametrize("name, change, message", BAD)
def test_bad_fields_are_named(name, change, message):
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        Rollouts(**fields(**change))


def test_the_drawn_batches_are_what_the_other_tests_need():
    """Both signs of the log-ratio beyond every band, ragged rows, groups whose rows are not neighbours."""
    logp, R = ragged(3, sizes=(5, 2, 4), guides=1)
    ratio = (logp - R.logp_old).exp()[R.mask]
    assert (ratio < 0.8).any() and (ratio > 1.28).any() and R.mask.sum(1).unique().numel() > 2
    assert R.group.unique(return_counts=True)[1].tolist() == [5, 2, 4]
    assert (R.group.diff() != 0).sum() > 2 and R.source.sum() == 3
