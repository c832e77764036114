"""What the first cell of every notebook calls: one seed, one thread, one style, one mode."""

import ast
import inspect
import os
import sys
import textwrap
from dataclasses import dataclass

import numpy as np

MODES = ("smoke", "fast", "full")


@dataclass(frozen=True)
class Config:
    """The notebook's settings: chapter ("01a"), mode, seed."""

    chapter: str
    mode: str
    seed: int = 0

    @property
    def progress(self):
        """Whether to draw progress bars: yes, unless RLBOOK_PROGRESS is 0 (tests, stored outputs)."""
        return os.environ.get("RLBOOK_PROGRESS", "1") != "0"

    def pick(self, fast, full, smoke):
        """The value for this mode: `n = cfg.pick(fast=200, full=2000, smoke=5)`."""
        return {"fast": fast, "full": full, "smoke": smoke}[self.mode]

    def rng(self, stream=0):
        """A fresh NumPy generator; the same stream number gives the same numbers again."""
        return np.random.default_rng([self.seed, stream])


def setup(chapter, seed=0):
    """Fix the seed, one thread, the plot style and the mode (RLBOOK_MODE); returns a `Config`."""
    mode = os.environ.get("RLBOOK_MODE", "fast")
    if mode not in MODES:
        raise ValueError(f"RLBOOK_MODE: expected one of {', '.join(MODES)}, got {mode!r}")
    import threadpoolctl

    from rlbook import plots

    threadpoolctl.threadpool_limits(1)  # the same sums in the same order on every machine
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for libraries that load later
    np.random.seed(seed)
    plots.style()
    print(f"rlbook {chapter}, {mode} mode")
    return Config(chapter, mode, seed)


def show(*functions):
    """Display the source of package functions, each with the first line of its docstring."""
    from IPython.display import Markdown, display

    for function in functions:
        display(Markdown(f"```python\n{source(function)}\n```"))


def source(function):
    """The source of a function, its docstring cut to the first line."""
    text = textwrap.dedent(inspect.getsource(function)).rstrip()
    doc = ast.parse(text).body[0].body[0]
    if isinstance(doc, ast.Expr) and isinstance(getattr(doc.value, "value", None), str):
        lines = text.splitlines()
        head = lines[doc.lineno - 1]
        if doc.end_lineno > doc.lineno:
            head = head.rstrip() + '"""'
        text = "\n".join([*lines[: doc.lineno - 1], head, *lines[doc.end_lineno :]])
    return text
