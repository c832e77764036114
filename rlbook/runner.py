"""Run the notebooks: as the book, solved, with a wrong answer, or to store their outputs.

The Jupyter libraries are imported inside the functions, so `import rlbook.runner` is light.
"""

import base64
import importlib.util
import math
import os
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rlbook.html import to_html
from rlbook.notebook import MODES

KERNELSPEC = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
STATES = ("PASS", "TODO", "FAIL")
CHECK_LINE = re.compile(rf"^({'|'.join(STATES)}) (\w+\.\w+):?(?: (.*))?$", re.MULTILINE)
KERNEL_ENV = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "RLBOOK_PROGRESS": "0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass
class Run:
    """What one execution of one notebook gave."""

    name: str
    notebook: object
    seconds: float = 0.0
    peak_mb: float = math.nan
    checks: dict[str, tuple[str, str]] = field(default_factory=dict)  # exercise id -> (state, message)
    error: str | None = None  # "cell NAME: ExceptionName: message"

    @property
    def failed(self):
        """True if a cell raised or a check says FAIL."""
        return self.error is not None or any(state == "FAIL" for state, _ in self.checks.values())

    @property
    def summary(self):
        """The checks in a few words, such as `3 PASS 1 FAIL`."""
        count = Counter(state for state, _ in self.checks.values())
        words = [f"{count[state]} {state}" for state in STATES if count[state]]
        return " ".join([*words, "ERROR"] if self.error else words) or "-"


def folder(root=None):
    """The notebooks' folder: `root` if given, else the one beside the package, else ./notebooks."""
    beside = Path(__file__).resolve().parent.parent / "notebooks"
    places = [Path(root)] if root is not None else [beside, Path.cwd() / "notebooks"]
    for place in places:
        if place.is_dir():
            return place
    looked = " and ".join(str(place) for place in places)
    raise ValueError(f"root: no notebooks folder at {looked}; run this inside the project's folder")


def notebooks(root=None, names=()):
    """Paths of the notebooks in file-name order; the name `01a` selects the one called `01a_...`."""
    known = {path.stem.split("_")[0]: path for path in sorted(folder(root).glob("*.ipynb"))}
    wanted = {Path(name).name.removesuffix(".ipynb") for name in names}
    unknown = [name for name in wanted if not any(name in (key, path.stem) for key, path in known.items())]
    if unknown:
        raise ValueError(
            f"names: no notebook {', '.join(sorted(unknown))}; known: {', '.join(known) or 'none'}"
        )
    return [path for key, path in known.items() if not wanted or {key, path.stem} & wanted]


