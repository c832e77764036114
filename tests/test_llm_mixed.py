"""P1-P10 of the mixed-policy paper, as printed and corrected, against the formulas written out and numbers
known in closed form. U: policy rows with a reward, W: policy rows without, V: guide rows.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_llm_batch import ragged
from test_llm_methods import min_clip, population, prompts, same, value_and_gradient

from rlbook.llm import methods, ratios
from rlbook.llm.batch import Rollouts

VALUES = (0.0, 0.0, 0.5, 1.0)


# --- the printed and the corrected objectives -------------------------------------------------------


def advantage_over(R, pool):
    """Row -> z-score within its group's rows of `pool`."""
    found = {}
    for rows in prompts(R):
        rows = [i for i in rows if i in pool]
        rewards = [R.rewards[i].item() for i in rows]
        found |= {i: population(rewards, place) for place, i in enumerate(rows)}
    return found


def token_sum(logp, R, rows, advantage, term):
    """Sum of term(ratio, A) over the tokens of `rows`, and how many tokens these are."""
    total, count = 0.0, 0
    for i in rows:
        for t in range(int(R.mask[i].sum())):
            total, count = total + term(logp[i, t], i, t, advantage[i]), count + 1
    return total, count


def written_out(name, variant, logp, R, clip=(0.2, 0.28), gamma=0.1):
    """P1-P5 and P6-P9 (version 001) with the two corrections where variant says so."""
    rows = range(len(R))
    V = [i for i in rows if R.source[i] == 1]
    on = [i for i in rows if R.source[i] == 0]
    U, W = [i for i in on if R.rewards[i] > 0], [i for i in on if R.rewards[i] <= 0]

    def own(lp, i, t, A):  # P3
        return min_clip((lp - R.logp_old[i, t]).exp(), A, clip)

    def off(lp, i, t, A):  # P4
        r = (lp - R.logp_guide[i, t]).exp()
        return r / (r + gamma) * A

    def zero(lp, i, t, A):  # P8
        behaviour = R.logp_guide if variant == "faithful" else R.logp_old
        return min_clip((lp - behaviour[i, t]).exp(), A, clip)

    if name == "mix_1":
        A, B = (
            (advantage_over(R, on), advantage_over(R, V))  # P1, P2
            if variant == "faithful"
            else [advantage_over(R, on + V)] * 2
        )
        (J_on, n_on), (J_off, n_off) = token_sum(logp, R, on, A, own), token_sum(logp, R, V, B, off)
        return J_on / n_on / 2 + J_off / n_off / 2  # P5
    A, BC = advantage_over(R, U if variant == "faithful" else U + W), advantage_over(R, V + W)  # P6, P7
    (J_on, n_on), (J_V, n_V), (J_W, n_W) = (
        token_sum(logp, R, U, A, own),
        token_sum(logp, R, V, BC, off),
        token_sum(logp, R, W, BC, zero),
    )
    return J_on / n_on / 2 + (J_V + J_W) / (n_V + n_W) / 2  # P8, P9


@pytest.mark.parametrize("sizes", [(8, 8), (7, 5, 9)])
@pytest.mark.parametrize("variant", ["faithful", "corrected"])
@pytest.mark.parametrize("name", ["mix_1", "mix_2"])
@pytest.mark.parametrize("options", [{}, {"clip": (0.1, 0.5), "shape_gamma": 0.7}])
def test_the_mixed_objectives_are_their_equations(name, variant, sizes, options):
    """P1-P5 and P6-P9 (version 001), written out with loops: value and gradient."""
    gamma = options.get("shape_gamma", 0.1)
    for seed in range(3):
        logp, R = ragged(seed, sizes, guides=3, values=VALUES)
        found = methods.get(name, variant=variant, **options).objective(logp, R).value
        wanted = written_out(name, variant, logp, R, options.get("clip", (0.2, 0.28)), gamma)
        assert same(value_and_gradient(found, logp), value_and_gradient(wanted, logp))


def test_the_default_is_the_printed_form():
    logp, R = ragged(3, (8, 8), guides=3, values=VALUES)
    for name in ("mix_1", "mix_2"):
        default, faithful, corrected = (
            methods.get(name, **options).objective(logp, R).value.item()
            for options in ({}, {"variant": "faithful"}, {"variant": "corrected"})
        )
        assert default == faithful and abs(default - corrected) > 1e-3


# --- batches of one-token completions ---------------------------------------------------------------


