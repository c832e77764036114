"""The loop of every method: sample, verify, compare, update, measure. No method-specific code.

One step draws `prompts_per_step` problems, samples `group_size` completions of each from the policy and
`guide_per_prompt` from the guide, scores them, and takes `epochs * minibatches` optimiser steps.
"""

import copy
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import torch
from tqdm.auto import trange

from rlbook.llm import checkpoint, kl, methods, models, run_folder, sampling, tasks
from rlbook.llm.batch import GUIDE, POLICY, Rollouts
from rlbook.llm.config import DTYPES, TrainConfig, pick_device
from rlbook.llm.metrics import METRICS, columns, describe, joined, pass_at_k
from rlbook.llm.objective import dead_groups

# |ratio - 1| allowed between sampling and recomputing, float32 on a CPU: mean and largest. Rounding gives a
# mean of 2e-7 and now and then a token with 1e-4; a wrong position or mask gives a mean of 1e-2 and more.
SAMPLER_GAP, LARGEST_GAP = 1e-5, 1e-3
SHORT = 64  # tokens: up to here plain attention is faster on a CPU than the fused kernel, which saves memory

__all__ = [
    "METRICS",
    "NonFiniteLoss",
    "TrainConfig",
    "Trainer",
    "columns",
    "overlong_punishment",
    "pass_at_k",
]


class NonFiniteLoss(RuntimeError):
    """Training stopped on a loss or gradient that is not a number; the weights are the last good ones."""


def overlong_punishment(length, max_length, buffer):
    """DAPO's soft punishment (B,): 0 up to max_length - buffer tokens, then a line to -1 at the end."""
    if not 0 < buffer <= max_length:
        raise ValueError(f"overlong_buffer: expected 1 to {max_length} tokens, got {buffer}")
    return ((max_length - buffer - length) / buffer).clamp(-1.0, 0.0)


