"""The equation ledger is complete and true, and its checks see each way in which it could stop being true."""

import json
from pathlib import Path

import pytest

from rlbook import ledger
from rlbook.ledger import Row, cited, load, problems

ROOT = Path(__file__).parents[1]
# The last equation of each section of the draft that has numbered equations, read off its pages.
SECTION_ENDS = {
    "1.1": 1, "1.2": 3, "1.3": 5, "1.4": 7, "1.5": 9,
    "2.1": 18, "2.2": 20, "2.3.1": 23, "2.3.2": 27, "2.3.3": 30,
    "3.1": 31, "3.2": 36, "3.3": 40, "3.4.1": 42, "3.4.2": 47,
    "4.2": 48, "4.3": 53, "4.4": 61, "4.5": 64, "4.6.1": 68, "4.6.2": 70, "4.6.3": 74,
    "4.7.1": 77, "4.7.2": 79, "4.7.3": 85,
    "5.1": 87, "5.2": 93, "5.3.1": 97, "5.4.1": 100, "5.4.2": 102, "5.5.1": 107, "5.5.2": 109, "5.5.3": 112,
    "5.6.1": 114, "5.6.2": 116, "5.6.3": 119, "5.6.4": 122,
}  # fmt: skip
BOXES = "3.3 3.4.2 3.4.3 4.5 4.6.4 4.7.4 5.3.2 5.4.1 5.4.2 5.5.4 5.6.5".split()


def test_the_ledger_has_every_label_of_the_book_and_the_paper_once():
    want = {f"({n})" for n in range(1, 123)} | {f"P{n}" for n in range(1, 11)} | {"Theorem 1"}
    want |= {f"Ex. 1.{n}" for n in range(1, 10)} | {"Ex. 4.1.1", "Ex. 4.1.2"}
    want |= {f"Remark 1.{n}" for n in range(1, 6)} | {f"Box {section}" for section in BOXES}
    labels = [row.label for row in load()]
    assert set(labels) == want
    assert len(labels) == 122 + 11 + 11 + 5 + 11


def test_equations_stand_in_the_sections_of_the_draft():
    sections = {row.label: row.section for row in load()}
    start = 1
    for section, end in SECTION_ENDS.items():
        got = [sections[f"({n})"] for n in range(start, end + 1)]
        assert got == [section] * len(got)
        start = end + 1
    assert start == 123
    assert all(sections[f"Box {section}"] == section for section in BOXES)


def test_rows_follow_the_book_and_then_the_paper():
    rows = load()
    numbers = [int(row.label[1:-1]) for row in rows if row.label.startswith("(")]
    sections = [row.section for row in rows]
    assert numbers == list(range(1, 123))
    assert sections[149:] == ["paper"] * 11
    assert sections[:149] == sorted(sections[:149], key=lambda s: [int(n) for n in s.split(".")])


def test_titles_are_short_and_tell_rows_apart():
    titles = [row.title for row in load()]
    assert all(3 <= len(title.replace("-", " ").split()) <= 9 for title in titles)
    assert len(set(titles)) == len(titles)


def test_the_ledger_of_this_repository_is_true():
    assert problems(ROOT) == []


HEAD = "label,title,section,function,test,cell,status\n"


def test_load_splits_names_at_spaces(tmp_path):
    path = tmp_path / "ledger.csv"
    path.write_text(
        HEAD + '(1),"Reward, a table",1.1,a.b c.d,t.py::test_a,01a:x 02:y,done\n', encoding="utf-8"
    )
    want = Row("(1)", "Reward, a table", "1.1", ("a.b", "c.d"), ("t.py::test_a",), ("01a:x", "02:y"), "done")
    assert load(path) == (want,)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "ledger header"),
        ("label,title,section,test,function,cell,status\n", "ledger header"),
        (HEAD + "(1),a,1.1,,,,open\n(1),b,1.1,,,,open\n", r"\(1\) comes twice"),
        (HEAD + "(1),a,1.1,,,,todo\n", r"status of \(1\): got 'todo'"),
        (HEAD + "(1),a,1.1,,open\n", "got 5 fields, expected 7"),
    ],
)
def test_load_refuses_a_malformed_file(tmp_path, text, message):
    path = tmp_path / "ledger.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load(path)


