"""The tasks against hand-written examples, exhaustive counts and `sha256sum`."""

import itertools
import json
import re
import shutil
import string
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlbook.llm import countdown, tasks
from rlbook.llm.tasks import Problem

examples = settings(max_examples=200, deadline=None, derandomize=True)
ROOT = Path(__file__).parents[1]
ADDITION, TALLY = Problem("579+483=", 1062, 3), Problem("7+5+9=", 1, 3)
COUNTDOWN = Problem("3,7,8>35=", 35, 3)
HAND = {"addition": ADDITION, "tally": TALLY, "countdown": COUNTDOWN}
HASHED = {  # prompt: the first 8 bytes that `printf %s "483+579" | sha256sum` prints
    "579+483=": "0f6db359701aca9a",
    "9+8=": "bf8176563a1991b9",
    "4+5=": "ffdeb24e8d894df9",
    "9+3=": "b6a1618eba1f738f",
    "2+7=": "084fe57e75153142",
    "250+100=": "654be2ab9a5506e6",
    "1,3>4=": "8bae2917429929b0",
    "10,10>20=": "c064f05309542895",
    "12,15>3=": "8ea2615bdaf72bc7",
}


def rng(seed=0):
    return np.random.default_rng(seed)


def each_level():
    return [(name, level) for name, task in tasks.TASKS.items() for level in task.levels]


def verdict(name, text, ended=True):
    return tasks.get(name).verify(HAND[name], text, ended)


def chi_square(observed, expected):
    """Pearson's sum as a normal score (Wilson and Hilferty's cube root): within 4 if the law is right."""
    assert set(observed) <= set(expected)
    scale = sum(observed.values()) / sum(expected.values())
    terms = [(observed[key] - scale * e) ** 2 / (scale * e) for key, e in expected.items()]
    spread = 2 / (9 * (len(terms) - 1))
    return ((sum(terms) / (len(terms) - 1)) ** (1 / 3) - (1 - spread)) / np.sqrt(spread)


# Solutions and lengths


@pytest.mark.parametrize(
    "prompt, solution",
    [
        ("579+483=", "21,61,01;1062"),
        ("0+0=", "00;0"),
        ("9+9=", "81;18"),
        ("10+10=", "00,20;20"),
        ("99999+99999=", "81,91,91,91,91;199998"),
        ("99+1=", "01,01;100"),  # unequal lengths: the shorter number has zeros in front
    ],
)
def test_addition_writes_digit_and_carry_of_each_column(prompt, solution):
    assert tasks.get("addition").solution(Problem(prompt, 0, 1)) == solution


def test_tally_has_three_styles_of_very_different_length():
    solution = tasks.get("tally").solution
    assert [solution(TALLY, style=s) for s in tasks.STYLES] == [";1", "7,2,1;1", "7,2,1:7,2,1;1"]
    assert solution(TALLY) == "7,2,1;1"
    longest = Problem("+".join("9" * 10) + "=", 0, 10)
    lengths = [len(solution(longest, style=s)) + 1 for s in tasks.STYLES]
    assert lengths == [3, 22, 42]


@examples
@given(st.sampled_from(each_level()), st.integers(0, 10**6))
def test_every_solution_is_right_fits_and_stays_in_the_alphabet(which, seed):
    task = tasks.get(which[0])
    (problem,) = task.generate(1, rng(seed), levels=which[1])
    styles = [{"style": s} for s in tasks.STYLES] if task.name == "tally" else [{}]
    for style in styles:
        text = task.solution(problem, **style)
        assert task.verify(problem, text, True) == (1.0, "right")
        assert task.verify(problem, text, False) == (0.0, "no end token")
        assert len(text) + 1 <= task.max_completion
        assert set(problem.prompt + text) <= set(tasks.ALPHABET)
    assert len(problem.prompt) <= task.max_prompt and problem.level == which[1]


def test_limits_are_those_of_the_longest_problem():
    addition, tally, game = (tasks.get(name) for name in tasks.TASKS)
    assert (addition.max_prompt, addition.max_completion) == (len("99999+99999="), 5 * 2 + 4 + 1 + 6 + 1)
    assert (tally.max_prompt, tally.max_completion) == (10 + 9 + 1, 19 + 1 + 19 + 1 + 1 + 1)
    assert game.max_prompt == len("20,20,20,20>99=")
    # four numbers of two digits, three operators, two pairs of parentheses, the end token
    assert 4 * 2 + 3 + 2 * 2 + 1 <= game.max_completion
    sets = itertools.combinations_with_replacement((10, 12, 13, 17, 20), 4)
    longest = max(len(countdown.write(t)) for s in sets for t in countdown.reachable(s).values())
    assert longest == 4 * 2 + 3 + 2 * 2


