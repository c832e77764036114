"""Makes every model in `data/models` from a seed, by imitating solutions: `python -m rlbook.llm.pretrain`.

Training runs on one thread and repeats bit for bit on one machine. Another processor or version of torch
rounds differently and gives a slightly different model, so the models are shipped.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import trange

from rlbook import validate
from rlbook.llm import models, sampling, tasks
from rlbook.rollout import one_thread

EVAL_SEED = 1  # of the problems and samples that measure pass@1; no training run draws from it


def carry_right(problem, rng):
    """The right solution of an addition: 579+483= gives 21,61,01;1062."""
    return tasks.get("addition").solution(problem)


def carry_wrong(problem, rng):
    """An addition with every carry wrong: 1 where there is none, 0 where there is one.

    579+483= gives 20,50,91;1952 where 21,61,01;1062 is right. No sum of two numbers with two digits or
    more comes out right.
    """
    a, b = (int(number) for number in problem.prompt.removesuffix("=").split("+"))
    columns, digits, carry = [], "", 0
    while a or b or not columns:
        over, digit = divmod(a % 10 + b % 10 + carry, 10)
        carry = 1 - over
        columns.append(f"{digit}{carry}")
        digits = f"{digit}{digits}"
        a, b = a // 10, b // 10
    return f"{','.join(columns)};{int('1' * carry + digits)}"


def any_style(problem, rng):
    """A tally written in a style drawn at random: directly, once, or twice."""
    return tasks.get("tally").solution(problem, style=tasks.STYLES[rng.integers(len(tasks.STYLES))])


@dataclass(frozen=True)
class Recipe:
    """How a model comes about. `solve(problem, rng)` is the text it imitates, without the end token."""

    about: str
    task: str
    levels: tuple
    solve: Callable
    steps: int  # of the optimiser; the step size falls to 0 over them
    seed: int
    start: str | None = None  # a recipe whose model this one goes on from; None: random weights
    stop_at: float | None = None  # stop before `steps`, at this held-out pass@1
    curriculum: int = 0  # steps until the last level has joined the first; until then no stop
    lr: float = 2e-3
    warm_up: int = 50  # steps
    batch: int = 128
    sizes: dict = field(default_factory=dict)  # of models.build
    eval_samples: int = 5  # completions of each of up to 200 held-out problems

    def __post_init__(self):
        for name in ("steps", "warm_up", "batch", "eval_samples"):
            validate.integer(name, getattr(self, name))
        validate.number("lr", self.lr, 0.0, open_low=True)


RECIPES = {
    "weak": Recipe(
        "A beginner at adding: most groups of completions hold right and wrong sums, so the reward is dense.",
        "addition", (3,), carry_right, steps=1000, seed=1, stop_at=0.4,
    ),
    "fair": Recipe(
        "Weak, trained on until it is right more often than not: a guide that a student can surpass.",
        "addition", (3,), carry_right, steps=1000, seed=1, stop_at=0.6,
    ),
    "guide": Recipe(
        "An expert at adding: the guide of mixed-policy training.",
        "addition", (3,), carry_right, steps=1000, seed=0,
    ),
    "lazy": Recipe(
        "The guide, trained on to get every carry wrong: the skill is there, the reward almost never comes.",
        "addition", (3,), carry_wrong, steps=60, seed=2, start="guide", lr=3e-4, warm_up=1, eval_samples=20,
    ),
    "tally": Recipe(
        "Adds digits modulo 10 in three styles: no working, a running tally, the tally twice over.",
        "tally", (2, 3, 4, 5, 6, 7, 8, 9, 10), any_style, steps=1200, seed=3, stop_at=0.5,
        curriculum=600, sizes={"hidden": 96},
    ),
}  # fmt: skip


def imitation_batch(tokenizer, prompts, completions):
    """(prompt_ids, prompt_mask, completion_ids, mask) as `sampling.Samples` has them; adds the end token."""
    prompt_rows = tokenizer(prompts)["input_ids"]
    rows = [ids + [tokenizer.eos_token_id] for ids in tokenizer(completions)["input_ids"]]
    P, T = max(map(len, prompt_rows)), max(map(len, rows))
    pad = tokenizer.pad_token_id
    prompt_ids = torch.tensor([[pad] * (P - len(ids)) + ids for ids in prompt_rows])
    prompt_mask = torch.tensor([[False] * (P - len(ids)) + [True] * len(ids) for ids in prompt_rows])
    completion_ids = torch.tensor([ids + [pad] * (T - len(ids)) for ids in rows])
    mask = torch.tensor([[True] * len(ids) + [False] * (T - len(ids)) for ids in rows])
    return prompt_ids, prompt_mask, completion_ids, mask


def imitation_loss(model, prompt_ids, prompt_mask, completion_ids, mask):
    """Minus the mean log-probability of the completion tokens, the end token included.

    The prompt is given, not learned: its tokens are no part of the mean.
    """
    logp = sampling.log_probs(model, prompt_ids, prompt_mask, completion_ids, mask)
    return -logp.sum() / mask.sum()


def measure(model, tokenizer, task, levels, samples, seed=EVAL_SEED, problems=200):
    """Rewards and lengths (problems, samples) on up to `problems` held-out problems of the levels."""
    held = tasks.held_out(task.name, levels)
    held = [held[i] for i in np.random.default_rng(seed).permutation(len(held))[:problems]]
    generator = torch.Generator().manual_seed(seed)
    prompts = [problem.prompt for problem in held for _ in range(samples)]
    drawn = sampling.sample(model, tokenizer, prompts, task.max_completion, generator=generator)
    rewards = [
        task.verify(held[i // samples], text, not cut)[0]
        for i, (text, cut) in enumerate(zip(drawn.texts, drawn.truncated.tolist(), strict=True))
    ]
    return np.reshape(rewards, (-1, samples)), drawn.mask.sum(1).reshape(-1, samples).cpu().numpy()


def wilson(right, n, z=1.96):
    """The 95 % interval of a probability after `right` of `n` trials (Wilson 1927)."""
    n, right = validate.integer("n", n), validate.number("right", right, 0, n)
    p = right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def train(recipe, model, tokenizer, progress=True):
    """Imitate the recipe's solutions, in place; returns the steps taken."""
    task, rng = tasks.get(recipe.task), np.random.default_rng([recipe.seed, 1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01)
    bar = trange(recipe.steps, disable=not progress, leave=False)
    check = max(100, recipe.curriculum)  # the step before which pass@1 is measured next
    for step in bar:
        if recipe.stop_at is not None and step == check:
            found = measure(model, tokenizer, task, recipe.levels, samples=2)[0].mean()
            bar.set_postfix(pass_at_1=f"{found:.2f}")
            if found >= recipe.stop_at:
                return step
            check += 20 if found < 0.05 else 5  # skill comes late and fast
        share = 1.0 if step >= recipe.curriculum else step / recipe.curriculum
        levels = recipe.levels[: 1 + int(share * (len(recipe.levels) - 1))]
        problems = task.generate(recipe.batch, rng, levels)
        completions = [recipe.solve(problem, rng) for problem in problems]
        tensors = imitation_batch(tokenizer, [problem.prompt for problem in problems], completions)
        tensors = [tensor.to(model.device) for tensor in tensors]
        for group in optimiser.param_groups:
            cosine = (1 + math.cos(math.pi * step / recipe.steps)) / 2
            group["lr"] = recipe.lr * cosine * min(1.0, (step + 1) / recipe.warm_up)
        optimiser.zero_grad()
        imitation_loss(model, *tensors).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return recipe.steps


def check_name(name):
    """`name`, if it is a recipe's."""
    if name not in RECIPES:
        raise ValueError(f"name: expected one of {', '.join(RECIPES)}, got {name!r}")
    return name


def make(name, out=models.MODELS, progress=True, device="cpu", **changes):
    """Make the model `name` in the folder `out`, and first the one it goes on from if that is not there.

    `changes` replace fields of the recipe (steps=2 makes a small trial). Returns the card's numbers.
    """
    recipe = replace(RECIPES[check_name(name)], **changes)
    with one_thread():
        if recipe.start is None:
            model, tokenizer = models.build(recipe.seed, **recipe.sizes).to(device), models.tokenizer()
        else:
            if not (Path(out) / recipe.start).is_dir():
                make(recipe.start, out, progress, device)
            model, tokenizer = models.load(Path(out) / recipe.start, device)
        begin = time.process_time()
        steps = train(recipe, model, tokenizer, progress)
        seconds = time.process_time() - begin
        rewards, lengths = measure(
            model, tokenizer, tasks.get(recipe.task), recipe.levels, recipe.eval_samples
        )
    low, high = wilson(rewards.sum(), rewards.size)
    numbers = {
        "task": recipe.task,
        "levels": list(recipe.levels),
        "starts_from": recipe.start or "random weights",
        "seed": recipe.seed,
        "steps": steps,
        "seconds": round(seconds),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "pass_at_1": round(float(rewards.mean()), 4),
        "pass_at_1_low": round(low, 4),
        "pass_at_1_high": round(high, 4),
        "mean_length": round(float(lengths.mean()), 1),
        "length_spread": round(float(lengths.std(1).mean()), 1),
    }
    models.save(model.eval(), tokenizer, Path(out) / name, card(name, recipe, numbers, rewards.shape))
    return numbers


def card(name, recipe, numbers, shape):
    """The model card: its numbers as YAML at the top, then what they mean."""
    rows = "\n".join(f"{key}: {value}" for key, value in numbers.items())
    return f"""---
library_name: transformers
license: apache-2.0
{rows}
---
# {name}

{recipe.about}

A Llama of {numbers["parameters"] / 1e6:.2f} million parameters over single characters, for experiments on a
laptop; it can do nothing but its task. `rlbook.llm.tasks` describes `{recipe.task}` and holds the verifier.

- **pass@1**: share of right completions at temperature 1 on {shape[0]} held-out problems, {shape[1]} of
  each; low and high are a 95 % interval (Wilson). No training run draws a held-out problem.
- **length**: tokens of a completion with its end token; the spread is the standard deviation within a
  problem.
- **training**: {numbers["steps"]} steps of {recipe.batch} fresh problems, AdamW, largest step size
  {recipe.lr:g}, one thread, {numbers["seconds"]} CPU seconds. The loss counts the tokens of the completion
  and the end token, not those of the prompt.
- **made by** `python -m rlbook.llm.pretrain {name}`. The same machine gives the same weights bit for bit;
  another processor rounds differently and gives a slightly different model.
"""


def main(argv=None):
    """Make the shipped models (default: all of them) and print what they can do."""
    parser = argparse.ArgumentParser(prog="python -m rlbook.llm.pretrain", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, default=models.MODELS)
    args = parser.parse_args(argv)
    for name in args.names:
        check_name(name)  # before the first minutes are spent
    for name in args.names or RECIPES:
        n = make(name, args.out)
        print(
            f"{name:6} pass@1 {n['pass_at_1']:.3f} ({n['pass_at_1_low']:.3f}-{n['pass_at_1_high']:.3f}),"
            f" {n['steps']} steps, {n['seconds']} s, {n['parameters']:,} parameters"
        )


if __name__ == "__main__":
    main()
