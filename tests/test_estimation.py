"""Chapter 1, first half. The outsiders: hand numbers, enumeration of all samples, finite differences."""

from itertools import product
from math import comb, prod, sqrt

import numpy as np
import pytest

from rlbook.estimation import (
    bernoulli_score,
    effective_sample_size,
    importance_sampling,
    importance_sampling_variance,
    importance_weights,
    monte_carlo,
    score_function_gradient,
    self_normalised,
    softmax,
    softmax_score,
    standard_error,
)

# Ex. 1.5: two points a, b
P, Q, F = np.array([0.8, 0.2]), np.array([0.5, 0.5]), np.array([1.0, 3.0])


def all_samples(p, n):
    """Every sample of n points (K^n, n) under the law p (K,), and its probability (K^n,)."""
    samples = np.array(list(product(range(len(p)), repeat=n)))
    return samples, np.array([prod(p[k] for k in sample) for sample in samples])


def moments(estimates, probability):
    mean = float(probability @ estimates)
    return mean, float(probability @ (estimates - mean) ** 2)


def central_difference(F, theta, h=1e-5):
    """dF/dtheta, one coordinate at a time."""
    steps = h * np.eye(len(theta))
    return np.array([(F(theta + e) - F(theta - e)) / (2 * h) for e in steps])


# --- 1.1, 1.2 Monte Carlo -------------------------------------------------------------------------


def test_the_weighted_average_of_example_1_1_is_4_9():
    """Ex. 1.1: ten points in the exact proportions 2 : 5 : 3, and the same sum under a uniform law."""
    x = np.array([1] * 2 + [2] * 5 + [3] * 3)
    assert monte_carlo(x**2) == pytest.approx(4.9, abs=1e-14)
    w = importance_weights([0.2, 0.5, 0.3], np.full(3, 1 / 3))
    assert importance_sampling([1, 4, 9], w) == pytest.approx(4.9, abs=1e-14)


def test_the_second_moment_of_a_standard_normal_is_one():
    """Ex. 1.2: Gauss-Hermite quadrature is exact from two nodes on, and samples agree with it."""
    for n in range(1, 7):
        x, weight = np.polynomial.hermite_e.hermegauss(n)
        assert self_normalised(x**2, weight) == pytest.approx(1.0 if n > 1 else 0.0, abs=1e-14)
    x = np.random.default_rng(0).standard_normal(100_000)
    assert abs(monte_carlo(x**2) - 1) < 4 * sqrt(2 / len(x))


def test_monte_carlo_is_unbiased_and_its_variance_falls_as_one_over_n():
    """(2), (3): all 3^4 samples of Ex. 1.1; mu = 4.9, Var f = 0.2 + 8 + 24.3 - 4.9^2 = 8.49."""
    samples, probability = all_samples([0.2, 0.5, 0.3], 4)
    mean, variance = moments(monte_carlo((samples + 1.0) ** 2), probability)
    assert mean == pytest.approx(4.9, abs=1e-12)
    assert variance == pytest.approx(8.49 / 4, abs=1e-12)


def test_the_monte_carlo_error_shrinks_like_one_over_root_n():
    """Remark 1.1 on f = x^2 under N(0, 1): Var f = 2, so RMSE sqrt(N) = sqrt 2 at each N."""
    sizes = np.array([10, 40, 160, 640])
    rng = np.random.default_rng(1)
    errors = [monte_carlo(rng.standard_normal((4000, n)) ** 2) - 1 for n in sizes]
    rmse = np.array([sqrt(np.mean(e**2)) for e in errors])
    np.testing.assert_allclose(rmse * np.sqrt(sizes), sqrt(2), rtol=0.06)
    assert np.polyfit(np.log(sizes), np.log(rmse), 1)[0] == pytest.approx(-0.5, abs=0.02)


def test_the_variance_of_a_sample_frequency_is_p_times_one_minus_p_over_n():
    """Ex. 1.3: all 2^5 samples of a coin."""
    samples, probability = all_samples([0.7, 0.3], 5)
    mean, variance = moments(monte_carlo(samples), probability)
    assert mean == pytest.approx(0.3, abs=1e-14)
    assert variance == pytest.approx(0.3 * 0.7 / 5, abs=1e-14)


