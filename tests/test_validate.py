"""Checks at the door: what they let through, and that every public function stops bad input by name."""

import inspect
from dataclasses import dataclass

import numpy as np
import pytest

from rlbook import bounds, cpi, estimation, exact_gradients, td, validate, worlds
from rlbook.mdp import TabularMDP, Trajectories

# --- the checks themselves ------------------------------------------------------------------------


def test_array_gives_float64_and_never_the_callers_own_memory():
    mine = np.array([1.0, 2.0])
    found = validate.array("x", mine)
    found[0] = 9
    assert mine.tolist() == [1, 2]
    assert validate.array("x", [True, 2]).dtype == np.float64
    assert validate.array("x", np.float32(0.5)).shape == ()


def test_array_says_where_the_first_bad_number_is():
    with pytest.raises(ValueError, match=r"^x: expected finite numbers, got inf at index \(1, 0\)$"):
        validate.array("x", [[1, 2], [np.inf, np.nan]])


def test_array_says_which_shape_came_and_which_was_expected():
    with pytest.raises(ValueError, match=r"^x: expected shape \(3,\), got \(2,\)$"):
        validate.array("x", [1, 2], shape=(3,))
    with pytest.raises(ValueError, match=r"^x: expected \(1, 2\) axes, got shape \(\)$"):
        validate.array("x", 1, ndim=(1, 2))


def test_same_shape_names_the_argument_that_differs_and_the_one_it_should_follow():
    with pytest.raises(ValueError, match=r"^b: expected shape \(2,\) as a, got \(3,\)$"):
        validate.same_shape(a=[1, 2], b=[1, 2, 3])
    a, b = validate.same_shape(a=[1, 2], b=[3, 4])
    assert (a.tolist(), b.tolist()) == ([1, 2], [3, 4])


def test_flags_are_true_or_false_and_nothing_between():
    assert validate.flags("done", [0, 1.0, True], (3,)).tolist() == [False, True, True]
    with pytest.raises(ValueError, match=r"^done: expected flags .* got 0.5$"):
        validate.flags("done", [0, 0.5], (2,))


@pytest.mark.parametrize(
    "bad, said", [([0, 3], "got 3"), ([0, -1], "got -1"), ([0, 0.5, 1], r"got 0\.5")], ids=str
)
def test_indices_name_the_number_that_is_no_index(bad, said):
    with pytest.raises(ValueError, match=rf"^s: expected whole numbers from 0 to 2, {said}"):
        validate.indices("s", bad, 3)


def test_indices_include_both_ends():
    assert validate.indices("s", [0.0, 2], 3).tolist() == [0, 2]


def test_number_includes_its_ends_unless_the_upper_one_is_open():
    assert validate.number("x", 1, 0, 1) == 1.0
    assert validate.number("x", 0, 0, 1, open_high=True) == 0.0
    with pytest.raises(ValueError, match=r"^x: expected a number in \[0, 1\), got 1$"):
        validate.number("x", 1, 0, 1, open_high=True)


def test_integer_takes_whole_floats_only():
    assert validate.integer("n", 3.0) == 3
    assert isinstance(validate.integer("n", 3.0), int)
    with pytest.raises(ValueError, match=r"^n: expected a whole number, got 2.5$"):
        validate.integer("n", 2.5)


@dataclass(frozen=True)
class Settings:
    n: int = 3
    rate: float = 0.5
    limit: float | None = None
    share: float = 1.0
    weight: float = 0.0
    on: bool = True
    hidden: tuple = (4,)

    def __post_init__(self):
        validate.settings(self, ("n",), ("rate",), ("limit",), ("share",), ("weight",), ("on",))


def test_settings_turn_whole_numbers_into_ints():
    found = Settings(n=8.0, limit=2, hidden=[4.0, 2])
    assert (found.n, found.limit, found.hidden) == (8, 2, (4, 2))
    assert all(type(x) is int for x in (found.n, *found.hidden)) and Settings(hidden=()).hidden == ()