class Trainer:
    """Holds the models and the random state of a run; `run` does it."""

    def __init__(self, config):
        self.config = config
        self.device = pick_device(config.device)
        frozen = DTYPES[config.dtype]
        trained = torch.float32 if config.dtype == "bfloat16" else frozen  # see `_precision`
        self.model, self.tokenizer = models.load(config.model, self.device, trained)
        self._check_instruction()
        self.task, self.method = tasks.get(config.task), methods.get(config.method, **config.options)
        self.max_new_tokens = config.max_new_tokens or self.task.max_completion
        if self.device == "cpu" and self.max_new_tokens <= SHORT and config.dtype != "float64":
            self.model.set_attn_implementation("eager")
        if config.overlong_buffer:  # checked before the first step
            overlong_punishment(torch.zeros(1), self.max_new_tokens, config.overlong_buffer)
        self.start = copy.deepcopy(self.model).to(frozen).requires_grad_(False)  # the reference of every KL
        self.guide = None
        if config.guide_per_prompt:
            self.guide, words = models.load(config.guide, self.device, frozen)
            if words.get_vocab() != self.tokenizer.get_vocab():
                raise ValueError(f"guide: {config.guide} and {config.model} have different vocabularies")
        # The method may need the guide's opinion of the policy's own completions (mix_2 as printed).
        terms = self.method.terms
        self.guide_judges = any(t.behaviour == "guide" and t.rows is not methods.guide for t in terms)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=0.0, fused=True
        )
        self.prompt_rng = np.random.default_rng([config.seed, 0])
        self.generator = torch.Generator(self.device).manual_seed(config.seed)
        self.order = torch.Generator().manual_seed(config.seed)  # of rows in minibatches
        self.held_out = self._held_out()
        self.step, self.history, self.seconds, self.sampled_tokens = 0, [], 0.0, 0

    def _precision(self):
        """Around every forward pass: with "bfloat16" it computes in 16 bits, on weights that keep 32.

        A weight of 1 in bfloat16 has neighbours at 1 - 1/256 and 1 + 1/128: AdamW's step of `lr` would be
        rounded away.
        """
        return torch.autocast(self.device, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _check_instruction(self):
        if self.config.instruction is not None and not self.tokenizer.chat_template:
            raise ValueError(
                f"instruction: the tokenizer of {self.config.model} has no chat template; set None, or "
                "tokenizer.chat_template to the form the model was trained with, and save it again"
            )

    def _ask(self, problems, copies):
        """Prompts as the model reads them: bare, or in the instruction and the chat template."""
        texts = [p.prompt for p in problems]
        if self.config.instruction is not None:
            said = [self.config.instruction.replace("{prompt}", text) for text in texts]
            chats = [[{"role": "user", "content": text}] for text in said]
            texts = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        return [text for text in texts for _ in range(copies)]

    def _sample(self, model, prompts, generator):
        """Completions of prompts from `_ask`: a template has written its special tokens itself."""
        c, words = self.config, self.tokenizer
        limits = self.max_new_tokens, c.temperature, generator
        with self._precision():
            return sampling.sample(model, words, prompts, *limits, special_tokens=c.instruction is None)

    def _held_out(self):
        problems = tasks.held_out(self.config.task, self.config.levels)
        chosen = np.random.default_rng(0).permutation(len(problems))[: self.config.eval_problems]
        return [problems[i] for i in chosen]  # the same for every seed

    def collect(self):
        """One batch: (Rollouts, dict of what it was made of)."""
        c, begin = self.config, time.perf_counter()
        kept, redrawn, sampled = [], 0, 0
        for _ in range(1 + (c.max_redraws if c.dynamic_sampling else 0)):
            problems = self.task.generate(c.prompts_per_step - len(kept), self.prompt_rng, c.levels)
            own = self._answers(self.model, problems, c.group_size)
            guided = self._answers(self.guide, problems, c.guide_per_prompt)
            groups = [[a for source in (own, guided) for a in source[i]] for i in range(len(problems))]
            sampled += sum(a["length"] for group in groups for a in group)
            alive = [g for g in groups if len({a["reward"] for a in g if a["source"] == POLICY}) > 1]
            kept += alive if c.dynamic_sampling else groups
            redrawn += len(groups) - len(alive) if c.dynamic_sampling else 0
            if len(kept) == c.prompts_per_step:
                break
        info = {"redrawn": redrawn, "sampled_tokens": sampled, "sample_seconds": time.perf_counter() - begin}
        if not kept:
            return None, info
        answers = [a for group in kept for a in group]
        group = torch.tensor([i for i, g in enumerate(kept) for _ in g])
        return self._rollouts(answers, group), info | {"answers": answers}

    def _answers(self, model, problems, copies):
        """For each problem a list of `copies` verified completions."""
        if not copies:
            return [[] for _ in problems]
        s = self._sample(model, self._ask(problems, copies), self.generator)
        found = []
        for i, problem in enumerate(p for p in problems for _ in range(copies)):
            n, p = int(s.mask[i].sum()), s.prompt_mask[i]
            reward, reason = self.task.verify(problem, s.texts[i], not s.truncated[i])
            found.append({
                "problem": problem, "text": s.texts[i], "reward": reward, "reason": reason, "length": n,
                "source": POLICY if model is self.model else GUIDE, "truncated": bool(s.truncated[i]),
                "prompt": s.prompt_ids[i][p], "ids": s.completion_ids[i, :n], "logp": s.logp[i, :n],
            })  # fmt: skip
        return [found[i : i + copies] for i in range(0, len(found), copies)]

    def _rollouts(self, answers, group):
        """Pad, and add the log-probabilities that sampling did not give."""
        pad, column = self.tokenizer.pad_token_id, lambda name: torch.tensor([a[name] for a in answers])
        prompt_ids = _pad([a["prompt"].flip(0) for a in answers], pad).flip(1)
        prompt_mask = _pad([torch.ones_like(a["prompt"], dtype=torch.bool) for a in answers], False).flip(1)
        ids = _pad([a["ids"] for a in answers], pad)
        mask = torch.arange(ids.shape[1], device=self.device) < column("length").to(self.device)[:, None]
        logp = _pad([a["logp"] for a in answers], 0.0)
        source = column("source").to(self.device)
        rewards = column("reward").to(self.device, torch.float32)
        if self.config.overlong_buffer:
            rewards += overlong_punishment(mask.sum(1), self.max_new_tokens, self.config.overlong_buffer)
        judge = lambda model: self._log_probs(model, prompt_ids, prompt_mask, ids, mask)  # noqa: E731
        guided = (source == GUIDE)[:, None]
        old, by_guide = logp, None
        if self.guide is not None:
            old = torch.where(guided, judge(self.model), logp)
            by_guide = judge(self.guide) if self.guide_judges else torch.where(guided, logp, 0.0)
        ref = judge(self.start) if self.method.kl_coef and self.method.kl != "exact" else None
        return Rollouts(
            prompt_ids, ids, mask, old, rewards, group.to(self.device), source,
            column("truncated").to(self.device), ref, by_guide, prompt_mask,
        )  # fmt: skip

    @torch.no_grad()
    def _log_probs(self, model, *tensors):
        rows = self.config.micro_batch or len(tensors[0])
        parts = [[x[i : i + rows] for x in tensors] for i in range(0, len(tensors[0]), rows)]
        with self._precision():
            return torch.cat([sampling.log_probs(model, *part, self.config.temperature) for part in parts])

    def update(self, rollouts, advantages=None):
        """All epochs on one batch; returns metrics of the first pass and of the last."""
        c, B = self.config, len(rollouts)
        advantages = self.method.advantages(rollouts) if advantages is None else advantages
        seen, rows = [], c.micro_batch or B
        for _ in range(c.epochs):
            order = torch.randperm(B, generator=self.order) if c.minibatches > 1 else torch.arange(B)
            for chosen in order.to(self.device).tensor_split(min(c.minibatches, B)):
                whole = rollouts.rows(chosen)
                self.optimiser.zero_grad()
                parts = [
                    self._backward(rollouts.rows(part), [a[part] for a in advantages], whole, not seen)
                    for part in chosen.split(rows)
                ]
                seen.append(joined(parts))
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.max_grad_norm)
                if not torch.isfinite(norm):
                    self._stop(whole, norm)
                self.optimiser.step()
        first, last = seen[0], seen[-1]
        return {
            "objective": last["objective"], "entropy": first["entropy"], "sampler_gap": first["sampler_gap"],
            "ratio_mean": last["ratio_mean"], "ratio_max": max(s["ratio_max"] for s in seen),
            "clip_fraction": float(np.mean([s["clip_fraction"] for s in seen])),
            "dead_groups": dead_groups(advantages, rollouts), "held": sum(s["held"] for s in seen),
            "grad_norm": norm.item(),
        }  # fmt: skip

    def _backward(self, part, advantages, whole, first):
        """Add the gradient of -objective of `part`; its metrics, the entropy summed over its tokens."""
        tensors = part.prompt_ids, part.prompt_mask, part.completion_ids, part.mask
        with self._precision():
            logp, entropy = sampling.log_probs(self.model, *tensors, self.config.temperature, entropy=True)
        exact = self._exact_kl(tensors) if self.method.kl == "exact" and self.method.kl_coef else None
        found = self.method.objective(logp, part, advantages, whole, exact)
        if not torch.isfinite(found.value):
            self._stop(whole, found.value)
        (-found.value).backward()
        own = part.mask & (part.source == POLICY)[:, None]
        gap = (logp.detach() - part.logp_old).exp()[own].sub(1).abs() if own.any() else logp.new_zeros(1)
        if first and self.config.dtype == "float32" and self.device == "cpu":
            if not (gap.mean() < SAMPLER_GAP and gap.max() < LARGEST_GAP):
                raise RuntimeError(
                    f"sampled and recomputed probabilities differ by {gap.mean():.1e} on average and "
                    f"{gap.max():.1e} at most: the sampler and the model disagree, which is a bug"
                )
        return found.metrics | {
            "objective": found.value.item(), "sampler_gap": gap.max().item(),
            "entropy": entropy[own].sum().item(), "own_tokens": int(own.sum()),
        }  # fmt: skip

    def _stop(self, rollouts, value):
        where = ""
        if self.config.out_dir:
            where = f"; the batch is in {run_folder.save_batch(self.config.out_dir, rollouts, self.step)}"
        raise NonFiniteLoss(
            f"step {self.step}: the objective or its gradient is {value.item():g}, rewards from "
            f"{rollouts.rewards.min():g} to {rollouts.rewards.max():g}, lowest log pi_old "
            f"{rollouts.logp_old.min():g}{where}; the model holds the weights before this update. "
            "Lower lr, or see which term's ratio grows (ratio_max)"
        )

    @torch.no_grad()
    def evaluate(self):
        """pass@1, pass@k and KL to the start on the held-out problems."""
        c, k = self.config, self.config.eval_samples
        generator = torch.Generator(self.device).manual_seed(10_000 + c.seed)
        s = self._sample(self.model, self._ask(self.held_out, k), generator)
        judged = [
            self.task.verify(self.held_out[i // k], s.texts[i], not s.truncated[i])[0]
            for i in range(len(s.texts))
        ]
        right = np.reshape(judged, (-1, k))
        by_start = self._log_probs(self.start, s.prompt_ids, s.prompt_mask, s.completion_ids, s.mask)
        return {
            "pass_at_1": pass_at_k(right, 1), "pass_at_k": pass_at_k(right, k),
            "kl_to_start": (kl.k1(s.logp, by_start) * s.mask).sum(1).mean().item(),
        }  # fmt: skip

    def one_step(self):
        """Collect, update, measure: one row of the history."""
        c, begin = self.config, time.perf_counter()
        rollouts, info = self.collect()
        row = {"step": self.step, "redrawn": info["redrawn"]}
        if rollouts is not None:
            row |= self.update(rollouts) | describe(info["answers"])
        row["tokens_per_second"] = info["sampled_tokens"] / info["sample_seconds"]
        self.seconds += time.perf_counter() - begin
        self.sampled_tokens += info["sampled_tokens"]
        row |= {"sampled_tokens": self.sampled_tokens, "seconds": self.seconds, "memory_mb": self._memory()}
        if (self.step + 1) % c.eval_every == 0 or self.step + 1 == c.steps:
            row |= self.evaluate()
        return row

    def run(self, resume=False, progress=True, on_step=None):
        """Train to the last step; returns {metric: array over steps}, NaN where it was not measured.

        `on_step(history)` is called after every step with the list of rows so far: for live plots.
        With `out_dir`, every row goes to metrics.jsonl and timing.jsonl as it is made, and every
        `checkpoint_every` steps checkpoint.safetensors is written. `resume` goes on from it, bit for bit
        on a CPU; without a checkpoint it starts from the beginning.
        """
        c = self.config
        if c.out_dir:
            self._open(resume)
        elif resume:
            raise ValueError("resume: needs out_dir, the folder of the run to go on with")
        with trange(self.step, c.steps, disable=not progress, desc=c.method, leave=False) as bar:
            for _ in bar:
                row = self._guarded_step()
                self.history.append(row)
                self.step += 1
                if c.out_dir:
                    self._log(row)
                bar.set_postfix({k: f"{row[k]:.2f}" for k in ("reward", "pass_at_1") if k in row})
                if on_step:
                    on_step(self.history)
        return columns(self.history)

    def save(self, path):
        """Write the policy as a Hugging Face folder, readable by `models.load`."""
        models.save(self.model, self.tokenizer, path)

    def _guarded_step(self):
        try:
            return self.one_step()
        except torch.OutOfMemoryError as error:
            c = self.config
            rows = c.prompts_per_step * (c.group_size + c.guide_per_prompt)
            raise RuntimeError(
                f"out of memory in step {self.step}: set micro_batch below {c.micro_batch or rows} (the same "
                "update in smaller pieces), then lower prompts_per_step or max_new_tokens, or set dtype "
                f"'bfloat16'. {error}"
            ) from error

    # -- files of a run ----------------------------------------------------------------------------------

    def _open(self, resume):
        """Begin in the folder, or go back to its checkpoint."""
        found = run_folder.enter(self.config.out_dir, resume, self._settings())
        if found:
            tensors, state, self.history = found
            checkpoint.unpack(tensors, *self._stateful())
            if state["start"] != checkpoint.fingerprint(self.start):
                raise ValueError(f"resume: the run began from other weights than {self.config.model} has now")
            self.prompt_rng.bit_generator.state = state["prompt_rng"]
            self.step, self.seconds, self.sampled_tokens = (
                state[name] for name in ("step", "seconds", "sampled_tokens")
            )
        run_folder.begin(self.config.out_dir, self._settings(), self.history)

    def _settings(self):
        """All settings of the run as they come back from JSON."""
        return json.loads(json.dumps(asdict(self.config)))

    def _stateful(self):
        """Everything a checkpoint holds: modules, optimisers, generators by name."""
        return (
            {"model": self.model},
            {"optimiser": self.optimiser},
            {"sampling": self.generator, "order": self.order},
        )

    def _log(self, row):
        """Append the row; then, if it is time, the checkpoint: the logs never lag behind it."""
        folder = Path(self.config.out_dir)
        run_folder.append(folder, row)
        if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
            state = {
                "config": self._settings(), "step": self.step, "seconds": self.seconds,
                "sampled_tokens": self.sampled_tokens, "prompt_rng": self.prompt_rng.bit_generator.state,
                "start": checkpoint.fingerprint(self.start),
            }  # fmt: skip
            checkpoint.save(folder / run_folder.CHECKPOINT, checkpoint.pack(*self._stateful()), state)

    def _memory(self):
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated() / 2**20
        return psutil.Process().memory_info().rss / 2**20

    def _exact_kl(self, tensors):
        """KL(pi || start) in each state of the completions (B, T)."""
        with self._precision():
            now = sampling.vocabulary_log_probs(self.model, *tensors, self.config.temperature)
        with torch.no_grad(), self._precision():
            start = sampling.vocabulary_log_probs(self.start, *tensors, self.config.temperature)
        return kl.exact(now, start)


def _pad(rows, value):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
