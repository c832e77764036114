"""The settings of a training run."""

from dataclasses import dataclass, field

import torch

from rlbook import validate
from rlbook.llm import methods, tasks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run. Raises ValueError on values that cannot work together."""

    model: str = "weak"  # a folder, a name in data/models, or a Hugging Face name
    guide: str | None = None
    task: str = "addition"
    levels: tuple | None = (3,)  # difficulty strata of the task; None: all
    method: str = "dapo"
    options: dict = field(default_factory=dict)  # of the method
    prompts_per_step: int = 16
    group_size: int = 8  # completions of the policy for each prompt
    guide_per_prompt: int = 0  # completions of the guide for each prompt
    epochs: int = 2  # passes over a batch
    minibatches: int = 1  # optimiser steps a pass
    micro_batch: int | None = None  # rows in memory at once; None: a whole minibatch
    lr: float = 1e-4
    max_grad_norm: float = 1.0
    steps: int = 60
    temperature: float = 1.0
    instruction: str | None = None  # to an instruct model: its user message, with {prompt} in it
    max_new_tokens: int | None = None  # None: the task's longest completion
    dynamic_sampling: bool = False  # DAPO: replace prompts whose completions all earn the same
    max_redraws: int = 10  # rounds of replacing before the step goes on with what it has
    overlong_buffer: int | None = None  # DAPO's soft punishment over the last so many tokens; None: off
    eval_every: int = 10
    eval_problems: int = 128
    eval_samples: int = 4  # completions of each held-out problem: pass@1 and pass@k with k up to this
    seed: int = 0
    device: str = "cpu"  # or "cuda", or "auto"
    dtype: str = "float32"  # or "bfloat16": forward passes in 16 bits, trained weights in 32; or "float64"
    out_dir: str | None = None  # config.json, metrics.jsonl, timing.jsonl, checkpoint.safetensors
    checkpoint_every: int = 10  # steps

    def __post_init__(self):
        low = {"guide_per_prompt": 0, "seed": 0, "max_redraws": 0}
        counts = (
            "prompts_per_step group_size guide_per_prompt epochs minibatches steps max_redraws eval_every "
            "checkpoint_every"
        )
        for name in (*counts.split(), "eval_problems", "eval_samples", "seed"):
            object.__setattr__(self, name, validate.integer(name, getattr(self, name), low.get(name, 1)))
        for name in ("micro_batch", "max_new_tokens", "overlong_buffer"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, validate.integer(name, getattr(self, name)))
        for name in ("lr", "max_grad_norm", "temperature"):
            validate.number(name, getattr(self, name), 0.0, open_low=True)
        if self.instruction is not None and "{prompt}" not in str(self.instruction):
            raise ValueError(
                f"instruction: expected text with {{prompt}} where the problem goes, got {self.instruction!r}"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {self.dtype!r}")
        tasks.get(self.task).check_levels(self.levels)
        if not isinstance(self.options, dict):
            raise ValueError(f"options: expected a dict of the method's options, got {self.options!r}")
        method = methods.get(self.method, **self.options)
        if self.group_size == 1 and self.method not in ("reinforce", "sft"):
            raise ValueError("group_size: a group of one has nothing to compare with; use 2 or more")
        if self.group_size == 1 and self.dynamic_sampling:
            raise ValueError("dynamic_sampling: a group of one never has two different rewards; set False")
        if method.needs_guide and not (self.guide and self.guide_per_prompt):
            raise ValueError(f"{self.method} learns from a guide: set guide and guide_per_prompt >= 1")
        if (self.guide or self.guide_per_prompt) and not method.needs_guide:
            raise ValueError(
                f"guide, guide_per_prompt: {self.method} has no use for a guide's completions, set None and 0"
            )
        if self.minibatches > self.prompts_per_step * (self.group_size + self.guide_per_prompt):
            raise ValueError("minibatches: more than there are rows in a step")


def pick_device(name):
    """ "cpu" or "cuda"; "auto" is cuda where there is one."""
    if name not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device: expected 'cpu', 'cuda' or 'auto', got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: this machine has no CUDA device that torch can use; set 'cpu' or 'auto'")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
