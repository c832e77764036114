"""The shipped models keep their cards' promises, and small ones are made the same way here."""

import math

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlbook.llm import models, pretrain, tasks

NAMES = sorted(pretrain.RECIPES)
SMALL = {"steps": 3, "batch": 4, "eval_samples": 1, "sizes": {"hidden": 16, "layers": 1, "heads": 2}}
WANTED = {"weak": (0.35, 0.5), "fair": (0.55, 0.7), "guide": (0.99, 1.0), "lazy": (0.0, 0.01)}  # pass@1
WANTED |= {"tally": (0.3, 0.6)}
FIELDS = "task levels starts_from seed steps seconds parameters pass_at_1 pass_at_1_low pass_at_1_high"


def card(folder):
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_the_repository_ships_a_model_for_each_recipe_and_no_other():
    assert sorted(p.name for p in models.MODELS.iterdir()) == NAMES == sorted(WANTED)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_loads_offline_and_fits_its_card(name):
    folder = models.MODELS / name
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    numbers, text = card(folder)
    assert sum(p.numel() for p in model.parameters()) == numbers["parameters"] < 1e6
    assert model.dtype == torch.float32 and words.get_vocab() == models.tokenizer().get_vocab()
    assert set(FIELDS.split()) <= set(numbers) and numbers["license"] == "apache-2.0"
    assert f"python -m rlbook.llm.pretrain {name}" in text
    recipe = pretrain.RECIPES[name]
    assert [numbers["task"], tuple(numbers["levels"])] == [recipe.task, recipe.levels]
    assert numbers["seed"] == recipe.seed and 0 < numbers["steps"] <= recipe.steps


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_as_good_as_its_card_says(name):
    """The card's own measurement again, and fresh samples whose interval must meet the card's."""
    numbers, _ = card(models.MODELS / name)
    low, high = numbers["pass_at_1_low"], numbers["pass_at_1_high"]
    assert WANTED[name][0] <= numbers["pass_at_1"] <= WANTED[name][1]
    model, words = models.load(name)
    measured = [tasks.get(numbers["task"]), tuple(numbers["levels"])]
    samples = pretrain.RECIPES[name].eval_samples
    again, lengths = pretrain.measure(model, words, *measured, samples)
    assert low <= again.mean() <= high and again.mean() == pytest.approx(numbers["pass_at_1"], abs=0.005)
    assert lengths.mean() == pytest.approx(numbers["mean_length"], abs=0.1)
    fresh, _ = pretrain.measure(model, words, *measured, samples=2, seed=77)
    fresh_low, fresh_high = pretrain.wilson(fresh.sum(), fresh.size)
    assert fresh.size >= 300 and max(low, fresh_low) <= min(high, fresh_high)


def test_the_lazy_model_could_learn_in_principle_but_groups_are_dead():
    """Its rare right answers exist: the guide's skill is not gone, only unlikely."""
    numbers, _ = card(models.MODELS / "lazy")
    assert 0 < numbers["pass_at_1"] and 8 * numbers["pass_at_1_high"] < 0.1  # groups of 8 with any reward


def test_tally_lengths_vary_widely_within_a_problem():
    model, words = models.load("tally")
    _, lengths = pretrain.measure(model, words, tasks.get("tally"), (10,), samples=24, problems=8)
    shortest, longest = lengths.min(1), lengths.max(1)
    assert (shortest == 3).all()  # `;`, a digit, the end token
    assert (longest >= 35).all()  # twice ten tallies and their separators


def test_the_files_are_small():
    sizes = {path: path.stat().st_size for path in models.MODELS.rglob("*") if path.is_file()}
    assert max(sizes.values()) <= 4 * 2**20 and sum(sizes.values()) <= 16 * 2**20


def test_small_models_are_made_bit_for_bit_again(tmp_path):
    for out in ("one", "two"):
        numbers = pretrain.make("guide", tmp_path / out, progress=False, **SMALL)
    pretrain.make("guide", tmp_path / "other", progress=False, **SMALL | {"seed": 5})
    one, two, other = (
        (tmp_path / out / "guide" / "model.safetensors").read_bytes() for out in ("one", "two", "other")
    )
    assert one == two != other
    assert numbers["steps"] == 3 and numbers["pass_at_1"] < 0.1
    assert card(tmp_path / "one" / "guide")[0]["parameters"] == numbers["parameters"]


