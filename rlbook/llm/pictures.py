"""Pictures of training on text: a figure that follows a run, and completions as coloured tokens."""

import io
import time

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from rlbook import plots, validate
from rlbook.llm.trainer import columns

BLUE_TO_RED = matplotlib.colors.LinearSegmentedColormap.from_list(
    "signed", (plots.VERMILION, "#FFFFFF", plots.BLUE)
)


class Live:
    """Follows a run in a notebook: `Trainer(config).run(on_step=Live("reward", "pass_at_1"))`.

    Draws the named columns of the history against the step, at most every `seconds`; the picture
    replaces itself and is gone from the notebook when it is run without progress bars.
    """

    def __init__(self, *names, seconds=2.0):
        if not names:
            raise ValueError("names: expected at least one metric, such as 'reward'")
        self.names, self.seconds, self.drawn, self.handle = names, seconds, -np.inf, None

    def __call__(self, history):
        """Draw the rows so far, if the last drawing is old enough."""
        from IPython.display import Image, display

        if time.monotonic() - self.drawn < self.seconds:
            return
        found = columns(history)
        figure, panels = plt.subplots(1, len(self.names), figsize=(3.2 * len(self.names), 2.4), squeeze=False)
        for panel, name in zip(panels[0], self.names, strict=True):
            y = found.get(name, np.full(len(history), np.nan))
            known = np.isfinite(y)
            panel.plot(found["step"][known], y[known], marker=".", color=plots.BLUE)
            panel.set(title=name, xlabel="step")
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=80)
        plt.close(figure)
        picture = Image(png.getvalue(), alt=f"{', '.join(self.names)} against the step, {len(history)} steps")
        self.handle = self.handle or display(display_id=True)
        self.handle.update(picture)
        self.drawn = time.monotonic()


def tokens(rows, weights, labels, limit=None):
    """A figure with one line of text a completion and one coloured cell a token.

    | argument | shape          | meaning                                                             |
    | -------- | -------------- | ------------------------------------------------------------------- |
    | rows     | B lists        | the tokens of each completion as strings                            |
    | weights  | B lists        | a number a token: blue above 0, red below, white at 0               |
    | labels   | B strings      | what stands left of each line                                       |
    | limit    | number         | the weight of full colour; None: the largest magnitude              |
    """
    if not (len(rows) == len(weights) == len(labels)):
        raise ValueError(
            f"rows, weights, labels: expected as many of each, got {len(rows)}, {len(weights)}, {len(labels)}"
        )
    if not any(len(row) for row in rows):
        raise ValueError("rows: expected at least one completion with a token")
    for i, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        if len(row) != len(weight):
            raise ValueError(f"weights: expected {len(row)} in row {i}, one a token, got {len(weight)}")
    numbers = validate.array("weights", [w for weight in weights for w in weight])
    limit = (
        np.abs(numbers).max() or 1.0 if limit is None else validate.number("limit", limit, 0, open_low=True)
    )
    width = max(len(row) for row in rows)
    margin = max(len(label) for label in labels) * 0.55 + 0.5
    figure, ax = plt.subplots(figsize=(max(4.0, 0.27 * (width + margin)), 0.32 * len(rows) + 0.3))
    for i, (row, weight, label) in enumerate(zip(rows, weights, labels, strict=True)):
        ax.text(-0.7, i, label, ha="right", va="center", fontsize=8, family="monospace")
        for t, (token, w) in enumerate(zip(row, weight, strict=True)):
            shade = BLUE_TO_RED(0.5 + 0.5 * np.clip(w / limit, -1, 1))
            ax.add_patch(plt.Rectangle((t - 0.5, i - 0.42), 1, 0.84, color=shade, lw=0))
            dark = np.dot(shade[:3], (0.299, 0.587, 0.114)) < 0.5
            ink = "white" if dark else "black"
            ax.text(t, i, token, ha="center", va="center", fontsize=9, family="monospace", color=ink)
    ax.set(xlim=(-margin, width - 0.3), ylim=(len(rows) - 0.4, -0.6))
    ax.axis("off")
    return figure
