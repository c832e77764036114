"""Figures: one style, colours that colour-blind readers can tell apart, alt text on each."""

import io

import numpy as np

# Okabe and Ito 2008, in the order used; black first for the exact truth
BLACK, BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW = (
    "#000000",
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#CC79A7",
    "#F0E442",
)
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
DPI = 110
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 95 %, for 2 to 10 samples


def style():
    """Set the book's plot style for this session."""
    import matplotlib

    matplotlib.rcParams.update(
        {
            "figure.figsize": (7.0, 3.6),
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "font.size": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def show(figure, alt):
    """Display a matplotlib figure with its alt text, then close it.

    alt says in one or two sentences what a reader who cannot see the figure needs to know.
    """
    import matplotlib.pyplot as plt
    from IPython.display import display
    from PIL import Image

    if not alt.strip():
        raise ValueError("alt: expected a description of the figure, got nothing")
    canvas, png = io.BytesIO(), io.BytesIO()
    figure.savefig(canvas, format="png", dpi=DPI)
    plt.close(figure)
    palette = Image.open(canvas).convert("RGB").quantize(256)  # a third of the size, and notebooks stay small
    palette.save(png, format="png", optimize=True)
    display(
        {"image/png": png.getvalue(), "text/plain": f"Figure: {alt}"},
        metadata={"image/png": {"alt": alt}},
        raw=True,
    )


def mean_and_interval(samples, student=False):
    """Mean and half-width of the 95 % interval over the first axis (seeds): 1.96 standard errors.

    With student=True the factor is Student's t, larger than 1.96: right for few seeds, here 2 to 10.
    """
    samples = np.asarray(samples, dtype=float)
    n = len(samples)
    if student and not 2 <= n <= len(STUDENT) + 1:
        raise ValueError(f"samples: Student's t is known for 2 to {len(STUDENT) + 1} of them, got {n}")
    if n < 2:
        return samples.mean(axis=0), np.zeros(samples.shape[1:])
    factor = STUDENT[n - 2] if student else 1.96
    return samples.mean(axis=0), factor * samples.std(axis=0, ddof=1) / np.sqrt(n)


def band(axes, x, samples, label, color, student=False, **line):
    """Draw the mean over seeds of samples (seeds, len(x)) with its 95 % interval as a band."""
    mean, half = mean_and_interval(samples, student)
    axes.plot(x, mean, label=label, color=color, **line)
    axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def table(*columns):
    """Print columns (name, values, format) as an aligned table: the data of a figure in text.

    Each column is a tuple such as ("N", [1, 10], "d") or ("RMSE", errors, ".3f").
    """
    cells = [[name, *(format(v, spec) for v in values)] for name, values, spec in columns]
    widths = [max(map(len, column)) for column in cells]
    for row in zip(*cells, strict=True):
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip())
