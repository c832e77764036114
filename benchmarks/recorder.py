"""Runs many training runs, keeps their curves in one JSON file, and leaves out those it holds already.

A case is {"method": ..., "options": {...}, "settings": {...}}; settings change the base configuration, and
"first_seed", if it has one, is added to its seeds.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from common import machine
from tqdm import tqdm

DROPPED = ("step", "tokens_per_second", "memory_mb", "sampler_gap", "held")


def run(case, base, seed, critic):
    """One run: {column: list}, rounded to 4 digits, None where a column was not measured."""
    import numpy as np
    import torch
    import transformers

    from rlbook.llm.critic import PPOTrainer
    from rlbook.llm.trainer import TrainConfig, Trainer

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    seed += case.get("first_seed", 0)
    chosen = {"method": case["method"], "options": case["options"], "seed": seed, **base, **case["settings"]}
    history = (PPOTrainer if critic else Trainer)(TrainConfig(**chosen)).run(progress=False)
    kept = {k: v for k, v in history.items() if k not in DROPPED}
    return {k: [None if np.isnan(x) else float(f"{x:.4g}") for x in v] for k, v in kept.items()}


def main(description, base, cases, out, critics=()):
    """Run what is missing (a thread a run), write the file after every run, print a table.

    `critics` are the names of the cases of PPO with a critic.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="how many: 0, 1, 2 ...")
    parser.add_argument("--steps", type=int, default=base["steps"])
    parser.add_argument("--only", nargs="*", choices=cases, default=list(cases))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path(out))
    args = parser.parse_args()
    config = json.loads(json.dumps(base | {"steps": args.steps}))
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
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        jobs = {pool.submit(run, cases[n], config, seed, n in critics): (n, seed) for n, seed in todo}
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="run"):
            name, seed = jobs[job]
            entry = json.loads(json.dumps(cases[name])) | {"seeds": {}, "commits": {}}
            entry = found["runs"].setdefault(name, entry)
            entry["seeds"][str(seed)] = job.result()
            entry["commits"][str(seed)] = found["machine"]["commit"]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(found), encoding="utf-8")
    table(found["runs"])


def table(runs):
    """Print the end of every case."""
    print(f"{'':32}{'seeds':>6}{'pass@1 at the end':>20}{'lowest':>8}{'tokens':>9}{'seconds':>9}")
    for name, entry in runs.items():
        ends = sorted(seed["pass_at_1"][-1] for seed in entry["seeds"].values())
        tokens = max(seed["sampled_tokens"][-1] for seed in entry["seeds"].values())
        seconds = max(seed["seconds"][-1] for seed in entry["seeds"].values())
        middle = ends[len(ends) // 2]
        print(f"{name:32}{len(ends):6}{middle:20.3f}{ends[0]:8.3f}{tokens:9.0f}{seconds:9.0f}")
