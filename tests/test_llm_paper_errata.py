"""Errata of the mixed-policy paper: Theorem 1, P1-P10, with numbers that a wrong version would miss.

What tests/test_llm_mixed.py and tests/test_llm_mixed_options.py already prove is not repeated; notebook
B_errata names those tests beside these.
"""

import math

import numpy as np
import pytest
import torch
from test_llm_methods import value_and_gradient
from test_llm_mixed import ARMS, bandit, batch, gradient, mix_1_slopes

from rlbook.llm import advantages, gates, methods, theorem


def f_weight(r, gamma):
    """What multiplies B grad log pi in P4, by automatic differentiation of the package's gate in log r."""
    log_r = torch.tensor(np.log(r), dtype=torch.float64).reshape(-1).requires_grad_()
    found = gates.shaped(log_r.exp(), torch.ones_like(log_r), gamma).sum()
    return torch.autograd.grad(found, log_r)[0].numpy()


# --- "larger step", "variance reduction" ------------------------------------------------------------


def test_erratum_p1_the_weight_is_largest_at_gamma_and_never_above_a_quarter():
    """.0098 at r = .001 although f' is 9.80 there; .25 at .1; 8.4 times less early than at r = 1."""
    r = np.array([1e-3, 1e-2, 1e-1, 1.0, 10.0])
    weight = f_weight(r, 0.1)
    np.testing.assert_allclose(weight, [0.0098, 0.0826, 0.25, 0.0826, 0.0098], rtol=0, atol=5e-5)
    assert weight[0] / r[0] == pytest.approx(9.80, abs=5e-3)
    assert weight[3] / weight[0] == pytest.approx((1.001 - 0.9) ** 2 * 1000 / 1.1**2, rel=1e-9)
    assert f_weight(np.geomspace(1e-6, 1e6, 24_001), 0.1).max() == pytest.approx(0.25, abs=1e-12)


def steps_to_half(start, weight):
    """Steps of size .5 on one logit until p = 1/2; the guide always plays this arm, B = 1."""
    logit, steps = math.log(start / (1 - start)), 0
    while logit < 0 and steps < 30_000:
        p = 1 / (1 + math.exp(-logit))
        logit, steps = logit + 0.5 * weight(p) * (1 - p), steps + 1
    return steps


@pytest.mark.parametrize(
    "start, imitation, plain, tenth, hundredth",
    [(1e-2, 11, 218, 64, 221), (1e-3, 16, 2029, 256, 251), (1e-4, 21, 20_039, 2067, 442)],
)
def test_erratum_p1_steps_to_one_half(start, imitation, plain, tenth, hundredth):
    """Faster than plain weights, slower than imitation; the smaller gamma is not always the faster one."""
    found = {
        gamma: steps_to_half(start, lambda p, gamma=gamma: gamma * p / (p + gamma) ** 2)
        for gamma in (0.1, 0.01)
    }
    assert (found[0.1], found[0.01]) == (tenth, hundredth)
    assert (steps_to_half(start, lambda p: 1.0), steps_to_half(start, lambda p: p)) == (imitation, plain)
    assert f_weight(start, 0.1).item() == pytest.approx(0.1 * start / (start + 0.1) ** 2, rel=1e-12)


def test_erratum_p2_variance_and_mean_shrink_together():
    """pi = phi = (.5, .3, .2), R = (0, .7, 1): variance x .00683, mean x .0826, mean / deviation 1.0619."""
    pi = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    R = torch.tensor([0.0] * 5 + [0.7] * 3 + [1.0] * 2, dtype=torch.float64)  # ten rows in proportion
    B = advantages.z_score(R, torch.zeros(10, dtype=torch.long))[[0, 5, 8]]
    (weight,) = f_weight(1.0, 0.1)
    moments = []
    for scale in (1.0, weight):
        sample = scale * B[:, None] * (torch.eye(3, dtype=torch.float64) - pi)
        mean = pi @ sample
        moments.append((mean.norm().item(), (pi @ (sample**2).sum(1) - mean @ mean).item()))
    (mean, variance), (less, smaller) = moments
    assert smaller / variance == pytest.approx(0.00683, abs=5e-6) and weight == pytest.approx(
        0.0826, abs=5e-5
    )
    for m, v in moments:
        assert m / math.sqrt(v) == pytest.approx(1.0619, abs=5e-5)
    assert less / mean == pytest.approx(weight, rel=1e-12)


