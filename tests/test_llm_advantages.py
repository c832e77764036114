"""(90), (91), (98) and leave-one-out, against hand numbers, loops over each group, and TRL's formula."""

import math
import statistics

import numpy as np
import pytest
import torch

from rlbook.llm import advantages
from rlbook.llm.advantages import centred, leave_one_out, raw, z_score

ALL = (z_score, centred, leave_one_out, raw)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def one_group(n):
    return torch.zeros(n, dtype=torch.long)


def draw(seed, sizes=(4, 1, 7, 2, 3)):
    """Rewards and group numbers: sizes differ, numbers are neither sorted nor dense, rows are mixed."""
    g = torch.Generator().manual_seed(seed)
    group = torch.repeat_interleave(torch.tensor([30, -2, 7, 100, 0]), torch.tensor(sizes))
    order = torch.randperm(len(group), generator=g)
    return torch.randn(len(group), generator=g, dtype=torch.float64)[order], group[order]


def loop(rewards, group, advantage):
    """`advantage` of the list of a group's rewards and the place of the row in it, row by row."""
    wanted = []
    for i, number in enumerate(group.tolist()):
        rows = [j for j, other in enumerate(group.tolist()) if other == number]
        wanted.append(advantage([rewards[j].item() for j in rows], rows.index(i)))
    return wanted


def test_z_score_of_one_success_in_four():
    """(91): mean 1/4, population variance 3/16: sqrt 3 and -1/sqrt 3. Sample variance 1/4: 1.5 and -0.5."""
    R = double([0.0, 1.0, 0.0, 0.0])
    low = -1 / math.sqrt(3)
    np.testing.assert_allclose(z_score(R, one_group(4)), [low, math.sqrt(3), low, low], rtol=1e-7)
    np.testing.assert_allclose(z_score(R, one_group(4), ddof=1), [-0.5, 1.5, -0.5, -0.5], rtol=1e-7)


@pytest.mark.parametrize("G", [2, 4, 8, 64])
def test_z_score_of_one_success_in_G(G):
    """(108): sqrt(G - 1) with the population variance, (G - 1) / sqrt G with the sample variance."""
    R = double([1.0] + [0.0] * (G - 1))
    assert z_score(R, one_group(G), eps=0.0)[0].item() == pytest.approx(math.sqrt(G - 1), rel=1e-12)
    found = z_score(R, one_group(G), ddof=1, eps=0.0)[0].item()
    assert found == pytest.approx((G - 1) / math.sqrt(G), rel=1e-12)


