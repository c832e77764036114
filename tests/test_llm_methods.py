"""Each method against its printed equation, written out prompt by prompt, completion by completion, token by
token; the KL term; options and batches that are refused.
"""

import dataclasses
import statistics

import numpy as np
import pytest
import torch
from test_llm_batch import NAN, ragged

from rlbook.llm import kl, methods

OWN = ("reinforce", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "sapo")
MIXED = [(name, {"variant": v}) for name in ("mix_1", "mix_2") for v in ("faithful", "corrected")]
EVERY = [(name, {}) for name in OWN] + MIXED


def value_and_gradient(objective, logp):
    (gradient,) = torch.autograd.grad(objective, logp, retain_graph=True)
    return objective.detach(), gradient


def same(found, wanted, atol=1e-12):
    """Values and gradients alike, and the gradient not trivially so; True, or the difference raised."""
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=atol)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=atol)
    return wanted[1].abs().max() > 100 * atol


# --- the printed equations --------------------------------------------------------------------------


def prompts(R):
    """The row numbers of each prompt."""
    return [[i for i, g in enumerate(R.group.tolist()) if g == number] for number in set(R.group.tolist())]


def population(rewards, i):
    """(90), (91)"""
    mean = statistics.fmean(rewards)
    return (rewards[i] - mean) / (statistics.fmean((r - mean) ** 2 for r in rewards) + 1e-8) ** 0.5


def own_inclusive(rewards, i):
    """(98)"""
    return rewards[i] - statistics.fmean(rewards)


def others(rewards, i):
    return rewards[i] - statistics.fmean(rewards[:i] + rewards[i + 1 :])


def min_clip(r, A, clip):
    """(96), (101)"""
    return min(r * A, max(min(r, 1 + clip[1]), 1 - clip[0]) * A)


def written_out(name, logp, R, clip=None, tau=(1.0, 1.05), max_length=None):
    """(97), (100), (102), (109), (119); REINFORCE and RLOO with the importance weight (105).

    The mean over prompts of the mean over a prompt's G rows is the mean over all rows.
    """
    clip = clip or {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}.get(name, (0.2, 0.2))
    advantage = {"rloo": others, "dr_grpo": own_inclusive}.get(name, population)
    total = 0.0
    for rows in prompts(R):
        rewards = [R.rewards[i].item() for i in rows]
        for place, i in enumerate(rows):
            T_i, A = int(R.mask[i].sum()), advantage(rewards, place) if len(rows) > 1 else 0.0
            r = [(logp[i, t] - R.logp_old[i, t]).exp() for t in range(T_i)]
            w = torch.stack(r).prod()
            for t in range(T_i):
                if name == "grpo":
                    total += min_clip(r[t], A, clip) / T_i / len(R)
                if name == "dr_grpo":
                    total += min_clip(r[t], A, clip) / (max_length or R.mask.shape[1]) / len(R)
                if name == "dapo":
                    total += min_clip(r[t], A, clip) / int(R.mask.sum())
                if name == "sapo":
                    temperature = tau[0] if A > 0 else tau[1]
                    total += 4 / temperature / (1 + (-temperature * (r[t] - 1)).exp()) * A / T_i / len(R)
            if name == "gspo":
                total += min_clip(w ** (1 / T_i), A, clip) / len(R)
            if name == "rloo":
                total += min_clip(w, A, clip) / len(R)
            if name == "reinforce":
                total += w * rewards[place] / len(R)
    return total


CASES = [(name, {}) for name in OWN] + [
    ("grpo", {"clip": (0.1, 0.4)}),
    ("rloo", {"clip": (0.4, 0.7)}),
    ("gspo", {"clip": (0.1, 0.2)}),
    ("dapo", {"clip": (0.5, 0.5)}),
    ("dr_grpo", {"max_length": 50, "clip": (0.3, 0.1)}),
]


@pytest.mark.parametrize("sizes", [(4, 4, 4), (6, 2, 3)])
@pytest.mark.parametrize("name, options", CASES)
def test_methods_are_their_equations(name, options, sizes):
    """(97), (100), (102), (109), (119) and the others, written out with loops: value and gradient."""
    for seed in range(4):
        logp, R = ragged(seed, sizes)
        found = methods.get(name, **options).objective(logp, R).value
        wanted = written_out(name, logp, R, **options)
        assert same(value_and_gradient(found, logp), value_and_gradient(wanted, logp))


