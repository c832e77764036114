"""Exercises that know right from wrong, checks of the book's equations, predictions, the report.

An exercise is a function in `rlbook/exercises/` that probes a reader's answer and raises `Wrong`.
Its oracles are numbers worked out by hand, enumeration, or properties, never the reference
solution; a wrong number that a known mistake would give names that mistake.
"""

import copy
import json
import os
import re
from dataclasses import dataclass
from importlib import import_module

import numpy as np

_exercises = {}  # id -> Exercise, filled as the chapters' modules load
_verdicts = {}  # id -> Verdict of the last check
_guesses = {}  # id -> what the reader predicted (None: nothing)
_revealed = set()


class Wrong(AssertionError):
    """An answer is wrong: what was seen, and the name of the mistake where it is a known one."""

    def __init__(self, message, mistake=None):
        super().__init__(message)
        self.mistake = mistake


class NotAttempted(Exception):
    """The stub is still in place."""


@dataclass(frozen=True)
class Exercise:
    """One exercise: its id ("1a.2"), a title, the variable that holds the answer, and its probe."""

    id: str
    title: str
    answer: str
    probe: object


@dataclass(frozen=True)
class Verdict:
    """state is "PASS", "TODO" or "FAIL"; mistake is the name of a recognised mistake, or None."""

    state: str
    message: str = ""
    mistake: str | None = None


def exercise(id, title, answer):
    """Decorator: register a probe as exercise `id`; `answer` names the variable the reader fills."""

    def register(probe):
        if id in _exercises:
            raise ValueError(f"id: exercise {id!r} is registered twice")
        _exercises[id] = Exercise(id, title, answer, probe)
        return probe

    return register


def attempt(answer, *args):
    """Call a reader's function on copies of args; a stub (returns None or ...) counts as not attempted."""
    if answer is None or answer is ...:
        raise NotAttempted
    if not callable(answer):
        raise Wrong(f"expected a function, got {type(answer).__name__}")
    try:
        got = answer(*copy.deepcopy(args))
    except NotImplementedError:
        raise NotAttempted from None
    if got is None or got is ...:
        raise NotAttempted
    return got


def expect(got, want, given, mistakes=None, atol=1e-9):
    """Raise `Wrong` unless got equals want (an array or number) in shape and to `atol`.

    given: the inputs in words. mistakes: {name: (wrong value, hint)}; the first one whose value the
    answer shows names the failure. A plain answer that is None or ... counts as not attempted.
    """
    if got is None or got is ...:
        raise NotAttempted
    want = np.asarray(want, dtype=float)
    try:
        found = np.asarray(got, dtype=float)
    except (TypeError, ValueError):
        raise Wrong(f"{given}: expected {_text(want)}, got {type(got).__name__} {got!r:.60}") from None
    if _equal(found, want, atol):
        return
    seen = f"{given}: expected {_text(want)}, got {_text(found)}"
    for name, (value, hint) in (mistakes or {}).items():
        if _equal(found, np.asarray(value, dtype=float), atol):
            raise Wrong(f"{seen}. {hint}", name)
    if found.shape != want.shape:
        seen = f"{given}: expected shape {want.shape}, got {found.shape}"
    raise Wrong(seen)


def choose(got, right, wrong):
    """Raise `Wrong` unless got is the option `right`; wrong: {option: (mistake, hint)}."""
    if got is None or got is ...:
        raise NotAttempted
    if got == right:
        return
    if not isinstance(got, str) or got not in wrong:
        raise Wrong(f"expected one of {', '.join(sorted([right, *wrong]))}, got {got!r:.60}")
    mistake, hint = wrong[got]
    raise Wrong(f"not {got}. {hint}", mistake)


def get(id):
    """The exercise `id`, from the module of its chapter; ValueError if there is none."""
    found = re.fullmatch(r"(\d+)([a-z]?)\.\d+", str(id))
    if found:
        module = f"rlbook.exercises.ch{int(found[1]):02d}{found[2]}"
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    if id not in _exercises:
        raise ValueError(f"id: expected the number of an exercise such as '1a.2', got {id!r}")
    return _exercises[id]