@pytest.mark.parametrize(
    "text, labels",
    [
        ("By (17), and (4).", "(17), (4)"),
        ("Ex. 1.5. Ex. 4.1.1, Remark\n1.3, Box 4.5.", "Ex. 1.5, Ex. 4.1.1, Remark 1.3, Box 4.5"),
        ("Ex. 1.10 is not Ex. 1.1, nor is Ex. 2 a label", "Ex. 1.10, Ex. 1.1"),
        ("P3 (v000), P10 and Theorem 1", "P3, P10, Theorem 1"),
        ("Theorem 4.1, Theorem 12, Theorem 1.2, a P100, MIX_P2", ""),
        ("Williams (1992), Kakade (2002), f(3), V[0](4), (1.5), (17a), (3 seeds)", ""),
        ("(24)-(27), (8) – (10), P1-P3", "(24), (25), (26), (27), (8), (9), (10), P1, P2, P3"),
        ("(120)-(123) and (9)-(7)", "(120), (121), (122), (123), (9), (7)"),
        ("code `f(3)`, ``a ` (4)``, `f`(5); (6)", "(6)"),
        ("a stray ` here\n\n(3) and a ` there", "(3)"),
        ("```python\nverify('(3)')\n```\n(4)\n~~~\n(5)\n~~~", "(4)"),
        ("```f(3)``` opens no block; (4)\n\n(5)", "(4), (5)"),
        ("1. item\n\n   ```\n   (3)\n   ```\n   (4)\n\n```\n(5) never closed", "(4)"),
        ("maths $(4)$, $$\nx (5) \\tag{6}\n$$ and $f$(7) but (8)", "(8)"),
        ("costs $5 (17), or $6", "(17)"),
        ("costs \\$6 (18), or 7$", "(18)"),
        ("[(17)](#eq-(18)), [a](b_(19).html) (20), <https://x.org/(21)>", "(17), (20)"),
    ],
)
def test_cited_reads_prose_only(text, labels):
    assert cited(text) == set(labels.split(", ")) - {""}


def cell(kind, source, **metadata):
    return {"cell_type": kind, "metadata": metadata, "source": source.splitlines(keepends=True)}


FUNCTIONS = ("rlbook.ledger.cited", "json.JSONDecoder.decode")
GOOD = Row("(4)", "IS", "1.3", FUNCTIONS, ("tests/test_x.py::test_a",), ("01a:is",), "done")
CODE = 'import rlbook\nrlbook.verify("(3)-(5)", f(9))'


def report(tmp_path, monkeypatch, row=GOOD, code=CODE, kind="code", prose="See (4).", extra=()):
    """problems() of a small repository with the rows (3), (4), (5): one test file and one notebook."""
    known = [Row(label, "", "", (), (), (), "open") for label in ("(3)", "(5)", "Ex. 1.1")]
    monkeypatch.setattr(ledger, "load", lambda: (row, *known))
    for folder in ("tests", "notebooks"):
        (tmp_path / folder).mkdir()
    text = "def test_a():\n    def test_inner():\n        pass\n\n\ndef helper():\n    pass\n"
    (tmp_path / "tests/test_x.py").write_text(text, encoding="utf-8")
    cells = [cell("markdown", prose), cell(kind, code, name="is"), *extra]
    notebook = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    (tmp_path / "notebooks/01a_sampling.ipynb").write_text(notebook, encoding="utf-8")
    return problems(tmp_path)


def test_a_true_row_is_not_reported(tmp_path, monkeypatch):
    assert report(tmp_path, monkeypatch) == []


def test_a_markdown_cell_may_show_a_row(tmp_path, monkeypatch):
    assert report(tmp_path, monkeypatch, kind="markdown", code="This is (4).") == []