def batch(rewards, source, old, guide, width=1):
    """Rollouts of `width` tokens a row in one group, with these probabilities on every token."""
    B, source = len(rewards), torch.tensor(source)
    old, guide = (torch.tensor(p, dtype=torch.float64).log()[:, None].expand(B, width) for p in (old, guide))
    ids = torch.zeros(B, width, dtype=torch.long)
    rewards = torch.tensor(rewards, dtype=torch.float64)
    zero = torch.zeros(B, dtype=torch.long)
    return Rollouts(ids, ids, ids == 0, old, rewards, zero, source, zero, logp_guide=guide)


def gradient(R, name, logp=None, **options):
    """(value, gradient by row, metrics) at pi = pi_old, unless logp is given."""
    logp = (R.logp_old if logp is None else logp).clone().requires_grad_()
    found = methods.get(name, **options).objective(logp, R)
    value, slope = value_and_gradient(found.value, logp)
    return value.item(), slope.sum(1).numpy(), found.metrics


@pytest.mark.parametrize("variant", ["faithful", "corrected"])
@pytest.mark.parametrize("n_off, n_zero, B, C", [(2, 6, 1.732, -0.577), (6, 2, 0.577, -1.732)])
def test_a_perfect_guide_beside_zero_rewards(n_off, n_zero, B, C, variant):
    """B = sqrt(N_zero / N_off), C = -sqrt(N_off / N_zero); the rewarded row is not in their pool."""
    R = batch([1.0] * n_off + [0.0] * n_zero + [1.0], [1] * n_off + [0] * (n_zero + 1), [0.5] * 9, [0.5] * 9)
    A, V, W = methods.get("mix_2", variant=variant).advantages(R)
    np.testing.assert_allclose(V, [B] * n_off + [C] * n_zero + [0], rtol=0, atol=5e-4)
    np.testing.assert_allclose(W, V, rtol=0, atol=0)
    assert B == pytest.approx(math.sqrt(n_zero / n_off), abs=5e-4)
    np.testing.assert_allclose(V[0] * V[n_off], -1, rtol=0, atol=1e-6)
    assert (A[:n_off] == 0).all() and (A[-1] == 0) == (variant == "faithful")


def test_the_shares_of_p10_are_shares_of_tokens():
    """P10: 120 guide tokens, 40 of no reward: grad J_mix = .75 grad J_1 + .25 grad J_2, token means."""
    R = batch([1.0] * 6 + [0.0] * 2, [1] * 6 + [0] * 2, [0.5] * 8, [0.5] * 8, width=20)
    _, slope, metrics = gradient(R, "mix_2")
    B, C, weight = 1 / math.sqrt(3), -math.sqrt(3), 0.1 / 1.1**2
    J_1, J_2 = B * weight * 20 / 120, C * 20 / 40  # of a row: its 20 tokens in the mean of the part
    np.testing.assert_allclose(slope, [0.5 * 0.75 * J_1] * 6 + [0.5 * 0.25 * J_2] * 2, rtol=1e-6)
    tokens = {name: part["tokens"] for name, part in metrics["parts"].items()}
    assert tokens == {"rewarded/old": 0, "guide/guide": 120, "unrewarded/guide": 40}


def test_method_1_stands_still_where_it_is_needed():
    """All policy rows wrong, all guide rows right: separate z-scores are 0, the pooled ones are +-1."""
    R = batch([0.0] * 4 + [1.0] * 4, [0] * 4 + [1] * 4, [0.3] * 8, [0.3] * 8)
    value, slope, metrics = gradient(R, "mix_1")
    assert value == 0 and (slope == 0).all() and metrics["dead_groups"] == 1
    value, slope, metrics = gradient(R, "mix_1", variant="corrected")
    np.testing.assert_allclose(slope, [-1 / 8] * 4 + [0.1 / 1.1**2 / 8] * 4, rtol=1e-6)
    assert value == pytest.approx((-1 + 1 / 1.1) / 2, rel=1e-6) and metrics["dead_groups"] == 0


def test_method_2_compares_the_rewarded_rows_among_themselves():
    """Rewards of U all 1: its part is 0 as printed. Rewards (1, .5): the printed form pushes .5 down."""
    source, p = [0, 0, 0, 0, 1], [0.25] * 5
    _, slope, metrics = gradient(batch([1.0, 1.0, 0.0, 0.0, 1.0], source, p, p), "mix_2")
    assert (slope[:2] == 0).all() and (slope[2:] != 0).all() and not metrics["parts"]["rewarded/old"]["live"]
    graded = batch([1.0, 0.5, 0.0, 0.0, 1.0], source, p, p)
    np.testing.assert_allclose(gradient(graded, "mix_2")[1][:2], [0.25, -0.25], rtol=1e-6)
    corrected = gradient(graded, "mix_2", variant="corrected")[1]
    np.testing.assert_allclose(corrected[:2], np.array([0.625, 0.125]) / 0.171875**0.5 / 4, rtol=1e-6)