def test_eps_stands_inside_the_root():
    """Rewards (.5, .5001): .00005 / sqrt(.00005^2 + eps). Outside the root eps 1e-8 would give .9998."""
    R = double([0.5, 0.5001])
    assert z_score(R, one_group(2))[1].item() == pytest.approx(0.44721, abs=1e-5)
    assert z_score(R, one_group(2), eps=1e-4)[1].item() == pytest.approx(0.0050, abs=1e-5)
    assert z_score(R, one_group(2), eps=0.0)[1].item() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("value, n", [(0.1, 8), (0.7, 3), (0.1, 3), (1e6 + 0.1, 7), (0.0, 4), (-3.3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ddof, eps", [(0, 1e-8), (1, 1e-8), (0, 0.0), (1, 0.0)])
def test_equal_rewards_give_exactly_zero(value, n, dtype, ddof, eps):
    """Their computed variance is not 0: [.1] * 8 in float32 gives -.935 by the formula without eps."""
    R = torch.full((n,), value, dtype=dtype)
    assert z_score(R, one_group(n), ddof, eps).tolist() == [0.0] * n
    assert centred(R, one_group(n)).tolist() == [0.0] * n
    assert n == 1 or leave_one_out(R, one_group(n)).tolist() == [0.0] * n


def test_a_dead_group_leaves_its_neighbours_alone():
    R = torch.tensor([0.1, 1.0, 0.1, 0.0, 0.1])
    group = torch.tensor([2, 1, 2, 1, 2])
    np.testing.assert_allclose(z_score(R, group), [0, 1, 0, -1, 0], rtol=0, atol=1e-6)
    assert (z_score(R, group)[[0, 2, 4]] == 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_z_score_group_by_group(seed):
    """(90), (91), (114) with the statistics module of Python, and the sample variance."""
    rewards, group = draw(seed)

    def population(R, i):
        return (R[i] - statistics.fmean(R)) / math.sqrt(statistics.pvariance(R) + 1e-8)

    def sample(R, i):
        return 0.0 if len(R) == 1 else (R[i] - statistics.fmean(R)) / math.sqrt(statistics.variance(R) + 1e-3)

    np.testing.assert_allclose(z_score(rewards, group), loop(rewards, group, population), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        z_score(rewards, group, 1, 1e-3), loop(rewards, group, sample), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_sums_of_a_group(seed):
    """Sum A = 0 and sum A^2 = G v / (v + eps), v the population variance."""
    rewards, group = draw(seed)
    A = z_score(rewards, group, eps=0.01)
    for number in group.unique():
        R, a = rewards[group == number].tolist(), A[group == number]
        v = statistics.pvariance(R)
        assert a.sum().item() == pytest.approx(0.0, abs=1e-12)
        assert (a**2).sum().item() == pytest.approx(len(R) * v / (v + 0.01), abs=1e-12)


def test_the_baseline_is_the_group_not_the_batch():
    """An easy and a hard prompt: the batch mean .5 would call every easy answer good."""
    R, group = double([1.0, 0.8, 0.2, 0.0]), torch.tensor([1, 1, 0, 0])
    np.testing.assert_allclose(centred(R, group), [0.1, -0.1, 0.1, -0.1], rtol=0, atol=1e-15)
    np.testing.assert_allclose(leave_one_out(R, group), [0.2, -0.2, 0.2, -0.2], rtol=0, atol=1e-15)
    np.testing.assert_allclose(z_score(R, group), [1, -1, 1, -1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_centred_and_leave_one_out_group_by_group(seed):
    rewards, group = draw(seed, sizes=(4, 2, 7, 2, 3))
    wanted = loop(rewards, group, lambda R, i: R[i] - statistics.fmean(R))
    np.testing.assert_allclose(centred(rewards, group), wanted, rtol=0, atol=1e-14)
    wanted = loop(rewards, group, lambda R, i: R[i] - statistics.fmean(R[:i] + R[i + 1 :]))
    np.testing.assert_allclose(leave_one_out(rewards, group), wanted, rtol=0, atol=1e-14)


def test_leave_one_out_by_hand():
    """(1, 0, 0, 2): the others' means are 2/3, 1, 1, 1/3."""
    found = leave_one_out(double([1.0, 0.0, 0.0, 2.0]), one_group(4))
    np.testing.assert_allclose(found, [1 / 3, -1, -1, 5 / 3], rtol=0, atol=1e-15)


def test_raw_is_the_reward():
    rewards, group = draw(0)
    np.testing.assert_array_equal(raw(rewards, group), rewards)


@pytest.mark.parametrize("function", ALL)
def test_the_order_of_the_rows_does_not_matter(function):
    rewards, group = draw(1, sizes=(4, 2, 7, 2, 3))
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(2))
    found = function(rewards[order], group[order])
    np.testing.assert_allclose(found, function(rewards, group)[order], rtol=0, atol=1e-14)
    assert function(rewards.float(), group).dtype == torch.float32


@pytest.mark.parametrize("function", ALL)
def test_bad_rewards_are_named(function):
    group = one_group(2)
    for rewards, message in [
        (torch.tensor([1, 0]), "floating point"),
        (torch.tensor([1.0, float("nan")]), "finite"),
        (torch.tensor([1.0, float("inf")]), "finite"),
        (torch.ones(2, 1), r"one shape \(B,\)"),
        (torch.ones(3), r"got \(3,\) and \(2,\)"),
    ]:
        with pytest.raises(ValueError, match=f"^rewards.*{message}"):
            function(rewards, group)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="^group: .*two rows a group"):
        leave_one_out(torch.ones(3), torch.tensor([0, 0, 1]))
    for settings in ({"ddof": 2}, {"ddof": -1}, {"eps": -1e-8}, {"eps": float("nan")}):
        with pytest.raises(ValueError, match="^ddof, eps"):
            advantages.z_score(torch.ones(2), one_group(2), **settings)