@pytest.mark.parametrize(
    "name, bad",
    [("n", 0), ("n", 1.5), ("n", None), ("n", "3"), ("rate", 0), ("rate", np.nan), ("rate", None)]
    + [("limit", 0), ("limit", -1), ("share", 1.1), ("share", -0.1), ("share", None), ("weight", -1)]
    + [("weight", np.inf), ("on", "no"), ("on", 1), ("on", None)]
    + [("hidden", 64), ("hidden", "64"), ("hidden", (64, 0)), ("hidden", (1.5,)), ("hidden", None)],
)
def test_settings_name_the_field_that_is_wrong(name, bad):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Settings(**{name: bad})


def test_distributions_forgive_rounding_and_nothing_more():
    tenths = np.full((1, 10), 0.1)
    assert validate.distributions("p", tenths).shape == (1, 10)
    assert validate.distributions("p", tenths + 0.9e-9).shape == (1, 10)
    with pytest.raises(ValueError, match=r"^p: .* sum to 1, got 1.00000002 \(row \(0,\)\)$"):
        validate.distributions("p", tenths + 2e-9)


def test_distributions_name_the_worst_row():
    with pytest.raises(ValueError, match=r"got 0.9 \(row \(1,\)\)"):
        validate.distributions("p", [[0.5, 0.5], [0.5, 0.4]])


# --- every public function ------------------------------------------------------------------------

NOT_NUMBERS = {
    "complex": lambda good: np.asarray(good) + 1j,
    "strings": lambda good: np.full(np.shape(good), "one"),
    "ragged": lambda good: [[1.0], [1.0, 2.0]],
    "empty": lambda good: [],
    "none": lambda good: None,
}


def first(bad):
    """A maker of bad input: the good value with its first number replaced."""

    def spoil(good):
        out = np.array(good, dtype=float)
        out.flat[0] = bad
        return out

    return spoil


def negative(good):
    """Rows that still sum to 1, but start with -0.05."""
    out = np.array(good, dtype=float)
    out[..., -1] += out[..., 0] + 0.05
    out[..., 0] = -0.05
    return out


ARRAY = NOT_NUMBERS | {"nan": first(np.nan), "inf": first(np.inf), "minus inf": first(-np.inf)}
NUMBER = ARRAY | {"a vector": lambda good: [good, good]}
COUNT = NUMBER | {"zero": first(0), "half": first(1.5), "negative": first(-1)}
WEIGHT = ARRAY | {"negative": first(-0.1)}
DISTRIBUTION = ARRAY | {"negative": negative, "sums to 0.9": lambda good: 0.9 * np.asarray(good)}
FLAGS = ARRAY | {"half": first(0.5), "two": first(2), "too long": lambda good: [*good, 0]}
INDEX = ARRAY | {"negative": first(-1), "half": first(0.5), "out of range": first(99)}
DISCOUNT = NUMBER | {"negative": first(-0.1), "above 1": first(1.1)}
GAMMA = DISCOUNT | {"one": first(1)}
STEP = NUMBER | {"zero": first(0), "negative": first(-0.1)}
OPTIONAL_DISTRIBUTION = {k: v for k, v in DISTRIBUTION.items() if k != "none"}  # None is the default
OPTIONAL_COUNT = {k: v for k, v in COUNT.items() if k != "none"}
NON_NEGATIVE = NUMBER | {"negative": first(-0.1)}
FORM = {"unknown": lambda good: "occupancy", "none": lambda good: None}