# --- "zero if and only if" --------------------------------------------------------------------------


def test_erratum_p3_climbing_the_guides_half_lowers_the_return():
    """P4 alone, from the uniform policy: J falls from 1/3 to .0806, where J_on still pulls with .268."""
    theta = 0.0
    for _ in range(250):
        theta += 8 * mix_1_slopes(theta, 3)[1]
    assert theta == pytest.approx(-2.4259, abs=1e-3)
    assert bandit(0.0)[0][1] == pytest.approx(1 / 3) and bandit(theta)[0][1] == pytest.approx(
        0.0806, abs=1e-4
    )
    slopes = {t: mix_1_slopes(t, 20_000) for t in (0.0, -2.4259, -0.05248)}
    zeros = [[abs(x) < 1e-4 for x in (*pair, sum(pair))] for pair in slopes.values()]
    assert zeros == [[True, False, False], [False, True, False], [False, False, True]]
    phi, R = np.array([0.1, 0.6, 0.3]), np.array([0.0, 1.0, 0.0])
    B = (R - phi @ R) / np.sqrt(phi @ (R - phi @ R) ** 2)
    J_off = [phi @ (r / (r + 0.1) * B) for r in (bandit(t)[0] / phi for t in (-2.4259, 0.0, -12.0, 12.0))]
    assert J_off[:2] == pytest.approx([0.0892, -0.0408], abs=5e-5) and max(J_off) == J_off[0]


@pytest.mark.parametrize("theta", [-2.0, 0.5, 3.0])
def test_erratum_p3_a_perfect_guide_leaves_no_gradient_in_its_half(theta):
    pi, score = bandit(theta)
    arm = [0, 1, 2, 1, 1]
    R = batch([0.0, 1.0, 0.0, 1.0, 1.0], [0, 0, 0, 1, 1], pi[arm], [0.5] * 5)
    _, slope, _ = gradient(R, "mix_1")
    assert (slope[3:] == 0).all() and abs(slope[:3] @ (pi * score)) > 0.01


def half_slopes(pi, R, phi, gamma):
    """Gradients in the logits of P3 at pi_old = pi and of P4, with the package's f."""
    A, B = ((R - law @ R) / np.sqrt(law @ (R - law @ R) ** 2) for law in (pi, phi))
    on, off = pi * A, phi * f_weight(pi / phi, gamma) * B
    return on - pi * on.sum(), off - pi * off.sum()


