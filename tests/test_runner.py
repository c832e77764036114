"""The runner on tiny notebooks: execution, errors, injection, refresh, the book's table and pages.

Each kernel start costs a second or two, so the executed notebooks are shared.
"""

import contextlib
import io
import json
import math
import re
import sys
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rlbook import runner
from rlbook.html import maths_to_mathml, to_html

ALT = 'a line from 1 to 2, "rising" & <blue>'
FIGURE = f"""
import matplotlib.pyplot as plt
from IPython.display import display
fig, ax = plt.subplots(figsize=(1, 1))
ax.plot([1, 2])
plt.close(fig)
display(fig, metadata={{"image/png": {{"alt": {ALT!r}}}}})
"""
EXERCISE = "def double(x):\n    ..."
CHECK = """
print("TODO 1a.1 before")
print({None: "TODO 1a.1 doubling", 6: "PASS 1a.1 doubling"}.get(double(3), "FAIL 1a.1: double(3) is not 6"))
print("PASSAGE 1a.9 is no check line; neither is PASS of it")
"""
SOLUTIONS = '''
SOLUTIONS = {"1a.1": """
def double(x):
    return 2 * x
"""}
MUTANTS = {"1a.1": {"squares": ("2 * x", "x * x"), "constant": "def double(x):\\n    return 7"}}
'''
INLINE = "module://matplotlib_inline.backend_inline"  # what a kernel uses unless it is told otherwise
ENVIRONMENT = """
import json, os, sys
keys = ["MPLBACKEND", "RLBOOK_MODE", "RLBOOK_STRICT", "OMP_NUM_THREADS", "PYTHONHASHSEED", "HF_HUB_OFFLINE"]
print(json.dumps([os.path.basename(os.getcwd()), sys.executable, [os.environ.get(key) for key in keys]]))
"""


