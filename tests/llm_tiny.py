"""For tests of training: a language model of one small layer, and tasks whose reward the test decides."""

from dataclasses import replace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from rlbook.llm import models, tasks
from rlbook.llm.trainer import TrainConfig

SMALL = {
    "prompts_per_step": 2, "group_size": 4, "max_new_tokens": 5, "steps": 3, "epochs": 1, "lr": 1e-3,
    "eval_every": 2, "eval_problems": 4, "eval_samples": 2,
}  # fmt: skip


def folder(tmp_path, seed=0, name="tiny"):
    """The path of a saved model with random weights."""
    if not (tmp_path / name).exists():
        models.save(models.build(seed=seed, hidden=32, layers=1), models.tokenizer(), tmp_path / name)
    return str(tmp_path / name)


def gpt2(tmp_path, words):
    """The same with absolute positions, so a wrong one is seen, and the tokenizer `words`."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(words), "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ends = {"bos_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id}
    models.save(GPT2LMHeadModel(GPT2Config(**sizes, **ends)), words, tmp_path / "gpt2")
    return str(tmp_path / "gpt2")


def config(tmp_path, **changes):
    """A TrainConfig of three steps on that model."""
    return TrainConfig(**{"model": folder(tmp_path)} | SMALL | changes)


def rig(monkeypatch, reward, name="addition"):
    """Let `reward(text, ended)` decide instead of the task's verifier."""
    task = tasks.get(name)
    verify = lambda problem, text, ended: (float(reward(text, ended)), "rigged")  # noqa: E731
    monkeypatch.setitem(tasks.TASKS, name, replace(task, verify=verify))