def test_sapo_takes_its_temperatures():
    logp, R = ragged(5)
    found = methods.get("sapo", tau_pos=2.0, tau_neg=3.0).objective(logp, R).value
    assert same(
        value_and_gradient(found, logp), value_and_gradient(written_out("sapo", logp, R, tau=(2, 3)), logp)
    )


@pytest.mark.parametrize("name, options", EVERY)
def test_gradients_are_finite_differences(name, options):
    logp, R = ragged(11, sizes=(5, 4), guides=2 if options else 0, T=4)
    method, h = methods.get(name, **options), 1e-6
    _, gradient = value_and_gradient(method.objective(logp, R).value, logp)
    difference = torch.zeros_like(logp)
    for i, t in R.mask.nonzero().tolist():
        step = torch.zeros_like(logp)
        step[i, t] = h
        with torch.no_grad():
            up, down = method.objective(logp + step, R).value, method.objective(logp - step, R).value
        difference[i, t] = (up - down) / (2 * h)
    assert same((torch.zeros(()), gradient), (torch.zeros(()), difference), atol=1e-8)


def test_a_group_of_one_teaches_nothing_but_reinforce_and_is_refused_by_rloo():
    logp, R = ragged(0, sizes=(1, 1, 1), values=(1.0,))
    for name in OWN:
        if name == "rloo":
            with pytest.raises(ValueError, match="^group"):
                methods.get(name).objective(logp, R)
            continue
        value, gradient = value_and_gradient(methods.get(name).objective(logp, R).value, logp)
        assert (value == 0 and (gradient == 0).all()) == (name != "reinforce")


def test_a_critic_may_give_one_advantage_a_token():
    """(B, T) advantages; what stands on the padding does not matter, for the metrics neither."""
    logp, R = ragged(7, sizes=(4, 4))
    A = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A[R.group == 2] = 0.0
    wanted = sum(
        min_clip((logp[i, t] - R.logp_old[i, t]).exp(), A[i, t], (0.2, 0.2)) / int(R.mask[i].sum()) / 8
        for i, t in R.mask.nonzero().tolist()
    )
    found = methods.get("grpo").objective(logp, R, [A.masked_fill(~R.mask, NAN)])
    assert same(value_and_gradient(found.value, logp), value_and_gradient(wanted, logp))
    assert found.metrics["dead_groups"] == 0.5


def test_no_gradient_flows_through_the_advantages():
    """Neither into the rewards nor into pi_old of a KL in the reward."""
    logp, R = ragged(7)
    R = dataclasses.replace(R, rewards=R.rewards.requires_grad_(), logp_old=R.logp_old.requires_grad_())
    for name in OWN:
        assert not methods.get(name, kl_coef=0.2).advantages(R)[0].requires_grad


# --- KL ---------------------------------------------------------------------------------------------


def test_the_kl_in_the_reward_is_a_sum_over_tokens_under_pi_old():
    """(89): u = R - beta sum_t (log pi_old - log ref), a number: its gradient does not flow."""
    logp, R = ragged(2)
    u = R.rewards.clone()
    for i in range(len(R)):
        for t in range(int(R.mask[i].sum())):
            u[i] -= 0.3 * (R.logp_old[i, t] - R.logp_ref[i, t])
    method = methods.get("grpo", kl_coef=0.3)
    np.testing.assert_allclose(method.scores(R), u, atol=1e-14)
    wanted = written_out("grpo", logp, dataclasses.replace(R, rewards=u))
    assert same(value_and_gradient(method.objective(logp, R).value, logp), value_and_gradient(wanted, logp))
    assert torch.equal(methods.get("grpo").scores(R), R.rewards)


def test_only_the_policys_rows_pay_for_the_kl():
    logp, R = ragged(2, guides=1)
    for variant in ("faithful", "corrected"):
        method = methods.get("mix_1", variant=variant, kl_coef=0.3)
        assert torch.equal(method.scores(R) == R.rewards, R.source == 1)
        loss = methods.get("mix_1", variant=variant, kl_coef=0.3, kl="loss_k2").objective(logp, R).value
        moved = dataclasses.replace(R, logp_ref=R.logp_ref - (R.source == 1)[:, None].double())
        again = methods.get("mix_1", variant=variant, kl_coef=0.3, kl="loss_k2").objective(logp, moved).value
        assert loss == again


