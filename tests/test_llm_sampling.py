"""The sampler against enumeration, against `generate`, and against a forward pass a row at a time."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlbook.llm import models, sampling

CHARACTERS = models.tokenizer()
V = len(CHARACTERS)
RAGGED = ["1+2=", "123+45678=", "7=", "99999+1=", "3"]


def letters(end="<end>"):
    """Four tokens: padding, end, a, b; few enough to enumerate completions."""
    raw = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1, "a": 2, "b": 3}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token=end)


def llama(vocabulary=V, seed=0, sharpen=6.0, **changes):
    """A small Llama whose next-token distributions are far from uniform and differ between contexts."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=vocabulary, max_position_embeddings=48, **sizes | changes)
    )
    return sharpened(model, sharpen)


def gpt2(vocabulary=V, seed=0, sharpen=6.0, kind=GPT2LMHeadModel, **changes):
    """A small GPT-2: absolute positions, so a position off by one changes every logit."""
    torch.manual_seed(seed)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48, "tie_word_embeddings": False}
    sizes |= {"bos_token_id": None, "eos_token_id": 1}
    return sharpened(kind(GPT2Config(vocab_size=vocabulary, **sizes | changes)), sharpen)


def sharpened(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= factor
    return model.eval()


def constant(token):
    """A GPT-2 that puts nearly all its probability on one token, whatever came before."""
    model = gpt2()
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight.zero_()
        model.lm_head.weight[token] = 5.0  # its logit: 16 * 5; the others': 0
    return model


def drawn(model, prompts=RAGGED, n=12, tokenizer=CHARACTERS, seed=0, **options):
    return sampling.sample(
        model, tokenizer, prompts, n, generator=torch.Generator().manual_seed(seed), **options
    )


def row_by_row(model, samples, temperature=1.0):
    """log-softmax (V) of each completion token, from forwards of one row, no padding, mask or cache."""
    for i, m in enumerate(samples.mask):
        prompt = samples.prompt_ids[i][samples.prompt_mask[i]]
        ids = torch.cat([prompt, samples.completion_ids[i][m]])
        logits = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
        yield (logits / temperature).log_softmax(-1), samples.completion_ids[i][m]


def recomputed(model, s, **options):
    return sampling.log_probs(model, s.prompt_ids, s.prompt_mask, s.completion_ids, s.mask, **options)


BOTH = pytest.mark.parametrize("make", [llama, gpt2])


# What is drawn


@pytest.mark.parametrize("make, temperature", [(llama, 1.0), (gpt2, 0.6), (gpt2, 1.7)])
def test_frequencies_are_those_of_the_enumerated_distribution(make, temperature):
    """All 40 completions of up to 3 tokens, for two prompts of different lengths in one batch."""
    model, tokenizer, n, limit = make(4, sharpen=9.0), letters(), 4000, 3
    exact = copy.deepcopy(model).double()

    def enumerate_all(prompt):
        done = {}
        for ids in itertools.chain.from_iterable(itertools.product(range(4), repeat=k) for k in (1, 2, 3)):
            if 1 in ids[:-1] or (len(ids) < limit and ids[-1] != 1):
                continue
            whole = torch.tensor([prompt + list(ids)])
            logp = (exact(input_ids=whole).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
            done[ids] = logp[range(len(ids)), list(ids)].sum().exp().item()
        return done

    s = drawn(model, ["a"] * n + ["abba"] * n, limit, tokenizer, temperature=temperature)
    for half, prompt in ((0, [2]), (1, [2, 3, 3, 2])):
        with torch.no_grad():
            want = enumerate_all(prompt)
        assert len(want) == 40 and sum(want.values()) == pytest.approx(1.0, abs=1e-9)
        rows = slice(half * n, (half + 1) * n)
        found = dict.fromkeys(want, 0)
        for ids, m in zip(s.completion_ids[rows].tolist(), s.mask[rows].sum(1).tolist(), strict=True):
            found[tuple(ids[:m])] += 1
        o, e = (np.array([d[k] for k in want]) for d in (found, want))
        common = e * n >= 5
        if not common.all():
            o, e = (np.append(x[common], x[~common].sum()) for x in (o, e))
        e, freedom = n * e, len(e) - 1
        assert freedom >= 8
        assert ((o - e) ** 2 / e).sum() < freedom + 4 * math.sqrt(2 * freedom)


def test_a_rare_token_is_as_rare_as_it_should_be():
    """The uniform numbers are float64: a token of probability 2e-4 is neither lost nor doubled."""
    logits = torch.tensor([[0.0, math.log(2e-4 / (1 - 2e-4)), -math.inf]]).expand(400_000, 3)
    u = torch.rand(len(logits), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    token, logp = sampling._choose(logits, torch.arange(len(u)), 1.0, u)
    assert abs((token == 1).sum().item() - 80) < 4 * math.sqrt(80)
    assert (token == 2).sum() == 0
    np.testing.assert_allclose(logp[token == 1], math.log(2e-4), rtol=1e-6)


def test_the_uniform_number_picks_the_token_whose_interval_holds_it():
    logits = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3]]).log().expand(7, 5)
    u = torch.tensor([0.0, 0.1999, 0.2001, 0.6999, 0.7001, 0.9999, 1 - 2**-53], dtype=torch.float64)
    assert sampling._choose(logits, torch.arange(len(u)), 1.0, u)[0].tolist() == [1, 1, 3, 3, 4, 4, 4]


