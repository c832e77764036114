"""A model from outside: tiny, of the architecture, tokenizer and template of a 0.5 B instruct model."""

import json

import llm_tiny
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlbook.llm import models, sampling, tasks, train
from rlbook.llm.trainer import Trainer

# The form of Qwen2.5-Instruct: each message between two special tokens, then the assistant's turn.
TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
INSTRUCTION = 'Add: {prompt} Show your work, then write ";" and the sum. {"keep": "these braces"}'
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(template=TEMPLATE, begin=None):
    """A byte-level BPE tokenizer of 300 tokens; with `begin` it writes that token before every text."""
    words = Tokenizer(BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = [*SPECIAL, *([begin] if begin else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words.train_from_iterator(["user assistant Add: Show your work and the sum of 12+30= 42"] * 4, trainer)
    words.add_special_tokens([AddedToken(token, special=True) for token in special])
    if begin:
        pair = (begin, words.token_to_id(begin))
        words.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[pair])
    more = {"bos_token": begin, "chat_template": template}
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>", **more
    )


def instruct(tmp_path, name="instruct", seed=0, words=None):
    """The path of a saved Qwen2 with 0.02 million parameters: grouped queries, biases, tied embeddings."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=304, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    models.save(Qwen2ForCausalLM(config), words or tokenizer(), tmp_path / name)
    return str(tmp_path / name)


def config(tmp_path, **changes):
    base = {"model": instruct(tmp_path), "instruction": INSTRUCTION, "max_new_tokens": 8, "group_size": 6}
    return llm_tiny.config(tmp_path, **(base | changes))


def half(text, ended):
    """A reward that about half of the random completions earn."""
    return len(text) % 2


def test_the_prompt_is_the_template_with_the_instruction_in_it_and_no_token_twice(tmp_path):
    trainer = Trainer(config(tmp_path))
    rollouts, info = trainer.collect()
    problem = info["answers"][0]["problem"]
    ids = rollouts.prompt_ids[0][rollouts.prompt_mask[0]]
    said = f'Add: {problem.prompt} Show your work, then write ";" and the sum. {{"keep": "these braces"}}'
    want = f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"
    assert trainer.tokenizer.decode(ids) == want
    start = trainer.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert (ids == start).sum() == 2 and ids[0] == start


@pytest.mark.parametrize("in_template", [True, False])
def test_a_begin_token_stands_once_if_the_template_writes_it_and_else_not_at_all(tmp_path, in_template):
    words = tokenizer("<|begin|>" * in_template + TEMPLATE, begin="<|begin|>")
    path = instruct(tmp_path, "begin", words=words)
    found = []
    for instruction in (INSTRUCTION, None):
        trainer = Trainer(config(tmp_path, model=path, instruction=instruction))
        rollouts, _ = trainer.collect()
        found.append((rollouts.prompt_ids == words.bos_token_id).sum(1).tolist())
    assert found == [[int(in_template)] * 12, [1] * 12]  # a bare prompt keeps what the tokenizer adds


@pytest.mark.parametrize("dtype, near", [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("mixed", [False, True])
def test_an_update_and_the_sampler_agrees_with_the_model(tmp_path, monkeypatch, dtype, near, mixed):
    llm_tiny.rig(monkeypatch, half)
    guided = {"method": "mix_1", "options": {"variant": "corrected"}, "guide_per_prompt": 2}
    guided |= {"guide": instruct(tmp_path, "guide", seed=1)}
    trainer = Trainer(config(tmp_path, dtype=dtype, **(guided if mixed else {})))
    rollouts, info = trainer.collect()
    assert len(rollouts) == 2 * (8 if mixed else 6) and 0 < rollouts.rewards.mean() < 1
    by_text = [float(half(a["text"], True)) for a in info["answers"]]
    assert rollouts.rewards.tolist() == by_text  # what was judged is the completion, without the prompt
    tensors = rollouts.prompt_ids, rollouts.prompt_mask, rollouts.completion_ids, rollouts.mask
    own = rollouts.mask & (rollouts.source == 0)[:, None]
    again = trainer._log_probs(trainer.model, *tensors)
    assert (again - rollouts.logp_old).abs()[own].max() < near
    if mixed:
        theirs = rollouts.mask & (rollouts.source == 1)[:, None]
        again = trainer._log_probs(trainer.guide, *tensors)
        assert theirs.any() and (again - rollouts.logp_guide).abs()[theirs].max() < near
    before = [p.detach().clone() for p in trainer.model.parameters()]
    row = trainer.update(rollouts)
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert all(moved) and row["grad_norm"] > 0


def test_greedy_text_is_what_generate_writes(tmp_path):
    trainer = Trainer(config(tmp_path))
    model, words = trainer.model, trainer.tokenizer
    problems = tasks.get("addition").generate(3, trainer.prompt_rng, (1, 3))
    prompts = trainer._ask(problems, 1)
    mine = sampling.sample(model, words, prompts, 8, temperature=0.0, special_tokens=False)
    batch = words(prompts, padding=True, return_tensors="pt", add_special_tokens=False)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    theirs = model.generate(**inputs, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    width = mine.completion_ids.shape[1]
    assert torch.equal(mine.completion_ids[mine.mask], theirs[:, :width][mine.mask])


def test_the_verifier_reads_the_same_answer_with_and_without_an_instruction():
    task = tasks.get("addition")
    problem = tasks.Problem("12+30=", 42, 2)
    assert task.verify(problem, "2+0 is 2; 1+3 is 4;42", True) == (1.0, "right")
    assert task.verify(problem, "The sum is 42.", True)[0] == 0.0


def test_the_command_trains_it_and_its_folder_can_be_trained_on(tmp_path, monkeypatch, capsys):
    llm_tiny.rig(monkeypatch, half)
    chosen = {"model": instruct(tmp_path), "instruction": INSTRUCTION, "max_new_tokens": 8, "lr": 1e-3}
    chosen |= {"prompts_per_step": 2, "group_size": 6, "steps": 2, "eval_problems": 4, "micro_batch": 5}
    (tmp_path / "run.json").write_text(json.dumps(chosen | {"out_dir": str(tmp_path / "out")}))
    train.main([str(tmp_path / "run.json")])
    more = [f"model={tmp_path / 'out' / 'model'}", f"out_dir={tmp_path / 'more'}", "steps=1"]
    history = train.main([str(tmp_path / "run.json"), *more])
    assert history["grad_norm"][0] > 0 and "pass@1" in capsys.readouterr().out
    words = models.load(tmp_path / "out" / "model")[1]
    assert words.chat_template == TEMPLATE and words.eos_token == "<|im_end|>"


def test_an_instruction_that_cannot_work_is_named(tmp_path):
    with pytest.raises(ValueError, match="instruction: expected text with {prompt} .*got 'Add these'"):
        config(tmp_path, instruction="Add these")
    with pytest.raises(ValueError, match="instruction: .*got 3"):
        config(tmp_path, instruction=3)
    with pytest.raises(ValueError, match="instruction: the tokenizer of .*tiny has no chat template"):
        Trainer(llm_tiny.config(tmp_path, instruction=INSTRUCTION))
    long = "a long story " * 100 + "{prompt}"
    with pytest.raises(ValueError, match="prompts: expected at most 256 tokens with the completion"):
        Trainer(config(tmp_path, instruction=long)).collect()
