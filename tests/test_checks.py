"""The exercise machinery: three states, named mistakes, fallback, predictions, report."""

import json

import numpy as np
import pytest

from rlbook import checks


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test starts with no verdicts, no predictions, and one extra exercise, 99.1: double a number."""
    for name in ("_verdicts", "_guesses"):
        monkeypatch.setattr(checks, name, {})
    monkeypatch.setattr(checks, "_revealed", set())
    monkeypatch.setattr(checks, "_exercises", dict(checks._exercises))
    monkeypatch.delenv("RLBOOK_STRICT", raising=False)
    monkeypatch.delenv("RLBOOK_RECORD", raising=False)

    @checks.exercise("99.1", "Double it", answer="double")
    def probe(answer):
        checks.expect(
            checks.attempt(answer, np.array([1.0, 3.0])),
            [2.0, 6.0],
            "x = (1, 3)",
            mistakes={
                "squares": ([1.0, 9.0], "Twice, not squared."),
                "sums": (8.0, "One number for each x."),
            },
        )


def double(x):
    return 2 * x


def stub(x): ...


def unfinished(x):
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "state", "mistake"),
    [
        (double, "PASS", None),
        (stub, "TODO", None),
        (unfinished, "TODO", None),
        (None, "TODO", None),
        (..., "TODO", None),
        (lambda x: x**2, "FAIL", "squares"),
        (lambda x: 2 * x.sum(), "FAIL", "sums"),
        (lambda x: -2 * x, "FAIL", None),
        (lambda x: 2 * x[:1], "FAIL", None),
        (lambda x: np.full(2, np.nan), "FAIL", None),
        (lambda x: "six", "FAIL", None),
        (lambda x: 1 / 0, "FAIL", None),
        (lambda: 3, "FAIL", None),
        (7, "FAIL", None),
    ],
)
def test_every_answer_gets_one_of_three_states(answer, state, mistake):
    verdict = checks.judge("99.1", answer)
    assert (verdict.state, verdict.mistake) == (state, mistake)


def test_a_named_mistake_is_printed_with_the_inputs_and_the_hint(capsys):
    checks.check("99.1", lambda x: x**2)
    assert capsys.readouterr().out == (
        "FAIL 99.1: x = (1, 3): expected [2., 6.], got [1., 9.]. Twice, not squared. (squares)\n"
    )


def test_todo_and_pass_print_the_title(capsys):
    checks.check("99.1", stub)
    checks.check("99.1", double)
    assert capsys.readouterr().out == "TODO 99.1 Double it\nPASS 99.1 Double it\n"


def test_a_message_of_many_lines_becomes_one_line(capsys):
    def crash(x):
        raise RuntimeError("first\nPASS 99.1 second")

    checks.check("99.1", crash)
    assert capsys.readouterr().out.count("\n") == 1


def test_an_answer_cannot_change_the_inputs_of_later_probes():
    def spoil(x):
        x *= 2
        return x

    values = np.array([1.0, 3.0])
    assert checks.attempt(spoil, values).tolist() == [2.0, 6.0]
    assert values.tolist() == [1.0, 3.0]


def test_use_gives_the_answer_only_if_it_passes():
    def reference(x):
        return x + x

    assert checks.use("99.1", double, reference) is double
    for wrong in (stub, None, lambda x: x**2):
        assert checks.use("99.1", wrong, reference) is reference


def test_use_judges_the_answer_it_gets_not_the_one_checked_before(capsys):
    checks.check("99.1", double)
    assert checks.use("99.1", lambda x: x**2, "reference") == "reference"


@pytest.mark.parametrize("answer", [stub, lambda x: x**2])
def test_strict_mode_raises_unless_the_answer_passes(monkeypatch, answer):
    monkeypatch.setenv("RLBOOK_STRICT", "1")
    checks.check("99.1", double)
    with pytest.raises(AssertionError, match=r"99\.1"):
        checks.check("99.1", answer)


@pytest.mark.parametrize("id", ["98.1", "1a", "", "os.1", "77c.4"])
def test_an_unknown_exercise_is_refused(id):
    with pytest.raises(ValueError, match="number of an exercise"):
        checks.get(id)


def test_an_id_cannot_be_registered_twice():
    with pytest.raises(ValueError, match="registered twice"):
        checks.exercise("99.1", "again", "x")(lambda answer: None)


@pytest.mark.parametrize(
    ("got", "state", "mistake"),
    [
        ("b", "PASS", None),
        ("a", "FAIL", "too early"),
        ("z", "FAIL", None),
        (3, "FAIL", None),
        (None, "TODO", None),
    ],
)
def test_a_choice_has_one_right_letter(got, state, mistake):
    @checks.exercise("99.2", "Pick", answer="pick")
    def probe(answer):
        checks.choose(answer, "b", {"a": ("too early", "Look again."), "c": ("too late", "Look again.")})

    verdict = checks.judge("99.2", got)
    assert (verdict.state, verdict.mistake) == (state, mistake)


def test_expect_compares_shapes_before_values():
    with pytest.raises(checks.Wrong, match=r"expected shape \(2,\), got \(2, 1\)"):
        checks.expect(np.ones((2, 1)), [1.0, 1.0], "ones")


def test_a_prediction_is_kept_until_the_reveal_and_then_stands(capsys):
    options = {"a": "up", "b": "down"}
    checks.predict("99.p1", None, options)
    checks.predict("99.p1", "q", options)
    checks.predict("99.p1", "a", options)
    checks.reveal("99.p1", "b")
    checks.predict("99.p1", "b", options)
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "Prediction 99.p1: none yet. Put one of 'a', 'b' in place of None.",
        "Prediction 99.p1: 'q' is not one of a, b.",
        "Prediction 99.p1: a) up",
        "Prediction 99.p1: you said a; it is b.",
        "Prediction 99.p1: the answer is already out; your first guess stands.",
    ]


def test_the_report_counts_states_and_predictions(capsys):
    checks.check("99.1", double)
    checks.predict("99.p1", "a", {"a": "up"})
    checks.predict("99.p2", None, {"a": "up"})
    capsys.readouterr()
    checks.report()
    assert capsys.readouterr().out == "Exercises: 1 pass, 0 fail, 0 to do.\nPredictions: 1 of 2 made.\n"


def test_a_class_can_collect_what_readers_did(tmp_path, monkeypatch):
    monkeypatch.setenv("RLBOOK_RECORD", str(tmp_path / "record.jsonl"))
    checks.predict("99.p1", "a", {"a": "up"})
    checks.check("99.1", lambda x: x**2)
    rows = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    assert rows == [
        {"kind": "predict", "id": "99.p1", "value": "a", "mistake": None},
        {"kind": "check", "id": "99.1", "value": "FAIL", "mistake": "squares"},
    ]


def test_verify_prints_the_bound_it_met_or_raises(capsys):
    checks.verify("(4)", 1.0 + 1e-13, 1.0)
    assert capsys.readouterr().out == "ok  (4)  (to 1e-12)\n"
    for got, want in [(1.0, 1.1), (np.nan, 1.0), ([1.0], 1.0), ([1.0, 2.0], [2.0, 1.0])]:
        with pytest.raises(AssertionError, match=r"\(4\)"):
            checks.verify("(4)", got, want)


def test_claims_are_asserted_except_in_smoke_mode(monkeypatch, capsys):
    monkeypatch.setenv("RLBOOK_MODE", "fast")
    checks.claim("two is even", True)
    with pytest.raises(AssertionError, match="two is odd"):
        checks.claim("two is odd", False)
    monkeypatch.setenv("RLBOOK_MODE", "smoke")
    checks.claim("two is odd", False)
    out = capsys.readouterr().out
    assert out == "ok  two is even\n--  two is odd  (not asserted in smoke mode)\n"