def test_the_alphabet_holds_each_character_once():
    assert len(set(tasks.ALPHABET)) == len(tasks.ALPHABET) == 21


# Verdicts


@pytest.mark.parametrize(
    "name, text, reason",
    [
        ("addition", "21,61,01;1062", "right"),
        ("addition", ";1062", "right"),  # nothing in front is read,
        ("addition", "junk!;1062", "right"),  # wrong or not,
        ("addition", "21;1063;1062", "right"),  # and only the last ; counts
        ("addition", "21;1062;1063", "wrong sum"),
        ("addition", "21,61,01;62", "wrong sum"),
        ("addition", "21,61,01", "no answer"),
        ("addition", "1062", "no answer"),
        ("addition", "", "no answer"),
        ("addition", "21,61,01;1062;", "no answer"),
        ("addition", "21,61,01;10=62", "not a number"),
        ("tally", "7,2,1;1", "right"),
        ("tally", "9,9;1", "right"),
        ("tally", "7,2,1;21", "wrong tally"),
        ("tally", "7,2,1", "no answer"),
        ("tally", "7,2,1;:", "not a number"),
        ("countdown", "7*(8-3)", "right"),
        ("countdown", "((7)*((8)-3))", "right"),
        ("countdown", "", "no answer"),
        ("countdown", "7*(8-3", "not an expression"),
        ("countdown", ";7*(8-3)", "not an expression"),
        ("countdown", "35", "uses a number that is not there"),
        ("countdown", "7*5", "uses a number that is not there"),
        ("countdown", "7*(8-3)*7/7", "uses a number that is not there"),  # 7 is given once
        ("countdown", "78", "uses a number that is not there"),  # digits are not glued
        ("countdown", "3/(8-8)", "uses a number that is not there"),
        ("countdown", "7*8-3", "wrong value"),
        ("countdown", "7*3+8/3", "uses a number that is not there"),
        ("countdown", "8", "wrong value"),
        ("countdown", "8/3", "wrong value"),
    ],
)
def test_verdict_by_hand(name, text, reason):
    assert verdict(name, text) == (float(reason == "right"), reason)
    assert verdict(name, text, ended=False) == (0.0, "no end token")


@pytest.mark.parametrize("name", ["addition", "tally"])
@pytest.mark.parametrize(
    "form", ["0{}", "00{}", "+{}", "-{}", " {}", "{} ", "{}\n", "{}.0", "{}e0", "1_{}", "={}", "{}=", "({})"]
)
def test_a_number_has_one_spelling(name, form):
    assert verdict(name, ";" + form.format(HAND[name].answer)) == (0.0, "not a number")


@pytest.mark.parametrize("digits", ["٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "⁰¹²³⁴⁵⁶⁷⁸⁹"])
def test_only_ascii_digits_are_digits(digits):
    """int("٣") is 3 in Python, and "²".isdigit() is True."""

    def foreign(text):
        return text.translate(str.maketrans("0123456789", digits))

    assert verdict("addition", ";" + foreign("1062")) == (0.0, "not a number")
    assert verdict("addition", ";1" + foreign("062")) == (0.0, "not a number")
    assert verdict("tally", ";" + foreign("1")) == (0.0, "not a number")
    assert verdict("countdown", "7*(8-3)*1" + foreign("2")) == (0.0, "not an expression")
    assert verdict("countdown", foreign("7*(8-3)")) == (0.0, "not an expression")


@examples
@given(
    st.sampled_from(sorted(HAND)),
    st.one_of(st.text(), st.text(tasks.ALPHABET), st.text("378+-*/()", max_size=70), st.binary()),
    st.booleans(),
)
def test_no_text_raises(name, text, ended):
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    reward, reason = verdict(name, text, ended)
    assert reward == float(reason == "right") and isinstance(reward, float)
    assert ended or reason == "no end token"


@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 10_000,
        ")" * 10_000,
        "-" * 10_000,
        "(" * 5_000 + "7" + ")" * 5_000,
        "3" + "+3" * 5_000,
        "7" * 9_999,
    ]
    + ["7*" * 10_000, "((((" * 16, "(" * 31 + "3-" + ")" * 31],
)
def test_hostile_texts_get_a_reason(hostile):
    assert verdict("countdown", hostile) == (0.0, "not an expression")
    assert verdict("addition", ";" + hostile)[1] in (
        "not a number",
        "wrong sum",
    )  # int() stops at 4300 digits


