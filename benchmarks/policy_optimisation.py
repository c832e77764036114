"""Speed and learning of PPO, A2C and TRPO beside Stable-Baselines3 and sb3-contrib, in one run.

Both sides get the same environment, network, batch, number of updates and seed; their runs
alternate, so a busy machine slows both. One thread each. Usage, by `make bench`:

    python benchmarks/policy_optimisation.py [--seeds 10] [--only NAME] [--cleanrl FILE] [--out FILE]

`steps_per_second` counts the whole of training. A curve is the mean return of the training episodes
that ended in each of 40 equal stretches of environment steps; `final` is the mean return of 100 episodes
with the policy that training left, actions sampled, in fresh environments. CleanRL is a script, not a
library: give the path of its `ppo.py` (it needs tyro and tensorboard) and its own figure of steps per
second joins the case with its settings.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import torch
from common import machine
from tqdm import tqdm

from rlbook import a2c, ppo, trpo
from rlbook.rollout import evaluate

STRETCHES = 40


def linear(x):
    """A Stable-Baselines3 schedule that falls from x to 0."""
    return lambda left: left * x


def cases():
    """{name: (our module, our config, rival class, its options, environment, most seeds)}."""
    from sb3_contrib import TRPO
    from stable_baselines3 import A2C, PPO

    tuned = ppo.Config(total_steps=60_000)
    plain = ppo.Config(
        total_steps=60_000,
        n_envs=4,
        n_steps=128,
        epochs=4,
        minibatch=128,
        lr=2.5e-4,
        discount=0.99,
        lam=0.95,
        entropy_coef=0.01,
    )
    swing = ppo.Config(
        total_steps=250_000,
        n_steps=128,
        epochs=10,
        minibatch=128,
        discount=0.9,
        lam=0.95,
        max_grad_norm=None,
    )
    actor = a2c.Config(total_steps=100_000)
    region = trpo.Config(total_steps=100_000, cg_iters=15, shrink=0.8, max_shrinks=9)
    return {
        "PPO": (ppo, tuned, PPO, ppo_options(tuned), "CartPole-v1", 10),
        "PPO, settings of CleanRL": (ppo, plain, PPO, ppo_options(plain), "CartPole-v1", 10),
        "PPO, Pendulum": (ppo, swing, PPO, ppo_options(swing), "Pendulum-v1", 5),
        "A2C": (
            a2c,
            actor,
            A2C,
            dict(
                n_steps=5, learning_rate=linear(7e-4), gamma=0.99, gae_lambda=1.0, ent_coef=0.0, vf_coef=0.5
            ),
            "CartPole-v1",
            10,
        ),
        "TRPO": (
            trpo,
            region,
            TRPO,
            dict(
                n_steps=128,
                batch_size=128,
                gamma=0.99,
                gae_lambda=0.95,
                learning_rate=1e-3,
                target_kl=0.01,
                cg_max_steps=15,
                cg_damping=0.1,
                line_search_shrinking_factor=0.8,
                line_search_max_iter=10,
                n_critic_updates=10,
            ),
            "CartPole-v1",
            10,
        ),
    }


def ppo_options(c):
    """Stable-Baselines3's names for our settings."""
    return dict(
        n_steps=c.n_steps,
        batch_size=c.minibatch,
        n_epochs=c.epochs,
        gamma=c.discount,
        gae_lambda=c.lam,
        learning_rate=linear(c.lr),
        clip_range=linear(c.eps_low),
        ent_coef=c.entropy_coef,
        vf_coef=c.value_coef,
        max_grad_norm=c.max_grad_norm or float("inf"),
    )


