"""Ratios, gates, aggregations and KL estimates: hand numbers, printed formulas, autograd, enumeration."""

import math

import numpy as np
import pytest
import torch
from test_llm_batch import ragged

from rlbook.llm import aggregate, gates, kl, ratios

NAN, INF = float("nan"), float("inf")


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def slope(function, x):
    """The derivative of an elementwise function at each x, by autograd."""
    x = double(x).requires_grad_()
    (found,) = torch.autograd.grad(function(x).sum(), x)
    return found


# --- ratios: (92), (93), (105) ----------------------------------------------------------------------

MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
OLD = double([[0.5, 0.25, 0.5], [0.5, 0.2, 0.1]]).log()
NEW = double([[0.25, 0.5, 0.9], [0.75, 0.3, 0.3]]).log()


def test_the_three_ratios_by_hand():
    """(92), (95), (104), (115): row 1: 1/2, 2; row 2: 1.5, 1.5, 3.

    Geometric means (93), (107): 1 and 6.75^(1/3). Products (105): 1 and 6.75.
    """
    token = [[0.5, 2, 1], [1.5, 1.5, 3]]
    np.testing.assert_allclose(ratios.token_ratio(NEW, OLD, MASK), token, rtol=1e-14)
    np.testing.assert_allclose(ratios.sequence_ratio(NEW, OLD, MASK), [[1], [6.75 ** (1 / 3)]], rtol=1e-14)
    np.testing.assert_allclose(ratios.product_ratio(NEW, OLD, MASK), [[1], [6.75]], rtol=1e-14)


@pytest.mark.parametrize("ratio", [ratios.token_ratio, ratios.sequence_ratio, ratios.product_ratio])
def test_padding_never_reaches_a_ratio(ratio):
    garbage = NEW.masked_fill(MASK == 0, NAN).requires_grad_()
    found = ratio(garbage, OLD.masked_fill(MASK == 0, -INF), MASK)
    np.testing.assert_array_equal(found.detach(), ratio(NEW, OLD, MASK))
    (grad,) = torch.autograd.grad(found.sum(), garbage)
    assert grad.isfinite().all() and grad[0, 2] == 0 and (grad[1] != 0).all()


def test_log_ratios_are_held_at_20():
    """The token's own, the mean and the sum; what is held has no gradient, what is not has its own."""
    old = double([[-30.0, -1.0], [-1.0, -1.0]])
    new, every = double([[-1.0, -1.0], [-41.0, -30.0]]).requires_grad_(), torch.ones(2, 2)
    top, low = math.exp(20), math.exp(-20)
    for ratio, want, dead in [
        (ratios.token_ratio, [[top, 1], [low, low]], [[True, False], [True, True]]),
        (ratios.sequence_ratio, [[math.exp(14.5)], [low]], [[False, False], [True, True]]),
        (ratios.product_ratio, [[top], [low]], [[True, True], [True, True]]),
    ]:
        found = ratio(new, old, every)
        np.testing.assert_allclose(found.detach(), want, rtol=1e-12)
        (grad,) = torch.autograd.grad(found.sum(), new)
        np.testing.assert_array_equal(grad == 0, dead)


def test_ratios_name_what_does_not_fit():
    with pytest.raises(ValueError, match=r"^logp_old: expected shape \(2, 3\).*\(2, 2\)"):
        ratios.token_ratio(NEW, OLD[:, :2], MASK)
    with pytest.raises(ValueError, match=r"^mask: expected shape \(2, 3\)"):
        ratios.product_ratio(NEW, OLD, MASK[:1])


# --- gates: (96), (116)-(120), P4 -------------------------------------------------------------------

RATIOS = (0.5, 0.8, 0.9, 1.0, 1.2, 1.28, 1.5)  # the band (.8, 1.28) with both ends, and beyond


@pytest.mark.parametrize(
    "advantage, values, slopes",
    [
        (2.0, (1.0, 1.6, 1.8, 2.0, 2.4, 2.56, 2.56), (2, 2, 2, 2, 2, 2, 0)),
        (-2.0, (-1.6, -1.6, -1.8, -2.0, -2.4, -2.56, -3.0), (0, -2, -2, -2, -2, -2, -2)),
        (0.0, (0,) * 7, (0,) * 7),
    ],
)
def test_min_clip_by_hand(advantage, values, slopes):
    """(96), (99), (101) with low .2, high .28; the slope is A times (116), the ends of the band inside."""
    A = torch.full((7,), advantage, dtype=torch.float64)
    np.testing.assert_allclose(gates.min_clip(double(RATIOS), A, 0.2, 0.28), values, rtol=0, atol=1e-15)
    found = slope(lambda r: gates.min_clip(r, A, 0.2, 0.28), RATIOS)
    np.testing.assert_array_equal(found, slopes)
    binds = gates.clip_binds(double(RATIOS), A, 0.2, 0.28)
    np.testing.assert_array_equal(binds, (found == 0) & (A != 0))


def test_no_gate_is_ratio_times_advantage():
    np.testing.assert_allclose(gates.none(double([0.5, 3.0]), double([2.0, -1.0])), [1, -3])


