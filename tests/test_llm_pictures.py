"""Tokens as coloured cells, and the live plot."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from rlbook import plots
from rlbook.llm import pictures


def cells(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, plt.Rectangle)]


def test_one_cell_a_token_blue_above_zero_red_below():
    figure = pictures.tokens([["7", "+", "8"], ["<end>"]], [[1.0, 0.0, -1.0], [0.5]], ["first", "second"])
    shades = [np.array(cell.get_facecolor()[:3]) for cell in cells(figure)]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(shades) == 4 and texts == ["first", "7", "+", "8", "second", "<end>"]
    np.testing.assert_allclose(shades[0], to_rgb(plots.BLUE), atol=0.01)
    np.testing.assert_allclose(shades[1], 1.0, atol=0.01)
    np.testing.assert_allclose(shades[2], to_rgb(plots.VERMILION), atol=0.01)
    np.testing.assert_allclose(shades[3], (1 + np.array(to_rgb(plots.BLUE))) / 2, atol=0.01)  # half way
    places = [(cell.get_x() + 0.5, round(cell.get_y() + 0.42)) for cell in cells(figure)]
    assert places == [(0, 0), (1, 0), (2, 0), (0, 1)]
    plt.close(figure)


def test_the_limit_is_the_weight_of_full_colour():
    figure = pictures.tokens([["a", "b"]], [[1.0, 9.0]], [""], limit=2.0)
    half, full = (np.array(cell.get_facecolor()[:3]) for cell in cells(figure))
    np.testing.assert_allclose(half, (1 + np.array(to_rgb(plots.BLUE))) / 2, atol=0.01)
    np.testing.assert_allclose(full, to_rgb(plots.BLUE), atol=0.01)
    assert len(figure.axes[0].texts) == 3
    plt.close(figure)


def test_weights_of_zero_are_white():
    figure = pictures.tokens([["a"]], [[0.0]], [""])
    np.testing.assert_allclose(cells(figure)[0].get_facecolor()[:3], 1.0, atol=0.01)
    assert len(cells(figure)) == 1
    plt.close(figure)


@pytest.mark.parametrize("arguments, said", [
    (([["a"]], [[1.0]], []), "expected as many of each, got 1, 1, 0"),
    (([["a", "b"]], [[1.0]], ["x"]), "weights: expected 2 in row 0, one a token, got 1"),
    (([], [], []), "rows: expected at least one completion"),
    (([["a"]], [[np.nan]], ["x"]), "weights: expected finite numbers"),
    (([["a"]], [[1.0]], ["x"], 0.0), "limit: expected a number"),
])  # fmt: skip
def test_bad_input_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        pictures.tokens(*arguments)


def test_live_draws_the_named_columns_and_not_too_often(monkeypatch):
    import IPython.display

    shown, clock = [], [100.0]

    class Handle:
        def update(self, picture):
            shown.append(picture)

    monkeypatch.setattr(IPython.display, "display", lambda **k: Handle())
    monkeypatch.setattr(pictures.time, "monotonic", lambda: clock[0])
    live, rows = pictures.Live("reward", "pass_at_1", seconds=2.0), [{"step": 0, "reward": 0.1}]
    live(rows)
    clock[0] += 1.0
    live(rows)
    assert len(shown) == 1 and shown[0].alt == "reward, pass_at_1 against the step, 1 steps"
    clock[0] += 1.5
    live([*rows, {"step": 1, "reward": 0.2, "pass_at_1": 0.5}])
    assert len(shown) == 2 and shown[1].data != shown[0].data and not plt.get_fignums()
    with pytest.raises(ValueError, match="names: expected at least one metric"):
        pictures.Live()
    assert len(live.names) == 2