def test_parts_without_rows_contribute_nothing():
    """No guide rows: P5 is half of DAPO, and nobody needs logp_guide; U, W or V empty: no division by 0."""
    logp, R = ragged(4, (4, 4), values=VALUES)
    for variant in ("faithful", "corrected"):
        alone = dataclasses.replace(R, logp_guide=None)
        found = methods.get("mix_1", variant=variant).objective(logp, alone)
        half = methods.get("dapo").objective(logp, alone).value / 2
        assert same(value_and_gradient(found.value, logp), value_and_gradient(half, logp))
        assert found.metrics["parts"]["guide/guide"]["tokens"] == 0
    only_guide = dataclasses.replace(R, source=torch.ones(8))
    no_U = dataclasses.replace(R, rewards=-R.rewards)
    for name, batch_, dead in [("mix_1", only_guide, "policy/old"), ("mix_2", only_guide, "rewarded/old"),
                               ("mix_2", only_guide, "unrewarded/guide"), ("mix_2", no_U, "rewarded/old"),
                               ("mix_2", no_U, "guide/guide")]:  # fmt: skip
        found = methods.get(name).objective(logp, batch_)
        value, slope = value_and_gradient(found.value, logp)
        assert value.isfinite() and slope.isfinite().all() and slope.abs().max() > 0
        part = found.metrics["parts"][dead]
        assert part == {"tokens": 0, "live": False, "ratio_mean": 1.0, "ratio_max": 1.0} | dict.fromkeys(
            ("clip_fraction", "held"), 0
        )


def test_metrics_add_up_over_the_parts():
    logp, R = ragged(5, (8, 8), guides=3, values=VALUES)
    metrics = methods.get("mix_2").objective(logp, R).metrics
    U = (R.mask & ((R.source == 0) & (R.rewards > 0))[:, None]).sum().item()
    parts = metrics["parts"]
    assert parts["rewarded/old"]["tokens"] == U and metrics["tokens"] == R.mask.sum()
    ratio = torch.where(((R.source == 0) & (R.rewards > 0))[:, None], logp - R.logp_old, logp - R.logp_guide)
    assert metrics["ratio_mean"] == pytest.approx(ratio.exp()[R.mask].mean().item())
    assert metrics["ratio_max"] == pytest.approx(ratio.exp()[R.mask].max().item())
    clipped = sum(part["clip_fraction"] * part["tokens"] for part in parts.values())
    assert metrics["clip_fraction"] == pytest.approx(clipped / metrics["tokens"])


def test_the_guides_probabilities_have_a_floor():
    """log phi = -30 counts as -20: the ratio of a token with log pi = -5 is e^15, not e^25."""
    R = batch([1.0, 0.0, 0.0], [1, 0, 0], [0.5] * 3, [0.5] * 3)
    R = dataclasses.replace(R, logp_guide=torch.full_like(R.logp_guide, -30.0))
    logp = torch.full_like(R.logp_old, -5.0)
    *_, metrics = gradient(R, "mix_2", logp)
    assert metrics["ratio_max"] == pytest.approx(math.exp(15))
    assert metrics["held"] == int(R.mask.sum())


# --- the ratio of P8: a wrong answer of the policy over the guide's probability ----------------------

PI, PHI = [0.1, 0.3, 0.3, 0.3], [0.9, 0.05, 0.04, 0.01]


def test_pi_over_phi_is_no_importance_weight_for_the_policys_samples():
    """E_old[pi / phi] = sum pi^2 / phi = 13.06, not 1: ten rows in proportion to pi."""
    arms = [0] + [1] * 3 + [2] * 3 + [3] * 3
    R = batch([0.0] * 10 + [1.0], [0] * 10 + [1], *([p[a] for a in arms] + [p[0]] for p in (PI, PHI)))
    *_, metrics = gradient(R, "mix_2")
    assert metrics["parts"]["unrewarded/guide"]["ratio_mean"] == pytest.approx(13.06, abs=5e-3)
    *_, metrics = gradient(R, "mix_2", variant="corrected")
    assert metrics["parts"]["unrewarded/old"]["ratio_mean"] == 1
    assert ratios.token_ratio(R.logp_old, R.logp_guide, R.mask)[:10].mean().item() == pytest.approx(
        13.06, abs=5e-3
    )