M = worlds.two_state()
HALF = [[0.5, 0.5], [0.5, 0.5]]
REWARD, ENDED, CUT = [1.0, 2.0, 3.0], [0, 0, 1], [0, 1, 0]
STEPS = {
    "reward": (REWARD, ARRAY),
    "terminated": (ENDED, FLAGS),
    "discount": (0.9, DISCOUNT),
}
VALUES = {"value": (REWARD, ARRAY), "next_value": (REWARD, ARRAY)}
PAIR = {"pi": (HALF, DISTRIBUTION), "pi_new": ([[0.2, 0.8], [1, 0]], DISTRIBUTION)}
BOUND = {"g": (1.0, NUMBER), "eps": (2.0, NON_NEGATIVE), "gamma": (0.9, GAMMA)}
WALK = Trajectories(*(np.array(x) for x in ([[0, 1, 0]], [[1, 0]], [[0.5, 2.0]])))
MOVES = {"state": ([0, 1, 0], INDEX), "next_state": ([1, 0, 1], INDEX)}

# function -> argument -> (a good value, the ways to spoil it)
TABLE = {
    estimation.monte_carlo: {"f": ([1, 2], ARRAY)},
    estimation.standard_error: {"f": ([1, 2], ARRAY)},
    estimation.importance_weights: {"p": ([0.8, 0.2], WEIGHT), "q": ([0.5, 0.5], WEIGHT)},
    estimation.importance_sampling: {"f": ([1, 2], ARRAY), "w": ([1, 2], WEIGHT)},
    estimation.self_normalised: {"f": ([1, 2], ARRAY), "w": ([1, 2], WEIGHT)},
    estimation.effective_sample_size: {"w": ([1, 2], WEIGHT)},
    estimation.importance_sampling_variance: {
        "p": ([0.8, 0.2], DISTRIBUTION),
        "q": ([0.5, 0.5], DISTRIBUTION),
        "f": ([1, 3], ARRAY),
    },
    estimation.bernoulli_score: {
        "x": ([0, 1], ARRAY | {"half": first(0.5)}),
        "theta": (0.3, DISCOUNT | {"zero": first(0), "one": first(1)}),
    },
    estimation.softmax: {"logits": ([1, 2], ARRAY)},
    estimation.softmax_score: {"features": ([[1, 2], [3, 4], [5, 6]], ARRAY), "theta": ([1, 2], ARRAY)},
    estimation.score_function_gradient: {
        "f": ([1, 2], ARRAY),
        "score": ([[1, 0], [0, 1]], ARRAY),
        "baseline": ([1.0, 1.0], ARRAY),
        "p": ([0.5, 0.5], OPTIONAL_DISTRIBUTION),
    },
    TabularMDP: {
        "P": (M.P, DISTRIBUTION),
        "r": (M.r, ARRAY),
        "rho": (M.rho, DISTRIBUTION),
        "gamma": (0.9, GAMMA),
    },
    M.policy: {"pi": (HALF, DISTRIBUTION)},
    M.transition: {"pi": (HALF, DISTRIBUTION)},
    M.evaluate: {"pi": (HALF, DISTRIBUTION)},
    M.state_law: {"pi": (HALF, DISTRIBUTION), "t": (2, NUMBER | {"half": first(1.5), "negative": first(-1)})},
    M.policy_gradient: {"logits": ([[0, 1], [2, 3]], ARRAY)},
    M.optimal: {},
    M.sample: {"pi": (HALF, DISTRIBUTION), "n": (2, COUNT), "horizon": (2, COUNT)},
    M.env: {"max_steps": (2, OPTIONAL_COUNT)},
    td.returns_to_go: {"reward": (REWARD, ARRAY), "discount": (0.9, DISCOUNT)},
    td.td_error: STEPS | VALUES,
    td.n_step_return: STEPS | {"next_value": (REWARD, ARRAY), "truncated": (CUT, FLAGS), "n": (2, COUNT)},
    td.gae: STEPS | VALUES | {"truncated": (CUT, FLAGS), "lam": (0.5, DISCOUNT)},
    td.td_lambda: STEPS
    | MOVES
    | {"truncated": (CUT, FLAGS), "lam": (0.5, DISCOUNT), "step_size": (0.1, STEP), "value": ([0, 0], ARRAY)},
    td.td_loss_gradient: STEPS
    | MOVES
    | {"value": ([0, 0], ARRAY), "weight": ([0.2, 0.3, 0.5], OPTIONAL_DISTRIBUTION)},
    bounds.performance_difference: PAIR,
    bounds.surrogate: PAIR,
    bounds.distribution_shift: PAIR,
    bounds.hoelder_bound: PAIR,
    bounds.centred_bound: PAIR,
    bounds.occupancy_gap_bound: PAIR,
    bounds.mixture: PAIR | {"alpha": (0.5, DISCOUNT)},
    bounds.total_variation: PAIR,
    bounds.kl: PAIR,
    bounds.max_kl: PAIR,
    bounds.mean_kl: PAIR,
    bounds.policy_advantage: PAIR,
    bounds.cpi_epsilon: PAIR,
    bounds.cpi_lower_bound: {"alpha": (0.5, DISCOUNT)} | BOUND,
    bounds.trpo_lower_bound: PAIR,
    cpi.step_size: BOUND,
    cpi.greedy: {"pi": (HALF, DISTRIBUTION)},
    cpi.exact: {"pi": (HALF, DISTRIBUTION), "iterations": (2, COUNT)},
    cpi.sampled: {
        "pi": (HALF, DISTRIBUTION),
        "iterations": (2, COUNT),
        "rollouts": (3, COUNT),
        "horizon": (4, COUNT),
        "eps": (2.0, {k: v for k, v in NON_NEGATIVE.items() if k != "none"}),
    },
    exact_gradients.truncated_gradient: {
        "logits": ([[0, 1], [2, 3]], ARRAY),
        "horizon": (3, COUNT),
        "form": ("printed", FORM),
    },
    exact_gradients.trajectory_gradients: {
        "logits": ([[0, 1], [2, 3]], ARRAY),
        "gamma": (0.9, DISCOUNT),
        "form": ("printed", FORM),
    },
    worlds.two_state: {"gamma": (0.9, GAMMA)},
    worlds.fork: {"gamma": (0.9, GAMMA)},
    worlds.random_mdp: {"n_states": (2, COUNT), "n_actions": (2, COUNT), "gamma": (0.9, GAMMA)},
    worlds.random_walk: {"n": (3, COUNT), "gamma": (0.9, GAMMA)},
    worlds.surrogate_cliff: {"gamma": (0.9, GAMMA), "M": (9.0, NUMBER | {"negative": first(-1)})},
    worlds.horizon_bandit: {"H": (3, COUNT), "gamma": (0.9, GAMMA)},
    worlds.tied_policy: {"theta": (0.5, NUMBER), "offset": (2.0, NUMBER)},
    worlds.delayed_penalty: {"T": (3, COUNT), "gamma": (0.9, GAMMA)},
    worlds.length_bandit: {
        "lengths": ([2, 4], ARRAY | {k: COUNT[k] for k in ("zero", "half", "negative")}),
        "reward": ([0.5, 1.0], ARRAY),
        "gamma": (0.9, GAMMA),
    },
}
GIVEN = {"rng": 0, "mdp": M, "walk": WALK}  # arguments with a good value and no way to spoil it here
FREE = {*GIVEN, "residual", "one_shot", "tight", "held_out"}  # arguments that hold no numbers to check


