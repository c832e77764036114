"""Theorem 1 of the mixed-policy paper: the bound as printed, and the one that its setting gives.

K updates theta <- theta + step g climb an objective J whose gradient is L-Lipschitz ("L-smooth"), with
E|g|^2 <= S and <grad J, E g> >= m |grad J|^2 throughout. The bounds are on min over k of E|grad J|^2.

| symbol      | argument      | meaning                                                              |
| ----------- | ------------- | -------------------------------------------------------------------- |
| J* - J^0    | gain          | how far the start lies below the optimum, > 0                        |
| L           | smoothness    | how fast the gradient of J can turn, > 0                             |
| S           | second_moment | bound on E|g|^2, > 0                                                 |
| m           | alignment     | how much of grad J the mean update keeps, > 0; 1 if it is unbiased   |
| sigma       | sigma         | bound on the unweighted gradient of one sample, > 0                  |
| w_low, w_up | low, high     | band of the importance weights, 0 < low <= high                      |
| K           | updates       | a whole number >= 1                                                  |
"""

from math import sqrt

from rlbook import validate


def _positive(**values):
    return (validate.number(name, value, 0.0, open_low=True) for name, value in values.items())


def general_bound(gain, smoothness, second_moment, alignment, step, updates):
    """Theorem 1, what follows: (gain / (step K) + L step S / 2) / m. Arguments: the module's table."""
    gain, L, S, m, step = _positive(
        gain=gain, smoothness=smoothness, second_moment=second_moment, alignment=alignment, step=step
    )
    return (gain / (step * validate.integer("updates", updates)) + L * step * S / 2) / m


def best_step(gain, smoothness, sigma, high, updates):
    """Theorem 1, the printed step c / sqrt(K): it makes `general_bound` smallest if S = w_up sigma^2."""
    gain, L, sigma, high = _positive(gain=gain, smoothness=smoothness, sigma=sigma, high=high)
    return sqrt(2 * gain / (L * sigma**2 * high)) / sqrt(validate.integer("updates", updates))


def printed_bound(gain, smoothness, sigma, low, high, updates):
    """Theorem 1 as printed: sqrt(2 gain L w_up / (K w_low)) sigma. False if the weights are clipped."""
    gain, L, sigma, low, high = _positive(gain=gain, smoothness=smoothness, sigma=sigma, low=low, high=high)
    if low > high:
        raise ValueError(f"low, high: expected low <= high, got {low} and {high}")
    return sqrt(2 * gain * L * high / (validate.integer("updates", updates) * low)) * sigma
