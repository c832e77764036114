"""Verifiable tasks for small language models: prompts, perfect solutions, verifiers that say why.

| task      | prompt      | a solution      | level          | right when, and the end token came        |
| --------- | ----------- | --------------- | -------------- | ----------------------------------------- |
| addition  | `579+483=`  | `21,61,01;1062` | digits, 1-5    | the text after the last `;` is the sum    |
| tally     | `7+5+9=`    | `7,2,1;1`       | digits, 2-10   | after the last `;`: the sum modulo 10     |
| countdown | `3,7,8>35=` | `7*(8-3)`       | numbers, 2-4   | the whole text is worth 35; each number   |
|           |             |                 |                | is used at most once                      |

Numbers are written in ASCII digits without a leading zero, sign or space; anything else is "not a
number". What stands before the last `;` is never read: a guess earns as much as a proof.

One problem in five is held out: SHA-256 of the prompt, its summands sorted, decides. `generate`
draws from the rest only; `python -m rlbook.llm.tasks` draws `data/problems/*.json` from the fifth.
"""

import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from rlbook import validate
from rlbook.llm import countdown

ALPHABET = "0123456789+-*/()=,;:>"  # every character of every task
STYLES = ("direct", "once", "twice")  # how a tally's solution is written
LARGEST_NUMBER, LARGEST_TARGET = 20, 99  # of countdown
HELD_OUT_SHARE = 5  # one problem in five
HELD_OUT_SIZE = 200  # problems a level, fewer where fewer exist


@dataclass(frozen=True)
class Problem:
    """A prompt, the number the verifier compares with, and the level (how hard it is)."""

    prompt: str
    answer: object
    level: int


@dataclass(frozen=True)
class Task:
    """A family of problems. Lengths are in characters; `max_completion` counts the end token.

    draw(rng, level) -> Problem              any problem of the level, held out or not
    solution(problem) -> str                 what a perfect guide writes, without the end token
    verify(problem, text, ended) -> (reward, reason)     1.0 and "right", or 0.0 and why not
    """

    name: str
    levels: tuple[int, ...]
    max_prompt: int
    max_completion: int
    draw: Callable = field(repr=False)
    solution: Callable = field(repr=False)
    verify: Callable = field(repr=False)

    def generate(self, n, rng, levels=None):
        """`n` problems that are not held out; each level in `levels` (default: all) is equally likely."""
        n, levels = validate.integer("n", n), self.check_levels(levels)
        if not isinstance(rng, np.random.Generator):
            raise ValueError(f"rng: expected a numpy Generator, got {type(rng).__name__}")
        return [self._side(rng, level, False) for level in rng.choice(levels, n).tolist()]

    def check_levels(self, levels=None):
        """`levels`, a number or several, as a sorted list without repeats; None means all."""
        wanted = self.levels if levels is None else np.atleast_1d(levels).tolist()
        unknown = [level for level in wanted if level not in self.levels]
        if unknown or not wanted:
            got = repr(unknown[0]) if unknown else "none"
            raise ValueError(f"levels: expected some of {self.levels} for {self.name}, got {got}")
        return sorted({int(level) for level in wanted})

    def _side(self, rng, level, held):
        """A problem of the level that is held out, or one that is not."""
        while True:
            problem = self.draw(rng, level)
            if is_held_out(problem.prompt) == held:
                return problem


def is_held_out(prompt):
    """Whether the prompt belongs to the held-out fifth: the same everywhere and for any order of summands."""
    key = "+".join(sorted(prompt.removesuffix("=").split("+")))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % HELD_OUT_SHARE == 0


def get(name):
    """The task called `name`."""
    if name not in TASKS:
        raise ValueError(f"name: expected one of {', '.join(TASKS)}, got {name!r}")
    return TASKS[name]


def _numbers(problem, form, example):
    """The numbers in a prompt of this form."""
    if not re.fullmatch(form, problem.prompt):
        raise ValueError(f"prompt: expected a form such as {example}, got {problem.prompt!r}")
    return [int(number) for number in re.findall(r"[0-9]+", problem.prompt)]


def _draw_addition(rng, level):
    low = 10 ** (level - 1) if level > 1 else 0
    a, b = rng.integers(low, 10**level, 2).tolist()
    return Problem(f"{a}+{b}=", a + b, level)


def _solve_addition(problem):
    """Digit and carry of each column from the lowest, `;`, the sum: 579+483= gives 21,61,01;1062."""
    a, b = _numbers(problem, r"[0-9]+\+[0-9]+=", "579+483=")
    total, carry, columns = a + b, 0, []
    while a or b or not columns:
        carry, digit = divmod(a % 10 + b % 10 + carry, 10)
        columns.append(f"{digit}{carry}")
        a, b = a // 10, b // 10
    return f"{','.join(columns)};{total}"


def _draw_tally(rng, level):
    digits = rng.integers(0, 10, level).tolist()
    return Problem("+".join(map(str, digits)) + "=", sum(digits) % 10, level)


