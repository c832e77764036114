"""The command that trains from a file of settings, and the precision it may choose."""

import json
import subprocess
import sys

import llm_tiny
import pytest
import torch

from rlbook.llm import decoding, models, sampling, train
from rlbook.llm.trainer import Trainer


def file(tmp_path, **changes):
    """The path of a CONFIG.json of a run of two steps; the punishment of length is its only reward."""
    chosen = (
        {"model": llm_tiny.folder(tmp_path)}
        | llm_tiny.SMALL
        | {"steps": 2, "eval_every": 1, "overlong_buffer": 4}
        | changes
    )
    (tmp_path / "run.json").write_text(json.dumps({"out_dir": str(tmp_path / "out")} | chosen))
    return str(tmp_path / "run.json")


# -- the command -----------------------------------------------------------------------------------------


def test_it_trains_says_what_came_out_and_saves_a_model_others_can_load(tmp_path):
    command = [sys.executable, "-m", "rlbook.llm.train", file(tmp_path), "seed=3", "levels=[1,2]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert f"step 2: pass@1 {rows[-1]['pass_at_1']:.3f}" in done.stdout and len(rows) == 2
    written = json.loads((out / "config.json").read_text())
    assert (written["seed"], written["levels"], written["group_size"]) == (3, [1, 2], 4)
    model, words = models.load(out / "model")
    start, _ = models.load(written["model"])
    moved = [not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True)]
    assert any(moved) and words.get_vocab() == models.tokenizer().get_vocab()


def test_the_config_that_a_run_wrote_makes_the_same_run_again(tmp_path, capsys):
    mixed = {"method": "mix_1", "guide": llm_tiny.folder(tmp_path, 1, "guide"), "guide_per_prompt": 1}
    train.main([file(tmp_path, **mixed, options={"variant": "corrected", "clip": [0.2, 0.3]})])
    again = str(tmp_path / "again")
    train.main([str(tmp_path / "out" / "config.json"), f"out_dir={again}"])
    logs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("out", "again")]
    assert logs[0] == logs[1] and f"model: {again}" in capsys.readouterr().out