# Generation


def test_seeds_repeat_and_differ():
    for task in tasks.TASKS.values():
        assert task.generate(20, rng(1)) == task.generate(20, rng(1)) != task.generate(20, rng(2))


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_levels_are_equally_likely(name):
    task = tasks.get(name)
    drawn = Counter(p.level for p in task.generate(3000, rng()))
    assert abs(chi_square(drawn, dict.fromkeys(task.levels, 1))) < 4
    some = Counter(p.level for p in task.generate(400, rng(), levels=[4, 2, 4]))
    assert set(some) == {2, 4} and abs(some[2] - 200) < 4 * 10


@pytest.mark.parametrize("name, level", [("addition", 1), ("tally", 2)])
def test_two_digits_are_uniform_over_what_is_not_held_out(name, level):
    every = {f"{a}+{b}=": 1 for a in range(10) for b in range(10) if not tasks.is_held_out(f"{a}+{b}=")}
    drawn = Counter(p.prompt for p in tasks.get(name).generate(8000, rng(), level))
    assert abs(chi_square(drawn, every)) < 4


@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_operands_have_exactly_the_level_s_digits_and_are_uniform(level):
    """Their first and last digits. At level 2 the held-out fifth is small enough to tilt them: counted."""
    problems = tasks.get("addition").generate(4000, rng(), level)
    pairs = list(itertools.product(range(10, 100), repeat=2))
    left = [pair for pair in pairs if not tasks.is_held_out("{}+{}=".format(*pair))] if level == 2 else pairs
    for i in (0, 1):
        operands = [int(p.prompt[:-1].split("+")[i]) for p in problems]
        assert min(operands) >= 10 ** (level - 1) and max(operands) < 10**level
        for digit in (0, -1):
            drawn = Counter(str(n)[digit] for n in operands)
            assert abs(chi_square(drawn, Counter(str(pair[i])[digit] for pair in left))) < 4


def test_tally_draws_every_digit_alike_in_every_place():
    problems = tasks.get("tally").generate(4000, rng(), 7)
    for place in zip(*(p.prompt[:-1].split("+") for p in problems), strict=True):
        assert abs(chi_square(Counter(place), dict.fromkeys(string.digits, 1))) < 4


# The held-out fifth


def test_the_hash_is_sha256_of_the_prompt_with_sorted_summands():
    """First 8 bytes modulo 5 of what `sha256sum` prints."""
    assert [tasks.is_held_out(p) for p in HASHED] == [int(h, 16) % 5 == 0 for h in HASHED.values()]
    assert any(map(tasks.is_held_out, HASHED)) and not all(map(tasks.is_held_out, HASHED))