def test_lazy_goes_on_from_the_guide_in_the_same_folder(tmp_path):
    pretrain.make("guide", tmp_path, progress=False, **SMALL)
    guide = torch.cat([p.flatten() for p in models.load(tmp_path / "guide")[0].parameters()])
    numbers = pretrain.make("lazy", tmp_path, progress=False, **SMALL | {"lr": 1e-6})
    lazy = torch.cat([p.flatten() for p in models.load(tmp_path / "lazy")[0].parameters()])
    assert numbers["starts_from"] == "guide"
    assert 0 < (lazy - guide).abs().max() < 1e-5


def test_training_stops_at_the_wanted_pass_at_1(monkeypatch):
    """Measured before step 100, 20 steps later while there is no skill, then every 5 steps."""
    found = iter([0.0, 0.1, 0.3, 0.45])
    monkeypatch.setattr(pretrain, "measure", lambda *_, samples: (np.array([[next(found)]]), None))
    recipe = pretrain.Recipe(
        "", "addition", (1,), pretrain.carry_right, steps=200, seed=0, stop_at=0.4, batch=1
    )
    assert pretrain.train(recipe, models.build(0, 16, 1, 2), models.tokenizer(), progress=False) == 130


def test_training_lowers_the_loss():
    model, words = models.build(0, 32, 1, 2), models.tokenizer()
    task = tasks.get("addition")
    problems = task.generate(64, np.random.default_rng(9), (3,))
    batch = pretrain.imitation_batch(words, [p.prompt for p in problems], list(map(task.solution, problems)))
    before = pretrain.imitation_loss(model, *batch).item()
    recipe = pretrain.Recipe(
        "", "addition", (3,), pretrain.carry_right, steps=30, seed=0, warm_up=3, batch=32, lr=0.01
    )
    assert pretrain.train(recipe, model, words, progress=False) == 30
    assert before == pytest.approx(math.log(23), abs=0.2)  # 21 characters, padding and end: a uniform guess
    assert pretrain.imitation_loss(model, *batch).item() < 0.6 * before


class Table(torch.nn.Module):
    """A model whose logits are free numbers, so that the gradient shows which of them the loss reads."""

    def __init__(self, rows, length, vocabulary=23):
        super().__init__()
        self.logits = torch.nn.Parameter(
            torch.randn(rows, length, vocabulary, generator=torch.manual_seed(0))
        )

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False):
        assert input_ids.shape == self.logits.shape[:2]
        return type("Output", (), {"logits": self.logits})


def test_the_loss_counts_completion_and_end_tokens_only():
    """`1+2=` with `;3` and `10+2=` with `1;12`: 3 + 5 = 8 tokens, by hand from the gradient of the logits."""
    words = models.tokenizer()
    prompt_ids, prompt_mask, ids, mask = batch = pretrain.imitation_batch(
        words, ["1+2=", "10+2="], [";3", "1;12"]
    )
    assert prompt_mask.tolist() == [[False] + [True] * 4, [True] * 5]
    assert mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert words.decode(prompt_ids[0]) == "<pad>1+2=" and words.decode(ids[0]) == ";3<end><pad><pad>"
    table = Table(2, 5 + 5 - 1)  # the last completion token is never an input
    pretrain.imitation_loss(table, *batch).backward()
    gradient = table.logits.grad
    assert (gradient[:, :4] == 0).all()  # they choose prompt tokens
    assert (gradient[0, 7:] == 0).all()  # they choose padding
    probs = table.logits.detach().softmax(-1)
    for row, position, token in [
        (0, 4, ";"),
        (0, 5, "3"),
        (0, 6, models.END),
        (1, 4, "1"),
        (1, 8, models.END),
    ]:
        want = probs[row, position].clone()
        want[words.convert_tokens_to_ids(token)] -= 1
        torch.testing.assert_close(gradient[row, position], want / 8, rtol=1e-5, atol=1e-7)


def test_the_loss_is_the_one_transformers_computes_from_labels():
    model, words = models.build(3, 16, 2, 2), models.tokenizer()
    prompt_ids, prompt_mask, ids, mask = batch = pretrain.imitation_batch(
        words, ["12+34=", "99+1="], ["60,40;46", ";100"]
    )
    labels = torch.cat([torch.full_like(prompt_ids, -100), ids.masked_fill(~mask, -100)], 1)
    attention = torch.cat([prompt_mask, mask], 1)
    position_ids = (attention.long().cumsum(1) - 1).clamp(min=0)
    want = model(torch.cat([prompt_ids, ids], 1), attention, position_ids, labels=labels).loss
    torch.testing.assert_close(pretrain.imitation_loss(model, *batch), want)


