"""Decoding steps against a forward pass without a cache, and which decoder a model gets."""

import pytest
import torch
from test_llm_sampling import gpt2, llama
from transformers import LlamaForCausalLM

from rlbook.llm import decoding

SHAPES = {
    "plain": {},
    "one head of keys for two": {"num_key_value_heads": 1},
    "heads of another width": {"head_dim": 6},
    "four heads, two of keys": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    "tied": {"tie_word_embeddings": True},
    "large eps": {"rms_norm_eps": 0.01},
    "slower rotation": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
}
PROMPTS = torch.tensor([[0, 0, 0, 7, 9], [3, 4, 5, 6, 7], [0, 8, 8, 2, 3]])
SEEN = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]).bool()


def steps(model, kind, padded=True):
    """Yield (logits of `kind`, the rows as lists of their own tokens); rows leave and repeat."""
    ids, seen = (PROMPTS, SEEN) if padded else (PROMPTS[1:2].repeat(3, 1), SEEN[1:2].repeat(3, 1))
    positions = (seen.long().cumsum(1) - 1).clamp(min=0)
    prefill = decoding.forward(model, ids, seen, positions, keep=1, use_cache=True)
    decoder = kind(model, prefill.past_key_values)
    rows = [row[s].tolist() for row, s in zip(ids, seen, strict=True)]
    for shorter, token in (
        ((0, 1, 2), (5, 6, 7)),
        ((0, 1, 1, 2, 2, 2), (8, 3, 9, 3, 4, 5)),
        ((4, 2), (6, 6)),
    ):
        decoder.reorder(torch.tensor(shorter))
        seen = torch.cat([seen[list(shorter)], torch.ones(len(token), 1, dtype=torch.bool)], 1)
        rows = [rows[i] + [t] for i, t in zip(shorter, token, strict=True)]
        position = seen.sum(1, keepdim=True) - 1
        with torch.no_grad():
            logits = decoder(torch.tensor(token), seen if padded else None, position)
        yield logits, rows


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("kind", [decoding.Decoder, decoding.LlamaDecoder])
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES.keys())
def test_a_step_gives_the_logits_of_a_forward_without_cache_and_padding(changes, kind, padded):
    model, n = llama(**changes), 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # the norms' weights, 1 when new
                parameter.uniform_(0.5, 1.5)
    for logits, rows in steps(model, kind, padded):
        for found, row in zip(logits, rows, strict=True):
            want = model(torch.tensor([row])).logits[0, -1]
            torch.testing.assert_close(found, want, atol=2e-5, rtol=2e-5)
            assert want.std() > 0.3
            n += 1
    assert n == 11


def test_in_float64_the_two_differ_by_the_float32_of_transformers_norm_only():
    """A wrong rotation or mask would be seen at any precision; this one shows there is nothing else."""
    model = llama().double()
    pairs = zip(steps(model, decoding.Decoder), steps(model, decoding.LlamaDecoder), strict=True)
    gap = max((general - own).abs().max() for (general, _), (own, _) in pairs)
    assert 0 < gap < 1e-5


class Adapter(torch.nn.Linear):
    """A projection that adds something of its own."""

    def forward(self, x):
        return super().forward(x) + 1


class Subclass(LlamaForCausalLM):
    """A model that may do anything."""


def adapted():
    model = llama()
    layer = model.model.layers[1].self_attn
    layer.q_proj = Adapter(16, 16, bias=False)
    return model


def new_head():
    model = llama()
    model.lm_head = Adapter(16, model.config.vocab_size, bias=False)
    return model


def hooked():
    model = llama()
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: None)
    return model


def test_a_plain_llama_on_a_cpu_gets_the_short_decoder():
    for model in (llama(), llama().double(), llama(num_key_value_heads=1, tie_word_embeddings=True)):
        assert decoding.is_plain_llama(model)
    assert not decoding.is_plain_llama(llama().to("meta"))


@pytest.mark.parametrize(
    "make",
    [
        gpt2,
        adapted,
        new_head,
        hooked,
        lambda: llama(attention_bias=True),
        lambda: llama(mlp_bias=True),
        lambda: llama(hidden_act="gelu"),
        lambda: llama().to(torch.bfloat16),
        lambda: Subclass(llama().config),
    ],
)
def test_every_other_model_keeps_its_own_forward(make):
    model = make()
    cache = decoding.forward(
        model, PROMPTS, SEEN, SEEN.long().cumsum(1), keep=1, use_cache=True
    ).past_key_values
    assert type(decoding.decoder(model, cache)) is decoding.Decoder
    assert type(decoding.decoder(llama(), cache)) is decoding.LlamaDecoder


def test_under_autocast_the_models_own_forward_is_used():
    with torch.autocast("cpu", torch.bfloat16):
        assert not decoding.is_plain_llama(llama())
