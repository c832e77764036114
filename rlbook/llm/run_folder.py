"""The folder of a run: its settings, a line of metrics and one of timings a step, and the checkpoint."""

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from rlbook.llm import checkpoint
from rlbook.llm.metrics import TIMINGS

LOGS = ("metrics.jsonl", "timing.jsonl")
CHECKPOINT = "checkpoint.safetensors"
FREE = ("steps", "out_dir", "checkpoint_every")  # settings that may change when a run goes on


def enter(folder, resume, settings):
    """(tensors, state, rows) of the checkpoint to go on from; None if the run is to begin.

    Makes the folder. Raises ValueError on a run that is there and not to be resumed, on changed settings,
    and on logs shorter than the checkpoint says.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and (folder / LOGS[0]).exists():
        raise ValueError(
            f"out_dir: {folder} holds a run already; run(resume=True) goes on with it, or choose another"
        )
    if not (resume and (folder / CHECKPOINT).exists()):
        return None
    tensors, state = checkpoint.load(folder / CHECKPOINT)
    _same(state["config"], settings)
    logs = (_read(folder / name, state["step"]) for name in LOGS)
    return tensors, state, [timing | metrics for metrics, timing in zip(*logs, strict=True)]


def begin(folder, settings, rows):
    """Write the settings, and logs of just these rows: those after the checkpoint are made again."""
    checkpoint.write(Path(folder) / "config.json", json.dumps(settings, indent=1).encode())
    for name, timed in zip(LOGS, (False, True), strict=True):
        checkpoint.write(Path(folder) / name, "".join(_line(row, timed) for row in rows).encode())


def append(folder, row):
    """Add a row to the logs, down to the disk."""
    for name, timed in zip(LOGS, (False, True), strict=True):
        with open(Path(folder) / name, "a", encoding="utf-8") as file:
            file.write(_line(row, timed))
            file.flush()
            os.fsync(file.fileno())


def save_batch(folder, rollouts, step):
    """Write the tensors of a batch that stopped a run; returns the path."""
    path = Path(folder) / f"bad_batch_{step}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in vars(rollouts).items() if v is not None}, path)
    return path


def _same(before, now):
    changed = [n for n in {**before, **now} if n not in FREE and now.get(n) != before.get(n)]
    if changed:
        pairs = ", ".join(f"{n}: {before.get(n)!r} before, {now.get(n)!r} now" for n in changed)
        raise ValueError(f"resume: the settings changed ({pairs}); use the old ones or another out_dir")


def _line(row, timed):
    """A JSON line of the row: its timings, or all but its timings (these repeat bit for bit)."""
    return json.dumps({k: v for k, v in row.items() if k == "step" or (k in TIMINGS) == timed}) + "\n"


def _read(path, n):
    """The first n rows of a log."""
    lines = path.read_text(encoding="utf-8").splitlines()[:n] if path.exists() else []
    if len(lines) < n:
        raise ValueError(f"{path}: expected {n} rows as the checkpoint says, found {len(lines)}")
    return [json.loads(line) for line in lines]
