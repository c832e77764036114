"""Every method of chapter 5 from the same start, at equal settings, over seeds: data/runs/methods.json.

    python benchmarks/methods_on_text.py [--seeds 5] [--steps 80] [--only NAME ...] [--workers 2] [--out FILE]

One thread a run, `--workers` runs at a time. A run that the file holds already is not repeated, so the
command can be stopped and started. Curves are rounded to 4 digits.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from common import machine
from tqdm import tqdm

from rlbook.llm.trainer import TrainConfig

BASE = {"model": "weak", "task": "addition", "levels": (3,), "prompts_per_step": 16, "group_size": 8}
BASE |= {"epochs": 2, "minibatches": 1, "lr": 1e-4, "eval_every": 10, "eval_problems": 128, "eval_samples": 4}
CASES = {  # name: (method, its options, other settings)
    "reinforce": ("reinforce", {}, {}),
    "rloo": ("rloo", {}, {}),
    "grpo": ("grpo", {}, {}),
    "dr_grpo": ("dr_grpo", {}, {}),
    "dapo": ("dapo", {}, {}),
    "dapo, symmetric clip": ("dapo", {"clip": (0.2, 0.2)}, {}),
    "dapo, sequence mean": ("grpo", {"clip": (0.2, 0.28)}, {}),
    "dapo, dynamic sampling": ("dapo", {}, {"dynamic_sampling": True}),
    "gspo, published range": ("gspo", {}, {}),
    "gspo, wide range": ("gspo", {"clip": (0.05, 0.05)}, {}),
    "sapo": ("sapo", {}, {}),
    "ppo, critic": ("dapo", {"clip": (0.2, 0.2)}, {}),
}
DROPPED = ("step", "tokens_per_second", "memory_mb", "sampler_gap", "held")


def run(name, seed, steps):
    """One run; (name, seed, {column: list}), None where a column was not measured."""
    import numpy as np
    import torch
    import transformers

    from rlbook.llm import critic, trainer

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    method, options, other = CASES[name]
    config = TrainConfig(**BASE, **other, method=method, options=options, steps=steps, seed=seed)
    kind = critic.PPOTrainer if name == "ppo, critic" else trainer.Trainer
    history = kind(config).run(progress=False)
    kept = {k: v for k, v in history.items() if k not in DROPPED}
    return name, seed, {k: [None if np.isnan(x) else float(f"{x:.4g}") for x in v] for k, v in kept.items()}


def main():
    """Run what is missing, write the file after every run, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("data/runs/methods.json"))
    args = parser.parse_args()
    config = json.loads(json.dumps({"steps": args.steps, **BASE}))
    found = {"machine": machine("torch", "transformers", "numpy"), "config": config, "runs": {}}
    if args.out.exists():
        before = json.loads(args.out.read_text(encoding="utf-8"))
        if before["config"] != config:
            parser.error(f"{args.out} holds runs with other settings: move it away or set --out")
        found["runs"] = before["runs"]
    todo = [
        (name, seed)
        for seed in range(args.seeds)
        for name in args.only
        if str(seed) not in found["runs"].get(name, {}).get("seeds", {})
    ]
    with ProcessPoolExecutor(args.workers) as pool:
        jobs = [pool.submit(run, name, seed, args.steps) for name, seed in todo]
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="run"):
            name, seed, columns = job.result()
            method, options, other = CASES[name]
            entry = {"method": method, "options": options, "settings": other, "seeds": {}}
            found["runs"].setdefault(name, entry)["seeds"][str(seed)] = columns
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found), encoding="utf-8")
    print(f"{'':26}{'seeds':>6}{'pass@1 at the end':>20}{'lowest':>8}{'seconds':>9}")
    for name, entry in found["runs"].items():
        ends = sorted(seed["pass_at_1"][-1] for seed in entry["seeds"].values())
        seconds = max(seed["seconds"][-1] for seed in entry["seeds"].values())
        print(f"{name:26}{len(ends):6}{ends[len(ends) // 2]:20.3f}{ends[0]:8.3f}{seconds:9.0f}")


if __name__ == "__main__":
    main()
