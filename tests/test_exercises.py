"""Every exercise accepts its solution, sees a stub as not attempted, and names each wrong answer."""

import numpy as np
import pytest

from rlbook import checks, runner

CHAPTERS = {path.name.split("_")[0]: path for path in runner.notebooks() if path.name[0].isdigit()}
SOLUTIONS = {chapter: runner.solutions(chapter) for chapter in CHAPTERS}
EXERCISES = [(chapter, id) for chapter, (solved, _) in SOLUTIONS.items() for id in solved]
MUTANTS = [
    (chapter, id, name)
    for chapter, (_, wrong) in SOLUTIONS.items()
    for id, names in wrong.items()
    for name in names
]


def answer_of(id, source):
    """Run the source of an exercise cell and return the variable that the exercise asks for."""
    namespace = {"np": np}
    exec(source, namespace)
    return namespace[checks.get(id).answer]


def stubs(chapter):
    import nbformat

    notebook = nbformat.read(CHAPTERS[chapter], as_version=4)
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("exercise:"):
                yield tag.removeprefix("exercise:"), cell.source


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_notebook_solutions_and_wrong_answers_name_the_same_exercises(chapter):
    solved, wrong = SOLUTIONS[chapter]
    in_notebook = [id for id, _ in stubs(chapter)]
    assert in_notebook == list(solved) == list(wrong)
    assert min(len(names) for names in wrong.values()) >= 3


@pytest.mark.parametrize(("chapter", "id"), EXERCISES)
def test_the_solution_passes(chapter, id):
    verdict = checks.judge(id, answer_of(id, SOLUTIONS[chapter][0][id]))
    assert verdict == checks.Verdict("PASS")


@pytest.mark.parametrize(("chapter", "id"), EXERCISES)
def test_the_stub_is_not_attempted(chapter, id):
    assert checks.judge(id, answer_of(id, dict(stubs(chapter))[id])) == checks.Verdict("TODO")


@pytest.mark.parametrize(("chapter", "id", "name"), MUTANTS)
def test_the_wrong_answer_is_named(chapter, id, name):
    solved, wrong = SOLUTIONS[chapter]
    verdict = checks.judge(id, answer_of(id, runner.mutant_source(solved[id], wrong[id][name])))
    assert (verdict.state, verdict.mistake) == ("FAIL", name)


CONSTANTS = {
    "zero": lambda *args: 0.0,
    "one": lambda *args: 1.0,
    "nan": lambda *args: float("nan"),
    "first argument": lambda *args: args[0],
    "zeros like the first argument": lambda *args: np.zeros_like(np.asarray(args[0], dtype=float)),
    "crash": lambda *args: 1 / 0,
    "a number in place of a function": 3.0,
}


@pytest.mark.parametrize("name", CONSTANTS)
@pytest.mark.parametrize(("chapter", "id"), EXERCISES)
def test_an_answer_that_does_not_look_at_its_input_fails(chapter, id, name):
    assert checks.judge(id, CONSTANTS[name]).state == "FAIL"


def test_there_are_enough_exercises():
    assert len(EXERCISES) >= 12
