"""One decoding step: the logits after one more token a row, from a cache of what came before.

`decoder` goes on after a prefill with transformers' own forward pass or, for a plain Llama on a CPU, with
`LlamaDecoder`: the same arithmetic without what transformers needs for all other models. A model of half a
million parameters spends most of a step there.
"""

import functools
import inspect

import torch
import torch.nn.functional as F
from torch.nn import Linear
from transformers import LlamaForCausalLM

NUMBERS = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps")


def decoder(model, cache):
    """The faster of the two decoders that this model can have."""
    return (LlamaDecoder if is_plain_llama(model) else Decoder)(model, cache)


class Decoder:
    """Any causal model of transformers, with the cache that its prefill left."""

    def __init__(self, model, cache):
        self.model, self.cache = model, cache

    def reorder(self, rows):
        """Row i of what follows goes on from row rows[i] of what came before; rows may leave or repeat."""
        self.cache.reorder_cache(rows)

    def __call__(self, token, attention, position):
        """Logits (B, V) after the tokens (B,) at `position` (B, 1), which see `attention` (B, L) or all."""
        ids = token[:, None]
        return forward(self.model, ids, attention, position, 1, self.cache, use_cache=True).logits[:, -1]


class LlamaDecoder:
    """A Llama whose forward pass for one token can be read in twenty lines; arguments as `Decoder`'s."""

    def __init__(self, model, cache):
        self.config, self.embed, self.rotary = model.config, model.model.embed_tokens, model.model.rotary_emb
        self.last = model.model.norm.weight, model.lm_head.weight
        self.layers = [
            (
                x.input_layernorm.weight,
                torch.cat([x.self_attn.q_proj.weight, x.self_attn.k_proj.weight, x.self_attn.v_proj.weight]),
                x.self_attn.o_proj.weight,
                x.post_attention_layernorm.weight,
                torch.cat([x.mlp.gate_proj.weight, x.mlp.up_proj.weight]),
                x.mlp.down_proj.weight,
            )
            for x in model.model.layers
        ]
        self.past = [torch.cat([layer.keys, layer.values], 1) for layer in cache.layers]  # (B, 2 G, L, D)

    def reorder(self, rows):
        """As `Decoder.reorder`."""
        self.past = [past.index_select(0, rows) for past in self.past]

    def __call__(self, token, attention, position):
        """As `Decoder.__call__`."""
        H, G, eps = (getattr(self.config, name) for name in NUMBERS)  # query heads, heads of keys and values
        x = self.embed(token)
        cos, sin = (part.transpose(0, 1)[0][:, None] for part in self.rotary(x, position))
        B, D, width = len(x), cos.shape[-1], x.shape[1:]
        sin = torch.cat([-sin[..., : D // 2], sin[..., D // 2 :]], -1)  # a rotation turns (a, b) by (-b, a)
        seen = None if attention is None else attention[:, None, None]
        for i, (norm, into_heads, out, norm_2, gate_up, down) in enumerate(self.layers):
            heads = F.linear(F.rms_norm(x, width, norm, eps), into_heads).view(B, H + 2 * G, D)
            turned = heads[:, : H + G] * cos + heads[:, : H + G].roll(D // 2, -1) * sin
            new = torch.cat([turned[:, H:], heads[:, H + G :]], 1)[:, :, None]
            past = self.past[i] = torch.cat([self.past[i], new], 2)
            q, k, v = turned[:, :H, None], past[:, :G], past[:, G:]
            mixed = F.scaled_dot_product_attention(q, k, v, seen, enable_gqa=H != G)
            x = x + F.linear(mixed.reshape(B, H * D), out)
            gate, up = F.linear(F.rms_norm(x, width, norm_2, eps), gate_up).chunk(2, 1)
            x = x + F.linear(F.silu(gate) * up, down)
        norm, head = self.last
        return F.linear(F.rms_norm(x, width, norm, eps), head)


def is_plain_llama(model):
    """Whether `LlamaDecoder` computes what `model` does: no bias, adapter or hook, 32 bits or more, a CPU."""
    if type(model) is not LlamaForCausalLM or model.device.type != "cpu":
        return False
    config, modules = model.config, dict(model.named_modules())
    return (
        model.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and config.hidden_act == "silu"
        and all(
            type(m) is Linear and m.bias is None
            for name, m in modules.items()
            if name.endswith(("_proj", "lm_head"))
        )
        and not any(m._forward_hooks or m._forward_pre_hooks for m in modules.values())
    )


def position_ids(attention):
    """Positions that count a row's own tokens from 0, whatever padding stands before them."""
    return (attention.long().cumsum(1) - 1).clamp(min=0)


@functools.cache
def _accepted(kind):
    return set(inspect.signature(kind.forward).parameters)


def forward(model, ids, attention, positions, keep, cache=None, use_cache=False):
    """The model's forward with the optional arguments it takes (a model without position_ids has none)."""
    accepted = _accepted(type(model))
    optional = {"position_ids": positions, "logits_to_keep": keep}
    optional = {name: value for name, value in optional.items() if name in accepted}
    attention = None if attention is None else attention.long()
    return model(ids, attention_mask=attention, past_key_values=cache, use_cache=use_cache, **optional)
