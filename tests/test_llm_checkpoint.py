"""Runs that stop and go on: the same numbers, bit for bit, or a message that says what is wrong."""

import builtins
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import llm_tiny
import numpy as np
import pytest
import torch

from rlbook.llm import checkpoint
from rlbook.llm.critic import PPOTrainer
from rlbook.llm.metrics import TIMINGS
from rlbook.llm.trainer import Trainer

SETTINGS = {"steps": 4, "checkpoint_every": 2, "minibatches": 2, "epochs": 2, "overlong_buffer": 4}


class Stop(Exception):
    """What a test raises to end a run."""


def stop_after(step):
    def on_step(history):
        if len(history) == step:
            raise Stop

    return on_step


def assert_same(first, second):
    assert set(first) == set(second)
    for name in set(first) - set(TIMINGS):
        assert np.array_equal(first[name], second[name], equal_nan=True), name


def saved(tmp_path, **changes):
    """A run in tmp_path/out that stopped after its third step; its checkpoint is of the second."""
    c = llm_tiny.config(tmp_path, out_dir=str(tmp_path / "out"), **(SETTINGS | changes))
    with pytest.raises(Stop):
        Trainer(c).run(progress=False, on_step=stop_after(3))
    return c


@pytest.mark.parametrize("kind", [Trainer, PPOTrainer])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(tmp_path, kind):
    c = lambda name: llm_tiny.config(tmp_path, out_dir=str(tmp_path / name), **SETTINGS)  # noqa: E731
    whole = kind(c("whole"))
    expected = whole.run(progress=False)
    with pytest.raises(Stop):
        kind(c("cut")).run(progress=False, on_step=stop_after(3))
    again = kind(c("cut"))
    assert_same(again.run(resume=True, progress=False), expected)
    for mine, other in zip(again._stateful()[0].values(), whole._stateful()[0].values(), strict=True):
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut")]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == 4
    assert kind is Trainer or "value_loss" in expected