def test_erratum_p3_inside_the_simplex_the_guides_half_has_no_zero():
    """Tabular: a zero needs f'(r) B alike for all arms; f' > 0 and sum phi B = 0 forbid it unless B = 0."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        pi, phi, R = rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4)), rng.random(4)
        B = (R - phi @ R) / np.sqrt(phi @ (R - phi @ R) ** 2)
        pull = f_weight(pi / phi, 0.1) * phi / pi * B  # f'(r) B
        assert pull.min() < 0 < pull.max()
        assert np.abs(half_slopes(pi, R, phi, 0.1)[1]).max() > 1e-6


def test_erratum_p3_the_mixture_rests_on_a_face_of_the_simplex():
    """R (1, .8, 0), phi (.05, .2, .75), gamma .01: pi = (.99539, .00461, 0), halves .0958 long, sum 0."""
    R, phi = np.array([1.0, 0.8, 0.0]), np.array([0.05, 0.2, 0.75])
    logits = np.log([0.5, 0.5, 1e-9])
    for _ in range(3000):
        pi = np.exp(logits) / np.exp(logits).sum()
        on, off = half_slopes(pi, R, phi, 0.01)
        logits = logits + (on + off)
    np.testing.assert_allclose(pi, [0.99539, 0.00461, 0], rtol=0, atol=5e-6)
    np.testing.assert_allclose([np.linalg.norm(x) for x in (on, off)], 0.0958, rtol=0, atol=5e-5)
    assert np.linalg.norm(on + off) < 1e-6 and np.ptp(np.abs(on) - np.abs(off)) < 1e-6


def test_erratum_p3_the_best_policy_of_the_guides_half_is_not_the_best_arm():
    """phi (.05, .7, .25), gamma .1: (.095, .905, 0) earns .819 where 1 is possible."""
    R, phi = np.array([1.0, 0.8, 0.0]), np.array([0.05, 0.7, 0.25])
    logits = np.log([0.5, 0.5, 1e-9])
    for _ in range(3000):
        pi = np.exp(logits) / np.exp(logits).sum()
        logits = logits + 5 * half_slopes(pi, R, phi, 0.1)[1]
    np.testing.assert_allclose(pi, [0.095, 0.905, 0], rtol=0, atol=5e-4)
    assert pi @ R == pytest.approx(0.819, abs=1e-4)


# --- dead advantages, the ratio of P8 ---------------------------------------------------------------


def test_erratum_p4_no_failures_beside_a_perfect_guide_is_dead_too():
    """P6 with W empty: all rewards of the pool are 1. One failure is enough: B = sqrt(1 / 3)."""
    alone = batch([1.0] * 5, [1, 1, 1, 0, 0], [0.5] * 5, [0.5] * 5)
    value, slope, metrics = gradient(alone, "mix_2")
    assert value == 0 and (slope == 0).all() and metrics["dead_groups"] == 1
    beside = batch([1.0] * 3 + [0.0], [1, 1, 1, 0], [0.5] * 4, [0.5] * 4)
    found = methods.get("mix_2").advantages(beside)[1]
    np.testing.assert_allclose(found, [3**-0.5] * 3 + [-(3**0.5)], rtol=1e-6)


def test_erratum_p4_an_answer_better_than_most_is_pushed_down():
    """pi (.05, .05, .9), R (1, .5, 0): J = .075, yet U compares 1 with .5 and gives the .5-arm A = -1."""
    pi, R = np.array([0.05, 0.05, 0.9]), np.array([1.0, 0.5, 0.0])
    assert pi @ R == pytest.approx(0.075)
    rows = batch(
        [1.0, 0.5] + [0.0] * 18 + [1.0], [0] * 20 + [1], [0.05] * 2 + [0.9] * 18 + [0.05], [0.5] * 21
    )
    printed, pooled = (
        methods.get("mix_2", pool_on=pool).advantages(rows)[0][:2] for pool in ("rewarded", "policy")
    )
    np.testing.assert_allclose(printed, [1, -1], rtol=1e-6)
    assert (pooled > 0).all()


@pytest.mark.parametrize("phi, norm, cosine", [((0.9, 0.05, 0.04, 0.01), 56.8, 0.255),
                                               ((0.4, 0.5, 0.06, 0.04), 16.1, 0.258)])  # fmt: skip
def test_erratum_p5_the_unrewarded_part_is_inflated_and_turned(phi, norm, cosine):
    """pi (.1, .3, .3, .3), the first arm right: P8's part for the wrong arms against ratio 1."""
    pi = np.array([0.1, 0.3, 0.3, 0.3])
    R = batch([0.0] * 3 + [1.0] * 3, [0] * 3 + [1] * 3, pi[[1, 2, 3] * 2], np.array(phi)[[1, 2, 3] * 2])
    parts = []
    for variant in ("faithful", "corrected"):
        weight = np.append(0.0, gradient(R, "mix_2", variant=variant)[1][:3])
        parts.append(pi * weight - pi * (pi @ weight))  # expectation under pi, in the logits
    printed, corrected = parts
    lengths = [np.linalg.norm(x) for x in parts]
    assert lengths[0] / lengths[1] == pytest.approx(norm, abs=0.05)
    assert printed @ corrected / np.prod(lengths) == pytest.approx(cosine, abs=1e-3)