def test_soft_gate_by_hand():
    """(117), (118): 4/tau sigmoid(tau (r - 1)) A, tau 2 or 4: sigmoid(0), (ln 3), (0), (-ln 9)."""
    r = double([1.0, 1 + math.log(3) / 2, 1.0, 1 - math.log(9) / 4])
    found = gates.soft_gate(r, double([3.0, 3.0, -3.0, -3.0]), 2.0, 4.0)
    np.testing.assert_allclose(found, [3.0, 4.5, -1.5, -0.3], rtol=1e-14)


@pytest.mark.parametrize("advantage, tau", [(1.0, 1.0), (-1.0, 1.05), (0.5, 2.0), (-2.0, 5.0)])
def test_the_soft_gate_is_sech_squared(advantage, tau):
    """(120) as it should read: d/dr = A sech^2(tau (r - 1) / 2), in (0, 1] times A, 1 at r = 1."""
    r, A = np.linspace(0.0, 5.0, 101), double([advantage])
    taus = {"tau_pos": tau, "tau_neg": 9.0} if advantage > 0 else {"tau_pos": 9.0, "tau_neg": tau}
    found = slope(lambda x: gates.soft_gate(x, A, **taus), r)
    np.testing.assert_allclose(found, advantage / np.cosh(tau * (r - 1) / 2) ** 2, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sign, peak, where", [(1, 1.5747, 2.060), (-1, 1.5363, 1.992)])
def test_the_weight_of_the_soft_gate_peaks_beyond_one(sign, peak, where):
    """The weight on grad log pi is r times the gate; by default tau is 1 for A > 0 and 1.05 for A < 0."""
    log_r = np.linspace(-3.0, 3.0, 60_001)
    weight = sign * slope(lambda x: gates.soft_gate(x.exp(), double([sign])), log_r).numpy()
    assert weight.max() == pytest.approx(peak, abs=5e-5)
    assert math.exp(log_r[weight.argmax()]) == pytest.approx(where, abs=5e-4)


@pytest.mark.parametrize("gamma", [0.1, 0.01, 1.0])
def test_the_shaped_ratio_and_its_weight(gamma):
    """x / (x + gamma) is 1/2 at gamma; the weight gamma r / (r + gamma)^2 peaks there, at 1/4."""
    assert gates.shaped(double([gamma]), double([-3.0]), gamma).item() == pytest.approx(-1.5)
    log_r = np.linspace(math.log(gamma) - 5, math.log(gamma) + 5, 1001)
    weight = slope(lambda x: gates.shaped(x.exp(), double([2.0]), gamma), log_r).numpy() / 2
    r = np.exp(log_r)
    np.testing.assert_allclose(weight, gamma * r / (r + gamma) ** 2, rtol=0, atol=1e-15)
    assert weight.argmax() == 500 and weight.max() == pytest.approx(0.25, abs=1e-14)


def test_the_shaped_ratio_by_hand():
    """gamma .1: .9 / 1 A = .9 A. Its weight at ratio 1 is .0826."""
    found = gates.shaped(double([0.9, 0.4]), double([2.0, -1.0]))
    np.testing.assert_allclose(found, [1.8, -0.8], rtol=0, atol=1e-15)
    weight = slope(lambda x: gates.shaped(x.exp(), torch.ones(1)), [0.0])
    assert weight.item() == pytest.approx(0.0826, abs=5e-5)


# --- aggregation: (97), (100), (102) ----------------------------------------------------------------

X = double([[1, 2, 3, 4], [10, 99, 99, 99], [-6, 0, 3, 99]])
LENGTHS = torch.tensor([4, 1, 3])
RAGGED = torch.arange(4) < LENGTHS[:, None]


def test_the_three_aggregations_by_hand():
    """(97), (102), (100): row sums 10, 10, -3 of 4, 1, 3 tokens."""
    assert aggregate.sequence_mean(X, RAGGED).item() == pytest.approx((10 / 4 + 10 - 3 / 3) / 3)
    assert aggregate.token_mean(X, RAGGED).item() == pytest.approx(17 / 8)
    assert aggregate.constant(X, RAGGED).item() == pytest.approx(17 / 4 / 3)
    assert aggregate.constant(X, RAGGED, length=50).item() == pytest.approx(17 / 50 / 3)


def test_one_number_a_row_counts_once_a_token():
    """x (B, 1): the mean over rows; weighted by length; and length / T."""
    x = double([[2.0], [-1.0], [5.0]])
    assert aggregate.sequence_mean(x, RAGGED).item() == pytest.approx(2.0)
    assert aggregate.token_mean(x, RAGGED).item() == pytest.approx((8 - 1 + 15) / 8)
    assert aggregate.constant(x, RAGGED).item() == pytest.approx((8 - 1 + 15) / 4 / 3)


@pytest.mark.parametrize("function", [aggregate.sequence_mean, aggregate.token_mean, aggregate.constant])
def test_parts_add_up_and_nothing_gives_zero(function):
    """Each row on its own, cut to its own width, divided by the whole's tokens and rows."""
    parts = [function(X[[i], :n], RAGGED[[i], :n], RAGGED) for i, n in enumerate(LENGTHS.tolist())]
    assert sum(parts).item() == pytest.approx(function(X, RAGGED).item(), abs=1e-15)
    empty = torch.zeros_like(RAGGED)
    x = X.clone().requires_grad_()
    value = function(x, empty)
    (grad,) = torch.autograd.grad(value, x)
    assert value == 0 and (grad == 0).all() and function(X, empty, RAGGED) == 0
    two = RAGGED & torch.tensor([[True], [False], [True]])
    wanted = {"sequence_mean": (10 / 4 - 1) / 2, "token_mean": 7 / 7, "constant": 7 / 4 / 2}
    assert function(X, two).item() == pytest.approx(wanted[function.__name__])


# --- KL: (87) ---------------------------------------------------------------------------------------

P, Q = double([0.5, 0.3, 0.2]), double([0.2, 0.2, 0.6])
KL_PQ = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(1 / 3)
KL_QP = 0.2 * math.log(0.4) + 0.2 * math.log(2 / 3) + 0.6 * math.log(3)


def test_kl_estimates_by_hand():
    """pi = .5, ref = .2: log ratio ln 2.5, ref / pi = .4."""
    lp, lr = P[:1].log(), Q[:1].log()
    assert kl.k1(lp, lr).item() == pytest.approx(math.log(2.5))
    assert kl.k2(lp, lr).item() == pytest.approx(math.log(2.5) ** 2 / 2)
    assert kl.k3(lp, lr).item() == pytest.approx(0.4 - 1 + math.log(2.5))
    assert kl.k1(lr, lp).item() == pytest.approx(-math.log(2.5))
    assert kl.k3(lr, lp).item() == pytest.approx(2.5 - 1 - math.log(2.5))


def test_k1_and_k3_have_the_mean_of_the_kl():
    assert (P * kl.k1(P.log(), Q.log())).sum().item() == pytest.approx(KL_PQ, abs=1e-15)
    assert (P * kl.k3(P.log(), Q.log())).sum().item() == pytest.approx(KL_PQ, abs=1e-15)
    assert kl.exact(P.log(), Q.log()).item() == pytest.approx(KL_PQ, abs=1e-15)
    assert abs(KL_PQ - KL_QP) > 0.03 and (kl.k3(P.log(), Q.log()) > 0).all()


@pytest.mark.parametrize("estimate", [kl.k1, kl.k2, kl.k3])
def test_the_gradients_are_those_of_other_things(estimate):
    """On-policy, over softmax logits: k1 gives 0, k2 grad KL(pi || ref), k3 grad KL(ref || pi)."""
    logits = P.log().requires_grad_()
    logp = logits.log_softmax(0)
    (found,) = torch.autograd.grad((P * estimate(logp, Q.log())).sum(), logits)
    want = {"k1": 0 * P, "k2": P * (P.log() - Q.log() - KL_PQ), "k3": P - Q}[estimate.__name__]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-15)