@pytest.mark.parametrize("phi, weights", [(PHI, (0, 6, 7.5, 30)), ((0.4, 0.5, 0.06, 0.04), (0, 0, 5, 7.5))])
def test_p8_never_unlearns_what_the_guide_likes_and_overdoes_the_rest(phi, weights):
    """Weights on -C grad log pi of a wrong answer at pi = pi_old: 0 below .8, else pi / phi. Correct: 1."""
    R = batch([0.0] * 4 + [1.0] * 4, [0] * 4 + [1] * 4, PI + PI, [*phi, *phi])
    _, printed, metrics = gradient(R, "mix_2")
    np.testing.assert_allclose(-printed[:4] * 16, weights, rtol=0, atol=1e-5)
    assert metrics["parts"]["unrewarded/guide"]["clip_fraction"] == weights.count(0) / 4
    _, corrected, _ = gradient(R, "mix_2", variant="corrected")
    np.testing.assert_allclose(-corrected[:4] * 16, [1] * 4, rtol=0, atol=1e-5)


# --- a bandit of three arms, pi proportional to exp(theta x), x = (-1, 0, 1), R = (0, 1, 0) ----------

ARMS = np.array([-1.0, 0.0, 1.0])


def bandit(theta):
    """(pi, d log pi / d theta) of each arm."""
    pi = np.exp(theta * ARMS) / np.exp(theta * ARMS).sum()
    return pi, ARMS - pi @ ARMS


def test_p8_can_point_the_wrong_way():
    """theta 1, phi (.01, .6, .39), C = -1: the zero-reward rows give +.7948; the true gradient is -.1408.

    One row of each wrong arm and two of the guide; the expectation under pi is taken here.
    """
    pi, score = bandit(1.0)
    phi = np.array([0.01, 0.6, 0.39])
    R = batch([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], [*pi[[0, 2]], pi[1], pi[1]], [*phi[[0, 2]], 0.6, 0.6])
    for variant, want in [("faithful", 0.7948), ("corrected", -0.1408)]:
        slope = gradient(R, "mix_2", variant=variant)[1][:2] * 8  # 1/2 of the mean over 4 tokens
        assert (pi * score)[[0, 2]] @ slope == pytest.approx(want, abs=5e-5)
    assert pi[1] * score[1] == pytest.approx(-0.1408, abs=5e-5)  # d/d theta of J = pi(arm 1)


def mix_1_slopes(theta, policy_rows=1000):
    """d/d theta of J_on and J_off of mix_1: policy rows in proportion to pi, ten guide rows to phi."""
    pi, score = bandit(theta)
    counts = np.round(pi * policy_rows).astype(int)
    arm = np.concatenate([np.repeat(np.arange(3), counts), [0] + [1] * 6 + [2] * 3])
    source = [0] * counts.sum() + [1] * 10
    reward, phi = (arm == 1).astype(float).tolist(), np.array([0.1, 0.6, 0.3])
    _, slope, _ = gradient(batch(reward, source, pi[arm], phi[arm]), "mix_1")
    each = 2 * slope * score[arm]
    return each[:-10].sum(), each[-10:].sum()


def test_the_two_halves_of_method_1_stop_at_different_places():
    """P5's halves: J_on at theta 0 (the best of the class), J_off at -2.4259, where J is .081."""
    on, off = mix_1_slopes(0.0, 3)
    assert on == pytest.approx(0, abs=1e-12) and off == pytest.approx(-0.0244, abs=5e-5)
    on, off = mix_1_slopes(-2.4259, 20_000)
    assert off == pytest.approx(0, abs=1e-6) and on == pytest.approx(0.2681, abs=1e-3)
    assert mix_1_slopes(-2.42)[1] < 0 < mix_1_slopes(-2.43)[1]
    assert bandit(-2.4259)[0][1] == pytest.approx(0.081, abs=5e-4)


def test_their_sum_stops_where_neither_does():
    """theta -.05248: +.024713 of J_on against -.024713 of J_off."""
    on, off = mix_1_slopes(-0.05248, 20_000)
    assert on == pytest.approx(0.024713, abs=5e-5) and off == pytest.approx(-0.024713, abs=1e-6)