@examples
@given(st.lists(st.integers(0, 999), min_size=2, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_summands_does_not_move_a_problem_across(summands, shuffler):
    prompt = "+".join(map(str, summands)) + "="
    shuffler.shuffle(summands)
    assert tasks.is_held_out(prompt) == tasks.is_held_out("+".join(map(str, summands)) + "=")


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_generated_and_shipped_problems_are_disjoint(name):
    shipped = {p.prompt for p in tasks.held_out(name)}
    drawn = {p.prompt for p in tasks.get(name).generate(5000, rng())}
    assert all(map(tasks.is_held_out, shipped)) and not any(map(tasks.is_held_out, drawn))
    assert not shipped & drawn and len(shipped) == len(tasks.held_out(name))


def test_small_levels_are_split_completely():
    every = {f"{a}+{b}=" for a in range(10) for b in range(10)}
    for name, level in (("addition", 1), ("tally", 2)):
        drawn = {p.prompt for p in tasks.get(name).generate(3000, rng(), level)}
        assert drawn | {p.prompt for p in tasks.held_out(name, level)} == every


def test_a_fifth_is_held_out():
    task = tasks.get("addition")
    held = sum(tasks.is_held_out(task.draw(stream, 4).prompt) for stream in [rng()] for _ in range(10_000))
    assert abs(held - 2000) < 4 * 40  # sqrt(10000 * .2 * .8) = 40


# The shipped files


def test_shipped_files_are_what_the_module_makes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks.main([])
    shipped = sorted((ROOT / "data" / "problems").iterdir())
    assert [p.name for p in shipped] == sorted(f"{name}.json" for name in tasks.TASKS)
    for path in shipped:
        assert path.read_bytes() == (tmp_path / "data" / "problems" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_shipped_problems_are_sound(name):
    task = tasks.get(name)
    content = json.loads((ROOT / "data" / "problems" / f"{name}.json").read_text())
    assert (content["task"], content["seed"], sorted(content)) == (name, 0, ["problems", "seed", "task"])
    problems = tasks.held_out(name)
    assert [p.__dict__ for p in problems] == content["problems"]
    for p in problems:
        if name == "countdown":
            given, target = p.prompt[:-1].split(">")
            assert (p.answer, p.level) == (int(target), len(given.split(","))) and 1 <= p.answer <= 99
            assert sorted(map(int, re.findall("[0-9]+", task.solution(p)))) == [*map(int, given.split(","))]
        else:
            summands = p.prompt[:-1].split("+")
            total = sum(map(int, summands))
            assert p.answer == (total if name == "addition" else total % 10)
            assert p.level == (len(summands[0]) if name == "addition" else len(summands))
        assert task.verify(p, task.solution(p), True) == (1.0, "right")


def test_counts_of_shipped_problems_and_choice_of_levels():
    counts = {name: Counter(p.level for p in tasks.held_out(name)) for name in tasks.TASKS}
    assert counts["addition"] == {1: 23, 2: 200, 3: 200, 4: 200, 5: 200}
    assert counts["tally"] == {2: 23, 3: 190, **dict.fromkeys(range(4, 11), 200)}
    assert counts["countdown"] == {2: 104, 3: 200, 4: 200}
    assert {p.level for p in tasks.held_out("addition", levels=(2, 3))} == {2, 3}


def test_held_out_problems_are_found_beside_the_package_or_here(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "__file__", str(tmp_path / "lib" / "rlbook" / "llm" / "tasks.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="tally.json; run this inside the project's folder"):
        tasks.held_out("tally")
    shutil.copytree(ROOT / "data" / "problems", tmp_path / "data" / "problems")
    assert len(tasks.held_out("tally", 2)) == 23
    (tmp_path / "lib").mkdir()
    (tmp_path / "data").rename(tmp_path / "lib" / "data")
    assert len(tasks.held_out("tally", 2)) == 23


# Bad input


@pytest.mark.parametrize("call, message", [
    (lambda: tasks.get("sums"), "name: expected one of addition, tally, countdown, got 'sums'"),
    (lambda: tasks.held_out("sums"), "name: expected one of"),
    (lambda: tasks.held_out("tally", 1), r"levels: expected some of \(2, .*\) for tally, got 1"),
    (lambda: tasks.get("addition").generate(0, rng()), "n: expected a number in"),
    (lambda: tasks.get("addition").generate(1.5, rng()), "n: expected a whole number"),
    (lambda: tasks.get("addition").generate(1, 0), "rng: expected a numpy Generator, got int"),
    (lambda: tasks.get("addition").generate(1, rng(), 6), r"levels: .*\(1, 2, 3, 4, 5\) for addition, got 6"),
    (lambda: tasks.get("addition").generate(1, rng(), [1, "2"]), "levels: expected some of"),
    (lambda: tasks.get("addition").generate(1, rng(), []), "levels: .* got none"),
    (lambda: tasks.get("tally").solution(TALLY, style="thrice"), "style: expected one of direct, once, tw"),
    (lambda: tasks.get("tally").solution(COUNTDOWN), r"prompt: .* such as 7\+5\+9=, got .3,7,8>35="),
    (lambda: tasks.get("addition").solution(TALLY), r"prompt: .* such as 579\+483=, got .7\+5\+9=."),
    (lambda: tasks.get("countdown").solution(TALLY), "prompt: .* such as 3,7,8>35="),
    (lambda: tasks.get("countdown").verify(TALLY, "7", True), "prompt: .* such as 3,7,8>35="),
    (lambda: tasks.get("countdown").solution(Problem("3,7>50=", 50, 2)), "target that all the numbers reach"),
])  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
