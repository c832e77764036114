"""Imitation of a guide as a row of the table: against cross-entropy, and beside DAPO."""

import pytest
import torch
from test_llm_batch import ragged
from test_llm_methods import same, value_and_gradient

from rlbook.llm import methods


def cross_entropy(logp, R, rows):
    """The mean log-probability of the tokens of `rows`."""
    return sum(logp[i, t] for i in rows for t in range(int(R.mask[i].sum()))) / int(R.mask[rows].sum())


@pytest.mark.parametrize("only_rewarded", [False, True])
def test_imitation_climbs_the_mean_log_probability_of_the_guides_tokens(only_rewarded):
    for seed in range(3):
        logp, R = ragged(seed, (7, 5, 9), guides=3, values=(0.0, 0.0, 0.5, 1.0))
        V = [i for i in range(len(R)) if R.source[i] == 1 and (R.rewards[i] > 0 or not only_rewarded)]
        found = methods.get("sft", only_rewarded=only_rewarded).objective(logp, R)
        (gradient,) = torch.autograd.grad(found.value, logp)
        (wanted,) = torch.autograd.grad(cross_entropy(logp, R, V), logp)
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-14)
        assert found.value.item() == pytest.approx(1.0, abs=1e-12)  # pi / pi
        assert len(V) < 9 or not only_rewarded


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_dapo_with_imitation_is_the_sum_of_both(weight):
    logp, R = ragged(4, (8, 6), guides=2, values=(0.0, 1.0))
    found = methods.get("dapo_sft", sft_weight=weight).objective(logp, R).value
    dapo, sft = methods.get("dapo").objective(logp, R).value, methods.get("sft").objective(logp, R).value
    assert same(value_and_gradient(found, logp), value_and_gradient(dapo + weight * sft, logp))


def test_no_guide_rows_no_gradient():
    logp, R = ragged(5, (8, 6), values=(0.0, 1.0))
    (gradient,) = torch.autograd.grad(methods.get("sft").objective(logp, R).value, logp)
    assert (gradient == 0).all()