def test_erratum_p5_the_printed_ratio_learns_all_the_same():
    """Fair: four arms, the first right, P4's part with B = +-1 and P8's with C = -1, steps of .5.

    Guide (.9, .05, .04, .01). After 10 steps .899, with the ratio to pi_old .472; after 100 .972 and .991;
    after 1,000 above .999. The longest step is sixteen times the other. P8's part alone stops at .925.
    """
    phi, right = np.array([0.9, 0.05, 0.04, 0.01]), np.array([1.0, 0, 0, 0])

    def climb(printed, guide=1.0, steps=1000):
        logits, J, longest = np.log([0.1, 0.3, 0.3, 0.3]), [], 0.0
        for _ in range(steps):
            pi = np.exp(logits) / np.exp(logits).sum()
            r = pi / phi
            zero = np.where(r < 0.8, 0, r) if printed else 1.0
            pull = guide * phi * 0.1 * r / (r + 0.1) ** 2 * (2 * right - 1) - pi * zero * (1 - right)
            slope = pull - pi * pull.sum()
            logits, longest = logits + 0.5 * slope, max(longest, np.linalg.norm(slope))
            J.append(pi[0])
        return np.array(J)[[10, 100, -1]], longest

    (printed, long), (corrected, short) = climb(True), climb(False)
    np.testing.assert_allclose(printed[:2], [0.899, 0.972], rtol=0, atol=1e-3)
    np.testing.assert_allclose(corrected[:2], [0.472, 0.991], rtol=0, atol=1e-3)
    assert min(printed[2], corrected[2]) > 0.999 and long / short == pytest.approx(16, abs=0.2)
    assert climb(True, guide=0.0)[0][2] == pytest.approx(0.925, abs=1e-3)
    assert climb(False, guide=0.0)[0][2] > 0.99


def test_erratum_p5_with_plain_clip_both_tails_are_dead():
    """clip(r) C without the min: of the weights (0, 6, 7.5, 30) on wrong arms none is left."""
    pi, phi = [0.1, 0.3, 0.3, 0.3], [0.9, 0.05, 0.04, 0.01]
    R = batch([0.0] * 4 + [1.0] * 4, [0] * 4 + [1] * 4, pi + pi, phi + phi)
    assert (gradient(R, "mix_2")[1][1:4] < 0).all()
    assert (gradient(R, "mix_2", clip_form="plain")[1][:4] == 0).all()


# --- normalisation ----------------------------------------------------------------------------------


def test_erratum_p6_the_sums_of_version_000_are_thousands_of_times_the_means():
    """16 completions of 500 tokens: 8000 times; the shares of P10 are 1 and 1, not 3/4 and 1/4."""
    R = batch([1.0] * 8 + [0.0] * 8, [1] * 8 + [0] * 8, [0.5] * 16, [0.5] * 16, width=500)
    sums, means = (gradient(R, "mix_2", normaliser=name)[1] for name in ("v000", "v001"))
    np.testing.assert_allclose(sums / means, 8000, rtol=1e-9)
    R = batch([1.0] * 6 + [0.0] * 2, [1] * 6 + [0] * 2, [0.5] * 8, [0.5] * 8, width=20)
    tokens = np.array([120, 40])
    for name, shares in (("v001", [0.75, 0.25]), ("v000", tokens)):
        slope = 2 * gradient(R, "mix_2", normaliser=name)[1][[0, 7]]
        own_means = np.array([0.1 / 1.1**2 / math.sqrt(3), -math.sqrt(3)]) * 20 / tokens
        np.testing.assert_allclose(slope / own_means, shares, rtol=1e-6)


def test_erratum_p6_the_number_of_guide_samples_does_not_matter_to_p5():
    """Each guide row five times: same value, and the same total pull of the guide's half."""
    found = []
    for copies in (1, 5):
        rewards = [1.0, 0.0, 0.0] + [1.0, 1.0, 0.0] * copies
        n = len(rewards)
        R = batch(rewards, [0] * 3 + [1] * (n - 3), [0.3] * n, [0.5] * n)
        value, slope, _ = gradient(R, "mix_1")
        found.append([value, slope[:3].sum(), slope[np.arange(n) % 3 < 2][2:].sum(), slope[5::3].sum()])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-12)
    assert abs(found[0][3]) > 1e-3


# --- Theorem 1 --------------------------------------------------------------------------------------


def test_theorem_1_bounds_by_hand():
    """Theorem 1: gain 10, L 2, S 3, m .5, step .1, K 50: (2 + .3) / .5; printed, K = 2800: sqrt(20 / 112)."""
    assert theorem.general_bound(10, 2, 3, 0.5, 0.1, 50) == pytest.approx(4.6, abs=1e-14)
    assert theorem.best_step(10, 2, 1.5, 2, 50) == pytest.approx(math.sqrt(20 / 9) / math.sqrt(50))
    assert theorem.printed_bound(10, 1, 1, 0.04, 1, 2800) == pytest.approx(math.sqrt(20 / 112), abs=1e-14)
    assert theorem.printed_bound(10, 4, 3, 0.5, 2, 100) == pytest.approx(3 * math.sqrt(160 / 50), abs=1e-14)