def test_the_squared_standard_error_has_the_right_mean():
    """Remark 1.1: over all 2^4 coin samples its mean is p(1-p)/4; dividing by N for N-1 gives 3/4 of it."""
    samples, probability = all_samples([0.7, 0.3], 4)
    assert probability @ standard_error(samples) ** 2 == pytest.approx(0.3 * 0.7 / 4, abs=1e-14)
    assert standard_error([1, 3]) == pytest.approx(1.0)  # variance 2, N = 2


def test_estimators_average_over_the_last_axis_only():
    rows = np.array([[1.0, 3.0], [5.0, 9.0]])
    np.testing.assert_allclose(monte_carlo(rows), [2, 7])
    np.testing.assert_allclose(standard_error(rows), [1, 2])
    np.testing.assert_allclose(importance_sampling(rows, [[1, 0], [2, 1]]), [0.5, 9.5])
    np.testing.assert_allclose(self_normalised(rows, [[1, 3], [2, 2]]), [2.5, 7])
    np.testing.assert_allclose(effective_sample_size([[1, 1], [2, 0]]), [2, 1])
    assert isinstance(monte_carlo([1, 2]), float)


# --- 1.3 importance sampling ----------------------------------------------------------------------


def test_weighting_by_p_over_q_turns_an_average_under_q_into_one_under_p():
    """(4) on six points; the right side never sees q."""
    rng = np.random.default_rng(2)
    p, q, f = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6)), rng.standard_normal(6)
    assert q @ (importance_weights(p, q) * f) == pytest.approx(p @ f, abs=1e-15)


def test_the_weights_of_example_1_5():
    """Ex. 1.5 as printed: w = (1.6, 0.4), w f = (1.6, 1.2), mean 1.4."""
    w = importance_weights(P, Q)
    np.testing.assert_allclose(w, [1.6, 0.4], rtol=1e-15)
    np.testing.assert_allclose(w * F, [1.6, 1.2], rtol=1e-15)
    assert importance_sampling(F, w) == pytest.approx(1.4, abs=1e-15)  # q is uniform


@pytest.mark.parametrize("q, variance", [(Q, 0.04), (P, 0.64)], ids=["proposal", "target itself"])
def test_the_variance_of_one_weighted_term(q, variance):
    """(5) on Ex. 1.5: (1.6 - 1.4)^2 = 0.04 under q; 0.8 * 0.4^2 + 0.2 * 1.6^2 = 0.64 under p."""
    assert importance_sampling_variance(P, q, F) == pytest.approx(variance, abs=1e-15)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_importance_sampling_is_unbiased_with_the_stated_variance(n):
    """(5): all 3^n samples from a q that is far from p."""
    p, q, f = np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.1, 0.3]), np.array([1.0, -4.0, 9.0])
    samples, probability = all_samples(q, n)
    mean, variance = moments(importance_sampling(f[samples], importance_weights(p, q)[samples]), probability)
    assert mean == pytest.approx(0.2 - 2 + 2.7, abs=1e-12)
    assert variance == pytest.approx(importance_sampling_variance(p, q, f) / n, rel=1e-12)


def test_a_point_that_q_never_draws_is_fatal_only_where_p_f_is_not_zero():
    """Remark 1.2, and what it leaves out: where p f = 0 no support is needed."""
    with pytest.raises(ValueError, match=r"^q: expected q > 0 .* got q = 0 where p = 0.2 at index \(1,\)"):
        importance_weights([0.8, 0.2], [1.0, 0.0])
    with pytest.raises(ValueError, match="^q: "):
        importance_sampling_variance([0.8, 0.2], [1.0, 0.0], F)
    assert importance_weights([1.0, 0.0], [1.0, 0.0]).tolist() == [1.0, 0.0]
    # p = (.8, .2), f = (1, 0), q = (1, 0): w f is .8 always, the mean is .8 and nothing varies
    assert importance_sampling_variance([0.8, 0.2], [1.0, 0.0], [1.0, 0.0]) == pytest.approx(0.0, abs=1e-15)


def test_erratum_support_everywhere_is_not_enough_for_a_finite_variance():
    """Remark 1.2: p_k ~ 2^-k, q_k ~ 4^-k, k = 1..n, f = 1: E_q[w^2 f^2] grows like n / 3."""
    for n in (10, 20, 40):
        k = np.arange(1, n + 1)
        p, q = 2.0**-k, 4.0**-k
        variance = importance_sampling_variance(p / p.sum(), q / q.sum(), np.ones(n))
        assert variance == pytest.approx(n / 3 * (1 - 4.0**-n) / (1 - 2.0**-n) ** 2 - 1, rel=1e-9)


