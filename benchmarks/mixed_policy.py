"""The mixed-policy methods beside DAPO, GRPO and imitation, over seeds: data/runs/mixed_policy.json.

    python benchmarks/mixed_policy.py [--seeds 5] [--only NAME ...] [--workers 2] [--out FILE]

Every run has eight completions of each prompt, whoever wrote them: equal updates are equal sampled tokens
as long as the completions stay as long (the columns say how many). "sparse" starts from `lazy`, whose rewards
almost never come; "dense" from `weak`. The guide is right always, or, in the cases with "fair", three
times in five. "again" is DAPO with other random numbers: the noise floor. One thread a run; a run that
the file holds already is not repeated.
"""

import recorder

BASE = {
    "task": "addition",
    "levels": (3,),
    "prompts_per_step": 16,
    "epochs": 2,
    "minibatches": 1,
    "eval_every": 10,
}
BASE |= {"eval_problems": 128, "eval_samples": 4, "steps": 80}
STARTS = {
    "sparse": {"model": "lazy", "lr": 2e-4},
    "dense": {"model": "weak", "lr": 1e-4, "steps": 40},
}


def case(start, method, guided=0, guide="guide", options=None):
    """A row of the file: `guided` of the eight completions come from the guide."""
    settings = STARTS[start] | {"group_size": 8 - guided}
    if guided:
        settings |= {"guide": guide, "guide_per_prompt": guided}
    return {"method": method, "options": options or {}, "settings": settings}


def cases():
    """{name: case}, the most telling first."""
    found = {}
    for start in STARTS:
        found[f"{start}, dapo"] = case(start, "dapo")
        for method in ("mix_1", "mix_2"):
            for variant in ("corrected", "faithful"):
                found[f"{start}, {method} {variant}"] = case(start, method, 2, options={"variant": variant})
        found[f"{start}, sft"] = case(start, "sft", 7)
        found[f"{start}, dapo_sft"] = case(start, "dapo_sft", 2)
        found[f"{start}, grpo"] = case(start, "grpo")
        found[f"{start}, dapo again"] = case(start, "dapo") | {"first_seed": 1000}
        if start == "dense":
            continue
        for gamma in (0.01, 1.0):
            options = {"variant": "corrected", "shape_gamma": gamma}
            found[f"sparse, mix_1 corrected, gamma {gamma:g}"] = case(start, "mix_1", 2, options=options)
        for guided in (1, 3):
            options = {"variant": "corrected"}
            found[f"sparse, mix_1 corrected, {guided} guided"] = case(start, "mix_1", guided, options=options)
        for method, guided in (("sft", 7), ("dapo_sft", 2), ("mix_1", 2), ("mix_2", 2)):
            options = {"variant": "corrected"} if method.startswith("mix") else {}
            found[f"sparse, {method}, fair"] = case(start, method, guided, "fair", options)
        found["sparse, dapo_sft, 1 guided"] = case(start, "dapo_sft", 1)
        options = {"only_rewarded": True}
        for method, guided in (("sft", 7), ("dapo_sft", 2)):
            found[f"sparse, {method} rewarded, fair"] = case(start, method, guided, "fair", options)
    return found


if __name__ == "__main__":
    recorder.main(__doc__, BASE, cases(), "data/runs/mixed_policy.json")