@BOTH
def test_greedy_is_generate_token_by_token_on_ragged_prompts(make):
    model, rng = make(), np.random.default_rng(0)
    prompts = ["".join(rng.choice(list("0123456789+="), rng.integers(1, 12))) for _ in range(40)]
    ours = drawn(model, prompts, 16, temperature=0)
    batch = CHARACTERS(prompts, return_tensors="pt", padding=True)
    theirs = model.generate(**batch, do_sample=False, max_new_tokens=16, pad_token_id=0, eos_token_id=1)
    theirs = theirs[:, batch["input_ids"].shape[1] :]
    assert torch.equal(ours.completion_ids, theirs[:, : ours.mask.shape[1]])
    assert (ours.logp == 0).all()
    assert 2 < ours.truncated.sum() < 38  # some rows end early, or the comparison means little


# Log-probabilities


@BOTH
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_forward_without_padding_or_cache(make, temperature):
    model = make()
    s = drawn(model, RAGGED * 3, temperature=temperature)
    assert len(set(s.mask.sum(1).tolist())) > 3
    again = recomputed(model, s, temperature=temperature)
    for i, (logp, ids) in enumerate(row_by_row(model, s, temperature)):
        np.testing.assert_allclose(
            again[i][s.mask[i]].detach(), logp.detach()[range(len(ids)), ids], atol=1e-5
        )
    assert ((again - s.logp).exp() - 1).abs().max() < 1e-5
    assert (again[~s.mask] == 0).all() and (s.logp[~s.mask] == 0).all()
    assert (s.logp[s.mask] < 0).all() and s.logp.dtype == torch.float32


@BOTH
@pytest.mark.parametrize("prompts", [RAGGED, RAGGED * 2, [RAGGED[1], RAGGED[0], *RAGGED[:2] * 3]])
def test_the_gradient_is_the_row_by_row_gradient_and_reaches_every_parameter(make, prompts):
    model = make().double()
    s = drawn(model, prompts)
    weight = torch.randn(s.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (recomputed(model, s, temperature=0.8) * weight).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    rows = row_by_row(model, s, temperature=0.8)
    for w, m, (logp, ids) in zip(weight, s.mask, rows, strict=True):
        (logp[range(len(ids)), ids] * w[m]).sum().backward()
    for name, p in model.named_parameters():
        # transformers' Llama normalises in float32 even in a float64 model
        np.testing.assert_allclose(found[name], p.grad, atol=1e-9 if make is gpt2 else 5e-6, err_msg=name)
        assert found[name].abs().max() > 0 or name.endswith("attn.c_attn.bias"), name


def test_the_hand_written_derivative_is_the_numerical_one():
    logits = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, (3, 2))
    assert torch.autograd.gradcheck(lambda z: sampling._TokenLogProb.apply(z, tokens, 0.7), logits)