def test_it_goes_on_from_a_checkpoint_and_only_when_told_to(tmp_path, capsys):
    whole = train.main([file(tmp_path), "steps=4", f"out_dir={tmp_path / 'whole'}"])
    train.main([file(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        train.main([file(tmp_path), "steps=4"])
    assert "holds a run already" in capsys.readouterr().err
    history = train.main([str(tmp_path / "out" / "config.json"), "--resume", "steps=4"])
    assert history["entropy"].tolist() == whole["entropy"].tolist() and len(history["entropy"]) == 4
    with pytest.raises(SystemExit, match="2"):
        train.main([file(tmp_path), "--resume", "lr=0.1"])
    assert "lr: 0.001 before, 0.1 now" in capsys.readouterr().err


@pytest.mark.parametrize("changes, said", [
    (["learning_rate=1"], "expected fields among model, guide, task, .*checkpoint_every; got learning_rate"),
    (["lr"], "expected field=value, got 'lr'"), (["lr=fast"], "lr: expected"), (["steps=1.5"], "steps: exp"),
    (["method=ppo2"], "method: expected one of"), (["out_dir=null"], "out_dir: expected a folder"),
    (["model=not/a/folder"], "expected a folder, one of"), (["device=tpu"], "device: expected 'cpu'"),
    (["task=sums"], "expected one of addition"), (["levels=[9]"], "levels: expected some of"),
])  # fmt: skip
def test_settings_that_cannot_be_are_named_in_a_line(tmp_path, capsys, changes, said):
    with pytest.raises(SystemExit, match="2"):
        train.main([file(tmp_path), *changes])
    error = capsys.readouterr().err
    assert error.startswith("python -m rlbook.llm.train: ")
    with pytest.raises(ValueError, match=said):
        raise ValueError(error)


@pytest.mark.parametrize("text, said", [("{", "cannot be read as JSON"), ("[1]", "expected {field: value")])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text, said):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        train.settings(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="nowhere.json cannot be read as JSON"):
        train.settings(tmp_path / "nowhere.json")


def test_values_are_json_or_else_text(tmp_path):
    changes = ["model=weak", "micro_batch=null", "dynamic_sampling=true", 'options={"clip": [0.1, 0.2]}']
    config = train.settings(file(tmp_path), changes)
    assert (config.model, config.micro_batch, config.dynamic_sampling) == ("weak", None, True)
    assert config.options == {"clip": [0.1, 0.2]} and config.group_size == 4


# -- bfloat16 --------------------------------------------------------------------------------------------


def watched(trainer, monkeypatch):
    """The dtypes of logits that the trainer's models return from now on."""
    seen, forward = [], decoding.forward

    def note(*args, **more):
        output = forward(*args, **more)
        seen.append(output.logits.dtype)
        return output

    for module in (sampling, decoding):
        monkeypatch.setattr(module, "forward", note)
    return seen


def norms(model):
    """The weights of the normalisations: all 1 in a new model."""
    return torch.cat([p.detach().float() for name, p in model.named_parameters() if "norm" in name])


def test_an_update_that_bfloat16_weights_would_lose_is_kept(tmp_path, monkeypatch):
    llm_tiny.rig(monkeypatch, lambda text, ended: "7" in text)
    changes = {"group_size": 8, "epochs": 1, "lr": 1e-4}
    trainer = Trainer(llm_tiny.config(tmp_path, dtype="bfloat16", **changes))
    pure = models.load(trainer.config.model, dtype=torch.bfloat16)[0]
    trainer.update(trainer.collect()[0])
    moved = norms(trainer.model) - 1
    # AdamW's first step is lr * sign(gradient); bfloat16's neighbours of 1 are 1/256 below and 1/128 above
    assert moved.abs().max() == pytest.approx(1e-4, rel=1e-2)
    assert (moved.abs() > 0.9e-4).float().mean() > 0.9
    optimiser = torch.optim.AdamW(pure.parameters(), lr=1e-4, weight_decay=0.0)
    for mine, other in zip(trainer.model.parameters(), pure.parameters(), strict=True):
        other.grad = mine.grad.bfloat16()
    optimiser.step()
    assert torch.equal(norms(pure), torch.ones_like(moved))  # all of it lost
    small = [p.detach().float().abs().max() < 0.02 for p in pure.parameters()]
    assert not all(small)


def test_bfloat16_computes_in_16_bits_and_keeps_32(tmp_path, monkeypatch):
    guided = {"method": "mix_1", "guide": llm_tiny.folder(tmp_path, 1, "guide"), "guide_per_prompt": 2}
    trainer = Trainer(llm_tiny.config(tmp_path, dtype="bfloat16", **guided))
    seen = watched(trainer, monkeypatch)
    rollouts, _ = trainer.collect()
    trainer.update(rollouts)
    trainer.evaluate()
    assert set(seen) == {torch.bfloat16} and rollouts.logp_old.dtype == torch.float32
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    moments = trainer.optimiser.state_dict()["state"].values()
    assert {m["exp_avg_sq"].dtype for m in moments} == {torch.float32}
    frozen = [*trainer.start.parameters(), *trainer.guide.parameters()]
    assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_float32_and_float64_never_compute_in_16_bits(tmp_path, monkeypatch):
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        trainer = Trainer(llm_tiny.config(tmp_path, dtype=name))
        seen = watched(trainer, monkeypatch)
        trainer.update(trainer.collect()[0])
        assert set(seen) == {dtype} == {p.dtype for p in trainer.start.parameters()}


def test_what_bfloat16_sampled_is_recomputed_within_its_rounding(tmp_path):
    exact = Trainer(llm_tiny.config(tmp_path, model="weak", group_size=8))
    rounded = Trainer(llm_tiny.config(tmp_path, model="weak", group_size=8, dtype="bfloat16"))
    batch, _ = rounded.collect()
    tensors = batch.prompt_ids, batch.prompt_mask, batch.completion_ids, batch.mask
    gap = (rounded._log_probs(rounded.model, *tensors) - batch.logp_old).abs()[batch.mask]
    off = (exact._log_probs(exact.model, *tensors) - batch.logp_old).abs()[batch.mask]
    assert gap.mean() < 0.01 and off.mean() < 0.02  # bfloat16 has 8 bits: 1/256 of a logit
    assert off.mean() > 1e-5  # and it did round
    assert abs(rounded.evaluate()["kl_to_start"]) < 0.02  # nothing has moved yet


def test_a_run_in_bfloat16_goes_on_bit_for_bit(tmp_path):
    settings = ["dtype=bfloat16", "checkpoint_every=1"]
    whole = train.main([file(tmp_path), "steps=3", f"out_dir={tmp_path / 'whole'}", *settings])
    train.main([file(tmp_path), *settings])
    history = train.main([file(tmp_path), "--resume", "steps=3", *settings])
    assert history["grad_norm"].tolist() == whole["grad_norm"].tolist()


# -- on a GPU --------------------------------------------------------------------------------------------

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@cuda
@pytest.mark.parametrize("dtype, near", [("float32", 1e-3), ("bfloat16", 0.05)])
def test_on_a_gpu_an_update_moves_the_weights_and_sampling_is_recomputed(tmp_path, dtype, near):
    trainer = Trainer(llm_tiny.config(tmp_path, model="weak", device="cuda", dtype=dtype, group_size=8))
    batch, _ = trainer.collect()
    tensors = batch.prompt_ids, batch.prompt_mask, batch.completion_ids, batch.mask
    gap = (trainer._log_probs(trainer.model, *tensors) - batch.logp_old).abs()[batch.mask]
    assert gap.mean() < near and batch.logp_old.is_cuda
    before = norms(trainer.model)
    row = trainer.update(batch)
    assert row["grad_norm"] > 0 and not torch.equal(norms(trainer.model), before)
    assert trainer._memory() > 0 and 0 <= trainer.evaluate()["pass_at_1"] <= 1


@cuda
def test_on_a_gpu_a_run_goes_on_from_its_checkpoint(tmp_path):
    train.main([file(tmp_path), "device=cuda", "dtype=bfloat16"])
    history = train.main([file(tmp_path), "--resume", "steps=3", "device=cuda", "dtype=bfloat16"])
    assert len(history["reward"]) == 3


@cuda
def test_a_full_gpu_says_which_setting_to_lower(tmp_path):
    trainer = Trainer(llm_tiny.config(tmp_path, device="cuda"))
    trainer.collect = lambda: torch.empty(2**50, device="cuda")
    with pytest.raises(RuntimeError, match="out of memory in step 0: set micro_batch below 8"):
        trainer.run(progress=False)


def test_a_full_memory_says_which_setting_to_lower(tmp_path):
    trainer = Trainer(llm_tiny.config(tmp_path, micro_batch=3))

    def full():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 PiB")

    trainer.collect = full
    with pytest.raises(RuntimeError, match="out of memory in step 0: set micro_batch below 3 .*Tried to"):
        trainer.run(progress=False)