def test_a_code_cell_is_read_as_code_not_as_markdown(tmp_path, monkeypatch):
    assert report(tmp_path, monkeypatch, code='ax.set_title("$(4)$ in one picture")') == []


def test_an_open_row_may_be_wrong(tmp_path, monkeypatch):
    row = Row("(4)", "IS", "1.3", ("rlbook.gone",), ("tests/gone.py::test_a",), ("09:x",), "open")
    assert report(tmp_path, monkeypatch, row) == []


@pytest.mark.parametrize(
    "change, want",
    [
        ({"function": ()}, "(4): done without a function"),
        ({"test": ()}, "(4): done without a test"),
        ({"cell": ()}, "(4): done without a cell"),
        ({"function": ("rlbook.ledger.gone",)}, "(4): no function rlbook.ledger.gone"),
        ({"function": ("rlbook.gone.f",)}, "(4): no function rlbook.gone.f"),
        ({"function": ("gone",)}, "(4): no function gone"),
        ({"test": ("tests/test_x.py::test_b",)}, "(4): no test tests/test_x.py::test_b"),
        ({"test": ("tests/test_x.py::test_inner",)}, "(4): no test tests/test_x.py::test_inner"),
        ({"test": ("tests/test_x.py::helper",)}, "(4): no test tests/test_x.py::helper"),
        ({"test": ("tests/test_y.py::test_a",)}, "(4): no test tests/test_y.py::test_a"),
        ({"cell": ("01a:gone",)}, "(4): cell 01a:gone: 0 cells have that name, expected 1"),
        ({"cell": ("01b:is",)}, "(4): cell 01b:is: 0 notebooks start with 01b_, expected 1"),
        ({"cell": ("01:is",)}, "(4): cell 01:is: 0 notebooks start with 01_, expected 1"),
        ({"label": "(6)"}, "(6): cell 01a:is: does not mention (6)"),
        ({"label": "(9)"}, "(9): cell 01a:is: does not mention (9)"),  # f(9) is a call
    ],
)
def test_each_broken_name_is_reported_alone(tmp_path, monkeypatch, change, want):
    row = Row(**{**vars(GOOD), **change})
    assert report(tmp_path, monkeypatch, row, prose="Nothing cited.") == [want]


def test_every_named_cell_must_mention_the_label(tmp_path, monkeypatch):
    row = Row(**{**vars(GOOD), "cell": ("01a:is", "01a:plot")})
    extra = [cell("code", "plot(4)", name="plot")]
    want = ["(4): cell 01a:plot: does not mention (4)"]
    assert report(tmp_path, monkeypatch, row, extra=extra) == want


def test_maths_in_a_markdown_cell_does_not_mention_a_label(tmp_path, monkeypatch):
    want = ["(4): cell 01a:is: does not mention (4)"]
    assert report(tmp_path, monkeypatch, kind="markdown", code="$$x \\tag{4} (4)$$") == want


def test_two_cells_of_one_name_are_reported(tmp_path, monkeypatch):
    extra = [cell("code", CODE, name="is")]
    assert report(tmp_path, monkeypatch, extra=extra) == [
        "(4): cell 01a:is: 2 cells have that name, expected 1"
    ]


def test_a_citation_of_an_unknown_label_is_reported(tmp_path, monkeypatch):
    extra = [cell("markdown", "So Ex. 1.10, unlike Ex. 1.1, holds.", name="so"), cell("code", "# (124)")]
    assert report(tmp_path, monkeypatch, prose="By (4) and (123).", extra=extra) == [
        "01a_sampling.ipynb, cell 0: cites (123), which is not in the ledger",
        "01a_sampling.ipynb, cell so: cites Ex. 1.10, which is not in the ledger",
    ]


def test_problems_refuses_a_folder_that_is_not_the_repository(tmp_path):
    with pytest.raises(ValueError, match="no folder notebooks"):
        problems(tmp_path)