def judge(id, answer):
    """The `Verdict` on an answer. Whatever the answer does, this returns."""
    try:
        get(id).probe(answer)
    except NotAttempted:
        return Verdict("TODO")
    except Wrong as wrong:
        return Verdict("FAIL", str(wrong), wrong.mistake)
    except Exception as error:  # a reader's code may raise anything
        return Verdict("FAIL", f"your answer raised {type(error).__name__}: {error}")
    return Verdict("PASS")


def check(id, answer):
    """Print PASS, TODO or FAIL with the mistake that was recognised. Raises only if RLBOOK_STRICT=1."""
    verdict = _verdicts[id] = judge(id, answer)
    title = get(id).title
    if verdict.state == "FAIL":
        name = f" ({verdict.mistake})" if verdict.mistake else ""
        line = f"FAIL {id}: {verdict.message}{name}"
    else:
        line = f"{verdict.state} {id} {title}"
    print(" ".join(line.split()))
    _record("check", id, verdict.state, verdict.mistake)
    if verdict.state != "PASS" and os.environ.get("RLBOOK_STRICT") == "1":
        raise AssertionError(line)


def use(id, answer, reference):
    """The answer if it passes its check, else the reference, so that later cells always run."""
    return answer if judge(id, answer).state == "PASS" else reference


def predict(id, guess, options):
    """Record a guess before the reveal. guess None: not made yet. options: {key: text}."""
    if guess is not None and guess not in options:
        print(f"Prediction {id}: {guess!r} is not one of {', '.join(options)}.")
        return
    if id in _revealed:
        print(f"Prediction {id}: the answer is already out; your first guess stands.")
        return
    _guesses[id] = guess
    _record("predict", id, guess)
    if guess is None:
        print(f"Prediction {id}: none yet. Put one of {', '.join(map(repr, options))} in place of None.")
    else:
        print(f"Prediction {id}: {guess}) {options[guess]}")


def reveal(id, answer):
    """Say what came out, beside what the reader predicted."""
    guess = _guesses.get(id)
    _revealed.add(id)
    _record("reveal", id, answer)
    told = "you made none" if guess is None else f"you said {guess}"
    print(f"Prediction {id}: {told}; it is {answer}.")


def verify(label, got, want, atol=1e-12):
    """Assert that an identity of the book holds, and print the label with the bound it met."""
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    if got.shape != want.shape:
        raise AssertionError(f"{label}: shapes {got.shape} and {want.shape}")
    worst = float(np.max(np.abs(got - want)))
    if not worst <= atol:
        raise AssertionError(f"{label}: the two sides differ by {worst:.3g}, more than {atol:g}")
    print(f"ok  {label}  (to {atol:g})")


def claim(text, holds):
    """Assert a statement about an experiment; in smoke mode sizes are minimal and it is only printed."""
    if os.environ.get("RLBOOK_MODE") == "smoke":
        print(f"--  {text}  (not asserted in smoke mode)")
        return
    if not holds:
        raise AssertionError(f"claim does not hold: {text}")
    print(f"ok  {text}")


def report():
    """Print how the exercises and predictions of this notebook stand."""
    states = [verdict.state for verdict in _verdicts.values()]
    made = sum(guess is not None for guess in _guesses.values())
    print(
        f"Exercises: {states.count('PASS')} pass, {states.count('FAIL')} fail, {states.count('TODO')} to do."
    )
    print(f"Predictions: {made} of {len(_guesses)} made.")


def _equal(a, b, atol):
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=0, atol=atol))


def _text(x):
    return np.array2string(x, precision=6, suppress_small=True, threshold=20, separator=", ")


def _record(kind, id, value, mistake=None):
    path = os.environ.get("RLBOOK_RECORD")  # a class may collect predictions and checks in one file
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "id": id, "value": str(value), "mistake": mistake}) + "\n")
