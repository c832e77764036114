"""A small language model trained beside TRL and sampled beside Hugging Face generate.

    python benchmarks/language_models.py [--only PART] [--rounds 4] [--seeds 5] [--out FILE]

It writes data/runs/language_models_speed.json.

`training` takes the weak model on addition and gives both sides the same prompts in number, groups,
length limit, reward, loss (DAPO), optimiser and learning rate; a batch is 128 completions and two optimiser
steps on them. `sampling` draws one completion of each of 128 prompts, 8 times 16 as in training, and counts
completion tokens; `sampling, all different` has 128 different prompts, so no two rows have anything to share.
The sides alternate, so a busy machine slows both; a ratio compares medians. `learning` is DAPO with dynamic
sampling from the weak start: held-out pass@1 against steps and seconds.
"""

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from common import machine
from tqdm import tqdm

from rlbook.llm import models, sampling, tasks
from rlbook.llm.trainer import TrainConfig, Trainer

PROMPTS, GROUP, TOKENS, LR = 16, 8, 22, 1e-4
LEARNING = {"steps": 120, "dynamic_sampling": True, "eval_every": 10}


class Clock:
    """Seconds of the wall and of the processor, noted at the end of every batch."""

    def __init__(self):
        self.marks = []

    def __call__(self, *_):
        self.marks.append((time.perf_counter(), time.process_time()))

    def spans(self):
        """(batches - 1, 2) seconds of each batch but the first, which warms up."""
        return np.diff(self.marks, axis=0).tolist()


def train_ours(batches, seed):
    """(seconds of each batch, rewards of each batch)."""
    c = TrainConfig(
        prompts_per_step=PROMPTS, group_size=GROUP, max_new_tokens=TOKENS, lr=LR, epochs=2, steps=batches,
        eval_every=batches + 1, eval_problems=1, eval_samples=1, seed=seed,
    )  # fmt: skip
    clock = Clock()
    history = Trainer(c).run(progress=False, on_step=clock)
    return clock.spans()[: batches - 2], history["reward"].tolist()  # the last batch ends with an evaluation


