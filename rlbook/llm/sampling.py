"""Batched sampling with a key-value cache, and the log-probabilities of what was sampled."""

import functools
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable
from transformers import DynamicCache

from rlbook import validate
from rlbook.llm.decoding import decoder, forward, position_ids


@dataclass
class Samples:
    """Completions of B prompts: P tokens the longest prompt, T tokens the longest completion.

    | field          | shape, type   | meaning                                                       |
    | -------------- | ------------- | ------------------------------------------------------------- |
    | prompt_ids     | (B,P) int64   | left padded                                                   |
    | prompt_mask    | (B,P) bool    | True on the prompt's own tokens                               |
    | completion_ids | (B,T) int64   | right padded                                                  |
    | mask           | (B,T) bool    | True on completion tokens; the end token counts               |
    | logp           | (B,T) float32 | log-prob under the sampling distribution, 0 where mask is False |
    | truncated      | (B,) bool     | no end token within the limit                                 |
    | texts          | B strings     | without the end token                                         |
    """

    prompt_ids: torch.Tensor
    prompt_mask: torch.Tensor
    completion_ids: torch.Tensor
    mask: torch.Tensor
    logp: torch.Tensor
    truncated: torch.Tensor
    texts: list


def sample(
    model, tokenizer, prompts, max_new_tokens, temperature=1.0, generator=None, rows_per_batch=None,
    special_tokens=True,
) -> Samples:  # fmt: skip
    """Draw one completion for each of the B `prompts` from softmax(logits / temperature).

    Nothing else shapes the distribution (no top-k, no top-p). `temperature=0` takes the most likely token;
    that distribution gives it probability 1, so `logp` is 0. Rows with the same prompt and the same tokens so
    far go through the model as one: a group shares its prompt, and each beginning that several of its
    completions have. A row that ended leaves the batch.

    The random numbers are one uniform for each step and row, drawn before the first step from `generator`
    (a torch.Generator; None: the global one). So one seed repeats bit for bit, and a row's draws do not
    depend on how long the other rows live. `rows_per_batch` bounds memory: that many rows at a time, with
    the same random numbers (so the same samples, up to float rounding in the forward pass).

    `special_tokens=False` is for prompts that hold the tokenizer's special tokens already, as those of a
    chat template do: the tokenizer adds none.

    T is the longest completion, at most `max_new_tokens`. Raises ValueError on no prompts, an empty
    prompt, a prompt that leaves no room in the model's context, and numbers out of range.
    """
    limit = validate.integer("max_new_tokens", max_new_tokens)
    temperature = validate.number("temperature", temperature, low=0.0)
    prompt_ids, prompt_mask = _encode(model, tokenizer, prompts, limit, special_tokens)
    rows = len(prompt_ids)
    at_once = rows if rows_per_batch is None else validate.integer("rows_per_batch", rows_per_batch)
    device = generator.device if generator is not None else "cpu"
    uniform = torch.rand(limit, rows, dtype=torch.float64, generator=generator, device=device)
    uniform = uniform.to(model.device)

    was_training = model.training
    model.eval()
    completion_ids = torch.full((rows, limit), tokenizer.pad_token_id, device=model.device)
    logp = torch.zeros(rows, limit, device=model.device)
    mask = torch.zeros(rows, limit, dtype=torch.bool, device=model.device)
    for first in range(0, rows, at_once):
        part = slice(first, first + at_once)
        _decode(
            model, tokenizer.eos_token_id, prompt_ids[part], prompt_mask[part], uniform[:, part], temperature,
            completion_ids[part], mask[part], logp[part],
        )  # fmt: skip
    if was_training:
        model.train()

    if not logp.isfinite().all():
        raise ValueError("model: expected finite logits, got NaN or infinity (a diverged model?)")
    lengths = mask.sum(1)
    width = int(lengths.max())
    ended = completion_ids.gather(1, lengths[:, None] - 1)[:, 0] == tokenizer.eos_token_id
    own = zip(completion_ids.tolist(), (lengths - ended.long()).tolist(), strict=True)
    as_text = functools.partial(
        tokenizer.batch_decode,
        skip_special_tokens=False,  # a padding token the model chose is part of its text, not our padding
        clean_up_tokenization_spaces=False,
    )
    texts = _once(as_text, [tuple(ids[:length]) for ids, length in own])
    completion_ids, mask, logp = completion_ids[:, :width], mask[:, :width], logp[:, :width]
    return Samples(prompt_ids, prompt_mask, completion_ids, mask, logp, ~ended, texts)