def curve(steps, returns, total):
    """Mean return of the episodes that ended in each stretch; NaN where none did."""
    steps, returns = np.asarray(steps, float), np.asarray(returns, float)
    kept = np.isfinite(returns)
    stretch = np.minimum((steps[kept] - 1) * STRETCHES // total, STRETCHES - 1).astype(int)
    count = np.bincount(stretch, minlength=STRETCHES)
    return np.bincount(stretch, returns[kept], minlength=STRETCHES) / np.where(count, count, np.nan)


def run_ours(module, config, env_id, seed):
    """(steps per second, curve, final return, largest KL of an update) of one seed."""
    start = time.perf_counter()
    found = module.train(env_id, config, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    steps = found.history["env_steps"]
    points = curve(steps, found.history["episode_return"], config.total_steps)
    final = evaluate(found.policy, env_id, 100, seed=10_000 + seed).mean()
    return steps[-1] / seconds, points, final, float(np.max(found.history.get("kl", np.nan)))


def run_rival(algorithm, config, options, env_id, seed):
    """The same of a Stable-Baselines3 algorithm."""
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Episodes(BaseCallback):
        def __init__(self):
            super().__init__()
            self.steps, self.returns = [], []

        def _on_step(self):
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.steps.append(self.num_timesteps)
                    self.returns.append(info["episode"]["r"])
            return True

    episodes = Episodes()
    start = time.perf_counter()
    envs = make_vec_env(env_id, n_envs=config.n_envs, seed=seed)
    network = dict(net_arch=dict(pi=list(config.hidden), vf=list(config.hidden)), activation_fn=torch.nn.Tanh)
    model = algorithm("MlpPolicy", envs, seed=seed, device="cpu", policy_kwargs=network, **options)
    model.learn(config.total_steps, callback=episodes)
    seconds = time.perf_counter() - start
    from stable_baselines3.common.evaluation import evaluate_policy

    fresh = make_vec_env(env_id, n_envs=10, seed=10_000 + seed)
    final = evaluate_policy(model, fresh, n_eval_episodes=100, deterministic=False)[0]
    points = curve(episodes.steps, episodes.returns, config.total_steps)
    return model.num_timesteps / seconds, points, final, np.nan


def cleanrl_speed(script, config, env_id, seed):
    """Steps per second that CleanRL's ppo.py reports of its own run, at the settings it publishes."""
    options = ["--total-timesteps", config.total_steps, "--env-id", env_id, "--seed", seed, "--no-cuda"]
    with tempfile.TemporaryDirectory() as folder:  # it writes a log where it stands
        command = [sys.executable, Path(script).resolve(), *options]
        done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr[-500:]}")
    return int(re.findall(r"SPS: (\d+)", done.stdout)[-1])


def main():
    """Run the cases, write the JSON, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", help="one case by name")
    parser.add_argument("--cleanrl", help="path of CleanRL's ppo.py")
    parser.add_argument("--out", default="data/runs/policy_optimisation.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    gymnasium.logger.min_level = gymnasium.logger.ERROR
    chosen = {name: case for name, case in cases().items() if args.only in (None, name)}
    if not chosen:
        parser.error(f"--only: expected one of {', '.join(cases())}, got {args.only!r}")
    report = {
        "machine": machine("torch", "gymnasium", "numpy", "stable-baselines3", "sb3-contrib"),
        "cases": {},
    }
    total = sum(2 * min(args.seeds, most) for *_, most in chosen.values())
    with tqdm(total=total, unit="run") as bar:
        for name, (module, config, algorithm, options, env_id, most) in chosen.items():
            sides = {"rlbook": [], algorithm.__module__.split(".")[0]: []}
            script = []  # CleanRL's speeds
            for seed in range(min(args.seeds, most)):
                for side, runs in sides.items():
                    bar.set_description(f"{name}, {side}")
                    if side == "rlbook":
                        runs.append(run_ours(module, config, env_id, seed))
                    else:
                        runs.append(run_rival(algorithm, config, options, env_id, seed))
                    bar.update()
                if args.cleanrl and "CleanRL" in name:
                    script.append(cleanrl_speed(args.cleanrl, config, env_id, seed))
            report["cases"][name] = {
                "env_id": env_id,
                "config": asdict(config),
                "cleanrl_steps_per_second": script,
                "env_steps": [config.total_steps * (i + 1) / STRETCHES for i in range(STRETCHES)],
                "sides": {
                    side: {
                        "steps_per_second": [round(speed) for speed, *_ in runs],
                        "final": [round(float(final), 1) for _, _, final, _ in runs],
                        "largest_kl": [None if np.isnan(kl) else round(kl, 6) for *_, kl in runs],
                        "curves": [
                            [None if np.isnan(x) else round(x, 1) for x in points] for _, points, *_ in runs
                        ],
                    }
                    for side, runs in sides.items()
                },
            }
            Path(args.out).parent.mkdir(parents=True, exist_ok=True)
            Path(args.out).write_text(json.dumps(report), encoding="utf-8")
    print(f"{'':26}{'side':20}{'steps/s':>9}{'ratio':>7}{'final median':>14}{'lowest':>8}")
    for name, case in report["cases"].items():
        base = np.median([*case["sides"].values()][1]["steps_per_second"])
        for side, found in case["sides"].items():
            speed, final = np.median(found["steps_per_second"]), found["final"]
            print(
                f"{name:26}{side:20}{speed:9.0f}{speed / base:7.2f}{np.median(final):14.1f}{min(final):8.1f}"
            )
        if case["cleanrl_steps_per_second"]:
            speed = np.median(case["cleanrl_steps_per_second"])
            print(f"{name:26}{'cleanrl (own figure)':20}{speed:9.0f}{speed / base:7.2f}")


if __name__ == "__main__":
    main()