def test_large_logits_are_worked_through_in_parts_with_the_same_result():
    logits = torch.randn(5, 3, 500_000)  # one row is more than a third of a part
    tokens = torch.randint(500_000, (5, 3))
    assert len(list(sampling._parts(logits, 1.0))) == 3
    want = logits.double().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    np.testing.assert_allclose(sampling._TokenLogProb.apply(logits, tokens, 1.0), want, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.3])
def test_entropy_is_that_of_torch_distributions(temperature):
    model = gpt2()
    s = drawn(model)
    logp, entropy = recomputed(model, s, temperature=temperature, entropy=True)
    for i, (rows, _) in enumerate(row_by_row(model, s, temperature)):
        want = torch.distributions.Categorical(logits=rows.detach()).entropy()
        np.testing.assert_allclose(entropy[i][s.mask[i]], want, atol=1e-5)
    assert (entropy[~s.mask] == 0).all() and not entropy.requires_grad
    assert torch.equal(logp, recomputed(model, s, temperature=temperature))


def test_the_whole_vocabulary_has_the_same_numbers():
    model = llama()
    s = drawn(model)
    whole = sampling.vocabulary_log_probs(model, s.prompt_ids, s.prompt_mask, s.completion_ids, s.mask, 0.7)
    for i, (rows, _) in enumerate(row_by_row(model, s, 0.7)):
        np.testing.assert_allclose(whole[i][s.mask[i]].detach(), rows.detach(), atol=1e-5)
    assert whole.requires_grad


class Plain(GPT2LMHeadModel):
    """A forward without logits_to_keep, as some models have it."""

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None
    ):
        return super().forward(
            input_ids, past_key_values, attention_mask, position_ids=position_ids, use_cache=use_cache
        )


def test_a_model_that_cannot_keep_fewer_logits_gives_the_same_numbers():
    plain, usual = gpt2(kind=Plain), gpt2()
    s, t = drawn(plain), drawn(usual)
    assert s.texts == t.texts
    np.testing.assert_allclose(recomputed(plain, s).detach(), recomputed(usual, t).detach(), atol=1e-6)


def test_logits_exist_only_for_completion_positions_and_only_once():
    """No (B, P + T, V), and one array of B T V numbers kept for the backward pass."""
    model, seen, kept = gpt2(vocabulary=999), [], []
    s = drawn(model, ["1" * 30, "22"], 5)
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    keep = lambda x: kept.append(x.data_ptr()) if x.numel() == s.mask.numel() * 999 else None  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (keep(x), x)[1], lambda x: x):
        recomputed(model, s, temperature=0.9, entropy=True)
    assert seen == [(2, s.mask.shape[1], 999)]
    assert len(kept) == 1


def test_log_probs_of_half_precision_logits_are_float32():
    model = gpt2().to(torch.bfloat16)
    s = drawn(model)
    again = recomputed(model, s)
    again.sum().backward()
    assert again.dtype == s.logp.dtype == torch.float32
    assert model.transformer.wte.weight.grad.dtype == torch.bfloat16
    assert (again - s.logp).abs().max() < 0.5  # bfloat16 has three digits


# The shape of the result


