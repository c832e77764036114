"""The loop: what it collects, what one update does to the weights, what it measures, when it stops."""

import copy
import math

import llm_tiny
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlbook.llm import metrics, models, sampling, tasks
from rlbook.llm.batch import GUIDE, POLICY
from rlbook.llm.objective import Method, Objective
from rlbook.llm.trainer import NonFiniteLoss, Trainer, overlong_punishment

SEVEN = lambda text, ended: "7" in text  # noqa: E731  about one random completion in five


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def unpadded_log_probs(model, r, i, temperature=1.0):
    """Log-probabilities of row i's completion from one forward pass without padding."""
    prompt, completion = r.prompt_ids[i][r.prompt_mask[i]], r.completion_ids[i][r.mask[i]]
    with torch.no_grad():
        logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, completion[:, None])[:, 0]


def test_history_has_a_finite_row_a_step_seeds_repeat_and_evaluation_changes_nothing(tmp_path, monkeypatch):
    llm_tiny.rig(monkeypatch, SEVEN)
    run = lambda **c: Trainer(llm_tiny.config(tmp_path, epochs=2, **c)).run(progress=False)  # noqa: E731
    first, same, other, rarely = run(), run(), run(seed=1), run(eval_every=100)
    assert set(first) == set(metrics.METRICS) - {"guide_reward"}
    measured = {"pass_at_1", "pass_at_k", "kl_to_start"}
    for name, column in first.items():
        due = np.array([name not in measured, True, True])  # every second step, and the last
        assert np.array_equal(np.isfinite(column), due), name
        if name not in metrics.TIMINGS:
            assert np.array_equal(column, same[name], equal_nan=True), name
            if name not in measured:
                assert np.array_equal(column, rarely[name]), name
    assert first["objective"][0] != other["objective"][0] and first["entropy"][0] != other["entropy"][0]
    assert np.array_equal(first["step"], [0, 1, 2]) and np.all(first["sampler_gap"] < 1e-5)
    assert 0 < first["entropy"][0] < math.log(len(models.tokenizer()))
    assert first["clip_fraction"][0] == 0.0 and first["ratio_max"][0] > 1.0 > 1e-9


def test_the_seed_decides_the_problems_the_completions_and_the_order_of_rows(tmp_path):
    first, same, other = (Trainer(llm_tiny.config(tmp_path, seed=seed)) for seed in (0, 0, 1))
    for draw in (
        lambda t: t.task.generate(4, t.prompt_rng),
        lambda t: torch.rand(8, generator=t.generator).tolist(),
        lambda t: torch.randperm(8, generator=t.order).tolist(),
    ):
        drawn = draw(first)
        assert drawn == draw(same) != draw(other)


def test_the_held_out_problems_are_the_same_for_every_seed(tmp_path):
    chosen = [Trainer(llm_tiny.config(tmp_path, seed=seed)).held_out for seed in (0, 1)]
    assert chosen[0] == chosen[1] and len(set(p.prompt for p in chosen[0])) == 4
    assert all(tasks.is_held_out(p.prompt) and p.level == 3 for p in chosen[0])