def solutions(name, root=None):
    """(SOLUTIONS, MUTANTS) of notebook `01a`, from solutions/ch01a.py; two empty dicts if it has none."""
    path = folder(root) / "solutions" / f"ch{Path(name).name.split('_')[0]}.py"
    if not path.is_file():
        return {}, {}
    spec = importlib.util.spec_from_file_location(f"rlbook_solutions_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SOLUTIONS, getattr(module, "MUTANTS", {})


def mutant_source(solution, change):
    """A wrong answer's source: `change` itself if it is text, else (find, replace) applied to `solution`."""
    if isinstance(change, str):
        return change
    find, replace = change
    if find not in solution:
        raise ValueError(f"change: {find!r} does not occur in the solution; expected a piece of its source")
    return solution.replace(find, replace)


def exercise_id(cell):
    """The ID of a cell tagged `exercise:ID`, else None."""
    tags = cell.get("metadata", {}).get("tags", []) if cell["cell_type"] == "code" else []
    return next((tag.removeprefix("exercise:") for tag in tags if tag.startswith("exercise:")), None)


def inject(notebook, sources):
    """A copy of `notebook` with the source of each cell tagged `exercise:ID` replaced by `sources[ID]`."""
    import nbformat

    copy = nbformat.from_dict(notebook)
    cells = {exercise_id(cell): cell for cell in copy.cells if exercise_id(cell)}
    if cells.keys() != set(sources):
        raise ValueError(
            f"sources: has {', '.join(sorted(sources)) or 'none'}; "
            f"expected the notebook's exercises {', '.join(sorted(cells)) or 'none'}"
        )
    for key, cell in cells.items():
        cell.source = sources[key].strip("\n")
    return copy


def read(path):
    """The notebook at `path`; ValueError if the file is no notebook."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, nbformat.ValidationError) as error:
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"notebook: {path} cannot be read as a notebook ({what})") from error


def clear(notebook):
    """Remove all outputs, execution counts and the state of widgets, in place."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def cell_name(cell, index):
    """The name of a cell in messages: metadata `name`, else its id, else its index."""
    return cell.metadata.get("name") or cell.get("id") or str(index)


def read_checks(notebook):
    """The last verdict printed on each exercise in the outputs: id -> (state, message)."""
    checks = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                for state, key, message in CHECK_LINE.findall(output.text):
                    checks[key] = (state, message.strip())
    return checks


def peak_mb():
    """Largest resident memory of this process so far in MB; NaN where the system does not say."""
    try:  # ru_maxrss starts from the parent's size on Linux, VmHWM does not
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _kernel_manager():
    """A manager whose only kernel is this interpreter, whatever kernelspecs the user has installed."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(KernelSpecManager):
        def get_kernel_spec(self, kernel_name):
            return KernelSpec(**get_kernel_dict())

    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())


def _kernel_env(mode, strict):
    env = {key: value for key, value in os.environ.items() if key not in ("MPLBACKEND", "RLBOOK_STRICT")}
    return env | KERNEL_ENV | {"RLBOOK_MODE": mode} | ({"RLBOOK_STRICT": "1"} if strict else {})


def _measure_peak(client):
    """Ask the kernel for its peak memory in a cell that does not stay in the notebook."""
    import nbformat

    source = "import rlbook.runner as _runner; print(_runner.peak_mb())"
    cell = nbformat.v4.new_code_cell(source)
    client.nb.cells.append(cell)
    try:
        client.execute_cell(cell, len(client.nb.cells) - 1)
        return float(cell.outputs[0].text)
    except Exception:  # a broken kernel has no figure to give; the notebook's own error is what matters
        return math.nan
    finally:
        client.nb.cells.pop()


def execute(notebook, mode="fast", strict=False, timeout=600, name=None, cwd=None, on_cell=None):
    """Run a notebook (a path, or a notebook in memory) in a fresh kernel of this interpreter.

    mode: `fast`, `full` or `smoke`. strict: a failing check raises in the notebook. timeout: seconds a cell.
    cwd: the kernel's folder (default: the file's). on_cell(): called after each cell.
    Returns a Run. A cell that raises, a kernel that dies and a timeout end the run and stand in `error`.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, expected one of {', '.join(MODES)}")
    if isinstance(notebook, (str, Path)):
        path = Path(notebook)
        name, cwd, nb = name or path.stem, cwd or path.parent, read(path)
    else:
        nb, cwd = nbformat.from_dict(notebook), cwd or Path.cwd()
    run = Run(name or "notebook", clear(nb))
    client = NotebookClient(
        nb,
        km=_kernel_manager(),
        timeout=timeout,
        resources={"metadata": {"path": str(cwd)}},
        record_timing=False,
        shutdown_kernel="immediate",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no note on encryption for each kernel
    )
    start, index, alive = time.perf_counter(), 0, True
    try:
        with client.setup_kernel(env=_kernel_env(mode, strict), cleanup_kc=True):
            try:
                for index, cell in enumerate(nb.cells):
                    client.execute_cell(cell, index, execution_count=client.code_cells_executed + 1)
                    if on_cell:
                        on_cell()
            except CellExecutionError as error:
                run.error = f"{error.ename}: {error.evalue}"
            except CellTimeoutError:
                run.error, alive = f"CellTimeoutError: not done after {timeout} s", False
            except RuntimeError as error:  # DeadKernelError
                run.error, alive = f"{type(error).__name__}: {error} (out of memory?)", False
            run.seconds = time.perf_counter() - start
            if alive:
                client.set_widgets_metadata()
                run.peak_mb = _measure_peak(client)
    except RuntimeError as error:  # the kernel did not start
        run.error = run.error or f"{type(error).__name__}: {error}"
    if run.error:
        run.error = f"cell {cell_name(nb.cells[index], index)}: " + run.error.strip().splitlines()[0][:300]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = _merged(cell.outputs)
    run.checks = read_checks(nb)
    return run