def train_trl(batches, seed):
    """The same of TRL's GRPOTrainer at these settings."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    task, (model, words), rewards = tasks.get("addition"), models.load("weak"), []
    problems = task.generate(batches * PROMPTS, np.random.default_rng(seed), (3,))
    data = Dataset.from_list([{"prompt": p.prompt, "number": i} for i, p in enumerate(problems)])

    def verify(completions, completion_ids, number, **_):
        found = []
        for text, ids, i in zip(completions, completion_ids, number, strict=True):
            ended = words.eos_token_id in list(ids)
            found.append(task.verify(problems[i], text.replace(words.eos_token, ""), ended)[0])
        rewards.append(float(np.mean(found)))
        return found

    clock = Clock()

    class EveryBatch(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step % 2 == 0:
                clock()

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
            per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, num_iterations=2,
            max_completion_length=TOKENS, max_steps=2 * batches, learning_rate=LR, optim="adamw_torch",
            lr_scheduler_type="constant", max_grad_norm=1.0, loss_type="dapo", epsilon=0.2, epsilon_high=0.28,
            seed=seed,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model, verify, settings, train_dataset=data, processing_class=words, callbacks=[EveryBatch()]
        )
        trainer.train()
    return clock.spans()[: batches - 2], rewards


def compare_training(threads, rounds, batches, bar):
    """{side: {seconds, processor seconds, rewards}}; the sides take turns."""
    sides = {"rlbook": train_ours, "trl": train_trl}
    found = {side: {"seconds": [], "processor": [], "reward": []} for side in sides}
    for seed in range(rounds):
        for side, run in sides.items():
            bar.set_description(f"training, {threads} threads, {side}")
            spans, rewards = run(batches, seed)
            for key, column in zip(("seconds", "processor"), zip(*spans, strict=True), strict=True):
                found[side][key] += [round(x, 4) for x in column]
            found[side]["reward"].append([round(r, 4) for r in rewards])
            bar.update()
    return found


def compare_sampling(threads, rounds, copies, bar):
    """{side: {tokens per second, per processor second}} for `copies` of each prompt; the sides take turns."""
    model, words = models.load("weak")
    problems = tasks.get("addition").generate(PROMPTS * GROUP // copies, np.random.default_rng(0), (3,))
    prompts = [p.prompt for p in problems for _ in range(copies)]

    def ours():
        return int(sampling.sample(model, words, prompts, TOKENS).mask.sum())

    @torch.no_grad()
    def generate():
        batch = words(prompts, padding=True, return_tensors="pt", return_token_type_ids=False)
        options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        ids = model.generate(**batch, **options, max_new_tokens=TOKENS, pad_token_id=words.pad_token_id)
        ids = ids[:, batch["input_ids"].shape[1] :]
        words.batch_decode(ids, skip_special_tokens=True)
        ends = (ids == words.eos_token_id).cumsum(1)
        return int(((ends == 0) | ((ends == 1) & (ids == words.eos_token_id))).sum())

    sides = {"rlbook": ours, "generate": generate}
    found = {side: {"tokens_per_second": [], "per_processor_second": []} for side in sides}
    torch.manual_seed(0)
    for turn in range(5 * rounds + 1):
        for side, run in sides.items():
            bar.set_description(f"sampling, {threads} threads, {side}")
            wall, processor = time.perf_counter(), time.process_time()
            tokens = run()
            spent = time.perf_counter() - wall, time.process_time() - processor
            if turn:  # the first turn warms up
                for key, seconds in zip(found[side], spent, strict=True):
                    found[side][key].append(round(tokens / seconds))
        bar.update(0.2)
    return found


def learn(seeds, bar):
    """Held-out pass@1 of DAPO from the weak start, a column a seed."""
    torch.set_num_threads(2)
    found = {"config": {"model": "weak", "method": "dapo", **LEARNING}, "pass_at_1": [], "seconds": []}
    for seed in range(seeds):
        bar.set_description(f"learning, seed {seed}")
        history = Trainer(TrainConfig(**found["config"], seed=seed)).run(progress=False)
        measured = np.isfinite(history["pass_at_1"])
        found["steps"] = (history["step"][measured] + 1).astype(int).tolist()
        for name in ("pass_at_1", "seconds"):
            found[name].append([round(x, 4) for x in history[name][measured].tolist()])
        bar.update()
    return found


def ratio(sides, key):
    """Median of the first side over that of the second."""
    ours, other = (np.median(side[key]) for side in sides.values())
    return round(float(ours / other), 2)


def main():
    """Run the parts, write the JSON, print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("training", "sampling", "learning"))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--batches", type=int, default=8, help="batches of a training run; the first warms up"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("data/runs/language_models_speed.json"))
    args = parser.parse_args()
    if min(args.rounds, args.seeds, args.batches - 2) < 1:
        parser.error("--rounds and --seeds: at least 1; --batches: at least 3")
    warnings.filterwarnings("ignore", category=FutureWarning)  # settings of TRL that change their names
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    wanted = [args.only] if args.only else ["training", "sampling", "learning"]
    report = json.loads(args.out.read_text(encoding="utf-8")) if args.only and args.out.exists() else {}
    report = {part: found for part, found in report.items() if part.split(",")[0] not in wanted}
    report["machine"] = machine("torch", "transformers", "trl", "numpy")
    report["settings"] = {"prompts": PROMPTS, "group_size": GROUP, "max_new_tokens": TOKENS, "lr": LR}
    total = ("training" in wanted) * len(args.threads) * 2 * args.rounds + ("learning" in wanted) * args.seeds
    total += ("sampling" in wanted) * len(args.threads) * 2 * (args.rounds + 0.2)
    with tqdm(total=total, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        for threads in args.threads:
            torch.set_num_threads(threads)
            more = {}
            if "training" in wanted:
                more["training"] = compare_training(threads, args.rounds, args.batches, bar)
            if "sampling" in wanted:
                more["sampling"] = compare_sampling(threads, args.rounds, GROUP, bar)
                more["sampling, all different"] = compare_sampling(threads, args.rounds, 1, bar)
            for part, sides in more.items():
                report.setdefault(part, {})[str(threads)] = sides
            write(report, args.out)
        if "learning" in wanted:
            report["learning"] = learn(args.seeds, bar)
            write(report, args.out)
    show(report)


def write(report, path):
    """The JSON so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report), encoding="utf-8")


def show(report):
    """Print the medians and ratios."""
    print(f"{'':24}{'threads':>8}{'side':>10}{'median':>10}   ratio (processor time)")
    parts = [part for part in ("training", "sampling", "sampling, all different") if part in report]
    for part in parts:
        key, other = ("tokens_per_second", "per_processor_second")
        if part == "training":
            key, other = ("seconds", "processor")
        for threads, sides in report[part].items():
            how = ratio(sides, key), ratio(sides, other)
            faster = [round(1 / x, 2) for x in how] if part == "training" else how
            for side, found in sides.items():
                text = f"   {faster[0]} ({faster[1]})" if side == "rlbook" else ""
                print(f"{part:24}{threads:>8}{side:>10}{np.median(found[key]):10.3g}{text}")
    if "learning" in report:
        found = report["learning"]
        curves = np.array(found["pass_at_1"])
        reached = [
            next((s for s, p in zip(found["steps"], c, strict=True) if p >= 0.8), None) for c in curves
        ]
        last, seconds = found["steps"][-1], max(column[-1] for column in found["seconds"])
        print(f"learning: pass@1 {np.median(curves[:, -1]):.3f} after {last} steps, median of {len(curves)}")
        print(f"          .8 first at steps {reached}; the slowest seed took {seconds:.0f} s")


if __name__ == "__main__":
    main()