@pytest.mark.parametrize("m", [1.0, 0.04])
def test_theorem_1_the_printed_step_is_the_best_one(m):
    """S = w_up sigma^2: the bound is sqrt(2 gain L w_up / K) sigma / m, and larger to both sides."""
    gain, L, sigma, high, K = 3.0, 0.7, 1.4, 2.5, 900
    S, step = high * sigma**2, theorem.best_step(gain, L, sigma, high, K)
    least = theorem.general_bound(gain, L, S, m, step, K)
    assert least == pytest.approx(math.sqrt(2 * gain * L * high / K) * sigma / m, rel=1e-12)
    for other in (0.9 * step, 1.1 * step):
        assert theorem.general_bound(gain, L, S, m, other, K) > least * 1.001


def test_theorem_1_is_met_where_every_step_counts_in_full():
    """J = slope theta, updates slope + noise of variance v, L = 0 up to rounding: the bound is not beaten."""
    slope, v, step, K = 0.3, 0.5, 0.01, 40
    gain = step * slope**2 * K  # what K steps gain
    found = theorem.general_bound(gain, 1e-12, slope**2 + v, 1.0, step, K)
    assert found == pytest.approx(slope**2, rel=1e-9)


@pytest.mark.parametrize(
    "name, bad",
    [("gain", 0), ("smoothness", -1), ("second_moment", 0), ("alignment", 0), ("step", 0), ("updates", 0),
     ("updates", 1.5), ("gain", float("nan"))],
)  # fmt: skip
def test_theorem_1_bad_numbers_are_named(name, bad):
    good = dict(gain=1.0, smoothness=1.0, second_moment=1.0, alignment=1.0, step=0.1, updates=10)
    with pytest.raises(ValueError, match=name):
        theorem.general_bound(**good | {name: bad})


def test_theorem_1_a_band_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="low <= high"):
        theorem.printed_bound(1, 1, 1, 2, 1, 10)
    with pytest.raises(ValueError, match="low"):
        theorem.printed_bound(1, 1, 1, 0, 1, 10)
    with pytest.raises(ValueError, match="sigma"):
        theorem.best_step(1, 1, 0, 1, 10)


def test_erratum_p7_the_printed_bound_holds_for_unclipped_weights():
    """20 terms -log(1 + (a theta - b)^2) / 2, L 1, sigma 1/2: measured < unbiased bound < printed bound."""
    g = np.random.default_rng(0)
    angle = g.uniform(0, 2 * math.pi, 20)
    a, b, p = np.stack([np.cos(angle), np.sin(angle)], 1), 2 * g.normal(size=20), g.dirichlet(np.ones(20))
    w, theta, K = 20 * p, np.tile([1.0, 1.0], (50, 1)), 1000
    gain = 0.5 * np.log1p((a @ theta[0] - b) ** 2) @ p  # J <= 0
    step, least = theorem.best_step(gain, 1, 0.5, w.max(), K), np.inf
    for i in g.integers(20, size=(K, 50)):
        u = theta @ a.T - b
        slope = -u / (1 + u**2)
        assert (w * slope**2 * p).sum(1).max() <= w.max() / 4  # E|g|^2 <= w_up sigma^2
        least = min(least, (((slope * p) @ a) ** 2).sum(1).mean())
        theta = theta + step * (w[i] * slope[np.arange(50), i])[:, None] * a[i]
    unbiased = theorem.general_bound(gain, 1, w.max() / 4, 1, step, K)
    printed = theorem.printed_bound(gain, 1, 0.5, w.min(), w.max(), K)
    assert least < 0.0015 < unbiased < printed
    assert (w.min(), w.max()) == pytest.approx((0.1167, 3.4804), abs=5e-5)
    assert (unbiased, printed) == pytest.approx((0.02575, 0.07539), abs=5e-6)
    assert printed / unbiased == pytest.approx(w.min() ** -0.5)