def call(function, **replaced):
    good = {name: value for name, (value, _) in TABLE[function].items()}
    good |= {k: v for k, v in GIVEN.items() if k in inspect.signature(function).parameters}
    return function(**good | replaced)


CASES = [
    pytest.param(f, name, spoil(good), id=f"{f.__name__}-{name}-{what}")
    for f, arguments in TABLE.items()
    for name, (good, ways) in arguments.items()
    for what, spoil in ways.items()
]


@pytest.mark.parametrize("function, name, bad", CASES)
def test_bad_input_is_refused_by_the_name_of_the_argument(function, name, bad):
    with pytest.raises(ValueError, match=rf"(?s)^{name}: expected .+, got .+"):
        call(function, **{name: bad})


@pytest.mark.parametrize("function", TABLE, ids=lambda f: f.__name__)
def test_the_good_values_of_the_table_are_good(function):
    """Otherwise the test above could pass for the wrong reason."""
    assert call(function) is not None


SPECIAL = [
    (estimation.monte_carlo, "f", dict(f=1.0)),
    (estimation.monte_carlo, "f", dict(f=np.zeros((1, 1, 1, 1)))),
    (estimation.standard_error, "f", dict(f=[1.0])),
    (estimation.standard_error, "f", dict(f=np.zeros((1, 1, 1, 2)))),
    (estimation.importance_weights, "q", dict(q=[1.0, 0.0])),
    (estimation.importance_weights, "q", dict(q=[1.0, 0.0, 0.0])),
    (estimation.importance_sampling, "w", dict(w=[1.0])),
    (estimation.importance_sampling, "f", dict(f=1.0, w=1.0)),
    (estimation.self_normalised, "w", dict(w=[1.0, 2.0, 3.0])),
    (estimation.self_normalised, "w", dict(w=[0.0, 0.0])),
    (estimation.self_normalised, "w", dict(f=HALF, w=[[1, 1], [0, 0]])),
    (estimation.effective_sample_size, "w", dict(w=[0.0, 0.0])),
    (estimation.effective_sample_size, "w", dict(w=1.0)),
    (estimation.importance_sampling_variance, "p", dict(p=HALF)),
    (estimation.importance_sampling_variance, "q", dict(q=[1.0, 0.0])),
    (estimation.importance_sampling_variance, "q", dict(q=[0.5, 0.25, 0.25])),
    (estimation.importance_sampling_variance, "f", dict(f=[1.0, 2.0, 3.0])),
    (estimation.bernoulli_score, "theta", dict(theta=[0.1, 0.2])),
    (estimation.softmax, "logits", dict(logits=1.0)),
    (estimation.softmax_score, "theta", dict(theta=[1, 2, 3])),
    (estimation.softmax_score, "features", dict(features=[1, 2])),
    (estimation.score_function_gradient, "f", dict(f=HALF)),
    (estimation.score_function_gradient, "score", dict(score=[[1, 0]])),
    (estimation.score_function_gradient, "score", dict(score=[1, 0])),
    (estimation.score_function_gradient, "baseline", dict(baseline=[1, 2, 3])),
    (estimation.score_function_gradient, "p", dict(p=[1.0])),
    (TabularMDP, "P", dict(P=M.P[:1])),
    (TabularMDP, "P", dict(P=M.P[:, :, 0])),
    (TabularMDP, "r", dict(r=[1, 2])),
    (TabularMDP, "rho", dict(rho=[1, 0, 0])),
    (M.evaluate, "pi", dict(pi=[0.5, 0.5])),
    (M.evaluate, "pi", dict(pi=[[0.5, 0.5]])),
    (M.policy_gradient, "logits", dict(logits=[0, 0])),
    (td.returns_to_go, "reward", dict(reward=1.0)),
    (td.returns_to_go, "reward", dict(reward=np.zeros((1, 1, 1)))),
    (td.td_error, "value", dict(value=[1.0])),
    (td.td_error, "next_value", dict(next_value=[REWARD])),
    (td.n_step_return, "next_value", dict(next_value=[1.0])),
    (td.n_step_return, "reward", dict(reward=1.0)),
    (td.gae, "value", dict(value=[1.0])),
    (td.gae, "reward", dict(reward=1.0, value=1.0, next_value=1.0, terminated=0, truncated=0)),
    (td.td_lambda, "state", dict(state=[0, 1])),
    (td.td_lambda, "next_state", dict(next_state=[[0, 1, 0]])),
    (td.td_lambda, "value", dict(value=np.zeros((2, 2)))),
    (td.td_lambda, "value", dict(value=0.0)),
    (
        td.td_lambda,
        "value",
        {k: [STEPS[k][0]] for k in ("reward", "terminated")}
        | {k: [MOVES[k][0]] for k in MOVES}
        | dict(truncated=[CUT], value=np.zeros((2, 2))),
    ),
    (td.td_loss_gradient, "value", dict(value=HALF)),
    (td.td_loss_gradient, "state", dict(state=[0])),
    (td.td_loss_gradient, "weight", dict(weight=[0.5, 0.5])),
    (bounds.surrogate, "pi", dict(pi=[[0.5, 0.5]])),
    (bounds.surrogate, "pi_new", dict(pi_new=[[0.5, 0.5]])),
    (bounds.mixture, "pi_new", dict(pi_new=[[1.0], [1.0]])),
    (bounds.kl, "pi", dict(pi=[0.5, 0.5])),
    (cpi.greedy, "pi", dict(pi=[[1.0], [1.0]])),
    (exact_gradients.truncated_gradient, "logits", dict(logits=[[0, 1]])),
    (exact_gradients.trajectory_gradients, "logits", dict(logits=[0, 1])),
    (exact_gradients.trajectory_gradients, "state", dict(logits=[[0, 1]])),
    (exact_gradients.trajectory_gradients, "state", dict(walk=WALK._replace(state=[[0, 1]]))),
    (exact_gradients.trajectory_gradients, "action", dict(walk=WALK._replace(action=[[1, 2]]))),
    (exact_gradients.trajectory_gradients, "reward", dict(walk=WALK._replace(reward=[1.0, 2.0]))),
    (worlds.length_bandit, "lengths", dict(lengths=[1, 2, 3])),
    (worlds.make_env, "world", dict(world="TwoStates")),
]


