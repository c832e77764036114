"""The command `rlbook`: run and refresh the notebooks, grade, write solutions, look for trouble."""

import argparse
import csv
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from rlbook import runner

WITHOUT = {  # what an extra is for, and what to install
    "book": "notebooks cannot run (torch and safetensors: those from chapter 3 on)",
    "llm": "chapters 5 and 6 (language models) cannot run; the others can",
    "test": "`make test` cannot run; the notebooks can",
    "trl": "the comparison with TRL cannot run; the rest can",
}


def main(argv=None):
    """Entry point of `rlbook`; returns the exit code: 0 all well, 1 something failed, 2 wrong use."""
    args = _parser().parse_args(argv)
    try:
        return args.job(args)
    except ValueError as error:
        print(f"rlbook: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"rlbook: {error}; install the book's packages with `make setup`", file=sys.stderr)
    except KeyboardInterrupt:
        print("rlbook: stopped", file=sys.stderr)
        return 130
    return 2


def _parser():
    parser = argparse.ArgumentParser(prog="rlbook", description="The book that runs.")
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")

    def job(name, do, text):
        sub = jobs.add_parser(name, help=text, description=text)
        sub.set_defaults(job=do)
        return sub

    names = {"nargs": "*", "metavar": "NAME", "help": "notebooks such as 01a 02 (default: all)"}
    run = job("run", _run, "Execute notebooks in order; write the executed copies and print a table.")
    run.add_argument("names", **names)
    run.add_argument("--full", action="store_true", help="more seeds and larger sizes (slow)")
    run.add_argument(
        "--out", default="build/book", metavar="DIR", help="where to write (default: build/book)"
    )
    run.add_argument("--no-html", action="store_true", help="write no HTML pages")
    job("refresh", _refresh, "Execute notebooks and store their outputs in place.").add_argument(
        "names", **names
    )
    job("doctor", _doctor, "Look at the installation and say what to fix.")
    grade = job(
        "grade", _grade, "Run notebooks handed in (this runs their code) and write a table of results."
    )
    grade.add_argument("files", nargs="+", metavar="FILE", help="notebooks to grade")
    grade.add_argument(
        "--csv", required=True, metavar="OUT", help="the table to write, a row per file and exercise"
    )
    solve = job("solutions", _solutions, "Write solved copies of the notebooks, without outputs.")
    solve.add_argument("out", metavar="OUT", help="folder to write to")
    solve.add_argument("names", **names)
    return parser


def _run(args):
    mode = "full" if args.full else "fast"
    runs = runner.run_book(args.names, args.out, mode, html=not args.no_html)
    print(f"written to {args.out}")
    return int(any(run.failed for run in runs))


def _refresh(args):
    runs = runner.refresh(args.names)
    print(runner.table(runs))
    return int(any(run.failed for run in runs))


def _solutions(args):
    for path in runner.write_solutions(args.out, args.names):
        print(path)
    return 0


def _grade(args):
    rows = [row for file in args.files for row in grade_rows(file)]
    with open(args.csv, "w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["file", "exercise", "state", "message", "seconds"])
        writer.writerows(rows)
    errors = sum(state == "ERROR" for _, _, state, _, _ in rows)
    print(f"{args.csv}: {len(args.files)} files, {len(rows)} rows, {errors} errors")
    return int(errors > 0)


def grade_rows(file):
    """Rows (file, exercise, state, message, seconds) of one notebook handed in.

    state: as the notebook's own checks print it, NONE for an exercise without
    such a line, ERROR for a file that cannot be read or stops at an error.
    """
    try:
        notebook = runner.read(file)
        run = runner.execute(notebook, cwd=Path(file).parent)
    except ValueError as error:
        return [(file, "", "ERROR", str(error), "0.0")]
    seconds = f"{run.seconds:.1f}"
    asked = [key for key in map(runner.exercise_id, notebook.cells) if key]
    checks = dict.fromkeys(asked, ("NONE", "no line of its check was printed")) | run.checks
    rows = [(file, key, state, message, seconds) for key, (state, message) in checks.items()]
    return rows + ([(file, "", "ERROR", run.error, seconds)] if run.error else [])


def _doctor(args):
    findings = doctor()
    for state, text in findings:
        print(f"{state:<4} {text}")
    failed = sum(state == "FAIL" for state, _ in findings)
    print(f"{failed} to fix" if failed else "nothing to fix")
    return int(failed > 0)


def doctor(root=None):
    """What `rlbook doctor` found: a list of (`ok`, `warn` or `FAIL`, sentence with the fix)."""
    looks = (
        _python,
        _packages,
        _threads,
        _memory,
        _gpu,
        _kernel,
        lambda: _notebooks(root),
        lambda: _ledger(root),
    )
    return [finding for look in looks for finding in look()]


def _python():
    found = platform.python_version()
    if tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11):
        yield "ok", f"Python {found}"
    else:
        yield "FAIL", f"Python {found} is too old. Install 3.11 or newer, then run `make clean setup`."


def _packages():
    """Each requirement of the package against what is installed; extras may be missing."""
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(text) for text in metadata.requires("rlbook") or []]
    except (ImportError, metadata.PackageNotFoundError) as error:
        yield "FAIL", f"rlbook is not installed ({error}). Run `make setup`."
        return
    good = []
    for need in requirements:
        extra = next((name for name in WITHOUT if need.marker and f'"{name}"' in str(need.marker)), None)
        if need.marker and '"bench"' in str(need.marker):
            continue  # `make bench` brings the rivals itself
        bad, wanted = ("warn" if extra else "FAIL"), f"{need.name}{need.specifier}"
        fix = f"Run `make setup`, or `pip install '{wanted}'`."
        so = f" Without it, {WITHOUT[extra]}." if extra else ""
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            yield bad, f"{need.name} is not installed.{so} {fix}"
            continue
        if need.specifier.contains(found, prereleases=True):
            good.append(f"{need.name} {found}")
        else:
            yield bad, f"{need.name} is {found}, the book was made with {wanted}. {fix}"
    yield "ok", "packages: " + ", ".join(good)