@pytest.mark.parametrize("method", ["grpo", "gspo"])
def test_an_update_is_autograd_clipping_and_adamw_by_hand(tmp_path, monkeypatch, method):
    """Box 5.3.2, Box 5.5.4: two epochs on one batch, one optimiser step each."""
    llm_tiny.rig(monkeypatch, lambda text, ended: len(set(text)))
    settings = {
        "epochs": 2,
        "dtype": "float64",
        "max_grad_norm": 0.05,
        "lr": 0.01,
        "options": {"clip": (1, 1)},
    }
    trainer = Trainer(llm_tiny.config(tmp_path, method=method, levels=(1, 3), **settings))
    model, start = copy.deepcopy(trainer.model), weights(trainer)
    rollouts, _ = trainer.collect()
    row = trainer.update(rollouts)
    parameters = list(model.parameters())
    m, v = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids], 1)
    attention = torch.cat([rollouts.prompt_mask, rollouts.mask], 1).long()
    for step in (1, 2):
        logits = model(
            ids, attention_mask=attention, position_ids=(attention.cumsum(1) - 1).clamp(min=0)
        ).logits
        T = rollouts.mask.shape[1]
        logp = logits[:, -T - 1 : -1].log_softmax(-1).gather(2, rollouts.completion_ids[..., None])[..., 0]
        value = trainer.method.objective(logp, rollouts).value
        gradient = torch.autograd.grad(-value, parameters)
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        for i, p in enumerate(parameters):
            g = gradient[i] * min(1.0, 0.05 / norm.item())
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            move = 0.01 * (m[i] / (1 - 0.9**step)) / ((v[i] / (1 - 0.999**step)).sqrt() + 1e-8)
            p.data -= move
    assert norm > 0.05 and (weights(trainer) - start).abs().max() > 0.01
    by_hand = torch.cat([p.detach().flatten() for p in parameters])
    torch.testing.assert_close(weights(trainer), by_hand, rtol=0, atol=1e-6)  # clipping adds 1e-6 to the norm
    assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert row["objective"] == pytest.approx(value.item(), rel=1e-4)
    untouched = torch.cat([p.flatten() for p in trainer.start.parameters()])
    assert torch.equal(untouched, start)  # the reference of the KL


@pytest.mark.parametrize("method, options", [
    ("dapo", {"kl_coef": 0.1, "kl": "loss_k3", "mask_truncated": True}), ("dr_grpo", {"kl_coef": 0.1}),
    ("gspo", {}), ("sapo", {"kl_coef": 0.1, "kl": "exact"}),
])  # fmt: skip
def test_micro_batches_make_the_same_update_and_the_same_metrics(tmp_path, monkeypatch, method, options):
    llm_tiny.rig(monkeypatch, SEVEN)
    found = []
    for micro_batch in (None, 3):
        c = {"method": method, "options": options, "epochs": 2, "dtype": "float64", "levels": (1, 3)}
        trainer = Trainer(llm_tiny.config(tmp_path, minibatches=2, micro_batch=micro_batch, **c))
        row = trainer.update(trainer.collect()[0])
        found.append((weights(trainer), [row[name] for name in sorted(row)], trainer.optimiser))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)
    assert {int(s["step"]) for s in found[1][2].state_dict()["state"].values()} == {4}


def test_there_are_as_many_optimiser_steps_as_minibatches(tmp_path):
    trainer = Trainer(llm_tiny.config(tmp_path, group_size=3, minibatches=4))  # six rows
    trainer.update(trainer.collect()[0])
    assert {int(s["step"]) for s in trainer.optimiser.state_dict()["state"].values()} == {4}


def test_dead_groups_are_counted_over_the_whole_batch(tmp_path):
    trainer = Trainer(llm_tiny.config(tmp_path, prompts_per_step=4, group_size=2, micro_batch=2))
    rollouts, _ = trainer.collect()
    mixed = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 1])
    row = trainer.update(type(rollouts)(**(vars(rollouts) | {"rewards": mixed})))
    assert row["dead_groups"] == 0.75


def test_overlong_punishment_is_the_three_cases_of_dapo():
    def by_cases(length, most=16, buffer=4):
        if length <= most - buffer:
            return 0.0
        return (most - buffer - length) / buffer if length <= most else -1.0

    lengths = torch.arange(1, 20)
    expected = [by_cases(n) for n in lengths.tolist()]
    assert overlong_punishment(lengths, 16, 4).tolist() == expected
    assert overlong_punishment(torch.tensor([12, 13, 15, 16, 17]), 16, 4).tolist() == [
        0,
        -0.25,
        -0.75,
        -1,
        -1,
    ]
    for buffer in (0, 17, -1):
        with pytest.raises(ValueError, match=f"overlong_buffer: expected 1 to 16 tokens, got {buffer}"):
            overlong_punishment(lengths, 16, buffer)