@pytest.mark.parametrize(
    "prompt, want",
    [
        ("579+483=", "20,50,91;1952"),
        ("0+0=", "01;10"),
        ("500+500=", "01,11,10;110"),
        ("100+101=", "11,11,31;1311"),
    ],
)
def test_carries_all_wrong_by_hand(prompt, want):
    assert pretrain.carry_wrong(tasks.Problem(prompt, None, 3), None) == want


def test_no_sum_with_wrong_carries_is_right():
    task = tasks.get("addition")
    rng = np.random.default_rng(0)
    problems = task.generate(2000, rng, (2, 3, 4, 5))
    judged = {task.verify(p, pretrain.carry_wrong(p, rng), True) for p in problems}
    assert judged == {(0.0, "wrong sum")}


def test_tally_styles_are_equally_likely():
    problem, rng = tasks.Problem("7+5+9=", 1, 3), np.random.default_rng(0)
    texts = [pretrain.any_style(problem, rng) for _ in range(3000)]
    shares = [texts.count(text) / 3000 for text in (";1", "7,2,1;1", "7,2,1:7,2,1;1")]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.035)  # 4 standard deviations


def test_wilson_intervals_are_the_published_ones():
    """0 of 10 and 15 of 50: Newcombe 1998's formula worked out by hand; scipy gives the same."""
    np.testing.assert_allclose(pretrain.wilson(0, 10), (0, 0.27754), atol=1e-4)
    np.testing.assert_allclose(pretrain.wilson(15, 50), (0.19103, 0.43749), atol=1e-4)
    np.testing.assert_allclose(pretrain.wilson(50, 50), (0.92865, 1), atol=1e-4)


def test_measuring_does_not_depend_on_what_was_drawn_before():
    model, words = models.build(0, 16, 1, 2), models.tokenizer()
    task = tasks.get("addition")
    first = pretrain.measure(model, words, task, (3,), 2, problems=20)
    torch.rand(7)
    second = pretrain.measure(model, words, task, (3,), 2, problems=20)
    assert first[0].shape == first[1].shape == (20, 2)
    assert (first[1] == second[1]).all()
    assert (first[1] <= task.max_completion).all()


def test_a_right_answer_without_an_end_token_earns_nothing(monkeypatch):
    """Perfect texts for every prompt, every second one cut off: one of each problem's two samples counts."""
    task = tasks.get("addition")

    def perfect(model, tokenizer, prompts, *_, **__):
        texts = [task.solution(tasks.Problem(prompt, None, 3)) for prompt in prompts]
        cut = torch.arange(len(prompts)) % 2 == 1
        return type("Drawn", (), {"texts": texts, "truncated": cut, "mask": torch.ones(len(prompts), 5)})

    monkeypatch.setattr(pretrain.sampling, "sample", perfect)
    rewards, lengths = pretrain.measure(None, None, task, (3,), 2, problems=6)
    assert rewards.tolist() == [[1.0, 0.0]] * 6 and lengths.tolist() == [[5, 5]] * 6


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="expected one of weak, fair, guide, lazy, tally, got 'strong'"):
        pretrain.make("strong", tmp_path)
    with pytest.raises(ValueError, match="'strong'"):
        pretrain.main(["weak", "strong", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())  # refused before anything was made


@pytest.mark.parametrize("field", ["steps", "warm_up", "batch", "eval_samples", "lr"])
def test_a_recipe_refuses_nothing_to_do(field, tmp_path):
    with pytest.raises(ValueError, match=f"{field}: expected"):
        pretrain.make("guide", tmp_path, **{field: 0})


def test_the_curriculum_lets_levels_join_one_after_another(monkeypatch):
    """Nine levels over 16 steps: one more every second step, all from step 16 on."""
    asked, task = [], tasks.get("tally")
    monkeypatch.setattr(type(task), "generate", spy(asked, type(task).generate))
    recipe = pretrain.Recipe(
        "", "tally", task.levels, pretrain.any_style, steps=18, seed=0, curriculum=16, batch=1
    )
    pretrain.train(recipe, models.build(0, 16, 1, 2), models.tokenizer(), progress=False)
    assert asked == [task.levels[: 1 + min(step, 16) // 2] for step in range(18)]


def spy(asked, generate):
    def spied(self, n, rng, levels=None):
        asked.append(levels)
        return generate(self, n, rng, levels)

    return spied