def _threads():
    cores, asked = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS")
    yield "ok", f"{cores} processor cores; the notebooks calculate on one thread"
    if asked and asked.isdigit() and int(asked) > cores:
        yield (
            "warn",
            f"OMP_NUM_THREADS is {asked}, more than the cores; that is slow. Run `unset OMP_NUM_THREADS`.",
        )


def _memory():
    try:
        import psutil
    except ImportError:
        yield "warn", "memory cannot be measured without psutil. Run `make setup`."
        return
    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    if free < 2:
        yield (
            "warn",
            f"{free:.1f} of {total:.1f} GB memory is free; a notebook may need 1 GB. Close other programs.",
        )
    else:
        yield "ok", f"{free:.1f} of {total:.1f} GB memory is free"


def _gpu():
    try:
        import torch
    except ImportError:
        yield "ok", "no torch, so no GPU was looked for"
        return
    except OSError as error:
        yield "FAIL", f"torch is installed but does not load ({error}). Run `make clean setup`."
        return
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        yield "ok", f"GPU: {card.name}, {card.total_memory / 2**30:.0f} GB"
    else:
        yield "ok", "no CUDA GPU; the book runs without one"


def _kernel():
    """The kernel that JupyterLab would start for `python3` must be this interpreter."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        yield "FAIL", "jupyter_client is not installed, so no notebook can run. Run `make setup`."
        return
    fix = "Run `python -m ipykernel install --sys-prefix` with this Python."
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield "FAIL", f"there is no kernel called python3. {fix}"
        return
    generic = {
        "python",
        "python3",
        f"python3.{sys.version_info.minor}",
    }  # Jupyter puts its own interpreter here
    if program in generic or Path(program).absolute() == Path(sys.executable).absolute():
        yield "ok", f"kernel python3 is this Python ({sys.executable})"
    else:
        yield "FAIL", f"kernel python3 starts {program}, not this Python ({sys.executable}). {fix}"


def _notebooks(root):
    """The stored notebooks: readable, executed in order, without a stored error."""
    fix = "Run `git checkout notebooks` for the original, or `make refresh` to execute it again."
    try:
        paths = runner.notebooks(root)
    except ValueError as error:
        yield "warn", str(error)
        return
    bad = 0
    for path in paths:
        problem = _damage(path)
        if problem:
            bad += 1
            yield "FAIL", f"{path.name}: {problem}. {fix}"
    if not paths:
        yield "FAIL", "the notebooks folder is empty. Run `git checkout notebooks`."
    elif not bad:
        yield "ok", f"{len(paths)} notebooks are intact"


def _damage(path):
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]
        counts = [cell["execution_count"] for cell in code]
        errors = [
            out.get("ename") for cell in code for out in cell["outputs"] if out["output_type"] == "error"
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be read ({type(error).__name__})"
    if errors:
        return f"a cell stopped with {errors[0]}"
    if counts != list(range(1, len(counts) + 1)):
        return "its cells were not executed once, from top to bottom"
    return None


def _ledger(root):
    """The equation ledger must point to things that exist."""
    try:
        from rlbook import ledger

        problems = ledger.problems(runner.folder(root).parent)
    except (ImportError, ValueError, OSError) as error:
        yield "warn", f"the equation ledger could not be read ({error})."
        return
    for problem in problems[:5]:
        yield "FAIL", f"equation ledger: {problem}. Run `git status` to see what changed."
    if not problems:
        yield "ok", "the equation ledger points to things that exist"


if __name__ == "__main__":
    sys.exit(main())