def _merged(outputs):
    """Pieces of one stream that follow each other as one output; where a figure stands between, two stay."""
    merged = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == last.get("output_type") == "stream" and output.name == last.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _bar(paths, progress):
    """A tqdm bar over all cells of `paths`; off a terminal it prints a line every ten seconds."""
    from tqdm import tqdm

    total = sum(len(read(path).cells) for path in paths)
    slow = {} if sys.stderr.isatty() else {"mininterval": 10, "ncols": 80}
    return tqdm(total=total, unit="cell", disable=not progress, **slow)


def _execute_all(paths, mode, progress):
    """Yield (path, Run) in order, with one bar over all cells."""
    with _bar(paths, progress) as bar:
        for path in paths:
            bar.set_description(path.stem)
            yield path, execute(path, mode, on_cell=bar.update)


def _output_folder(out, root):
    """`out` as a folder that exists and is not the notebooks' own."""
    out = Path(out)
    if out.resolve() == folder(root).resolve():
        raise ValueError(f"out: got {out}, the notebooks' own folder; expected another one")
    out.mkdir(parents=True, exist_ok=True)
    return out


def table(runs):
    """The table `name, seconds, peak MB, checks` with a total line, then one line for each error."""
    width = max([len(run.name) for run in runs] + [20])
    row = f"{{:<{width}}}  {{:>8}}  {{:>8}}  {{}}".format
    peaks = [run.peak_mb for run in runs if not math.isnan(run.peak_mb)]
    bad = sum(run.failed for run in runs)
    lines = [row("name", "seconds", "peak MB", "checks")]
    for run in runs:
        peak = "?" if math.isnan(run.peak_mb) else f"{run.peak_mb:.0f}"
        lines.append(row(run.name, f"{run.seconds:.1f}", peak, run.summary))
    seconds, peak = f"{sum(run.seconds for run in runs):.1f}", f"{max(peaks):.0f}" if peaks else "?"
    lines.append(row(f"total: {len(runs)} notebooks", seconds, peak, f"{bad} failed" if bad else "all ran"))
    lines += [f"ERROR {run.name}, {run.error}" for run in runs if run.error]
    for run in runs:
        lines += [
            f"FAIL {run.name}, {i}: {text}" for i, (state, text) in run.checks.items() if state == "FAIL"
        ]
    return "\n".join(lines)


def run_book(names=(), out="build/book", mode="fast", html=True, progress=True, root=None):
    """Execute notebooks in order, write the executed copies (.ipynb, .html) to `out`, print the table."""
    import nbformat

    paths, out, runs = notebooks(root, names), _output_folder(out, root), []
    for path, run in _execute_all(paths, mode, progress):
        runs.append(run)
        nbformat.write(run.notebook, out / path.name)
        if html:
            (out / f"{path.stem}.html").write_text(to_html(run.notebook, path.stem), encoding="utf-8")
    print(table(runs))
    return runs


def normalise(notebook):
    """Make a fresh run's notebook the same bytes each time: metadata and cell ids."""
    notebook.metadata = {"kernelspec": dict(KERNELSPEC), "language_info": {"name": "python"}}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    used = set()
    for index, cell in enumerate(notebook.cells):
        for key in ("execution", "ExecuteTime", "lines_to_next_cell"):  # timings; what editors leave behind
            cell.metadata.pop(key, None)
        name = str(cell.metadata.get("name", ""))
        valid = re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) and name not in used
        cell.id = name if valid else f"cell-{index}"
        used.add(cell.id)
    return notebook


def refresh(names=(), progress=True, root=None):
    """Execute in fast mode and store the outputs in place; a notebook with an error is left as it was."""
    import nbformat

    runs = []
    for path, run in _execute_all(notebooks(root, names), "fast", progress):
        runs.append(run)
        if run.error is None:
            text = nbformat.writes(normalise(run.notebook)) + "\n"
            path.write_text(text, encoding="utf-8", newline="\n")
            if (picture := readme_picture(run.notebook)) is not None:
                (path.parent.parent / "data" / "readme.png").write_bytes(picture)
    return runs


def readme_picture(notebook):
    """The PNG of the cell tagged `readme`, or None if there is none: the picture that README.md shows."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "readme" in cell.metadata.get("tags", []) and "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


def write_solutions(out, names=(), root=None):
    """Write solved copies of the notebooks, without outputs, to `out`; returns their paths."""
    import nbformat

    paths, out, written = notebooks(root, names), _output_folder(out, root), []
    for path in paths:
        solved = clear(inject(read(path), solutions(path.stem, root)[0]))
        nbformat.write(solved, out / path.name)
        written.append(out / path.name)
    return written
