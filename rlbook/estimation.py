"""Chapter 1, first half: Monte Carlo, importance sampling, and the score-function gradient.

Estimators average over the last axis, so an (R, N) array gives R independent estimates at once.
"""

import numpy as np

from rlbook import validate


def monte_carlo(f):
    """(3) Monte-Carlo estimate: the mean of f over the last axis.

    | argument | shape    | meaning              |
    | -------- | -------- | -------------------- |
    | f        | (..., N) | f(x_i), with x_i ~ p |

    Raises ValueError on non-finite or empty input. Source: book (2)-(3).
    """
    return _average(validate.array("f", f, ndim=(1, 2, 3)))


def standard_error(f):
    """Remark 1.1: the estimated standard deviation of the Monte-Carlo mean, sqrt(var(f) / N).

    f (..., N) as in `monte_carlo`, N >= 2; the variance is the unbiased one (N - 1).
    """
    f = validate.array("f", f, ndim=(1, 2, 3))
    n = f.shape[-1]
    if n < 2:
        raise ValueError(f"f: expected at least 2 samples for a standard error, got {n}")
    return _scalar(f.std(axis=-1, ddof=1) / np.sqrt(n))


def importance_weights(p, q):
    """(4) Importance weights w = p / q.

    | argument | shape | meaning                                                   |
    | -------- | ----- | --------------------------------------------------------- |
    | p        | any   | target probability (or density) of each point             |
    | q        | as p  | proposal probability (or density) of the same points      |

    Where p = q = 0 the weight is 0: q never draws that point. Raises ValueError where p > 0 and
    q = 0 (Remark 1.2), on negative or non-finite input, on shapes that differ.
    """
    p, q = validate.same_shape(p=p, q=q)
    validate.non_negative(p=p, q=q)
    validate.support(p, q)
    return np.divide(p, q, out=np.zeros_like(p), where=q > 0)


def importance_sampling(f, w):
    """(5) Importance-sampling estimate: the mean of w f over the last axis.

    | argument | shape    | meaning                     |
    | -------- | -------- | --------------------------- |
    | f        | (..., N) | f(x_i), with x_i ~ q        |
    | w        | as f     | weights p(x_i) / q(x_i)     |

    Unbiased when q > 0 wherever p f != 0. In a contextual bandit with w = pi'(a|s) / pi(a|s) this
    is the off-policy value of Ex. 1.6. Raises ValueError on negative weights or shapes that differ.
    """
    f, w = _weighted(f, w)
    return _average(w * f)


def self_normalised(f, w):
    """Remark 1.3: self-normalised importance sampling, sum(w f) / sum(w) over the last axis.

    Arguments as in `importance_sampling`. Biased for finite N; invariant to the scale of w.
    Raises ValueError where all weights of a row are zero: then nothing is known about p.
    """
    f, w = _weighted(f, w)
    w = _relative(w)
    return _scalar((w * f).sum(axis=-1) / w.sum(axis=-1))


def effective_sample_size(w):
    """Effective sample size (sum w)^2 / sum(w^2) over the last axis: N for equal weights, 1 for one-hot.

    It tells how many samples from p would have been as informative. Source: Kong 1992.
    """
    w = validate.array("w", w, ndim=(1, 2, 3))
    validate.non_negative(w=w)
    w = _relative(w)
    return _scalar(w.sum(axis=-1) ** 2 / (w**2).sum(axis=-1))


def importance_sampling_variance(p, q, f):
    """Exact variance of one term w f of (5): sum(p^2 f^2 / q) - (sum p f)^2.

    p, q (K,) distributions over K points, f (K,) values. With q = p it is the Monte-Carlo variance.
    Points where p f = 0 need no support (q may be 0 there).
    """
    p = validate.distributions("p", p, ndim=1)
    q = validate.distributions("q", q, shape=p.shape)
    f = validate.array("f", f, shape=p.shape)
    needed = p * f != 0
    w = importance_weights(np.where(needed, p, 0.0), q)
    return float((q * (w * f) ** 2).sum() - ((p * f).sum()) ** 2)


def bernoulli_score(x, theta):
    """Ex. 1.7: d/dtheta log p_theta(x) = x/theta - (1-x)/(1-theta), for x in {0, 1}, 0 < theta < 1."""
    x = validate.array("x", x)
    x = validate.flags("x", x, x.shape).astype(float)
    theta = validate.number("theta", theta, 0.0, 1.0, open_low=True, open_high=True)
    return _scalar(x / theta - (1 - x) / (1 - theta))


def softmax(logits):
    """Softmax over the last axis: exp(logits) / sum(exp(logits)), computed without overflow."""
    logits = validate.array("logits", logits, ndim=(1, 2, 3))
    z = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def softmax_score(features, theta):
    """Ex. 1.8: scores of pi(a|s) ∝ exp(theta . features(s, a)): features minus expected features.

    | argument | shape            | meaning       |
    | -------- | ---------------- | ------------- |
    | features | (A, d), (S, A, d) | phi(s, a)     |
    | theta    | (d,)             | parameters    |

    Returns the score of every action, shaped as `features`.
    """
    features = validate.array("features", features, ndim=(2, 3))
    theta = validate.array("theta", theta, shape=features.shape[-1:])
    pi = softmax(features @ theta)
    return features - (pi[..., None] * features).sum(axis=-2, keepdims=True)


def score_function_gradient(f, score, baseline=0.0, p=None):
    """(7) Score-function gradient: the mean of (f(x) - baseline) * score(x).

    | argument | shape         | meaning                                                          |
    | -------- | ------------- | ---------------------------------------------------------------- |
    | f        | (N,)          | f(x_i)                                                           |
    | score    | (N, d)        | gradient of log p_theta(x_i)                                     |
    | baseline | scalar or (N,) | b; free only if it does not depend on x_i (Remark 1.4)           |
    | p        | (N,) or None  | None: x_i are samples. Else all points with their probabilities, |
    |          |               | and the result is the exact expectation                          |

    Returns (d,). Raises ValueError on shapes that differ, or a p that is no distribution.
    """
    f = validate.array("f", f, ndim=1)
    score = validate.array("score", score, shape=(len(f), None))
    baseline = validate.array("baseline", baseline, ndim=(0, 1))
    baseline = validate.array("baseline", baseline, shape=f.shape if baseline.ndim else ())
    weight = np.full(len(f), 1 / len(f)) if p is None else validate.distributions("p", p, shape=f.shape)
    return (weight * (f - baseline)) @ score


def _weighted(f, w):
    f, w = validate.same_shape(ndim=(1, 2, 3), f=f, w=w)
    validate.non_negative(w=w)
    return f, w


def _relative(w):
    """Weights over the largest of their row: a common scale drops out, and sums do not overflow."""
    top = w.max(axis=-1, keepdims=True)
    if (top == 0).any():
        raise ValueError("w: expected at least one positive weight in each row, got all zero")
    return w / top


def _average(x):
    return _scalar(x.mean(axis=-1))


def _scalar(x):
    return float(x) if np.ndim(x) == 0 else x
