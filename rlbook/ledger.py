"""The equation ledger: where each equation of the book is coded, tested and shown.

`ledger.csv` has one row per numbered equation, example, remark, algorithm box and formula of the
paper. A row is `open` until it names the functions, tests and notebook cells that cover it; then it
is `done`, and `problems` says whether that is still true.
"""

import ast
import csv
import json
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_name("ledger.csv")
HEADER = ["label", "title", "section", "function", "test", "cell", "status"]

# What a markdown cell says that is not prose: fenced code, inline code, maths, link targets, addresses.
_NOT_PROSE = re.compile(
    r"""^[ \t]*(`{3,}|~{3,})[^`\n]*\n.*?(?:^[ \t]*\1[ \t]*$|\Z)
      | (?<!`)(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\2(?!`)
      | (?<!\\)\$\$.*?\$\$
      | (?<!\\)\$(?!\s)(?:\\.|(?!\n\s*\n)[^$\\])+?(?<!\s)\$(?!\d)
      | (?<=\])\((?:[^()]|\([^()]*\))*\)
      | https?://\S+""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_LABEL = re.compile(
    r"(?<![\w\]])\(\d{1,3}\)|\b(?:Ex\.|Remark|Box)\s+\d+(?:\.\d+)+|\bTheorem\s+1(?!\.?\d)|\bP\d{1,2}\b"
)
_RANGE = re.compile(r"(?<![\w\]])(\(|\bP)(\d{1,3})(\)?)\s*[-–]+\s*\1(\d{1,3})\3(?!\w)")


@dataclass(frozen=True)
class Row:
    """One line of the ledger: a label of the book and what covers it."""

    label: str
    title: str
    section: str
    function: tuple[str, ...]
    test: tuple[str, ...]
    cell: tuple[str, ...]
    status: str


def load(path=PATH) -> tuple[Row, ...]:
    """The rows: the book in its order, then the paper. Raises ValueError on a malformed file."""
    header, *lines = list(csv.reader(Path(path).read_text(encoding="utf-8").splitlines())) or [[]]
    if header != HEADER:
        raise ValueError(f"ledger header: got {header}, expected {HEADER}")
    rows = {}
    for fields in lines:
        if len(fields) != len(HEADER):
            raise ValueError(f"ledger row {fields}: got {len(fields)} fields, expected {len(HEADER)}")
        label, status = fields[0], fields[-1]
        if label in rows:
            raise ValueError(f"ledger label: {label} comes twice, expected once")
        if status not in ("open", "done"):
            raise ValueError(f"ledger status of {label}: got {status!r}, expected 'open' or 'done'")
        rows[label] = Row(*fields[:3], *(tuple(names.split()) for names in fields[3:6]), status)
    return tuple(rows.values())


def cited(markdown: str) -> set[str]:
    """The labels that the prose of `markdown` cites; code, maths and link targets do not count.

    A range such as (24)-(27) or P1-P5, with a hyphen or an en dash, cites every label in it.
    """
    return _labels(_NOT_PROSE.sub("_", markdown))  # "_" keeps `f`(3) a call, not a citation


def problems(root) -> list[str]:
    """What is not true in the ledger or in the notebooks under `root`, one line each; [] if all is well."""
    root = Path(root)
    if not (root / "notebooks").is_dir():
        raise ValueError(f"root: {root} has no folder notebooks, expected the root of the repository")
    paths = sorted(root.glob("notebooks/*.ipynb"))
    notebooks = {path.name: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in paths}
    rows, found = load(), []
    for row in (row for row in rows if row.status == "done"):
        found += [f"{row.label}: done without a {k}" for k in HEADER[3:6] if not getattr(row, k)]
        found += [f"{row.label}: no function {name}" for name in row.function if not _resolves(name)]
        found += [f"{row.label}: no test {name}" for name in row.test if not _has_test(root, name)]
        found += [f"{row.label}: {e}" for name in row.cell if (e := _cell_error(notebooks, name, row.label))]
    known = {row.label for row in rows}
    for file, cells in notebooks.items():
        for index, cell in enumerate(cells):
            if cell["cell_type"] == "markdown":
                where = f"{file}, cell {cell['metadata'].get('name', index)}"
                unknown = sorted(cited("".join(cell["source"])) - known)
                found += [f"{where}: cites {label}, which is not in the ledger" for label in unknown]
    return found


def _labels(text):
    found = {" ".join(match.split()) for match in _LABEL.findall(text)}
    for left, first, right, last in _RANGE.findall(text):
        found |= {f"{left}{n}{right}" for n in range(int(first), int(last) + 1)}
    return found


def _resolves(name):
    try:
        return pkgutil.resolve_name(name) is not None
    except (ImportError, AttributeError, ValueError):
        return False


def _has_test(root, name):
    file, _, function = name.partition("::")
    if not function.startswith("test_") or not (root / file).is_file():
        return False
    tree = ast.parse((root / file).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def _cell_error(notebooks, name, label):
    prefix, _, tag = name.partition(":")
    files = [file for file in notebooks if file.startswith(f"{prefix}_")]
    if len(files) != 1:
        return f"cell {name}: {len(files)} notebooks start with {prefix}_, expected 1"
    cells = [cell for cell in notebooks[files[0]] if cell["metadata"].get("name") == tag]
    if len(cells) != 1:
        return f"cell {name}: {len(cells)} cells have that name, expected 1"
    source = "".join(cells[0]["source"])
    if label not in (cited(source) if cells[0]["cell_type"] == "markdown" else _labels(source)):
        return f"cell {name}: does not mention {label}"