def code(source, name="", **metadata):
    return new_code_cell(source.strip("\n"), metadata={"name": name, **metadata} if name else metadata)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A folder of two notebooks and a solutions file; the second notebook stops at a cell."""
    root = tmp_path_factory.mktemp("project") / "notebooks"
    (root / "solutions").mkdir(parents=True)
    (root / "solutions" / "ch01a.py").write_text(SOLUTIONS)
    good = new_notebook(
        cells=[
            new_markdown_cell("# Title\n$x^2$", metadata={"name": "title"}),
            code(EXERCISE, "exercise-1", tags=["exercise:1a.1"]),
            code(CHECK, "check-1"),
            code("", "empty"),
            code(FIGURE, execution={"iopub.execute_input": "2020-01-01"}),
            code(ENVIRONMENT, "not a valid id"),
            code("big = bytearray(300 * 2**20)\nlen(big)", "memory"),
        ],
        metadata={"kernelspec": {"name": "elsewhere", "display_name": "x"}, "widgets": {}},
    )
    bad = new_notebook(
        cells=[code("print('PASS 2.1 fine')"), code("1 / 0", "boom"), code("print('not reached')")]
    )
    nbformat.write(bad, root / "02_beta.ipynb")
    nbformat.write(good, root / "01a_alpha.ipynb")
    return root


@pytest.fixture(scope="module")
def run(book, tmp_path_factory):
    """Both notebooks run as the book: (runs, output folder, printed text)."""
    out = tmp_path_factory.mktemp("build") / "book"
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLBOOK_STRICT", "1")  # of no concern to a run that is not strict
        patch.setenv("MPLBACKEND", "agg")
        runs = runner.run_book(out=out, progress=False, root=book)
    return runs, out, printed.getvalue()


def outputs(notebook):
    """All stdout text of a notebook."""
    return "".join(
        out.text for cell in notebook.cells for out in cell.get("outputs", []) if out.get("name") == "stdout"
    )


def test_notebooks_come_in_file_name_order_and_by_short_or_full_name(book):
    def names(*wanted):
        return [path.name for path in runner.notebooks(book, wanted)]

    assert names() == names("02", "01a") == ["01a_alpha.ipynb", "02_beta.ipynb"]
    assert names("02") == names("02_beta") == names("02_beta.ipynb") == ["02_beta.ipynb"]


@pytest.mark.parametrize("name", ["01", "2", "01a_", "beta", ""])
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(book, name):
    with pytest.raises(ValueError, match="known: 01a, 02"):
        runner.notebooks(book, ["02", name])


def test_solutions_belong_to_a_notebook_and_may_be_missing(book):
    solved, wrong = runner.solutions("01a", book)
    assert solved.keys() == wrong.keys() == {"1a.1"} and "2 * x" in solved["1a.1"]
    assert runner.solutions("01a_alpha", book)[0] == solved
    assert runner.solutions("02", book) == ({}, {})


def test_a_wrong_answer_is_a_source_or_a_replacement(book):
    solved, wrong = runner.solutions("01a", book)
    squares = runner.mutant_source(solved["1a.1"], wrong["1a.1"]["squares"])
    assert squares == "\ndef double(x):\n    return x * x\n"
    assert runner.mutant_source(solved["1a.1"], wrong["1a.1"]["constant"]) == "def double(x):\n    return 7"
    with pytest.raises(ValueError, match="'3 \\* x' does not occur"):
        runner.mutant_source(solved["1a.1"], ("3 * x", "x"))


def test_inject_replaces_the_tagged_cell_and_only_that_in_a_copy(book):
    before = runner.read(book / "01a_alpha.ipynb")
    after = runner.inject(before, {"1a.1": "\nanswer = 1\n"})
    changed = [i for i, (a, b) in enumerate(zip(before.cells, after.cells, strict=True)) if a != b]
    assert changed == [1] and after.cells[1].source == "answer = 1"
    assert before.cells[1].source == EXERCISE


@pytest.mark.parametrize("sources", [{}, {"1a.2": ""}, {"1a.1": "", "1a.2": ""}])
def test_inject_refuses_exercises_missing_on_either_side(book, sources):
    with pytest.raises(ValueError, match="expected the notebook's exercises 1a.1"):
        runner.inject(runner.read(book / "01a_alpha.ipynb"), sources)


BARE = '{"cells": [{"cell_type": "code"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}'
UNREADABLE = ["no json", "[]", "{}", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}', BARE, None]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_file_that_is_no_notebook_is_refused(tmp_path, text):
    path = tmp_path / "x.ipynb"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="notebook: .*x.ipynb cannot be read as a notebook"):
        runner.read(path)


def test_a_run_reports_checks_time_memory_and_no_error(run):
    good = run[0][0]
    assert good.name == "01a_alpha" and good.error is None and not good.failed
    assert good.checks == {"1a.1": ("TODO", "doubling")}  # the last line of an exercise counts
    assert good.summary == "1 TODO"
    assert 300 < good.peak_mb < 700  # 300 MB are allocated in the notebook
    assert 0.3 < good.seconds < 120
    assert len(good.notebook.cells) == 7  # the memory question is not in it
    assert [c.execution_count for c in good.notebook.cells if c.cell_type == "code"] == [1, 2, None, 3, 4, 5]


def test_a_run_uses_this_interpreter_one_thread_and_the_notebooks_folder(run):
    where, interpreter, env = json.loads(outputs(run[0][0].notebook).splitlines()[-1])
    assert where == "notebooks" and interpreter == sys.executable
    assert env == [INLINE, "fast", None, "1", "0", "1"]


def test_an_error_names_the_cell_and_keeps_what_ran_before(run):
    bad = run[0][1]
    assert bad.error == "cell boom: ZeroDivisionError: division by zero" and bad.failed
    assert bad.checks == {"2.1": ("PASS", "fine")} and bad.summary == "1 PASS ERROR"
    assert outputs(bad.notebook) == "PASS 2.1 fine\n"
    assert bad.notebook.cells[1].outputs[0].ename == "ZeroDivisionError"
    assert 20 < bad.peak_mb < 300


def test_a_kernel_that_dies_is_an_error_and_no_kernelspec_of_the_user_gets_in(tmp_path, monkeypatch):
    """Also smoke mode and strictness: what the kernel printed before it died is kept."""
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": ["false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    nb = new_notebook(cells=[code(ENVIRONMENT), code("import os; os._exit(1)", "exit"), code("1")])
    died = runner.execute(nb, mode="smoke", strict=True, cwd=tmp_path)
    assert died.error.startswith("cell exit: DeadKernelError") and math.isnan(died.peak_mb)
    where, interpreter, env = json.loads(outputs(died.notebook))
    assert (where, interpreter) == (tmp_path.name, sys.executable)
    assert env == [INLINE, "smoke", "1", "1", "0", "1"]


def test_a_cell_that_takes_too_long_is_an_error():
    slow = runner.execute(new_notebook(cells=[code("import time; time.sleep(60)", "sleep")]), timeout=1)
    assert slow.error == "cell sleep: CellTimeoutError: not done after 1 s"
    assert slow.seconds < 20


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode: got 'quick', expected one of"):
        runner.execute(new_notebook(), mode="quick")


def test_the_book_is_written_as_notebooks_and_pages(run):
    runs, out, _ = run
    assert sorted(path.name for path in out.iterdir()) == [
        "01a_alpha.html",
        "01a_alpha.ipynb",
        "02_beta.html",
        "02_beta.ipynb",
    ]
    assert outputs(runner.read(out / "01a_alpha.ipynb")) == outputs(runs[0].notebook)
    assert "division by zero" in (out / "02_beta.html").read_text(encoding="utf-8")


def page(text):
    """The start tags of a page: a list of (tag, attributes)."""
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))
    parser.feed(text)
    return tags


def test_the_page_has_figure_alt_text_and_maths_and_loads_nothing(run):
    tags = page((run[1] / "01a_alpha.html").read_text(encoding="utf-8"))
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert [image["alt"] for image in images] == [ALT]
    assert images[0]["src"].startswith("data:image/png;base64,")
    assert [tag for tag, _ in tags].count("math") == 1
    assert [tag for tag, attrs in tags if tag in ("script", "link") and {"src", "href"} & attrs.keys()] == []


def test_a_picture_without_alt_text_keeps_the_page_whole():
    data = {"image/png": "aGVsbG8=", "text/plain": "figure"}
    cell = new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", data=data)], execution_count=1)
    (image,) = [attrs for tag, attrs in page(to_html(new_notebook(cells=[cell]), "x")) if tag == "img"]
    assert image["alt"].startswith("No description") and image["src"] == "data:image/png;base64,aGVsbG8="


def test_maths_outside_code_becomes_mathml_and_unknown_maths_stays():
    assert maths_to_mathml("<p>$x$</p>").count("<mi>x</mi>") == 1
    assert 'display="block"' in maths_to_mathml("$$x$$") and 'display="inline"' in maths_to_mathml("$x$")
    assert "<mo>&#x0003C;</mo>" in maths_to_mathml("$a &lt; b$")
    for kept in ("<code>$x$</code>", "<pre>a\n$x$</pre>", "one $ only", r"$\begin{cd}$"):
        assert maths_to_mathml(kept) == kept


def test_the_table_has_a_row_for_each_notebook_a_total_and_the_errors(run):
    runs, _, printed = run
    lines = printed.splitlines()
    assert lines[0].split() == ["name", "seconds", "peak", "MB", "checks"]
    assert re.fullmatch(r"01a_alpha +\d+\.\d +\d+  1 TODO", lines[1])
    assert re.fullmatch(r"02_beta +\d+\.\d +\d+  1 PASS ERROR", lines[2])
    total = f"{runs[0].seconds + runs[1].seconds:.1f}"
    assert lines[3].split() == ["total:", "2", "notebooks", total, f"{runs[0].peak_mb:.0f}", "1", "failed"]
    assert lines[4] == "ERROR 02_beta, cell boom: ZeroDivisionError: division by zero"


def test_the_table_names_failed_checks():
    run = runner.Run(
        "03_x", None, 1.0, math.nan, {"3.1": ("FAIL", "sign"), "3.2": ("PASS", ""), "3.3": ("FAIL", "scale")}
    )
    lines = runner.table([run]).splitlines()
    assert lines[1].split() == ["03_x", "1.0", "?", "1", "PASS", "2", "FAIL"] and run.failed
    assert lines[3:] == ["FAIL 03_x, 3.1: sign", "FAIL 03_x, 3.3: scale"]


def test_the_notebooks_own_folder_is_no_output_folder(book):
    with pytest.raises(ValueError, match="out: .*the notebooks' own folder"):
        runner.run_book(out=book, root=book)
    with pytest.raises(ValueError, match="out: .*the notebooks' own folder"):
        runner.write_solutions(book, root=book)


def test_refresh_stores_the_same_bytes_each_time_and_leaves_a_broken_notebook_alone(book, tmp_path):
    for path in book.glob("*.ipynb"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    broken = (tmp_path / "02_beta.ipynb").read_bytes()
    runs = runner.refresh(progress=False, root=tmp_path)
    first = (tmp_path / "01a_alpha.ipynb").read_bytes()
    assert [run.failed for run in runs] == [False, True]
    assert (tmp_path / "02_beta.ipynb").read_bytes() == broken

    stored = json.loads(first)
    assert stored["metadata"] == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell["id"] for cell in stored["cells"]] == [
        "title",
        "exercise-1",
        "check-1",
        "empty",
        "cell-4",
        "cell-5",
        "memory",
    ]
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == [1, 2, None, 3, 4, 5]
    assert stored["cells"][6]["outputs"][0]["execution_count"] == 5
    assert stored["cells"][4]["metadata"] == {}

    runner.refresh(["01a"], progress=False, root=tmp_path)
    assert (tmp_path / "01a_alpha.ipynb").read_bytes() == first


def test_solved_copies_hold_the_solution_and_no_outputs(book, run, tmp_path):
    (tmp_path / "notebooks" / "solutions").mkdir(parents=True)
    (tmp_path / "notebooks" / "solutions" / "ch01a.py").write_text(SOLUTIONS)
    nbformat.write(run[0][0].notebook, tmp_path / "notebooks" / "01a_alpha.ipynb")  # with outputs
    written = runner.write_solutions(tmp_path / "solved", root=tmp_path / "notebooks")
    assert written == [tmp_path / "solved" / "01a_alpha.ipynb"]
    solved = runner.read(written[0])
    assert solved.cells[1].source == "def double(x):\n    return 2 * x"
    assert all(cell.outputs == [] and cell.execution_count is None for cell in solved.cells[1:])
