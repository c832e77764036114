"""pyproject.toml, requirements.lock, environment.yml and what runs the tests must agree."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import rlbook

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_NAMES = {"pytorch": "torch"}
IMPORT_NAMES = {"pillow": "PIL", "pyyaml": "yaml"}


def requirements(lines):
    """{name: ranges} of requirement lines."""
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(need.name): need.specifier for need in parsed}


def direct():
    """Every requirement of the package and its extras, but for the rivals of `make bench`."""
    extras = [lines for name, lines in PROJECT["optional-dependencies"].items() if name != "bench"]
    return requirements([*PROJECT["dependencies"], *(line for extra in extras for line in extra)])


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return requirements([line for line in lines if line and not line.startswith("#")])


def test_the_lock_pins_every_package_exactly_once():
    lines = [x for x in (ROOT / "requirements.lock").read_text().splitlines() if x and not x.startswith("#")]
    assert len(lines) == len(locked()) > 100
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    assert "torch==2.13.0" in lines


@pytest.mark.parametrize("name", sorted(direct()))
def test_each_requirement_is_locked_within_its_range(name):
    assert name in locked()
    version = next(iter(locked()[name])).version
    assert direct()[name].contains(version)


def test_conda_users_get_the_same_packages_and_ranges():
    conda = [line for line in ENVIRONMENT if isinstance(line, str)]
    pip = next(line["pip"] for line in ENVIRONMENT if isinstance(line, dict))
    assert "-e ." in pip
    found = requirements(line for line in [*conda, *pip] if line not in ("pip", "-e ."))
    found = {CONDA_NAMES.get(name, name): ranges for name, ranges in found.items()}
    python = found.pop("python")
    assert found == direct()
    assert python == SpecifierSet(PROJECT["requires-python"] + ",<3.13")


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [rlbook.__version__, citation["version"], newest[1]] == [PROJECT["version"]] * 3
    assert str(citation["date-released"]) == newest[2]


def test_every_import_of_the_package_is_a_declared_requirement():
    declared = {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in direct()}
    declared |= {"rlbook", "IPython"} | sys.stdlib_module_names  # IPython comes with ipykernel
    for path in (ROOT / "rlbook").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            else:
                modules = [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert {module.split(".")[0] for module in modules} <= declared, path.name


def test_ci_runs_what_the_reader_runs():
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in script if line and not line.startswith(("#", "set ", "cd "))] == ["make test"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_make_test_checks_the_notebooks_strictly():
    shown = subprocess.run(
        ["make", "-n", "test", "PYTHON=python3"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "ruff check ." in shown and "ruff format --check ." in shown
    assert re.search(r"-u MPLBACKEND .*RLBOOK_MODE=fast .*pytest .*--nbval .* tests notebooks$", shown, re.M)


def test_nothing_names_a_registry():
    for name in ("Makefile", "requirements.lock", "environment.yml", "pyproject.toml", ".ci/run"):
        assert "://" not in (ROOT / name).read_text(), name
