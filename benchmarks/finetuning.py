"""The run of notebook 07 over seeds: python benchmarks/finetuning.py [--device auto] [--seeds 0 1 2 3 4]

Its configuration is the notebook's cell `sizes`, with the sizes of the device. The models are made in
--models (once; default build/finetuning_cpu or _cuda). Every finished run is in the file; a run that the
file holds is not repeated, so the command can be stopped and started.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from common import machine
from tqdm import tqdm

from rlbook.llm import pretrain
from rlbook.llm.config import pick_device
from rlbook.llm.trainer import TrainConfig, Trainer

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "07_gpu_finetuning.ipynb"
CURVES = ("reward", "entropy", "dead_groups", "ratio_max", "grad_norm", "length")


def configuration():
    """(SIZES, METHODS) of the notebook's cell `sizes`."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names = {}
    exec("".join(next(c["source"] for c in cells if c["metadata"].get("name") == "sizes")), names)
    return names["SIZES"], names["METHODS"]


def settings(size, method, options, folder, **more):
    """The TrainConfig of a method, as the notebook's function of this name makes it."""
    own, guided = (size["own"], 0) if method == "dapo" else size["mixed"]
    chosen = {"model": f"{folder}/lazy", "levels": size["levels"], "method": method, "options": options}
    chosen |= {"group_size": own, "guide_per_prompt": guided, "guide": f"{folder}/guide" if guided else None}
    return TrainConfig(**chosen | size["run"] | more)


def summary(history):
    """A run's numbers for the file."""
    known = np.isfinite(history["pass_at_1"])
    seconds = np.diff(history["seconds"], prepend=0.0)
    rounded = lambda values: [None if np.isnan(x) else float(f"{x:.4g}") for x in values]  # noqa: E731
    return {
        "eval_steps": [int(step) + 1 for step in history["step"][known]],
        **{name: rounded(history[name][known]) for name in ("pass_at_1", "pass_at_k", "kl_to_start")},
        **{name: rounded(history[name]) for name in CURVES},
        "sampled_tokens": int(history["sampled_tokens"][-1]),
        "tokens_per_second": round(float(np.median(history["tokens_per_second"]))),
        "seconds_per_step": round(float(np.median(seconds)), 4),
        "memory_mb": round(float(history["memory_mb"].max())),
    }


def main():
    """Make the models, run what is missing, write the file after every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="fewer updates, for a trial")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/runs/finetuning.json"))
    args = parser.parse_args()
    device = pick_device(args.device)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    name, dtype = "CPU", "float32"
    if device == "cuda":
        name = torch.cuda.get_device_name()
        dtype = "bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float32"
        torch.set_float32_matmul_precision("high")
    sizes, methods = configuration()
    size = sizes[device]
    if args.steps:
        size["run"] |= {"steps": args.steps, "eval_every": min(args.steps, size["run"]["eval_every"])}
    config = json.loads(json.dumps({**size, "dtype": dtype, "methods": methods}))
    found = {"machine": machine("torch", "transformers", "numpy"), "device": name, "config": config}
    found |= {"models": {}, "runs": {method: {} for method in methods}}
    if args.out.exists():
        before = json.loads(args.out.read_text(encoding="utf-8"))
        if (before["config"], before["device"]) != (config, name):
            parser.error(f"{args.out} holds runs with other settings: move it away or set --out")
        found["models"], found["runs"] = before["models"], before["runs"]
    folder = args.models or Path("build") / f"finetuning_{device}"
    for model in ("guide", "lazy"):
        if not (folder / model).is_dir():
            recipe = size[model] | {"sizes": size["network"], "levels": tuple(size["levels"])}
            found["models"][model] = pretrain.make(model, folder, True, device, **recipe)
    todo = [(seed, m) for seed in args.seeds for m in methods if str(seed) not in found["runs"][m]]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for seed, method in tqdm(todo, unit="run"):
        chosen = settings(size, *methods[method], folder, seed=seed, device=device, dtype=dtype)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found["runs"][method][str(seed)] = summary(Trainer(chosen).run(progress=False))
        args.out.write_text(json.dumps(found), encoding="utf-8")
    for method, runs in found["runs"].items():
        ends = [run["pass_at_1"][-1] for run in runs.values()]
        print(
            f"{method:12} pass@1 {np.mean(ends):.3f} ({min(ends):.3f} to {max(ends):.3f}), {len(ends)} seeds"
        )


if __name__ == "__main__":
    main()