def test_the_logs_are_the_history_and_a_longer_run_goes_on_from_the_end(tmp_path):
    c = llm_tiny.config(tmp_path, out_dir=str(tmp_path / "out"), **SETTINGS)
    history = Trainer(c).run(progress=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    timed = [json.loads(line) for line in (tmp_path / "out" / "timing.jsonl").read_text().splitlines()]
    for name, column in history.items():
        logged = [row.get(name, np.nan) for row in (timed if name in TIMINGS else rows)]
        assert np.array_equal(column, logged, equal_nan=True), name
    assert {name for row in timed for name in row} == {"step", *TIMINGS} - {"critic_seconds"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["steps"] == 4
    longer = llm_tiny.config(tmp_path, out_dir=str(tmp_path / "out"), **(SETTINGS | {"steps": 5}))
    more = Trainer(longer).run(resume=True, progress=False)
    assert more["reward"].shape == (5,) and np.array_equal(more["entropy"][:4], history["entropy"])


def test_a_folder_that_holds_a_run_and_a_run_without_a_folder(tmp_path):
    c = saved(tmp_path)
    with pytest.raises(ValueError, match=r"out_dir: .*out holds a run already; run\(resume=True\) goes on"):
        Trainer(c).run(progress=False)
    with pytest.raises(ValueError, match="resume: needs out_dir"):
        Trainer(llm_tiny.config(tmp_path)).run(resume=True, progress=False)


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    c = saved(tmp_path, checkpoint_every=4)
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()
    history = Trainer(c).run(resume=True, progress=False)
    assert history["step"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("change, said", [
    ({"lr": 0.1}, "lr: 0.001 before, 0.1 now"), ({"seed": 3}, "seed: 0 before, 3 now"),
    ({"options": {"clip": (0.2, 0.2)}}, r"options: \{\} before, \{'clip': \[0.2, 0.2\]\} now"),
    ({"model": "big"}, "model: '.*tiny' before, '.*big' now"),
])  # fmt: skip
def test_changed_settings_are_named(tmp_path, change, said):
    saved(tmp_path)
    if "model" in change:
        change = {"model": llm_tiny.folder(tmp_path, name="big")}
    c = llm_tiny.config(tmp_path, out_dir=str(tmp_path / "out"), **(SETTINGS | change))
    with pytest.raises(ValueError, match=f"resume: the settings changed \\({said}"):
        Trainer(c).run(resume=True, progress=False)


def test_a_run_with_a_critic_and_one_without_do_not_mix(tmp_path):
    c = saved(tmp_path)
    with pytest.raises(ValueError, match="settings changed .*lam: None before, 0.95 now"):
        PPOTrainer(c).run(resume=True, progress=False)
    c = llm_tiny.config(tmp_path, out_dir=str(tmp_path / "ppo"), **SETTINGS)
    PPOTrainer(c, lam=0.5).run(progress=False)
    with pytest.raises(ValueError, match="lam: 0.5 before, None now"):
        Trainer(c).run(resume=True, progress=False)
    with pytest.raises(ValueError, match="lam: 0.5 before, 0.9 now"):
        PPOTrainer(c, lam=0.9).run(resume=True, progress=False)


def test_other_weights_under_the_same_name_are_noticed(tmp_path):
    c = llm_tiny.config(tmp_path, out_dir=str(tmp_path / "run"), steps=1)
    Trainer(c).run(progress=False)
    shutil.rmtree(tmp_path / "tiny")
    llm_tiny.folder(tmp_path, seed=1)
    with pytest.raises(ValueError, match="resume: the run began from other weights than .*tiny has now"):
        Trainer(c).run(resume=True, progress=False)


def test_another_model_under_the_same_name_does_not_fit(tmp_path):
    from rlbook.llm import models

    c = saved(tmp_path)
    models.save(models.build(hidden=16, layers=1), models.tokenizer(), tmp_path / "tiny")
    with pytest.raises(ValueError, match="the checkpoint is of another model: model.embed_tokens.weight is"):
        Trainer(c).run(resume=True, progress=False)


@pytest.mark.parametrize("harm", ["cut", "one byte", "empty", "a model"])
def test_a_file_that_is_not_a_whole_checkpoint_is_refused(tmp_path, harm):
    c, path = saved(tmp_path), tmp_path / "out" / "checkpoint.safetensors"
    data = path.read_bytes()
    other = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    path.write_bytes({"cut": data[:-1], "one byte": changed, "empty": b"", "a model": other}[harm])
    with pytest.raises(ValueError, match="checkpoint.safetensors: not a"):
        Trainer(c).run(resume=True, progress=False)


def test_a_log_shorter_than_its_checkpoint_is_refused(tmp_path):
    c, path = saved(tmp_path), tmp_path / "out" / "timing.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match="timing.jsonl: expected 2 rows as the checkpoint says, found 1"):
        Trainer(c).run(resume=True, progress=False)


@pytest.mark.parametrize("place", ["write", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch, place):
    path, full = tmp_path / "checkpoint.safetensors", OSError(errno.ENOSPC, "No space left on device")
    checkpoint.save(path, {"x": torch.arange(4.0)}, {"step": 1})

    class Full:
        """A file that takes three bytes."""

        def __init__(self, path, mode):
            self.file = true_open(path, mode)

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: self.file.close()  # noqa: E731

        def write(self, data):
            self.file.write(data[:3])
            raise full

    def no_replace(*paths):
        raise full

    true_open = builtins.open
    with monkeypatch.context() as patch:
        if place == "write":
            patch.setattr(builtins, "open", Full)
        else:
            patch.setattr(os, "replace", no_replace)
        with pytest.raises(OSError, match="No space left.*the one before it is whole. Free some space"):
            checkpoint.save(path, {"x": torch.zeros(4)}, {"step": 2})
        with pytest.raises(OSError, match="nothing was written"):
            checkpoint.save(tmp_path / "new", {"x": torch.zeros(4)}, {"step": 2})
    tensors, state = checkpoint.load(path)
    assert tensors["x"].tolist() == [0, 1, 2, 3] and state == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no half files


KILLS = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from rlbook.llm import checkpoint
from rlbook.llm.trainer import TrainConfig, Trainer

settings, folder = json.loads(sys.argv[1]), sys.argv[2]
run = lambda name: Trainer(TrainConfig(**settings, out_dir=f"{folder}/{name}")).run(True, progress=False)
def log():
    path = f"{folder}/killed/metrics.jsonl"
    return open(path).read().count("\\n") if os.path.exists(path) else 0

random.seed(0)
sync, path = os.fsync, f"{folder}/killed/checkpoint.safetensors"
for number in range(20):
    if os.path.exists(path + ".part"):
        os.remove(path + ".part")
    before, child = log(), os.fork()
    if child == 0:
        os.fsync = lambda file: (time.sleep(0.02), sync(file))  # a slow disk
        run("killed")
        os._exit(0)
    while log() in (0, before):
        time.sleep(0.01)
    while number % 2 and not os.path.exists(path + ".part"):  # every other kill hits a write
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.01 if number % 2 else 0.2))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    step = checkpoint.load(path)[1]["step"] if os.path.exists(path) else 0
    print("kill", os.WTERMSIG(status), log(), step, os.path.exists(path + ".part"))
run("killed"), run("whole")
"""


def test_a_killed_run_loses_at_most_the_steps_since_its_checkpoint(tmp_path):
    settings = llm_tiny.SMALL | {"model": llm_tiny.folder(tmp_path), "steps": 90, "eval_every": 90}
    settings |= {"checkpoint_every": 2, "overlong_buffer": 4}
    command = [sys.executable, "-c", KILLS, json.dumps(settings), str(tmp_path)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    kills = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("kill")]
    assert [signal for signal, *_ in kills] == ["9"] * 20, "each died of the kill, none by itself"
    assert all(0 <= int(rows) - int(step) <= 2 for _, rows, step, _ in kills)
    assert sum(half == "True" for *_, half in kills) >= 5, "some kills come during a write"
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("killed", "whole")]
    assert logs[0] == logs[1] and len(logs[0]) == 90
