"""Chapter 3: asynchronous advantage actor-critic, with real processes and measured staleness.

Workers share the parameters and the optimiser's running means in memory and write to both without
a lock. Each reads the parameters, collects a segment, computes A2C's gradient on it, and applies it
to whatever the parameters are by then. How many updates came between is the staleness.
"""

import multiprocessing
import time
import traceback
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from rlbook import a2c, policies, validate
from rlbook.rollout import Collector, History, result


@dataclass(frozen=True)
class Config(a2c.Config):
    """A2C's settings for each worker, and the number of workers; total_steps is over all of them."""

    workers: int = 2

    def __post_init__(self):
        super().__post_init__()
        validate.settings(self, whole=("workers",))


class WorkerError(RuntimeError):
    """A worker stopped with an error; the others were ended. The message holds its traceback.

    `result` holds the parameters as they were then; no worker applies a gradient that is not finite.
    """

    def __init__(self, message, result):
        super().__init__(message)
        self.result = result


def train(env_id, config=None, *, seed=0, progress=True):
    """Box 3.4.3: A3C on a gymnasium environment; returns a `Result`.

    Worker w seeds its environments with seed + 1000 w, so one worker repeats `a2c.train` bit for
    bit; several do not repeat, because their order is left to the system.
    history, one row an update in order of arrival: env_steps, episode_return (NaN where no episode
    ended), value_loss, entropy, staleness, worker, seconds.
    Raises ValueError on an unknown environment, WorkerError if a worker fails or dies (also on a reward,
    an observation or a loss that is not finite); no process is left behind.
    """
    config = config or Config()
    probe = Collector(env_id, 1, seed)  # fails here, in the caller's process, on a bad environment
    policy, value = policies.build(probe.observation_space, probe.action_space, config.hidden, seed)
    probe.close()
    policy.share_memory()
    value.share_memory()
    update = a2c.optimiser(policy, value, config)
    for group in update.param_groups:  # the running means, shared as well
        for p in group["params"]:
            update.state[p] = {
                "step": torch.zeros(()).share_memory_(),
                "square_avg": torch.zeros_like(p).share_memory_(),
            }
    iterations = max(1, config.total_steps // (config.n_envs * config.n_steps))
    context = torch.multiprocessing.get_context("spawn")
    taken, done, rows = context.Value("q", 0), context.Value("q", 0), context.SimpleQueue()
    start = time.perf_counter()
    processes = [
        context.Process(
            target=_work,
            args=(
                w,
                env_id,
                config,
                seed + 1000 * w,
                policy,
                value,
                update.state_dict()["state"],
                iterations,
            ),
            kwargs={"taken": taken, "done": done, "rows": rows},
            daemon=True,
        )
        for w in range(config.workers)
    ]
    history, problem = History(), None
    try:
        for process in processes:
            process.start()
        with tqdm(total=iterations, disable=not progress, desc=f"A3C {env_id}", leave=False) as bar:
            while len(history) < iterations and problem is None:
                codes = [p.exitcode for p in processes]  # before a look at the rows, so that none is missed
                if rows.empty():
                    problem = _death(codes, iterations - len(history))
                    time.sleep(0.001)
                    continue
                row = rows.get()
                if isinstance(row, str):
                    problem = row
                    continue
                history.add(
                    env_steps=(len(history) + 1) * config.n_envs * config.n_steps,
                    **row,
                    seconds=time.perf_counter() - start,
                )
                bar.update()
        for process in processes if problem is None else ():
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            if process.pid is not None:
                process.join()
    found = result(policy, value, history, env_id, config)
    if problem is not None:
        raise WorkerError(problem, found)
    return found


def _death(codes, missing):
    """What the exit codes (None: still running) say of a run that has `missing` updates to go."""
    for w, code in enumerate(codes):
        if code not in (None, 0):
            return f"worker {w} died with exit code {code}"
    return None if None in codes else f"every worker ended with {missing} updates missing"


def _work(w, env_id, config, seed, policy, value, state, iterations, *, taken, done, rows):
    """One worker: take a ticket, read, collect, differentiate, apply; until no tickets are left."""
    try:
        torch.set_num_threads(1)
        collector = Collector(env_id, config.n_envs, seed)
        local_policy, local_value = policies.build(
            collector.observation_space, collector.action_space, config.hidden, seed
        )
        update = a2c.optimiser(policy, value, config)
        shared = [*policy.parameters(), *value.parameters()]
        local = [*local_policy.parameters(), *local_value.parameters()]
        for i, p in enumerate(shared):
            update.state[p] = state[i]
        parent = multiprocessing.parent_process()
        while parent.is_alive():  # nobody reads the rows of an orphan
            with taken.get_lock():
                k, taken.value = taken.value, taken.value + 1
            if k >= iterations:
                break
            read_at = done.value
            with torch.no_grad():
                for mine, theirs in zip(local, shared, strict=True):
                    mine.copy_(theirs)
            segment = collector.collect(local_policy, config.n_steps)
            total, parts = a2c.gradient(local_policy, local_value, segment, config)
            if not np.isfinite(total):
                raise FloatingPointError(f"the loss is {total} in update {k}")
            for mine, theirs in zip(local, shared, strict=True):
                theirs.grad = mine.grad
            update.param_groups[0]["lr"] = config.lr * (1 - k / iterations if config.anneal else 1.0)
            staleness = done.value - read_at
            update.step()
            with done.get_lock():
                done.value += 1
            returns = segment.episode_return
            mean = np.mean(returns) if returns else np.nan
            rows.put({"episode_return": float(mean), "staleness": staleness, "worker": w, **parts})
        collector.close()
    except BaseException:  # an environment may call sys.exit
        rows.put(f"worker {w} stopped:\n{traceback.format_exc()}")