def test_samples_are_padded_masked_and_cut_as_they_say():
    s = drawn(gpt2(), RAGGED * 4, 10)
    P, T = s.prompt_ids.shape[1], s.mask.shape[1]
    assert P == max(map(len, RAGGED)) and 1 < T <= 10
    for i, prompt in enumerate(RAGGED * 4):
        assert s.prompt_mask[i].tolist() == [False] * (P - len(prompt)) + [True] * len(prompt)
        assert CHARACTERS.decode(s.prompt_ids[i][s.prompt_mask[i]]) == prompt
        n = int(s.mask[i].sum())
        ids = s.completion_ids[i].tolist()
        assert s.mask[i].tolist() == [True] * n + [False] * (T - n)
        assert ids[n:] == [0] * (T - n) and 1 not in ids[: n - 1]
        assert bool(s.truncated[i]) == (ids[n - 1] != 1)
        assert not s.truncated[i] or n == 10
        assert s.texts[i] == CHARACTERS.decode(ids[:n]).removesuffix("<end>")
    assert 0 < s.truncated.sum() < len(s.truncated)
    types = {"prompt_ids": torch.int64, "prompt_mask": torch.bool, "completion_ids": torch.int64}
    types |= {"mask": torch.bool, "logp": torch.float32, "truncated": torch.bool}
    assert {name: getattr(s, name).dtype for name in types} == types
    assert not any(getattr(s, name).requires_grad for name in types)


def test_every_row_may_end_at_its_first_token():
    s = drawn(constant(CHARACTERS.eos_token_id), n=9)
    assert s.completion_ids.tolist() == [[1]] * len(RAGGED) and s.mask.all()
    assert s.texts == [""] * len(RAGGED) and not s.truncated.any()


def test_rows_that_never_end_are_cut_at_the_limit():
    s = drawn(constant(CHARACTERS("7")["input_ids"][0]), n=9)
    assert s.texts == ["7" * 9] * len(RAGGED) and s.truncated.all() and s.mask.all()


def test_a_padding_token_the_model_chose_is_part_of_its_text():
    """Dropping it from the text would let `1<pad>2` pass for 12."""
    s = drawn(constant(0), n=3)
    assert s.texts == ["<pad>" * 3] * len(RAGGED)
    assert s.mask.all() and s.truncated.all()


def test_padding_with_the_end_token_changes_nothing():
    same = letters()
    same.pad_token = "<end>"
    model, prompts = gpt2(4), ["ab", "bbbab", "a"] * 8
    s, t = drawn(model, prompts, 6, letters()), drawn(model, prompts, 6, same)
    assert s.texts == t.texts and torch.equal(s.mask, t.mask) and torch.equal(s.logp, t.logp)
    assert (t.completion_ids[~t.mask] == 1).all() and (~t.mask).any()
    assert torch.equal(recomputed(model, s), recomputed(model, t))


# The stream of random numbers