def test_the_punishment_is_in_the_rewards_that_are_compared_not_in_those_reported(tmp_path, monkeypatch):
    llm_tiny.rig(monkeypatch, lambda text, ended: True)
    trainer = Trainer(llm_tiny.config(tmp_path, overlong_buffer=4, prompts_per_step=8))
    rollouts, info = trainer.collect()
    lengths = rollouts.mask.sum(1)
    assert rollouts.rewards.tolist() == [{1: 1, 2: 0.75, 3: 0.5, 4: 0.25, 5: 0}[n] for n in lengths.tolist()]
    assert lengths.min() < 5 and metrics.describe(info["answers"])["reward"] == 1.0
    ended = (rollouts.completion_ids == trainer.tokenizer.eos_token_id).any(1)
    assert torch.equal(rollouts.truncated, ~ended) and rollouts.truncated.any()
    share = rollouts.truncated.float().mean().item()
    assert metrics.describe(info["answers"])["truncated"] == pytest.approx(share)


@pytest.mark.parametrize("max_redraws", [2, 50])
def test_dynamic_sampling_keeps_mixed_groups_and_counts_the_others(tmp_path, monkeypatch, max_redraws):
    """Box 5.4.2: only what is missing is drawn again."""
    llm_tiny.rig(monkeypatch, SEVEN)
    c = {"dynamic_sampling": True, "max_redraws": max_redraws, "prompts_per_step": 12, "group_size": 2}
    trainer = Trainer(llm_tiny.config(tmp_path, **c))
    drawn, answers = [], trainer._answers
    monkeypatch.setattr(trainer, "_answers", lambda *a: drawn.append(answers(*a)) or drawn[-1])
    rollouts, info = trainer.collect()
    rounds = drawn[::2]  # the policy's; the guide's are empty
    mixed = [[len({a["reward"] for a in group}) == 2 for group in groups] for groups in rounds]
    kept = np.cumsum([sum(m) for m in mixed])
    assert [len(m) for m in mixed] == [12, *(12 - kept[:-1])]  # only what is missing is drawn again
    assert len(rounds) <= 1 + max_redraws and info["redrawn"] == sum(m.count(False) for m in mixed) > 0
    assert len(rounds) == 3 if max_redraws == 2 else kept[-1] == 12
    assert len(rollouts) == 2 * kept[-1] and torch.equal(
        rollouts.group, torch.arange(kept[-1]).repeat_interleave(2)
    )
    assert (rollouts.rewards.reshape(-1, 2).sum(1) == 1).all()
    assert info["sampled_tokens"] == sum(a["length"] for groups in drawn for g in groups for a in g)


def test_a_step_without_a_mixed_group_leaves_the_weights_and_the_run_goes_on(tmp_path, monkeypatch):
    llm_tiny.rig(monkeypatch, lambda text, ended: False)
    trainer = Trainer(llm_tiny.config(tmp_path, dynamic_sampling=True, max_redraws=1))
    before = weights(trainer)
    history = trainer.run(progress=False)
    assert history["redrawn"].tolist() == [4, 4, 4] and torch.equal(weights(trainer), before)
    assert "objective" not in history and np.isfinite(history["sampled_tokens"]).all()
    assert history["pass_at_1"][1:].tolist() == [0, 0]