def log_probs(model, prompt_ids, prompt_mask, completion_ids, mask, temperature=1.0, entropy=False):
    """Log-probabilities (B,T) of given completions under softmax(logits / temperature), with gradient.

    Shapes as in `Samples`; 0 where `mask` is False. Logits exist for the T positions that choose a completion
    token and for no others, where the model's forward takes `logits_to_keep`. Equal rows go through the model
    once; rows with equal prompts share the prompt's part of the pass. The model stays in the mode it is in:
    call it in eval mode to get the numbers `sample` returned. With `entropy=True` also the (B,T) entropies of
    the same distributions, a metric without gradient.
    """
    temperature = _checked(prompt_ids, prompt_mask, completion_ids, mask, temperature)
    logits, which, first = _completion_logits(model, prompt_ids, prompt_mask, completion_ids, mask)
    unused = ~mask.bool()
    logp = _TokenLogProb.apply(logits, completion_ids[first], temperature)[which].masked_fill(unused, 0.0)
    if not entropy:
        return logp
    with torch.no_grad():
        entropies = [torch.special.entr(part.softmax(-1)).sum(-1) for part in _parts(logits, temperature)]
        return logp, torch.cat(entropies)[which].masked_fill(unused, 0.0)


def vocabulary_log_probs(model, prompt_ids, prompt_mask, completion_ids, mask, temperature=1.0):
    """Log-probabilities (B,T,V) of every token at every completion position, with gradient.

    As `log_probs`, but for the whole vocabulary of V tokens: for exact KL and pictures, with small V.
    """
    temperature = _checked(prompt_ids, prompt_mask, completion_ids, mask, temperature)
    logits, which, _ = _completion_logits(model, prompt_ids, prompt_mask, completion_ids, mask)
    return (_precise(logits) / temperature).log_softmax(-1)[which]


def _checked(prompt_ids, prompt_mask, completion_ids, mask, temperature):
    """The temperature as a number; raises on it and on shapes that do not fit together."""
    temperature = validate.number("temperature", temperature, low=0.0, open_low=True)
    for name, value, like in (("prompt_mask", prompt_mask, prompt_ids), ("mask", mask, completion_ids)):
        if value.shape != like.shape:
            raise ValueError(f"{name}: expected shape {tuple(like.shape)}, got {tuple(value.shape)}")
    if len(completion_ids) != len(prompt_ids):
        raise ValueError(
            f"completion_ids: expected {len(prompt_ids)} rows as prompt_ids, got {len(completion_ids)}"
        )
    return temperature


def _completion_logits(model, prompt_ids, prompt_mask, completion_ids, mask):
    """(logits (D,T,V) of the D distinct rows, the number of each row among them (B,), a row of each (D,))."""
    prompt_mask, mask = prompt_mask.bool(), mask.bool()
    which, first = _distinct(prompt_ids, prompt_mask, completion_ids.masked_fill(~mask, 0), mask)
    prompt_ids, prompt_mask = prompt_ids[first], prompt_mask[first]
    completion_ids, mask = completion_ids[first], mask[first]
    steps = completion_ids.shape[1]
    attention = torch.cat([prompt_mask, mask[:, :-1]], 1)
    positions = position_ids(attention)
    of_prompt, rows = _distinct(prompt_ids, prompt_mask)
    if 2 * len(rows) <= len(of_prompt) and steps > 1:  # a group's prompt goes through the model once
        prompts = prompt_ids[rows], prompt_mask[rows], positions[rows, : -steps + 1]
        output = forward(model, *prompts, keep=1, use_cache=True)
        cache = output.past_key_values
        if type(cache) is DynamicCache:  # others are written in place, or cannot be spread over the rows
            cache.reorder_cache(of_prompt)
            rest = completion_ids[:, :-1], attention, positions[:, -steps + 1 :]
            logits = forward(model, *rest, keep=steps - 1, cache=cache, use_cache=True).logits
            return torch.cat([output.logits[of_prompt, -1:], logits[:, -steps + 1 :]], 1), which, first
    ids = torch.cat([prompt_ids, completion_ids[:, :-1]], 1)
    return forward(model, ids, attention, positions, keep=steps).logits[:, -steps:], which, first


def _distinct(*tensors):
    """Rows that are equal in all tensors: (number of each row's kind (B,), a row of each kind)."""
    _, which = torch.unique(torch.cat(tensors, 1), dim=0, return_inverse=True)
    rows = torch.arange(len(which), device=which.device)
    return which, torch.empty_like(rows).scatter_(0, which, rows)[: which.max() + 1]