def test_a_seed_repeats_bit_for_bit_and_leaves_the_global_stream_alone():
    model = llama()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (drawn(model, RAGGED * 5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.texts == same.texts and torch.equal(first.logp, same.logp)
    assert first.texts != other.texts
    copies = drawn(model, ["1+1="] * 50, seed=1)
    assert len(set(copies.texts)) > 25  # equal prompts get their own random numbers


def test_without_a_generator_the_global_stream_is_used():
    model = llama()
    torch.manual_seed(3)
    first, second = (sampling.sample(model, CHARACTERS, RAGGED, 8).texts for _ in range(2))
    torch.manual_seed(3)
    assert sampling.sample(model, CHARACTERS, RAGGED, 8).texts == first != second


@BOTH
def test_a_row_does_not_depend_on_its_neighbours_or_on_who_left(make):
    model, n = make(), 16
    alone = drawn(model, ["4"] * 8 + ["1+2="] * 8, n)
    beside = drawn(model, ["88888+12345="] * 8 + ["1+2="] * 8, n)
    assert alone.texts[8:] == beside.texts[8:] and alone.texts[:8] != beside.texts[:8]
    left = [x.mask[:8].sum(1).tolist() for x in (alone, beside)]
    assert left[0] != left[1] and min(min(x) for x in left) < max(map(len, alone.texts[8:]))


@pytest.mark.parametrize("rows", [1, 3, 10, 50])
def test_rows_per_batch_changes_memory_and_not_the_samples(rows):
    model, sizes = llama(), []
    whole = drawn(model, RAGGED * 2)
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    parts = drawn(model, RAGGED * 2, rows_per_batch=rows)
    assert max(sizes) <= rows
    assert parts.texts == whole.texts
    np.testing.assert_allclose(parts.logp, whole.logp, atol=1e-5)


def test_a_longer_limit_keeps_the_first_tokens():
    model = llama()
    short, long = drawn(model, n=5), drawn(model, n=15)
    assert [text[:4] for text in short.texts] == [text[:4] for text in long.texts]


# Work that is not done twice


def test_equal_beginnings_go_through_the_model_once_and_rows_that_ended_not_at_all():
    model, calls = gpt2(), []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape)))
    prompts = [p for p in RAGGED for _ in range(6)]
    s = drawn(model, prompts, 12)
    texts = [
        tuple(ids[: m - (not cut)])  # without the end token: it is never read
        for ids, m, cut in zip(s.completion_ids.tolist(), s.mask.sum(1).tolist(), s.truncated, strict=True)
    ]
    distinct = [
        len({(p, t[:n]) for p, t in zip(prompts, texts, strict=True) if len(t) >= n}) for n in range(12)
    ]
    assert calls == [(len(RAGGED), s.prompt_ids.shape[1]), *((rows, 1) for rows in distinct[1:] if rows)]
    assert len(RAGGED) == distinct[0] < distinct[1] < len(prompts) and max(distinct) > distinct[-1]


@BOTH
def test_rows_that_agree_for_a_while_have_the_numbers_of_rows_apart(make):
    """One prompt and a low temperature: rows part late, some never."""
    model, cold = make(), {"temperature": 0.3}
    s = drawn(model, ["1+2="] * 40, 12, **cold)
    texts = set(s.texts)
    assert 3 < len(texts) < 40 and len({text[:2] for text in texts}) < len(texts)
    for i, (logp, ids) in enumerate(row_by_row(model, s, **cold)):
        np.testing.assert_allclose(s.logp[i][s.mask[i]], logp.detach()[range(len(ids)), ids], atol=2e-5)
    alone = drawn(model, ["1+2="] * 40, 12, rows_per_batch=1, **cold)
    assert alone.texts == s.texts


def test_log_probs_of_equal_rows_are_computed_once_and_every_row_has_its_gradient():
    """Rows that differ in one thing only: the prompt, a token, the length; padding does not count."""
    model, calls = gpt2().double(), []
    prompt_ids = torch.tensor([[0, 3, 4], [0, 3, 5], [0, 3, 4], [0, 3, 4], [0, 3, 4]])
    prompt_mask = torch.tensor([[0, 1, 1]] * 4 + [[1, 1, 1]]).bool()
    ids = torch.tensor([[6, 0, 0], [6, 0, 0], [6, 8, 0], [6, 0, 0], [6, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()
    copies = [0, 3, 1, 0, 2, 4, 3, 1]
    many = [x[copies] for x in (prompt_ids, prompt_mask, ids, mask)]
    many[2][1, 2] = 9  # on the padding of row 3's first copy
    weight = torch.randn(len(copies), 3, generator=torch.Generator().manual_seed(1)).double()
    model.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    logp, entropy = sampling.log_probs(model, *many, entropy=True)
    whole = sampling.vocabulary_log_probs(model, *many)
    assert calls == [5, 5]
    (logp * weight).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for i, (p, pm, c, m) in enumerate(zip(*many, strict=True)):
        rows = model(torch.cat([p[pm], c[m]])[None]).logits[0, pm.sum() - 1 : -1].log_softmax(-1)
        one = rows.gather(-1, c[m][:, None])[:, 0]
        np.testing.assert_allclose(logp[i][m].detach(), one.detach(), atol=1e-12)
        np.testing.assert_allclose(whole[i][m].detach(), rows.detach(), atol=1e-12)
        np.testing.assert_allclose(entropy[i][m], -(rows.exp() * rows).sum(-1).detach(), atol=1e-12)
        (one * weight[i][m]).sum().backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(found[name], p.grad, atol=1e-10, err_msg=name)


def test_log_probs_of_equal_prompts_share_the_prompts_part():
    model, calls = gpt2(), []
    s = drawn(model, RAGGED * 2, 6)
    model.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape)))
    recomputed(model, s)
    assert calls == [(len(RAGGED), s.prompt_ids.shape[1]), (2 * len(RAGGED), s.mask.shape[1] - 1)]
    calls.clear()
    recomputed(model, drawn(model, [*RAGGED, RAGGED[0]], 6))
    assert calls[-1][0] == len(RAGGED) + 1, "too few are equal: one pass"
    one = drawn(model, RAGGED * 2, 1)
    calls.clear()
    np.testing.assert_allclose(recomputed(model, one).detach(), one.logp, atol=1e-5)
    assert calls == [s.prompt_ids.shape]