def _solve_tally(problem, style="once"):
    """7+5+9= gives ;1 (direct), 7,2,1;1 (once) or 7,2,1:7,2,1;1 (twice)."""
    if style not in STYLES:
        raise ValueError(f"style: expected one of {', '.join(STYLES)}, got {style!r}")
    digits = _numbers(problem, r"[0-9]+(\+[0-9]+)*=", "7+5+9=")
    tallies = [total % 10 for total in accumulate(digits)]
    line = ",".join(map(str, tallies))
    return ":".join([line] * STYLES.index(style)) + f";{tallies[-1]}"


def _after_semicolon(wrong):
    """The verifier that compares what follows the last `;` and calls another number `wrong`."""

    def verify(problem, text, ended):
        _, semicolon, answer = text.rpartition(";")
        if not ended:
            return 0.0, "no end token"
        if not semicolon or not answer:
            return 0.0, "no answer"
        if not re.fullmatch(r"0|[1-9][0-9]*", answer):
            return 0.0, "not a number"
        return (1.0, "right") if answer == str(problem.answer) else (0.0, wrong)

    return verify


def _given(problem):
    """The numbers of a countdown prompt, a sorted tuple."""
    *given, _ = _numbers(problem, r"[0-9]+(,[0-9]+)*>[0-9]+=", "3,7,8>35=")
    return tuple(sorted(given))


def _draw_countdown(rng, level):
    """Sorted numbers, each uniform in 1-20; a target up to 99, uniform among those that need them all."""
    given = tuple(sorted(rng.integers(1, LARGEST_NUMBER + 1, level).tolist()))
    target = int(rng.choice(countdown.needing_all(given, LARGEST_TARGET)))
    return Problem(f"{','.join(map(str, given))}>{target}=", target, level)


def _solve_countdown(problem):
    """An expression worth the target that uses every number once, its steps whole and above 0."""
    found = countdown.reachable(_given(problem))
    if problem.answer not in found:
        raise ValueError(f"prompt: expected a target that all the numbers reach, got {problem.prompt!r}")
    return countdown.write(found[problem.answer])


def _verify_countdown(problem, text, ended):
    """A number used more often than it is given counts as one that is not there."""
    if not ended:
        return 0.0, "no end token"
    if not text:
        return 0.0, "no answer"
    try:
        tree = countdown.parse(text)
    except ValueError:
        return 0.0, "not an expression"
    if Counter(countdown.numbers(tree)) - Counter(_given(problem)):
        return 0.0, "uses a number that is not there"
    try:
        right = countdown.value(tree) == problem.answer
    except ZeroDivisionError:
        return 0.0, "division by zero"
    return (1.0, "right") if right else (0.0, "wrong value")


ADDITION = Task(
    name="addition",
    levels=(1, 2, 3, 4, 5),
    max_prompt=12,  # 99999+99999=
    max_completion=22,
    draw=_draw_addition,
    solution=_solve_addition,
    verify=_after_semicolon("wrong sum"),
)
TALLY = Task(
    name="tally",
    levels=tuple(range(2, 11)),
    max_prompt=20,
    max_completion=42,  # ten digits twice
    draw=_draw_tally,
    solution=_solve_tally,
    verify=_after_semicolon("wrong tally"),
)
COUNTDOWN = Task(
    name="countdown",
    levels=(2, 3, 4),
    max_prompt=15,  # 20,20,20,20>99=
    max_completion=20,  # 16 hold every solution; the rest is room for needless parentheses
    draw=_draw_countdown,
    solution=_solve_countdown,
    verify=_verify_countdown,
)
TASKS = {task.name: task for task in (ADDITION, TALLY, COUNTDOWN)}


def held_out(name, levels=None):
    """The shipped held-out problems of a task, of the given levels (default: all)."""
    levels = get(name).check_levels(levels)
    places = [Path(__file__).resolve().parents[2], Path.cwd()]
    files = [place / "data" / "problems" / f"{name}.json" for place in places]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        raise ValueError(f"name: no {files[0]} or {files[1]}; run this inside the project's folder")
    problems = [Problem(**row) for row in json.loads(path.read_text(encoding="utf-8"))["problems"]]
    return [problem for problem in problems if problem.level in levels]


def make_held_out(name, seed=0):
    """Up to HELD_OUT_SIZE different held-out problems of each level, sorted by level."""
    task, problems = get(name), {}
    for level in task.levels:
        rng, chosen = np.random.default_rng([seed, level]), {}
        for _ in range(20 * HELD_OUT_SIZE):  # enough to find every problem of a small level
            problem = task._side(rng, level, True)
            chosen[problem.prompt] = problem
            if len(chosen) == HELD_OUT_SIZE:
                break
        problems |= chosen
    return list(problems.values())


def main(argv=None):
    """Write the held-out problems of every task."""
    parser = argparse.ArgumentParser(prog="python -m rlbook.llm.tasks", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/problems"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        rows = ",\n".join(json.dumps(asdict(problem)) for problem in make_held_out(name, args.seed))
        head = f'"task": "{name}", "seed": {args.seed}, "problems"'
        (args.out / f"{name}.json").write_text(f"{{{head}: [\n{rows}\n]}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