@pytest.mark.parametrize("where", ["objective", "gradient"])
def test_a_number_that_is_not_finite_stops_the_run_before_the_weights_change(tmp_path, monkeypatch, where):
    llm_tiny.rig(monkeypatch, lambda text, ended: len(set(text)))
    trainer = Trainer(llm_tiny.config(tmp_path, out_dir=str(tmp_path / "out"), micro_batch=3))
    kept, start = [], weights(trainer)

    def poison(history):
        kept.append(weights(trainer))
        if where == "objective":
            true = Method.objective
            bad = lambda *a: Objective(true(*a).value * math.nan, {})  # noqa: E731
            monkeypatch.setattr(Method, "objective", bad)
        else:
            monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *a: torch.tensor(math.inf))

    with pytest.raises(
        NonFiniteLoss, match="step 1: the objective or its gradient is (nan|inf).*bad_batch_1"
    ):
        trainer.run(progress=False, on_step=poison)
    assert torch.equal(weights(trainer), kept[0]) and not torch.equal(kept[0], start)
    batch = load_file(tmp_path / "out" / "bad_batch_1.safetensors")
    assert batch["rewards"].shape == (8,) and batch["logp_old"].shape == batch["mask"].shape
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_sampler_that_disagrees_with_the_model_is_a_bug(tmp_path, monkeypatch):
    true = sampling.log_probs
    monkeypatch.setattr(sampling, "log_probs", lambda *a, **k: true(*a[:5], 1.1, **k))
    with pytest.raises(RuntimeError, match="the sampler and the model disagree"):
        Trainer(llm_tiny.config(tmp_path)).run(progress=False)


@pytest.mark.parametrize("method", ["mix_1", "mix_2"])
def test_rows_of_the_guide_carry_both_log_probabilities(tmp_path, method):
    guide = llm_tiny.folder(tmp_path, seed=1, name="guide")
    c = {"method": method, "guide": guide, "guide_per_prompt": 2, "group_size": 3, "temperature": 0.7}
    trainer = Trainer(llm_tiny.config(tmp_path, levels=(1, 3), prompts_per_step=4, **c))
    r, info = trainer.collect()
    assert r.source.tolist() == ([POLICY] * 3 + [GUIDE] * 2) * 4
    assert r.group.tolist() == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert set(r.prompt_mask.sum(1).tolist()) == {4, 8}  # 1+2= and 123+456=, padded on the left
    for i, answer in enumerate(info["answers"]):
        own = unpadded_log_probs(trainer.model, r, i, 0.7)
        guided = unpadded_log_probs(trainer.guide, r, i, 0.7)
        sampled_by = guided if r.source[i] == GUIDE else own
        torch.testing.assert_close(answer["logp"], sampled_by, rtol=0, atol=2e-5)
        torch.testing.assert_close(r.logp_old[i][r.mask[i]], own, rtol=0, atol=2e-5)
        if method == "mix_2" or r.source[i] == GUIDE:  # mix_2 asks the guide about the policy's rows too
            torch.testing.assert_close(r.logp_guide[i][r.mask[i]], guided, rtol=0, atol=2e-5)
        prompt = trainer.tokenizer.decode(r.prompt_ids[i][r.prompt_mask[i]])
        assert prompt.replace(" ", "") == answer["problem"].prompt
    history = trainer.run(progress=False)
    assert np.isfinite(history["guide_reward"]).all()


def test_a_model_of_another_kind_with_another_tokenizer_trains(tmp_path, monkeypatch):
    letters = {letter: i for i, letter in enumerate([*reversed(tasks.ALPHABET), "<stop>", "<begin>"])}
    raw = Tokenizer(WordLevel(letters, unk_token="<unknown>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    raw.post_processor = TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", letters["<begin>"])]
    )
    words = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<stop>", bos_token="<begin>"
    )  # no padding token
    model = llm_tiny.gpt2(tmp_path, words)
    llm_tiny.rig(monkeypatch, SEVEN)
    c = llm_tiny.config(tmp_path, model=model, levels=(1, 3), prompts_per_step=4)
    trainer = Trainer(c)
    r, info = trainer.collect()
    assert set(r.prompt_mask.sum(1).tolist()) == {5, 9} and not r.mask.all()
    for i, answer in enumerate(info["answers"]):
        own = unpadded_log_probs(trainer.model, r, i)
        torch.testing.assert_close(r.logp_old[i][r.mask[i]], own, rtol=0, atol=2e-5)
        assert answer["truncated"] == (letters["<stop>"] not in r.completion_ids[i][r.mask[i]])
    before = weights(trainer)
    history = trainer.run(progress=False)
    assert np.all(history["sampler_gap"] < 1e-5) and not torch.equal(weights(trainer), before)