class InPlace(GPT2LMHeadModel):
    """A model whose cache is not a list of keys and values that can be spread over rows."""

    def forward(self, input_ids, position_ids=None, logits_to_keep=0, **named):
        output = super().forward(input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **named)
        output.past_key_values = output.past_key_values and "something else"
        return output


def test_a_cache_of_another_kind_is_left_alone():
    usual, other = gpt2(), gpt2(kind=InPlace)
    s = drawn(usual, RAGGED * 2, 6)
    np.testing.assert_allclose(recomputed(other, s).detach(), recomputed(usual, s).detach(), atol=1e-6)


def test_dropout_is_off_while_sampling_and_the_mode_comes_back():
    model = gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    want = drawn(model)
    found = drawn(model.train())
    assert found.texts == want.texts and torch.equal(found.logp, want.logp)
    assert model.training


# Bad input


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"prompts": []}, "prompts: expected a list with at least one"),
        ({"prompts": "1+1="}, "prompts: expected a list"),
        ({"prompts": ["1", "", "2"]}, "empty prompt, got one at index 1"),
        ({"prompts": ["1+one="]}, "prompts: expected text the tokenizer can encode"),
        ({"prompts": [3]}, "prompts: expected text"),
        ({"prompts": ["1+1=<end>"]}, "without the end token"),
        ({"prompts": ["1" * 40], "n": 9}, "at most 48 tokens.*prompt of 40 and max_new_tokens = 9"),
        ({"n": 0}, "max_new_tokens"),
        ({"n": 2.5}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"rows_per_batch": 0}, "rows_per_batch"),
    ],
)
def test_sample_refuses(wrong, said):
    with pytest.raises(ValueError, match=said):
        drawn(llama(), **wrong)


def test_the_context_may_be_filled_to_the_last_position():
    s = drawn(constant(5), ["1" * 40], 8)
    assert s.mask.shape == (1, 8)


def test_logits_that_are_not_finite_are_refused():
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match="finite logits"):
        drawn(model)


@pytest.mark.parametrize(
    "name, change",
    [
        ("prompt_mask", lambda x: x[:, 1:]),
        ("mask", lambda x: x[:, 1:]),
        ("completion_ids", lambda x: x[1:]),
        ("temperature", lambda x: 0.0),
    ],
)
def test_log_probs_refuses(name, change):
    s = drawn(llama())
    given = {n: getattr(s, n) for n in ("prompt_ids", "prompt_mask", "completion_ids", "mask")}
    given |= {"temperature": 1.0}
    given[name] = change(given[name])
    if name == "completion_ids":
        given["mask"] = change(given["mask"])
    with pytest.raises(ValueError, match=name):
        sampling.log_probs(llama(), **given)