class _TokenLogProb(torch.autograd.Function):
    """log softmax(logits / temperature)[token] without a second array of the logits' size.

    Autograd's logits.gather(...) - logits.logsumexp(...) needs four such arrays at its peak, this two.
    """

    @staticmethod
    def forward(ctx, logits, tokens, temperature):
        norm = torch.cat([part.logsumexp(-1) for part in _parts(logits, temperature)])
        ctx.save_for_backward(logits, tokens, norm)
        ctx.temperature = temperature
        return _precise(logits.gather(-1, tokens[..., None]))[..., 0] / temperature - norm

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        logits, tokens, norm = ctx.saved_tensors
        grad = grad[..., None] / ctx.temperature  # d logp / d logits = (1[token] - softmax) / temperature
        probs = _precise(logits).div(ctx.temperature).sub_(norm[..., None]).exp_()
        return probs.mul_(-grad).scatter_add_(-1, tokens[..., None], grad).to(logits.dtype), None, None


def _parts(logits, temperature):
    """logits / temperature, a few rows at a time (at most 16 MiB, or one row)."""
    rows = max(1, 2**22 // logits[0].numel())
    return (_precise(part) / temperature for part in logits.split(rows))


def _precise(logits):
    """At least float32, whatever the model computes in."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def _decode(model, end, prompt_ids, prompt_mask, uniform, temperature, completion_ids, mask, logp):
    """Fill `completion_ids`, `mask` and `logp` in place."""
    rows = torch.arange(len(prompt_ids), device=prompt_ids.device)  # the rows still alive
    which, first = _distinct(prompt_ids, prompt_mask)  # rows that are equal so far share a row of the cache
    attention = prompt_mask[first]
    output = forward(model, prompt_ids[first], attention, position_ids(attention), keep=1, use_cache=True)
    logits, step_by_step = output.logits[:, -1], decoder(model, output.past_key_values)
    padded = not prompt_mask.all()
    for step, u in enumerate(uniform):
        token, chosen = _choose(logits, which, temperature, u[rows])
        completion_ids[rows, step], mask[rows, step], logp[rows, step] = token, True, chosen.float()
        alive = (token != end).nonzero()[:, 0]
        if step + 1 == len(uniform) or len(alive) == 0:
            return
        rows, size = rows[alive], logits.shape[1]
        longer, which = torch.unique(which[alive] * size + token[alive], return_inverse=True)
        shorter, token = longer // size, longer % size  # the row that each distinct one goes on from
        if not torch.equal(shorter, torch.arange(len(logits), device=shorter.device)):
            step_by_step.reorder(shorter)
            attention = attention[shorter]
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], 1)
        position = attention.sum(1, keepdim=True) - 1
        logits = step_by_step(token, attention if padded else None, position)


def _choose(logits, which, temperature, uniform):
    """A token for each row, row i from logits[which[i]]: (tokens, their log-probs).

    It inverts the cumulative distribution at `uniform`.
    """
    if temperature == 0:
        return logits.argmax(-1)[which], logits.new_zeros(len(which))
    logp = (_precise(logits) / temperature).log_softmax(-1)
    cumulative = logp.exp().cumsum(-1, dtype=torch.float64)[which]
    token = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    token = token.clamp(max=logits.shape[1] - 1)  # beyond the end only where the logits are NaN
    return token, logp[which, token]


def _once(function, items):
    """What `function` makes of a list of items; it sees each kind of item once."""
    kinds = list(dict.fromkeys(items))
    known = dict(zip(kinds, function(kinds), strict=True))
    return [known[item] for item in items]


def _encode(model, tokenizer, prompts, limit, special_tokens):
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"prompts: expected a list with at least one string, got {prompts!r}")
    try:
        ids = _once(lambda texts: tokenizer(texts, add_special_tokens=special_tokens)["input_ids"], prompts)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ValueError(f"prompts: expected text the tokenizer can encode, got {error}") from error
    lengths = [len(row) for row in ids]
    if min(lengths) == 0:
        raise ValueError(f"prompts: expected no empty prompt, got one at index {lengths.index(0)}")
    if any(row[-1] == tokenizer.eos_token_id for row in ids):
        raise ValueError(
            "prompts: expected prompts without the end token, got one that ends with it"
            " (does the tokenizer add it? set tokenizer.add_eos_token = False)"
        )
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(lengths)
    if context is not None and longest + limit > context:
        raise ValueError(
            f"prompts: expected at most {context} tokens with the completion (the model's context), got a"
            f" prompt of {longest} and max_new_tokens = {limit}"
        )
    prompt_ids = torch.full((len(ids), longest), tokenizer.pad_token_id)
    prompt_mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    prompt_ids[prompt_mask] = torch.tensor([token for row in ids for token in row])
    return prompt_ids.to(model.device), prompt_mask.to(model.device)
