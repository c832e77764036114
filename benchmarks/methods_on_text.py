"""Every method of chapter 5 from the same start, at equal settings, over seeds: data/runs/methods.json.

    python benchmarks/methods_on_text.py [--seeds 5] [--only NAME ...] [--workers 2] [--out FILE]

One thread a run, `--workers` runs at a time. A run that the file holds already is not repeated, so the
command can be stopped and started.
"""

import recorder

BASE = {"model": "weak", "task": "addition", "levels": (3,), "prompts_per_step": 16, "group_size": 8}
BASE |= {"epochs": 2, "minibatches": 1, "lr": 1e-4, "eval_every": 10, "eval_problems": 128, "eval_samples": 4}
BASE |= {"steps": 80}


def case(method, options=None, **settings):
    """A row of the file."""
    return {"method": method, "options": options or {}, "settings": settings}


CASES = {
    "reinforce": case("reinforce"),
    "rloo": case("rloo"),
    "grpo": case("grpo"),
    "dr_grpo": case("dr_grpo", {"max_length": 22}),  # the longest completion allowed
    "dapo": case("dapo"),
    "dapo, symmetric clip": case("dapo", {"clip": (0.2, 0.2)}),
    "dapo, sequence mean": case("grpo", {"clip": (0.2, 0.28)}),
    "dapo, dynamic sampling": case("dapo", dynamic_sampling=True),
    "gspo, published range": case("gspo"),
    "gspo, wide range": case("gspo", {"clip": (0.05, 0.05)}),
    "sapo": case("sapo"),
    "ppo, critic": case("dapo", {"clip": (0.2, 0.2)}),
}

if __name__ == "__main__":
    out = "data/runs/methods.json"
    recorder.main(__doc__, BASE, CASES, out, critics=["ppo, critic"])
