"""The command `rlbook`: exit codes, the grade table, what the doctor says."""

import csv
import json
import sys
from importlib import metadata

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from rlbook import cli, ledger, runner


def write(path, *sources, tags=()):
    """A notebook that was never executed; the first cell gets the tags."""
    cells = [new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = list(tags)
    nbformat.write(new_notebook(cells=cells), path)
    return str(path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with two notebooks, to which the command is directed."""
    (tmp_path / "notebooks").mkdir()
    for name in ("01a_x", "02_y"):
        write(tmp_path / "notebooks" / f"{name}.ipynb", "1")
    monkeypatch.setattr(runner, "folder", lambda root=None: tmp_path / "notebooks")
    return tmp_path


def test_an_unknown_name_is_wrong_use_and_the_message_lists_the_known(project, capsys):
    assert cli.main(["run", "09", "--out", str(project / "out")]) == 2
    assert capsys.readouterr().err == "rlbook: names: no notebook 09; known: 01a, 02\n"
    assert not (project / "out").exists()


@pytest.mark.parametrize("words", [[], ["fly"], ["grade", "x.ipynb"], ["run", "--quick"]])
def test_wrong_use_ends_with_code_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and "usage: rlbook" in capsys.readouterr().err


@pytest.mark.parametrize(
    "checks, error, code",
    [
        ({"1.1": ("TODO", ""), "1.2": ("PASS", "")}, None, 0),
        ({"1.1": ("PASS", ""), "1.2": ("FAIL", "sign")}, None, 1),
        ({}, "cell x: ValueError: y", 1),
    ],
)
@pytest.mark.parametrize("mode", ["fast", "full"])
def test_run_fails_on_an_error_or_a_failed_check(project, monkeypatch, checks, error, code, mode):
    seen = []

    def execute(path, mode, on_cell):
        seen.append((path.stem, mode))
        return runner.Run(path.stem, runner.read(path), checks=checks, error=error)

    monkeypatch.setattr(runner, "execute", execute)
    full = ["--full"] if mode == "full" else []
    assert cli.main(["run", "02", *full, "--no-html", "--out", str(project / "out")]) == code
    assert seen == [("02_y", mode)]
    assert [path.name for path in (project / "out").iterdir()] == ["02_y.ipynb"]


def test_solutions_writes_the_copies_and_names_them(project, capsys):
    assert cli.main(["solutions", str(project / "out"), "01a"]) == 0
    assert capsys.readouterr().out.strip() == str(project / "out" / "01a_x.ipynb")
    assert [path.name for path in (project / "out").iterdir()] == ["01a_x.ipynb"]


def test_grade_writes_a_row_for_each_file_and_exercise(tmp_path, capsys):
    anna = write(
        tmp_path / "anna.ipynb",
        "print('PASS 1.1 fine')",
        "print('FAIL 1.2: a, \"b\"')",
        tags=["exercise:1.1", "exercise:1.2"],
    )
    bert = write(tmp_path / "bert.ipynb", "print('x')", "raise KeyError('lost')", tags=["exercise:1.1"])
    (tmp_path / "carl.ipynb").write_text("not a notebook")
    table = tmp_path / "grades.csv"
    assert cli.main(["grade", anna, bert, str(tmp_path / "carl.ipynb"), "--csv", str(table)]) == 1
    assert "3 files, 5 rows, 2 errors" in capsys.readouterr().out

    header, *rows = csv.reader(table.read_text(encoding="utf-8").splitlines())
    assert header == ["file", "exercise", "state", "message", "seconds"]
    assert [row[:4] for row in rows[:3]] == [
        [anna, "1.1", "PASS", "fine"],
        [anna, "1.2", "FAIL", 'a, "b"'],
        [bert, "1.1", "NONE", "no line of its check was printed"],
    ]
    assert rows[3][:3] == [bert, "", "ERROR"] and rows[3][3].endswith("KeyError: 'lost'")
    assert rows[4][:3] == [str(tmp_path / "carl.ipynb"), "", "ERROR"] and "cannot be read" in rows[4][3]
    assert all(0.2 < float(row[4]) < 120 for row in rows[:4]) and rows[4][4] == "0.0"


def test_a_missing_library_is_said_in_words(project, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nbclient", None)
    assert cli.main(["run", "--out", str(project / "out")]) == 2
    message = capsys.readouterr().err
    assert "nbclient" in message and "make setup" in message and "Traceback" not in message


@pytest.fixture
def healthy(tmp_path, monkeypatch):
    """An installation with nothing wrong, without a look at torch and at the real ledger."""
    cell = new_code_cell("1", execution_count=1, outputs=[new_output("stream", text="1\n")])
    nbformat.write(new_notebook(cells=[cell, new_code_cell("")]), tmp_path / "01a_x.ipynb")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(ledger, "problems", lambda root: [])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path


def said(findings, state):
    return [text for found, text in findings if found == state]


def test_the_doctor_finds_nothing_to_fix(healthy, monkeypatch, capsys):
    monkeypatch.setattr(runner, "folder", lambda root=None: healthy)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok   ", "warn ")) for line in lines[:-1]) and lines[-1] == "nothing to fix"
    assert lines[0] == "ok   Python " + sys.version.split()[0]
    assert any(f"numpy {metadata.version('numpy')}" in line for line in lines)
    assert f"ok   kernel python3 is this Python ({sys.executable})" in lines
    assert "ok   1 notebooks are intact" in lines


def test_the_doctor_names_missing_and_wrong_packages(healthy, monkeypatch):
    real = metadata.version

    def version(name):
        if name in ("tqdm", "torch"):
            raise metadata.PackageNotFoundError(name)
        return {"numpy": "1.26.4", "trl": "2.0.0"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    findings = cli.doctor(healthy)
    missing, old = said(findings, "FAIL")
    assert "numpy is 1.26.4, the book was made with numpy>=2.0" in missing + old
    assert "tqdm is not installed" in missing + old and "pip install 'tqdm>=" in missing + old
    optional = " ".join(said(findings, "warn"))
    assert "torch is not installed. Without it, notebooks cannot run (torch and" in optional
    assert "trl is 2.0.0" in optional
    (packages,) = [text for text in said(findings, "ok") if text.startswith("packages:")]
    assert "gymnasium" in packages and "numpy" not in packages


def test_the_doctor_says_that_the_package_itself_is_not_installed(healthy, monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    (text,) = said(cli.doctor(healthy), "FAIL")
    assert text.startswith("rlbook is not installed") and text.endswith("Run `make setup`.")


def test_the_doctor_reports_each_damaged_notebook(healthy, capsys, monkeypatch):
    error = new_output("error", ename="ValueError", evalue="x", traceback=[])
    for name, cells in {
        "02_error": [new_code_cell("f()", execution_count=1, outputs=[error])],
        "03_order": [new_code_cell("1", execution_count=2), new_code_cell("2", execution_count=1)],
        "04_bare": [new_code_cell("1")],
    }.items():
        nbformat.write(new_notebook(cells=cells), healthy / f"{name}.ipynb")
    (healthy / "05_cut.ipynb").write_text('{"cells": [')
    monkeypatch.setattr(runner, "folder", lambda root=None: healthy)
    assert cli.main(["doctor"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL ")]
    assert [line.split(":")[0] for line in failed] == [
        f"FAIL {name}.ipynb" for name in ("02_error", "03_order", "04_bare", "05_cut")
    ]
    assert "a cell stopped with ValueError" in failed[0] and "`make refresh`" in failed[0]
    assert "not executed once, from top to bottom" in failed[1] and "not executed once" in failed[2]
    assert "cannot be read" in failed[3]


def test_the_doctor_sees_a_kernel_of_another_python_and_none_at_all(healthy, monkeypatch, tmp_path_factory):
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    kernels = tmp_path_factory.mktemp("jupyter")
    (kernels / "kernels" / "python3").mkdir(parents=True)
    spec = {
        "argv": ["another/bin/python", "-m", "ipykernel_launcher"],
        "display_name": "x",
        "language": "python",
    }
    (kernels / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(kernels))
    (text,) = said(cli.doctor(healthy), "FAIL")
    assert "kernel python3 starts another/bin/python" in text and "ipykernel install" in text

    def none(self, name):
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    (text,) = said(cli.doctor(healthy), "FAIL")
    assert text.startswith("there is no kernel called python3.")


@pytest.mark.parametrize("module", ["psutil", "jupyter_client.kernelspec", "packaging.requirements", "torch"])
def test_the_doctor_survives_a_missing_module(healthy, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    findings = cli.doctor(healthy)
    assert len(findings) >= 8
    assert len(said(findings, "FAIL")) == (module.startswith(("jupyter", "packaging")))


def test_the_doctor_warns_of_threads_memory_and_reports_the_ledger(healthy, monkeypatch):
    import psutil

    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    memory = psutil.virtual_memory()._replace(total=4 * 2**30, available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(ledger, "problems", lambda root: ["(3): function gone"])
    findings = cli.doctor(healthy)
    warned = " ".join(said(findings, "warn"))
    assert "OMP_NUM_THREADS is 4096" in warned and "1.0 of 4.0 GB memory is free" in warned
    (text,) = said(findings, "FAIL")
    assert text.startswith("equation ledger: (3): function gone.")