def test_the_exact_kl_has_its_own_gradient_and_allows_zeros():
    """Softmax logits: pi (log ratio - KL). A token with probability 0 adds nothing, its gradient too."""
    logits = torch.stack([P.log(), double([0.0, math.log(3), -INF])]).requires_grad_()
    found = kl.exact(logits.log_softmax(-1), Q.log().expand(2, 3))
    second = 0.25 * math.log(1.25) + 0.75 * math.log(3.75)
    np.testing.assert_allclose(found.detach(), [KL_PQ, second], rtol=0, atol=1e-15)
    (grad,) = torch.autograd.grad(found.sum(), logits)
    np.testing.assert_allclose(grad[0], P * (P.log() - Q.log() - KL_PQ), rtol=0, atol=1e-15)
    want = [0.25 * (math.log(1.25) - second), 0.75 * (math.log(3.75) - second), 0]
    np.testing.assert_allclose(grad[1], want, rtol=0, atol=1e-15)


def test_k3_stays_finite_far_away():
    """Its log-ratio is held at 20 either way; e^20 - 21 and e^-20 + 19, without gradient."""
    lp = double([-100.0, -1.0]).requires_grad_()
    found = kl.k3(lp, double([-1.0, -100.0]))
    np.testing.assert_allclose(found.detach(), [math.exp(20) - 21, math.exp(-20) + 19], rtol=1e-12)
    (grad,) = torch.autograd.grad(found.sum(), lp)
    assert grad.tolist() == [0, 0]


def test_the_exact_kl_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"^log_probs_ref: expected shape \(3,\), got \(2,\)"):
        kl.exact(P.log(), Q[:2].log())


def test_geometric_mean_and_product_on_ragged_rows():
    """(93) and (105), token by token."""
    logp, R = ragged(4)
    token = (logp - R.logp_old).exp().detach()
    for i, n in enumerate(R.mask.sum(1).tolist()):
        product = math.prod(token[i, :n].tolist())
        assert ratios.product_ratio(logp, R.logp_old, R.mask)[i].item() == pytest.approx(product)
        assert ratios.sequence_ratio(logp, R.logp_old, R.mask)[i].item() == pytest.approx(product ** (1 / n))