def test_a_context_bandit_is_valued_from_another_policys_data():
    """Ex. 1.6: both printed expectations by enumeration, then the estimator over all samples of two."""
    d, r = np.array([0.3, 0.7]), np.array([[1.0, 2.0], [-3.0, 4.0]])
    pi, pi_new = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.25, 0.75], [0.4, 0.6]])
    value = sum(d[s] * pi_new[s, a] * r[s, a] for s in range(2) for a in range(2))
    assert value == pytest.approx(0.3 * 1.75 + 0.7 * 1.2)
    w = importance_weights(pi_new, pi)
    behaviour = (d[:, None] * pi).ravel()
    assert behaviour @ (w * r).ravel() == pytest.approx(value, abs=1e-15)
    samples, probability = all_samples(behaviour, 2)
    mean, _ = moments(importance_sampling(r.ravel()[samples], w.ravel()[samples]), probability)
    assert mean == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("n, want", [(1, 2.0), (5, 1.4969), (10, 1.4430)])
def test_self_normalisation_is_biased_in_small_samples(n, want):
    """Remark 1.3 on Ex. 1.5, where mu = 1.4: the count of a is binomial, so n + 1 terms suffice."""
    mean, _ = _self_normalised_moments(n)
    assert mean == pytest.approx(want, abs=5e-5)


def test_self_normalisation_can_have_the_larger_variance():
    """Remark 1.3: on Ex. 1.5 with N = 10 it is fourteen times that of the plain estimator."""
    assert _self_normalised_moments(10)[1] == pytest.approx(0.05607, abs=5e-6)
    assert importance_sampling_variance(P, Q, F) / 10 == pytest.approx(0.00400, abs=1e-15)


def test_self_normalisation_has_no_error_where_f_is_constant():
    """Remark 1.3, the other side: plain importance sampling is off by the mean weight."""
    w = np.array([0.1, 0.2, 5.0])
    assert self_normalised([7.0, 7.0, 7.0], w) == pytest.approx(7.0, abs=1e-14)
    assert importance_sampling([7.0, 7.0, 7.0], w) == pytest.approx(7 * 5.3 / 3)


def test_self_normalisation_does_not_overflow():
    assert self_normalised([1.0, 3.0], [1e308, 1e308]) == pytest.approx(2.0)
    assert self_normalised([0.5, 0.5], [5e-324, 0.0]) == 0.5


def _self_normalised_moments(n):
    w = importance_weights(P, Q)
    probability = np.array([comb(n, k) / 2**n for k in range(n + 1)])
    counts = [[0] * k + [1] * (n - k) for k in range(n + 1)]  # k draws of a, n - k of b
    return moments(np.array([self_normalised(F[c], w[c]) for c in counts]), probability)


def test_the_effective_sample_size_by_hand():
    assert effective_sample_size([1, 1, 1, 1]) == pytest.approx(4)
    assert effective_sample_size([0, 3, 0]) == pytest.approx(1)
    assert effective_sample_size([1, 3]) == pytest.approx(16 / 10)
    assert effective_sample_size([1e300, 3e300]) == pytest.approx(1.6)


# --- 1.4 score function ---------------------------------------------------------------------------


def family():
    """A softmax law over four points with two parameters, and an f."""
    rng = np.random.default_rng(3)
    return rng.standard_normal((4, 2)), rng.standard_normal(2), rng.standard_normal(4)


def test_the_score_function_gradient_is_the_derivative_of_the_expectation():
    """(6), (7): central differences of F(theta) = sum p_theta f."""
    features, theta, f = family()
    numeric = central_difference(lambda t: softmax(features @ t) @ f, theta)
    exact = score_function_gradient(f, softmax_score(features, theta), p=softmax(features @ theta))
    np.testing.assert_allclose(exact, numeric, rtol=0, atol=1e-8)
    assert np.abs(numeric).max() > 0.1


def test_the_sampled_score_function_gradient_is_unbiased():
    """(7): the mean over all 4^3 samples of three points is the derivative."""
    features, theta, f = family()
    p, score = softmax(features @ theta), softmax_score(features, theta)
    samples, probability = all_samples(p, 3)
    mean = sum(w * score_function_gradient(f[i], score[i]) for i, w in zip(samples, probability, strict=True))
    numeric = central_difference(lambda t: softmax(features @ t) @ f, theta)
    np.testing.assert_allclose(mean, numeric, rtol=0, atol=1e-8)