@pytest.mark.parametrize("function, name, bad", SPECIAL, ids=lambda x: getattr(x, "__name__", None))
def test_shapes_that_do_not_fit_are_refused_by_name(function, name, bad):
    with pytest.raises(ValueError, match=rf"^{name}: expected .+, got .+"):
        call(function, **bad) if function in TABLE else function(**bad)


def test_the_table_covers_every_public_function_and_argument():
    """The outsider is Python's own list of what the modules define."""
    found = [
        f
        for module in (bounds, cpi, estimation, exact_gradients, td, worlds)
        for _, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and not f.__name__.startswith("_")
    ]
    found += [m for name, m in inspect.getmembers(M, inspect.ismethod) if not name.startswith("_")]
    found = {f for f in found if f not in (worlds.make_env, worlds.register_envs)} | {TabularMDP}
    assert found == set(TABLE)
    for f in found:
        assert set(inspect.signature(f).parameters) - FREE == set(TABLE[f]), f.__name__


def test_a_state_that_is_no_state_is_never_read_from_the_end():
    """-1 is a valid NumPy index, so nothing but the check would stop it."""
    with pytest.raises(ValueError, match="^next_state: "):
        td.td_lambda([0], [1.0], [-1], [0], [0], 0.9, 0.5, 0.1, [0.0, 0.0])


def test_open_ends_are_refused_and_shown_as_open():
    with pytest.raises(ValueError, match=r"^x: expected a number in \(0, 1\], got 0$"):
        validate.number("x", 0.0, 0, 1, open_low=True)
    assert validate.number("x", 1.0, 0, 1, open_low=True) == 1.0


def test_a_weight_too_large_for_a_float_is_refused():
    """1e-320 is a float; 1 / 1e-320 is not."""
    with pytest.raises(ValueError, match="^q: expected q > 0 wherever p > 0, got q = 9"):
        estimation.importance_weights([1.0], [1e-320])


def test_a_torch_tensor_is_an_array_unless_it_carries_a_gradient():
    torch = pytest.importorskip("torch")
    assert validate.array("x", torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="^x: expected real numbers"):
        validate.array("x", torch.tensor([1.0], requires_grad=True))
