"""Models and the tokenizer: round trips, files that Hugging Face reads, and the doors that say what to do."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from rlbook.llm import models, sampling, tasks

CHARACTERS = models.tokenizer()


def small(**changes):
    return models.build(**({"hidden": 16, "layers": 1, "heads": 2, "context": 32} | changes))


def word_tokenizer(**special):
    """Words, not characters, and another order of the special tokens."""
    words = ["one", "two", "three", "plus", "is", "<stop>", "<fill>", "<what>"]
    raw = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<what>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<what>", **special)


def gpt2(vocabulary, **changes):
    torch.manual_seed(0)
    sizes = {"vocab_size": vocabulary, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**(sizes | {"bos_token_id": 0, "eos_token_id": 5} | changes))).eval()


@given(st.text(alphabet=tasks.ALPHABET))
def test_text_becomes_one_token_a_character_and_comes_back(text):
    ids = CHARACTERS(text)["input_ids"]
    assert len(ids) == len(text)
    assert CHARACTERS.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_tokenizer_has_padding_end_and_the_alphabet_and_adds_nothing():
    assert len(CHARACTERS) == 2 + len(tasks.ALPHABET)
    assert (CHARACTERS.pad_token_id, CHARACTERS.eos_token_id, CHARACTERS.bos_token_id) == (0, 1, None)
    assert CHARACTERS.padding_side == "left"
    assert CHARACTERS(["1+2=", "7"], padding=True)["input_ids"][1][:3] == [0, 0, 0]
    with pytest.raises(Exception, match="(?i)unk"):
        CHARACTERS("x")


def test_the_default_model_has_the_parameters_counted_by_hand():
    model, h, v = models.build(), 128, len(CHARACTERS)
    block = 4 * h * h + 3 * h * (2 * h) + 2 * h  # attention, gated network, two norms
    assert sum(p.numel() for p in model.parameters()) == v * h + 4 * block + h
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not model.training and model.dtype == torch.float32
    assert model.config.max_position_embeddings == 128 and model.config.attention_dropout == 0


def test_the_seed_decides_the_weights_and_the_global_stream_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, same, other = (small(seed=s).lm_head.weight for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"hidden": 30, "heads": 4}, "hidden: expected a multiple of 2"),
        ({"layers": 0}, "layers"),
        ({"heads": 2.5}, "heads: expected a whole number"),
        ({"context": -1}, "context"),
        ({"seed": -1}, "seed"),
    ],
)
def test_build_refuses_sizes_that_do_not_fit(wrong, said):
    with pytest.raises(ValueError, match=said):
        small(**wrong)


def test_a_saved_model_comes_back_and_hugging_face_reads_it_too(tmp_path):
    model = small()
    models.save(model, CHARACTERS, tmp_path / "m", card="# A card")
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert (tmp_path / "m" / "README.md").read_text() == "# A card"
    ids = torch.tensor([CHARACTERS("12+34=")["input_ids"]])
    ours, words = models.load(tmp_path / "m")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    for loaded in (ours, theirs):
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    for t in (words, AutoTokenizer.from_pretrained(tmp_path / "m")):
        assert t("9*(8-7)=>;:,")["input_ids"] == CHARACTERS("9*(8-7)=>;:,")["input_ids"]
        assert t.decode(t("9*(8-7)=>;:,")["input_ids"]) == "9*(8-7)=>;:,"
        assert (t.pad_token_id, t.eos_token_id, t.padding_side) == (0, 1, "left")


def test_load_finds_the_names_of_the_shipped_folder_first(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MODELS", tmp_path)
    models.save(small(seed=3), CHARACTERS, tmp_path / "mine")
    assert torch.equal(models.load("mine")[0].lm_head.weight, small(seed=3).lm_head.weight)
    assert models.load("mine", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_another_architecture_with_another_tokenizer_loads_and_samples_as_generate_does(tmp_path):
    words = word_tokenizer(eos_token="<stop>", pad_token="<fill>")
    models.save(gpt2(len(words)), words, tmp_path)
    model, words = models.load(tmp_path)
    prompts = ["one plus two is", "three is"]
    ours = sampling.sample(model, words, prompts, 6, temperature=0)
    batch = words(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    theirs = model.generate(**batch, do_sample=False, max_new_tokens=6)[:, batch["input_ids"].shape[1] :]
    assert torch.equal(ours.completion_ids[ours.mask], theirs[:, : ours.mask.shape[1]][ours.mask])
    assert ours.texts == [words.decode(ids[m]).removesuffix("<stop>").strip() for ids, m in
                          zip(ours.completion_ids, ours.mask, strict=True)]  # fmt: skip


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path):
    models.save(gpt2(8), word_tokenizer(eos_token="<stop>"), tmp_path)
    assert models.load(tmp_path)[1].pad_token_id == 5


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    models.save(gpt2(8), word_tokenizer(pad_token="<fill>"), tmp_path)
    with pytest.raises(ValueError, match="no end token.*tokenizer.eos_token"):
        models.load(tmp_path)


def test_a_model_with_fewer_embeddings_than_tokens_is_refused(tmp_path):
    models.save(gpt2(7), word_tokenizer(eos_token="<stop>"), tmp_path)
    with pytest.raises(ValueError, match="8 tokens but the model has 7 embeddings"):
        models.load(tmp_path)


def test_more_embeddings_than_tokens_are_fine(tmp_path):
    models.save(gpt2(64), word_tokenizer(eos_token="<stop>"), tmp_path)
    assert models.load(tmp_path)[0].get_input_embeddings().num_embeddings == 64


@pytest.mark.parametrize("name", ["no-such-model", "nobody/nothing", "not a/valid name", "/no/such/folder"])
def test_an_unknown_name_lists_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(models, "MODELS", tmp_path)
    for known in ("weak", "guide"):
        (tmp_path / known).mkdir()
    with pytest.raises(ValueError, match=f"one of guide, weak.*{name}"):
        models.load(name)


def test_a_folder_that_is_not_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such architecture"}))
    with pytest.raises(ValueError, match="expected a folder"):
        models.load(tmp_path)