@pytest.mark.parametrize("K, violated", [(350, False), (1000, True), (2800, True), (3200, False)])
def test_erratum_p7_the_printed_bound_is_violated_with_clipped_weights(K, violated):
    """J = 1/2 - |theta|, rounded off within 1; all weights .04 of [.04, 1]; from 10.5, gain 10.

    K = 2800: the slope is still 1, above the printed .4226; the bound with 1 / w_low is 2.11.
    """
    theta, step, least = 10.5, theorem.best_step(10, 1, 1, 1, K), 1.0
    for _ in range(K):
        slope = -max(-1.0, min(1.0, theta))
        least, theta = min(least, slope**2), theta + step * 0.04 * slope
    printed, follows = (
        theorem.printed_bound(10, 1, 1, 0.04, 1, K),
        theorem.general_bound(10, 1, 1, 0.04, step, K),
    )
    assert (least > printed) == violated and least <= follows
    assert (least == 1.0) == (K <= 2800)
    if K == 2800:
        assert (printed, follows) == pytest.approx((0.4226, 2.1129), abs=5e-5)


def test_erratum_p7_clipping_leaves_a_floor_below_which_the_printed_bound_goes():
    """R (0, 1, .7), phi (.3, .6, .1), band [.5, 1.5]: rest at .3816, J .6434, |grad J|^2 .0275 for ever."""
    R, phi = np.array([0.0, 1.0, 0.7]), np.array([0.3, 0.6, 0.1])

    def slopes(theta, low, high):
        """(mean update with clipped weights, gradient of J)"""
        pi, score = bandit(theta)
        return phi @ (np.clip(pi / phi, low, high) * R * score), pi @ (R * score)

    theta, least = 0.0, np.inf
    for _ in range(3000):
        update, slope = slopes(theta, 0.5, 1.5)
        theta, least = theta + 0.05 * update, min(least, slope**2)
    assert (theta, bandit(theta)[0] @ R, slope**2) == pytest.approx((0.3816, 0.6434, 0.0275), abs=6e-5)
    assert abs(update) < 1e-4 and least == pytest.approx(slope**2, abs=1e-4)
    assert slopes(theta, 0, 1e9)[0] == pytest.approx(slope, abs=1e-12) and slope > 0.16  # unclipped: unbiased
    grid = np.linspace(-3, 6, 9001)
    J = np.array([bandit(t)[0] @ R for t in grid])
    assert (grid[J.argmax()], J.max()) == pytest.approx((1.667, 0.7259), abs=1e-3)
    gain, L = J.max() - J[3000], np.abs(np.gradient(np.gradient(J, grid), grid)).max()
    assert np.abs(R * (ARMS + 1)).max() == 1.4  # sigma: the largest |R score|, as the mean of x tends to -1
    for K, want in ((1000, 0.0192), (100_000, 0.0019)):
        printed = theorem.printed_bound(gain, L, 1.4, 0.5, 1.5, K)
        assert printed == pytest.approx(want, abs=5e-5) and printed < least
    assert theorem.printed_bound(gain, 1, 1.4, 0.5, 1.5, 100_000) == pytest.approx(0.0043, abs=5e-5)


def test_erratum_p7_a_lower_clip_lifts_the_mean_weight():
    """pi (.001, .999), phi (.9, .1), band [.5, 20]: .9 x .5 + .1 x 9.99 = 1.449, at most 1 + w_low."""
    pi, phi = np.array([0.001, 0.999]), np.array([0.9, 0.1])
    mean = phi @ np.clip(pi / phi, 0.5, 20.0)
    assert mean == pytest.approx(1.449, abs=1e-12) and 1 < mean <= 1.5
    assert phi @ (pi / phi) == pytest.approx(1.0)
    assert f_weight(np.array([1e-6, 1e6]), 0.1).max() < 2e-5  # P4's weight has no lower bound > 0