@pytest.mark.parametrize("place", ["loss_k1", "loss_k2", "loss_k3", "exact"])
@pytest.mark.parametrize(
    "name, scale", [("grpo", "row"), ("dr_grpo", "T"), ("dapo", "batch"), ("gspo", "row")]
)
def test_the_kl_in_the_objective_is_a_mean_like_the_methods_own(name, scale, place):
    """- beta sum of the tokens' terms, each divided as the method divides its tokens."""
    logp, R = ragged(6)
    exact, total = (logp * 1.7) ** 2, 0.0
    for i in range(len(R)):
        T_i = int(R.mask[i].sum())
        for t in range(T_i):
            x = logp[i, t] - R.logp_ref[i, t]
            token = {"loss_k1": x, "loss_k2": x**2 / 2, "loss_k3": (-x).exp() - 1 + x, "exact": exact[i, t]}
            size = {"row": T_i * len(R), "T": 6 * len(R), "batch": int(R.mask.sum())}[scale]
            total += 0.4 * token[place] / size
    found = methods.get(name, kl=place, kl_coef=0.4).objective(logp, R, exact_kl=exact).value
    wanted = written_out(name, logp, R) - total
    assert same(value_and_gradient(found, logp), value_and_gradient(wanted, logp))


# --- bad input --------------------------------------------------------------------------------------


def test_a_method_lists_what_it_knows():
    with pytest.raises(ValueError, match="^method: expected one of reinforce, rloo, grpo.*mix_2, got 'ppo'"):
        methods.get("ppo")
    with pytest.raises(ValueError, match="^grpo: .*clip, kl_coef, kl, mask_truncated, got epsilon"):
        methods.get("grpo", epsilon=0.2)
    with pytest.raises(ValueError, match="^sapo: .*tau_pos, tau_neg.*got clip"):
        methods.get("sapo", clip=(0.2, 0.2))
    assert set(methods.TABLE) == {*OWN, "sft", "dapo_sft", "mix_1", "mix_2"}
    assert methods.options("dr_grpo") == ("clip", "max_length", "kl_coef", "kl", "mask_truncated")


BAD = [
    ("clip", "grpo", {"clip": 0.2}),
    ("clip", "grpo", {"clip": (0.2, 0.2, 0.2)}),
    ("clip", "dapo", {"clip": (-0.1, 0.2)}),
    ("clip", "gspo", {"clip": (0.1, NAN)}),
    ("clip", "mix_1", {"clip": "wide"}),
    ("max_length", "dr_grpo", {"max_length": 0}),
    ("max_length", "dr_grpo", {"max_length": 2.5}),
    ("tau_pos", "sapo", {"tau_pos": 0.0}),
    ("tau_neg", "sapo", {"tau_neg": NAN}),
    ("kl_coef", "grpo", {"kl_coef": -0.1}),
    ("kl", "grpo", {"kl": "k3"}),
    ("mask_truncated", "grpo", {"mask_truncated": 1}),
    ("variant", "mix_2", {"variant": "right"}),
    ("shape_gamma", "mix_1", {"shape_gamma": 0.0}),
]


@pytest.mark.parametrize("argument, name, options", BAD)
def test_bad_options_are_named(argument, name, options):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        methods.get(name, **options)


def test_bad_batches_are_named():
    logp, R = ragged(15, guides=1)
    without = dataclasses.replace(R, logp_ref=None, logp_guide=None)
    k3, exact = (methods.get("grpo", kl=place, kl_coef=0.1) for place in ("loss_k3", "exact"))
    for argument, call in [
        ("logp", lambda: methods.get("grpo").objective(logp[:, :2], R)),
        ("logp_ref", lambda: methods.get("grpo", kl_coef=0.1).objective(logp, without)),
        ("logp_ref", lambda: k3.objective(logp, without)),
        ("logp_guide", lambda: methods.get("mix_1").objective(logp, without)),
        ("logp_guide", lambda: methods.get("mix_2", variant="corrected").objective(logp, without)),
        ("exact_kl", lambda: exact.objective(logp, R)),
        ("exact_kl", lambda: exact.objective(logp, R, exact_kl=logp[:2])),
        ("advantages", lambda: methods.get("grpo").objective(logp, R, R.rewards)),
        ("advantages", lambda: methods.get("mix_1").objective(logp, R, [R.rewards])),
        ("rewards", lambda: methods.get("grpo").objective(logp, dataclasses.replace(R, rewards=R.group))),
    ]:
        with pytest.raises(ValueError, match=f"^{argument}: "):
            call()
    assert kl.PLACES == ("reward_k1", "loss_k1", "loss_k2", "loss_k3", "exact")