@pytest.mark.parametrize("f", [(0.0, 1.0), (2.0, -5.0), (3.0, 3.0)])
def test_the_gradient_of_a_bernoulli_mean_is_the_difference_of_its_two_values(f):
    """Ex. 1.7: E f = (1 - theta) f(0) + theta f(1), so the derivative is f(1) - f(0) at every theta."""
    for theta in (0.1, 0.5, 0.8):
        score = bernoulli_score([0, 1], theta)
        got = score_function_gradient(f, score[:, None], p=[1 - theta, theta])
        assert got == pytest.approx([f[1] - f[0]], abs=1e-14)
    assert bernoulli_score(1, 0.25) == 4.0 and bernoulli_score(0, 0.25) == pytest.approx(-4 / 3)


def test_the_softmax_score_is_the_derivative_of_the_log_probability():
    """Ex. 1.8: central differences of log pi(a|s), for each action of each state."""
    rng = np.random.default_rng(4)
    features, theta = rng.standard_normal((3, 4, 2)), rng.standard_normal(2)

    def log_pi(t):
        logits = features @ t
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    numeric = np.moveaxis(central_difference(log_pi, theta), 0, -1)
    np.testing.assert_allclose(softmax_score(features, theta), numeric, rtol=0, atol=1e-9)
    np.testing.assert_allclose(softmax_score(features[0], theta), numeric[0], rtol=0, atol=1e-9)


def test_softmax_by_hand_and_far_from_zero():
    np.testing.assert_allclose(softmax([0.0, np.log(3)]), [0.25, 0.75], rtol=1e-15)
    np.testing.assert_allclose(softmax([1000.0, 1000.0 + np.log(3)]), [0.25, 0.75], rtol=1e-12)
    np.testing.assert_allclose(softmax([[0.0, -1e9], [-1e9, 0.0]]), np.eye(2))


def test_a_baseline_that_ignores_the_sample_is_free():
    """Remark 1.4: the scores average to zero, so any b leaves the expectation where it was."""
    features, theta, f = family()
    p, score = softmax(features @ theta), softmax_score(features, theta)
    np.testing.assert_allclose(p @ score, 0, rtol=0, atol=1e-15)
    numeric = central_difference(lambda t: softmax(features @ t) @ f, theta)
    for b in (-7.0, p @ f, 100.0):
        np.testing.assert_allclose(score_function_gradient(f, score, b, p), numeric, rtol=0, atol=1e-8)


def test_a_baseline_lowers_the_variance():
    """Remark 1.4, a fair coin with f = (10, 11): the scores are -2 and 2, so b = 10.5 leaves no variance."""
    score = bernoulli_score([0, 1], 0.5)[:, None]
    plain, centred = (
        [score_function_gradient([f], [s], b)[0] for f, s in zip((10, 11), score, strict=True)]
        for b in (0.0, 10.5)
    )
    assert plain == [-20, 22] and centred == [1, 1]  # both average to f(1) - f(0) = 1


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_mean_of_the_own_sample_is_no_free_baseline(n):
    """Remark 1.4, its limit: b contains f(x_i), and the expected gradient shrinks by 1 - 1/N."""
    features, theta, f = family()
    p, score = softmax(features @ theta), softmax_score(features, theta)
    samples, probability = all_samples(p, n)
    biased = sum(
        w * score_function_gradient(f[i], score[i], baseline=monte_carlo(f[i]))
        for i, w in zip(samples, probability, strict=True)
    )
    numeric = central_difference(lambda t: softmax(features @ t) @ f, theta)
    np.testing.assert_allclose(biased, (1 - 1 / n) * numeric, rtol=0, atol=1e-8)


def test_a_baseline_may_differ_from_sample_to_sample():
    """Leave-one-out means do not contain the own sample, so they are free: all samples of three."""
    features, theta, f = family()
    p, score = softmax(features @ theta), softmax_score(features, theta)
    samples, probability = all_samples(p, 3)
    mean = sum(
        w * score_function_gradient(f[i], score[i], baseline=(f[i].sum() - f[i]) / 2)
        for i, w in zip(samples, probability, strict=True)
    )
    numeric = central_difference(lambda t: softmax(features @ t) @ f, theta)
    np.testing.assert_allclose(mean, numeric, rtol=0, atol=1e-8)
