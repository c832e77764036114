"""What notebooks lean on: setup, modes, show, figures with alt text, tables."""

import math
import subprocess
import sys

import matplotlib.colors
import matplotlib.figure
import numpy as np
import pytest

import rlbook
from rlbook import notebook, plots


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv("RLBOOK_MODE", raising=False)
    with matplotlib.rc_context():
        yield


def test_setup_fixes_seed_and_mode_and_says_so(capsys):
    cfg = rlbook.setup("01a")
    first = np.random.random(3)
    rlbook.setup("01a")
    assert np.array_equal(first, np.random.random(3))
    assert (cfg.chapter, cfg.mode, cfg.seed) == ("01a", "fast", 0)
    assert capsys.readouterr().out == "rlbook 01a, fast mode\n" * 2


def test_setup_leaves_one_thread():
    code = (
        "import numpy, rlbook; rlbook.setup('00'); import threadpoolctl, os;"
        "pools = [p['num_threads'] for p in threadpoolctl.threadpool_info()];"
        "print(max([*pools, int(os.environ['OMP_NUM_THREADS'])]))"
    )
    env = {"PATH": "", "OPENBLAS_NUM_THREADS": "2"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
    ).stdout
    assert out.splitlines()[-1] == "1"


@pytest.mark.parametrize(("mode", "want"), [("fast", 20), ("full", 300), ("smoke", 2)])
def test_pick_follows_the_mode(monkeypatch, mode, want):
    monkeypatch.setenv("RLBOOK_MODE", mode)
    assert rlbook.setup("00").pick(fast=20, full=300, smoke=2) == want


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("RLBOOK_MODE", "quick")
    with pytest.raises(ValueError, match="RLBOOK_MODE: expected one of smoke, fast, full, got 'quick'"):
        rlbook.setup("00")


def test_bars_are_drawn_unless_the_environment_says_no(monkeypatch):
    monkeypatch.delenv("RLBOOK_PROGRESS", raising=False)
    assert notebook.Config("00", "fast").progress is True
    monkeypatch.setenv("RLBOOK_PROGRESS", "0")
    assert notebook.Config("00", "fast").progress is False


def test_streams_repeat_and_differ():
    cfg = notebook.Config("00", "fast")
    assert np.array_equal(cfg.rng(1).random(4), cfg.rng(1).random(4))
    assert not np.array_equal(cfg.rng(1).random(4), cfg.rng(2).random(4))
    assert not np.array_equal(cfg.rng(1).random(4), notebook.Config("00", "fast", seed=1).rng(1).random(4))


def documented(x):
    """(1) First line.

    | a table |
    """
    y = x + 1  # kept
    return y


def bare(x):
    return "a ''' string"


def test_source_keeps_the_code_and_the_first_line_of_the_docstring():
    assert notebook.source(documented) == (
        'def documented(x):\n    """(1) First line."""\n    y = x + 1  # kept\n    return y'
    )
    assert notebook.source(bare) == "def bare(x):\n    return \"a ''' string\""


def test_source_shows_methods_without_their_indent():
    from rlbook.mdp import TabularMDP

    text = notebook.source(TabularMDP.evaluate)
    assert text.startswith("def evaluate(self, pi):\n")
    assert "| argument |" not in text and "np.linalg.solve" in text


def test_an_unknown_helper_is_named():
    with pytest.raises(AttributeError, match="no attribute 'chek'; helpers: check"):
        rlbook.chek  # noqa: B018
    assert "check" in dir(rlbook) and callable(rlbook.check)


def test_the_interval_is_1_96_standard_errors():
    # by hand: samples 1, 2, 3, 6: mean 3, unbiased variance 14/3, standard error sqrt(14/12)
    mean, half = plots.mean_and_interval([[1.0], [2.0], [3.0], [6.0]])
    assert mean == [3.0] and half == pytest.approx([1.96 * np.sqrt(14 / 12)])
    mean, half = plots.mean_and_interval([[4.0, 5.0]])
    assert mean.tolist() == [4.0, 5.0] and half.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n", range(2, 11))
def test_students_interval_holds_95_percent_of_its_distribution(n):
    """The density of Student's t with n - 1 degrees of freedom, integrated between the two ends."""
    samples = np.arange(float(n))[:, None]
    mean, half = plots.mean_and_interval(samples, student=True)
    assert mean == [(n - 1) / 2]
    t = half[0] / (samples.std(ddof=1) / math.sqrt(n))
    angle = np.linspace(0, math.atan(t / math.sqrt(n - 1)), 20_001)  # x = sqrt(n - 1) tan(angle)
    height = 2 * math.gamma(n / 2) / math.gamma((n - 1) / 2) / math.sqrt(math.pi)
    assert height * np.trapezoid(np.cos(angle) ** (n - 2), angle) == pytest.approx(0.95, abs=2e-4)


@pytest.mark.parametrize("n", [1, 11])
def test_students_interval_refuses_other_numbers_of_samples(n):
    with pytest.raises(ValueError, match=f"2 to 10 of them, got {n}"):
        plots.mean_and_interval(np.zeros((n, 1)), student=True)


def test_a_band_covers_the_interval():
    figure = matplotlib.figure.Figure()
    axes = figure.subplots()
    plots.band(axes, [0, 1], np.array([[0.0, 1.0], [2.0, 1.0]]), "both", plots.BLUE)
    assert axes.lines[0].get_ydata().tolist() == [1.0, 1.0]
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((1 - 1.96, 1 + 1.96))


def test_a_figure_is_shown_with_alt_text_and_closed(monkeypatch):
    import matplotlib.pyplot as plt

    shown = {}
    monkeypatch.setattr("IPython.display.display", lambda data, **rest: shown.update(data=data, **rest))
    figure, _ = plt.subplots()
    plots.show(figure, alt="A falling line.")
    assert shown["data"]["image/png"].startswith(b"\x89PNG")
    assert shown["metadata"] == {"image/png": {"alt": "A falling line."}} and shown["raw"] is True
    assert shown["data"]["text/plain"] == "Figure: A falling line."
    assert not plt.fignum_exists(figure.number)
    with pytest.raises(ValueError, match="alt"):
        plots.show(plt.figure(), alt=" ")
    plt.close("all")


def test_a_table_is_aligned(capsys):
    plots.table(("N", [1, 100], "d"), ("RMSE", [0.1234, 2.0], ".3f"))
    assert capsys.readouterr().out == "  N   RMSE\n  1  0.123\n100  2.000\n"
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        plots.table(("N", [1, 100], "d"), ("RMSE", [0.1], ".3f"))


# Machado, Oliveira and Fernandes 2009: what a reader without green (red) cones sees, in linear RGB
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


@pytest.mark.parametrize("eye", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_colour_blind_readers_can_tell_the_palette_apart(eye):
    def seen(colours):
        rgb = np.array([matplotlib.colors.to_rgb(c) for c in colours]) ** 2.2 @ np.transpose(eye)
        distance = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1)
        return distance[np.triu_indices(len(colours), 1)].min()

    assert seen(plots.COLOURS) > 0.15
