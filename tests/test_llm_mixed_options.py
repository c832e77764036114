"""Options of mix_1 and mix_2: each choice the paper leaves open, against its formula written out."""

import pytest
from test_llm_batch import ragged
from test_llm_mixed import VALUES, advantage_over, same, token_sum, value_and_gradient

from rlbook.llm import methods


def sets(R):
    """(V, U, W) as lists of rows."""
    V = [i for i in range(len(R)) if R.source[i] == 1]
    on = [i for i in range(len(R)) if R.source[i] == 0]
    return V, [i for i in on if R.rewards[i] > 0], [i for i in on if R.rewards[i] <= 0]


def clipped(lp, old, A, low=0.2, high=0.28):
    r = (lp - old).exp()
    return min(r * A, r.clamp(1 - low, 1 + high) * A, key=lambda x: x.item())


def shaped(r, A, gamma=0.1):
    return r / (r + gamma) * A


def check(name, wanted, **options):
    for seed in range(3):
        logp, R = ragged(seed, (7, 5, 9), guides=3, values=VALUES)
        found = methods.get(name, **options).objective(logp, R).value
        assert same(value_and_gradient(found, logp), value_and_gradient(wanted(logp, R), logp))
    assert abs(found - methods.get(name).objective(logp, R).value) > 1e-4  # the option does something


def test_weights_of_the_two_halves():
    def wanted(logp, R):
        V, U, W = sets(R)
        A, B = advantage_over(R, U + W), advantage_over(R, V)
        on, n_on = token_sum(logp, R, U + W, A, lambda lp, i, t, a: clipped(lp, R.logp_old[i, t], a))
        off, n_off = token_sum(logp, R, V, B, lambda lp, i, t, a: shaped((lp - R.logp_guide[i, t]).exp(), a))
        return 0.9 * on / n_on + 0.3 * off / n_off

    check("mix_1", wanted, weights=(0.9, 0.3))


def test_one_normaliser_for_both_halves():
    def wanted(logp, R):
        V, U, W = sets(R)
        A, B = advantage_over(R, U + W), advantage_over(R, V)
        on, n_on = token_sum(logp, R, U + W, A, lambda lp, i, t, a: clipped(lp, R.logp_old[i, t], a))
        off, n_off = token_sum(logp, R, V, B, lambda lp, i, t, a: shaped((lp - R.logp_guide[i, t]).exp(), a))
        return (on + off) / 2 / (n_on + n_off)

    check("mix_1", wanted, normaliser="joint")


def test_plain_clip_has_no_gradient_outside_the_band():
    def wanted(logp, R):
        V, U, W = sets(R)
        A, B = advantage_over(R, U + W), advantage_over(R, V)
        plain = lambda lp, i, t, a: (lp - R.logp_old[i, t]).exp().clamp(0.8, 1.28) * a  # noqa: E731
        on, n_on = token_sum(logp, R, U + W, A, plain)
        off, n_off = token_sum(logp, R, V, B, lambda lp, i, t, a: shaped((lp - R.logp_guide[i, t]).exp(), a))
        return on / n_on / 2 + off / n_off / 2

    check("mix_1", wanted, clip_form="plain")
    logp, R = ragged(0, (7, 5, 9), guides=3, values=VALUES)
    found = methods.get("mix_1", clip_form="plain").objective(logp, R)
    ratio, own = (logp - R.logp_old).exp(), R.mask & (R.source == 0)[:, None]
    outside = (((ratio < 0.8) | (ratio > 1.28)) & own).sum() / own.sum()
    assert found.metrics["parts"]["policy/old"]["clip_fraction"] == pytest.approx(outside.item())


def test_the_guides_ratio_of_a_whole_sequence():
    def wanted(logp, R):
        V, U, W = sets(R)
        A, B = advantage_over(R, U + W), advantage_over(R, V)
        on, n_on = token_sum(logp, R, U + W, A, lambda lp, i, t, a: clipped(lp, R.logp_old[i, t], a))
        off = sum(shaped(((logp[i] - R.logp_guide[i])[R.mask[i]].sum()).exp(), B[i]) for i in V)
        return on / n_on / 2 + off / len(V) / 2

    check("mix_1", wanted, guide_ratio="sequence")


@pytest.mark.parametrize("pool_on", ["policy", "everything"])
def test_whom_the_rewarded_rows_compare_with(pool_on):
    def wanted(logp, R):
        V, U, W = sets(R)
        A, BC = advantage_over(R, U + W if pool_on == "policy" else U + V + W), advantage_over(R, V + W)
        on, n_on = token_sum(logp, R, U, A, lambda lp, i, t, a: clipped(lp, R.logp_old[i, t], a))
        off, n_V = token_sum(logp, R, V, BC, lambda lp, i, t, a: shaped((lp - R.logp_guide[i, t]).exp(), a))
        zero, n_W = token_sum(logp, R, W, BC, lambda lp, i, t, a: clipped(lp, R.logp_guide[i, t], a))
        return on / n_on / 2 + (off + zero) / (n_V + n_W) / 2

    check("mix_2", wanted, pool_on=pool_on)


@pytest.mark.parametrize("options", [{"zero_ratio": "old"}, {"normaliser": "v000"}])
def test_the_ratio_of_unrewarded_rows_and_the_sums_of_version_000(options):
    def wanted(logp, R):
        V, U, W = sets(R)
        A, BC = advantage_over(R, U), advantage_over(R, V + W)
        behaviour = R.logp_old if "zero_ratio" in options else R.logp_guide
        on, n_on = token_sum(logp, R, U, A, lambda lp, i, t, a: clipped(lp, R.logp_old[i, t], a))
        off, n_V = token_sum(logp, R, V, BC, lambda lp, i, t, a: shaped((lp - R.logp_guide[i, t]).exp(), a))
        zero, n_W = token_sum(logp, R, W, BC, lambda lp, i, t, a: clipped(lp, behaviour[i, t], a))
        return on / n_on / 2 + (off + zero) / 2 / (1 if "normaliser" in options else n_V + n_W)

    check("mix_2", wanted, **options)


@pytest.mark.parametrize(
    "name, option, bad",
    [
        ("mix_1", "normaliser", "v001"),
        ("mix_2", "normaliser", "each"),
        ("mix_1", "pool_on", "policy"),
        ("mix_2", "pool_on", "guide"),
        ("mix_2", "zero_ratio", "policy"),
        ("mix_1", "clip_form", "max"),
        ("mix_2", "guide_ratio", "geometric"),
        ("mix_1", "weights", (1,)),
        ("mix_2", "weights", (0.5, -0.5)),
        ("mix_1", "variant", "printed"),
        ("mix_2", "variant", "printed"),
        ("mix_2", "shape_gamma", 0),
    ],
)
def test_bad_choices_are_named(name, option, bad):
    with pytest.raises(ValueError, match=option):
        methods.get(name, **{option: bad})
