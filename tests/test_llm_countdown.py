"""Expressions and Countdown problems against Python's own parser and a brute force over all results."""

import ast
import itertools
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_llm_tasks import chi_square, examples, rng

from rlbook.llm import countdown, tasks
from rlbook.llm.tasks import Problem

OPERATIONS = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}


def python_value(text):
    """The value by Python's parser, a Fraction; SyntaxError for what our grammar leaves out."""

    def worth(node):
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return Fraction(node.value)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return getattr(worth(node.left), OPERATIONS[type(node.op)])(worth(node.right))
        raise SyntaxError(type(node).__name__)

    if re.search(r"(?<![0-9])0[0-9]", text):  # Python reads 00 as 0
        raise SyntaxError("leading zero")
    return worth(ast.parse(text, mode="eval").body)


def all_values(numbers):
    """Every rational that uses all `numbers`: replace any two by any result, until one is left."""
    if len(numbers) == 1:
        return set(numbers)
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        for result in {a + b, a - b, a * b} | ({a / b} if b else set()):
            found |= all_values([*rest, result])
    return found


# The parser


@st.composite
def expressions(draw, depth=4):
    """Text with spare parentheses here and there."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        text = str(draw(st.integers(0, 30)))
    else:
        left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
        text = left + draw(st.sampled_from("+-*/")) + right
    return f"({text})" if draw(st.integers(0, 2)) == 0 else text


@examples
@given(expressions().filter(lambda text: len(text) <= countdown.LONGEST))
def test_values_are_those_of_python(text):
    tree = countdown.parse(text)
    assert countdown.numbers(tree) == [int(n) for n in re.findall("[0-9]+", text)]
    again = countdown.write(tree)
    assert countdown.numbers(countdown.parse(again)) == countdown.numbers(tree) and len(again) <= len(text)
    try:
        want = python_value(text)
    except ZeroDivisionError:
        for each in (tree, countdown.parse(again)):
            with pytest.raises(ZeroDivisionError):
                countdown.value(each)
    else:
        assert countdown.value(tree) == want == python_value(again) and type(want) is Fraction
        assert type(countdown.value(tree)) is Fraction


@settings(examples, max_examples=1000)
@given(st.text("0127+-*/()", max_size=9))
def test_our_grammar_accepts_what_python_s_does(text):
    try:
        python_value(text)
        valid = True
    except ZeroDivisionError:
        valid = True
    except SyntaxError:
        valid = False
    try:
        countdown.parse(text)
        ours = True
    except ValueError as error:
        ours = False
        assert str(error).startswith("text: expected")
    assert ours == valid


@pytest.mark.parametrize(
    "bad", ["+7", "-7", "7 ", "7**2", "7//2", "07", "007", "7.5", "", "()", "7(8)", "7)", "(7"]
)
def test_what_is_not_an_expression(bad):
    with pytest.raises(ValueError, match="text: expected"):
        countdown.parse(bad)


def test_the_length_limit_is_the_last_length_accepted():
    limit = "(" * 31 + "77" + ")" * 31
    assert len(limit) == countdown.LONGEST == 64 and countdown.parse(limit) == 77
    with pytest.raises(ValueError, match="at most 64 characters, got 65"):
        countdown.parse(limit.replace("77", "777"))


@pytest.mark.parametrize("tree, text", [
    (("-", 9, ("-", 5, 2)), "9-(5-2)"),
    (("-", ("-", 9, 5), 2), "9-5-2"),
    (("/", 12, ("*", 3, 2)), "12/(3*2)"),
    (("*", 3, ("/", 12, 2)), "3*12/2"),
    (("+", 3, ("-", 12, 2)), "3+12-2"),
    (("*", ("+", 1, 2), 3), "(1+2)*3"),
    (("+", 1, ("*", 2, 3)), "1+2*3"),
])  # fmt: skip
def test_writing_keeps_the_parentheses_that_matter(tree, text):
    assert countdown.write(tree) == text and countdown.value(tree) == python_value(text)


def test_nothing_is_ever_evaluated_by_python():
    for module in (tasks, countdown):
        nodes = ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not names & {"eval", "exec", "compile", "__import__", "globals", "locals"}


# Countdown's search


@pytest.mark.parametrize("seed", range(12))
def test_targets_need_all_the_numbers_by_brute_force(seed):
    """Two and three numbers: all such targets. Four: only targets that need four, none by fractions alone."""
    numbers = tuple(sorted(rng(seed).integers(1, 21, 2 + seed % 3).tolist()))
    parts = [p for k in range(1, len(numbers)) for p in itertools.combinations(numbers, k)]
    fewer = set().union(*(all_values([Fraction(n) for n in part]) for part in parts))
    whole = {int(v) for v in all_values([Fraction(n) for n in numbers]) - fewer if v in range(1, 100)}
    ours = set(countdown.needing_all(numbers, 99))
    assert ours and ours <= whole
    assert len(numbers) == 4 or ours == whole


def test_every_set_of_numbers_has_a_target():
    sets = [s for k in (2, 3) for s in itertools.combinations_with_replacement(range(1, 21), k)]
    assert len(sets) == 210 + 1540
    assert all(countdown.needing_all(s, 99) for s in sets)


def test_targets_that_only_fractions_reach_are_not_asked():
    assert 24 not in countdown.reachable((3, 3, 8, 8)) and 24 in all_values(list(map(Fraction, (3, 3, 8, 8))))


@pytest.mark.parametrize("level", [2, 3, 4])
def test_solutions_are_worth_the_target_by_python(level):
    task = tasks.get("countdown")
    for problem in task.generate(200, rng(), level):
        target = int(problem.prompt[:-1].split(">")[1])
        assert python_value(task.solution(problem)) == problem.answer == target


def test_countdown_draws_numbers_then_a_target_uniformly():
    """Level 2, all of its problems: 1/400 for each ordered pair, times one over its number of targets."""
    expected = Counter()
    for pair in itertools.product(range(1, 21), repeat=2):
        a, b = sorted(map(Fraction, pair))
        targets = {v for v in all_values([a, b]) if v in range(1, 100)} - {a, b}
        for target in targets:
            prompt = f"{a},{b}>{target}="
            if not tasks.is_held_out(prompt):
                expected[prompt] += 1 / len(targets)
    drawn = Counter(p.prompt for p in tasks.get("countdown").generate(12_000, rng(), 2))
    assert len(expected) > 400 and abs(chi_square(drawn, expected)) < 4


# Verdicts


def test_countdown_is_exact_and_names_a_division_by_zero():
    verify = tasks.get("countdown").verify
    assert verify(Problem("1,49,49>1=", 1, 3), "1/49*49", True) == (1.0, "right") and 1 / 49 * 49 != 1
    assert verify(Problem("3,3,8,8>24=", 24, 4), "8/(3-8/3)", True) == (1.0, "right")
    assert verify(Problem("3,3,5>5=", 5, 3), "5/(3-3)", True) == (0.0, "division by zero")
    assert verify(Problem("1,3,3,5>0=", 0, 4), "(3-3)*5/1", True) == (1.0, "right")
    assert verify(Problem("3,7>7=", 7, 2), "7", True) == (1.0, "right")  # fewer numbers will do
