"""Checks at the door: every public function passes its arguments through these.

Each returns the argument in the form the caller computes with (a float64 or bool array) or raises
a ValueError that names the argument, what came, and what was expected.
"""

import numpy as np

SUM_TOLERANCE = 1e-8  # how far a row of probabilities may be from 1


def array(name, value, ndim=None, shape=None):
    """`value` as a finite float64 array with `ndim` axes (an int or a tuple of ints) or `shape`.

    None in `shape` stands for any length.
    """
    try:
        found = np.asarray(value)
        if found.dtype.kind not in "biuf":
            raise TypeError(f"dtype {found.dtype}")
        found = found.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a torch tensor with a gradient
        raise ValueError(f"{name}: expected real numbers in a regular array, got {error}") from None
    if shape is not None and not _fits(found.shape, shape):
        raise ValueError(f"{name}: expected shape {_text(shape)}, got {found.shape}")
    if ndim is not None and found.ndim not in np.atleast_1d(ndim):
        raise ValueError(f"{name}: expected {ndim} axes, got shape {found.shape}")
    if found.size == 0:
        raise ValueError(f"{name}: expected at least one number, got shape {found.shape}")
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        where = tuple(int(i) for i in np.unravel_index(bad[0], found.shape))
        raise ValueError(f"{name}: expected finite numbers, got {found[where]} at index {where}")
    return found


def same_shape(ndim=None, **values):
    """All `values` as finite float64 arrays of one shape."""
    arrays = {name: array(name, value, ndim) for name, value in values.items()}
    first, want = next((name, a.shape) for name, a in arrays.items())
    for name, a in arrays.items():
        if a.shape != want:
            raise ValueError(f"{name}: expected shape {want} as {first}, got {a.shape}")
    return tuple(arrays.values())


def flags(name, value, shape):
    """`value` as a bool array of `shape`; numbers other than 0 and 1 are refused."""
    found = array(name, value, shape=shape)
    if not np.isin(found, (0.0, 1.0)).all():
        raise ValueError(
            f"{name}: expected flags (bool, or 0 and 1), got {found[~np.isin(found, (0, 1))][0]}"
        )
    return found.astype(bool)


def indices(name, value, n, shape=None, ndim=None):
    """`value` as an int64 array of indices 0..n-1."""
    found = array(name, value, ndim, shape)
    bad = (found != np.floor(found)) | (found < 0) | (found >= n)
    if bad.any():
        raise ValueError(f"{name}: expected whole numbers from 0 to {n - 1}, got {found[bad][0]:g}")
    return found.astype(np.int64)


def number(name, value, low=-np.inf, high=np.inf, open_low=False, open_high=False):
    """`value` as a finite float from low to high; an open end is itself refused."""
    found = float(array(name, value, shape=()))
    if found < low or found > high or (open_low and found == low) or (open_high and found == high):
        ends = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise ValueError(f"{name}: expected a number in {ends}, got {found:g}")
    return found


def integer(name, value, low=1):
    """`value` as an int, at least `low`."""
    found = number(name, value, low)
    if found != int(found):
        raise ValueError(f"{name}: expected a whole number, got {found:g}")
    return int(found)


def settings(config, whole=(), positive=(), optional=(), unit=(), non_negative=(), switch=()):
    """Check the named fields of a frozen dataclass, and `hidden`, the widths of a network.

    Whole numbers are at least 1 and become ints (8.0 becomes 8), `hidden` becomes a tuple of them. An
    optional field is positive or None, a unit one in [0, 1], a switch True or False.
    """
    for name in whole:
        object.__setattr__(config, name, integer(name, getattr(config, name)))
    for name in [*positive, *(name for name in optional if getattr(config, name) is not None)]:
        number(name, getattr(config, name), 0.0, open_low=True)
    for name in unit:
        number(name, getattr(config, name), 0.0, 1.0)
    for name in non_negative:
        number(name, getattr(config, name), 0.0)
    for name in switch:
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"{name}: expected True or False, got {getattr(config, name)!r}")
    if not isinstance(config.hidden, (tuple, list)):
        raise ValueError(f"hidden: expected a tuple of widths, got {config.hidden!r}")
    object.__setattr__(config, "hidden", tuple(integer("hidden", width) for width in config.hidden))


def distributions(name, value, shape=None, ndim=None):
    """`value` as an array whose last axis holds probability distributions."""
    found = array(name, value, ndim, shape)
    non_negative(**{name: found})
    sums = found.sum(axis=-1)
    worst = np.unravel_index(np.argmax(np.abs(sums - 1)), sums.shape)
    if abs(sums[worst] - 1) > SUM_TOLERANCE:
        where = f" (row {tuple(int(i) for i in worst)})" if worst else ""
        raise ValueError(f"{name}: expected each row to sum to 1, got {sums[worst]:.12g}{where}")
    return found


def non_negative(**values):
    """Refuse arrays that hold a negative number."""
    for name, value in values.items():
        if value.min() < 0:
            raise ValueError(f"{name}: expected numbers >= 0, got {value.min():g}")


def support(p, q):
    """Refuse q = 0 where p > 0; a q so small that p / q exceeds every float counts as 0."""
    uncovered = np.argwhere(p > np.minimum(q, 1.0) * np.finfo(float).max)
    if uncovered.size:
        i = tuple(int(k) for k in uncovered[0])
        raise ValueError(
            f"q: expected q > 0 wherever p > 0, got q = {q[i]:g} where p = {p[i]:g} at index {i}"
        )


def _fits(found, wanted):
    return len(found) == len(wanted) and all(w in (None, f) for f, w in zip(found, wanted, strict=True))


def _text(shape):
    return str(tuple(shape)).replace("None", "any")