def test_erratum_p7_clipped_weights_have_a_larger_second_moment():
    """E_phi[w^2] <= w_up (1 + w_low), so the factor is (1 + w_low / 2) / w_low: a little above 1 / w_low."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        pi, phi = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
        assert phi @ np.clip(pi / phi, 0.5, 5.0) ** 2 <= 5.0 * (1 + 0.5) + 1e-12
    gain, L, sigma, low, high, K = 10, 1, 1, 0.04, 1, 2800
    found = theorem.general_bound(
        gain, L, high * (1 + low) * sigma**2, low, theorem.best_step(gain, L, sigma, high, K), K
    )
    unbiased = math.sqrt(2 * gain * L * high / K) * sigma
    assert found == pytest.approx((1 + low / 2) / low * unbiased, rel=1e-12)


# --- sequence-level displays, sets ------------------------------------------------------------------


def test_erratum_p8_token_and_sequence_ratios_are_different_methods():
    """20 tokens each at r = .5: weight of a token .1389 (P4); 9.5e-6 (the display)."""
    R = batch([1.0, 0.0], [1, 1], [0.25] * 2, [0.5] * 2, width=20)
    for level, per_row, want in (("token", 20, 0.1389), ("sequence", 1, 9.5367e-6)):
        logp = R.logp_old.clone().requires_grad_()
        value = methods.get("mix_1", guide_ratio=level).objective(logp, R).value
        slope = value_and_gradient(value, logp)[1] * 2 * 2 * per_row  # undo the half and the mean
        np.testing.assert_allclose(slope[0], want, rtol=4e-4)
        np.testing.assert_allclose(slope[1], -want, rtol=4e-4)
    assert 0.1 * 0.5**20 / (0.5**20 + 0.1) ** 2 == pytest.approx(9.5366e-6, rel=1e-4)


def test_erratum_p8_the_display_of_the_policys_half_has_no_clip():
    """Ratio 1.5: P3 gives 0 for A = 1 and -1.5 for A = -1; the display 1.5 and -1.5."""
    R = batch([1.0, 0.0], [0, 0], [0.4, 0.4], [0.5] * 2)
    _, slope, _ = gradient(R, "mix_1", logp=R.logp_old + math.log(1.5))
    np.testing.assert_allclose(slope * 4, [0.0, -1.5], rtol=0, atol=1e-7)
    _, slope, _ = gradient(R, "mix_1", logp=R.logp_old + math.log(1.5), clip=(1.0, 1e9))
    np.testing.assert_allclose(slope * 4, [1.5, -1.5], rtol=0, atol=1e-7)


def test_erratum_p9_negative_rewards_are_in_neither_printed_set():
    """Rewards of +-1, two right of eight: W = {R = 0} is empty; here W holds all six wrong ones."""
    rewards = [1.0] * 2 + [-1.0] * 6 + [1.0]
    R = batch(rewards, [0] * 8 + [1], [0.5] * 9, [0.5] * 9)
    parts = gradient(R, "mix_2")[2]["parts"]
    assert [parts[name]["tokens"] for name in ("rewarded/old", "unrewarded/guide")] == [2, 6]
    assert sum(reward == 0 for reward in rewards) == 0


def test_erratum_p9_a_wrong_answer_can_be_pushed_up_beside_negative_rewards():
    """Guide -1, -1, 1, a wrong answer 0: mean -1/4, C = .25 / sqrt(2.75 / 4); with R >= 0, C <= 0."""
    R = batch([-1.0, -1.0, 1.0, 0.0], [1, 1, 1, 0], [0.5] * 4, [0.5] * 4)
    C = methods.get("mix_2").advantages(R)[2][3].item()
    assert C == pytest.approx(0.3015, abs=5e-5) and gradient(R, "mix_2")[1][3] > 0
    for rewards in ([0.0, 0.2, 1.0, 0.0], [0.5, 0.5, 0.1, 0.0]):
        R = batch(rewards, [1, 1, 1, 0], [0.5] * 4, [0.5] * 4)
        assert methods.get("mix_2").advantages(R)[2][3] < 0


def test_erratum_p9_dapo_drops_groups_not_wrong_answers():
    """p = .1, G = 8: 1 - .9^7 = 52 % of the wrong answers stand in a group with a right one."""
    G, p = 8, 0.1
    kept = drawn = 0.0
    for right in range(G + 1):
        weight = math.comb(G, right) * p**right * (1 - p) ** (G - right) * (G - right)
        rewards = torch.tensor([1.0] * right + [0.0] * (G - right))
        A = advantages.z_score(rewards, torch.zeros(G, dtype=torch.long))
        drawn, kept = drawn + weight, kept + weight * bool((A[right:] < 0).any())
    assert kept / drawn == pytest.approx(1 - 0.9**7, abs=1e-12) and round(kept / drawn, 2) == 0.52
