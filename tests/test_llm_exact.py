"""Chapter 5 in a world of 15 sequences, where the expectation of any objective is a sum.

"Recorded" numbers come from an independent computation in the same world (torch.manual_seed(0), see
`worlds.fifteen`); the identities beside them hold in any world and are tested to rounding.
"""

from functools import partial
from math import comb, sqrt

import numpy as np
import pytest
import torch

from rlbook.llm import advantages, aggregate, gates, kl, methods, ratios
from rlbook.llm.worlds import TokenWorld, fifteen

W, OLD, REF, NEW, R = fifteen()
BINARY = (R > 0).double()
WIDE = (1.0, 1e9)  # a clip range that never binds
T = W.length.double()
GRAD_J = W.gradient(OLD, R)


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small lose time on a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def expected(name, logits=OLD, rewards=R, G=2, ref=None, **options):
    """The expected gradient of a method, groups drawn from OLD."""
    method = methods.get(name, **options) if isinstance(name, str) else name
    return W.expected_group_gradient(method, logits, OLD, rewards, G, ref)


def slope(function, logits=OLD):
    """The gradient of function(logits)."""
    table = logits.clone().requires_grad_()
    return torch.autograd.grad(function(table), table)[0]


def cosine(a, b):
    return ((a * b).sum() / a.norm() / b.norm()).item()


def close(found, want, atol=1e-12):
    np.testing.assert_allclose(found.numpy(), want.numpy(), rtol=0, atol=atol)
    assert want.norm() > 1000 * atol  # not a comparison of zeros
    return True


def summed(advantage):
    """A method with this advantage that adds the tokens of a row: no 1 / T_i."""
    total = partial(aggregate.constant, length=1)
    return methods.Method("summed", (methods.Term(advantage, ratios.token_ratio, gates.none, total),))


# --- what the group baseline, the division by std and 1 / T_i do ------------------------------------


@pytest.mark.parametrize("G", [2, 3, 4])
def test_dr_grpo_is_one_minus_one_over_g_times_the_gradient_over_t_max(G):
    """(98), (100): the baseline holds the row's own reward, so 1 - 1/G of the gradient is left."""
    assert close(expected("dr_grpo", G=G), (1 - 1 / G) / 3 * GRAD_J)
    assert close(expected("dr_grpo", G=G, max_length=50), (1 - 1 / G) / 50 * GRAD_J)


@pytest.mark.parametrize("G", [2, 3, 4])
def test_leaving_one_out_gives_the_gradient_of_j(G):
    """Also off-policy, unclipped: the product ratio is an importance weight, the baseline drops out."""
    assert close(expected("rloo", G=G), GRAD_J)
    assert close(expected("rloo", NEW, G=G, clip=WIDE), W.gradient(NEW, R))
    assert close(expected(summed(advantages.leave_one_out), G=G), GRAD_J)


def test_reinforce_gives_the_gradient_of_j_on_and_off_policy():
    assert close(expected("reinforce", G=1), GRAD_J)
    assert close(expected("reinforce", NEW, G=2), W.gradient(NEW, R))


def c(G, p):
    """c_G(p): the mean z-score of a right row minus a wrong one's, by the binomial law of the others."""

    def law(k):
        return comb(G - 1, k) * p**k * (1 - p) ** (G - 1 - k)

    right = sum(law(k - 1) * sqrt((G - k) / k) for k in range(1, G + 1))
    wrong = sum(law(k) * sqrt(k / (G - k)) for k in range(G))
    return right + wrong


@pytest.mark.parametrize("G, recorded", [(2, 1.0), (3, 1.41421), (4, 1.61608)])
def test_the_z_score_of_a_binary_reward_scales_the_gradient_by_c(G, recorded):
    """Two answers, p = .48914: E = c_G(p) dp. The formula and the recorded number agree."""
    world = TokenWorld.one_choice([1, 1])
    logits, rewards = world.logits_of([0.48914, 1 - 0.48914]), [1.0, 0.0]
    found = world.expected_group_gradient(methods.get("grpo"), logits, logits, rewards, G)
    ratio = found / world.gradient(logits, rewards)
    np.testing.assert_allclose(ratio, recorded, atol=1e-5)
    assert c(G, 0.48914) == pytest.approx(recorded, abs=1e-5)


@pytest.mark.parametrize("G", [2, 3, 4])
def test_with_std_and_a_binary_reward_the_direction_is_right_and_the_length_is_c(G):
    """15 sequences, tokens summed: c_G(p) times the gradient of p, for p = P(R > 0)."""
    p = W.performance(OLD, BINARY).item()
    found = expected(summed(partial(advantages.z_score, eps=0.0)), rewards=BINARY, G=G)
    assert close(found, c(G, p) * W.gradient(OLD, BINARY))


@pytest.mark.parametrize("G", [2, 3, 4])
def test_grpo_with_a_binary_reward_is_c_times_a_gradient_weighted_by_one_over_t(G):
    """(97) E = c_G(p) E[(R - p) / T grad log pi(y)]: not the gradient of p, nor parallel to it."""
    p = W.performance(OLD, BINARY)
    frozen = W.probs(OLD) * (BINARY - p) / T
    want = c(G, p.item()) * slope(lambda table: frozen @ W.sequence_log_prob(table))
    found = expected("grpo", rewards=BINARY, G=G)
    assert close(found, want, atol=1e-6)  # eps = 1e-8 inside the root
    assert cosine(found, W.gradient(OLD, BINARY)) < 0.99


def test_grpo_with_graded_rewards_is_not_parallel_to_the_gradient():
    """Recorded: cosine .963 with 1 / T_i and std, .998 at G = 4 with std only, 1 with neither."""
    assert cosine(expected("grpo", G=3), GRAD_J) == pytest.approx(0.963, abs=1e-3)
    assert cosine(expected(summed(advantages.z_score), G=4), GRAD_J) == pytest.approx(0.998, abs=5e-4)
    assert cosine(expected(summed(advantages.centred), G=4), GRAD_J) == pytest.approx(1, abs=1e-12)


# --- every method against its definition, off-policy ------------------------------------------------


def clipped(ratio, A, low, high):
    """min(r A, clip(r) A), spelled out by the sign of A."""
    up = torch.where(ratio > 1 + high, torch.full_like(ratio, 1 + high), ratio)
    down = torch.where(ratio < 1 - low, torch.full_like(ratio, 1 - low), ratio)
    return torch.where(A > 0, A * up, A * down)


def pairs(method, table):
    """The expected objective of groups of two, all 225 ordered pairs, as the book writes it."""
    p, mask, gap = W.probs(OLD), W.mask[:, None], (R[:, None] - R[None, :]) / 2
    z = (gap / (gap**2 + 1e-8).sqrt())[:, :, None]
    logs = (W.log_probs(table) - W.log_probs(OLD))[:, None]
    ratio = logs.exp()
    mean_ratio = (logs.sum(-1, keepdim=True) / T[:, None, None]).exp()
    soft = torch.where(z > 0, 4 * torch.sigmoid(ratio - 1), 4 / 1.05 * torch.sigmoid(1.05 * (ratio - 1)))
    own, both = T[:, None, None], 0.5 * (T[:, None] + T[None, :])[:, :, None]
    x = {
        "grpo": lambda: clipped(ratio, z, 0.2, 0.2) / own,
        "dr_grpo": lambda: clipped(ratio, gap[:, :, None], 0.2, 0.2) / 3,
        "dapo": lambda: clipped(ratio, z, 0.2, 0.28) / both,
        "gspo": lambda: clipped(mean_ratio, z, 0.1, 0.15).expand(15, 15, 3) / own,
        "sapo": lambda: soft * z / own,
    }[method]()
    return torch.einsum("i,j,ijt->", p, p, torch.where(mask, x, 0.0))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "sapo"])
def test_methods_off_policy_against_all_ordered_pairs(name):
    """(97), (99)-(102), (109)-(112), (119), (122) as the mean over all pairs of responses, by autograd."""
    options = {"clip": (0.1, 0.15)} if name == "gspo" else {}
    want = slope(lambda table: pairs(name, table), NEW)
    assert close(expected(name, NEW, **options), want)
    assert (want - slope(lambda table: pairs(name, table), OLD)).norm() > 0.01  # the ratios matter here


@pytest.mark.parametrize(
    "name, options",
    [
        ("grpo", {}),
        ("dr_grpo", {}),
        ("dapo", {}),
        ("gspo", {}),
        ("sapo", {}),
        ("rloo", {}),
        ("reinforce", {}),
        ("dapo", {"kl_coef": 0.3, "kl": "loss_k3"}),
        ("grpo", {"kl_coef": 0.3, "kl": "loss_k2"}),
        ("dapo", {"kl_coef": 0.3, "kl": "reward_k1"}),
        ("dapo", {"mask_truncated": True}),
        ("grpo", {"mask_truncated": True}),
    ],
)
def test_groups_in_one_batch_and_one_by_one_agree(name, options):
    """The shortcut of `expected_group_gradient`: one batch of the groups that divide by the same numbers."""
    world, method = TokenWorld(2, 2), methods.get(name, **options)
    old, new, ref = 0.5 * torch.randn(3, *world.table, generator=torch.Generator().manual_seed(1)).double()
    rewards = torch.tensor([0.3, -1.0, 0.5, 2.0, 0.0, 0.5, 1.0])
    batched = world.expected_group_gradient(method, new, old, rewards, 3, ref)
    alone = world.expected_group_gradient(method, new, old, rewards, 3, ref, one_by_one=True)
    assert close(batched, alone, atol=1e-13)


# --- GSPO and SAPO ----------------------------------------------------------------------------------


@pytest.mark.parametrize("G", [2, 3, 4])
def test_gspo_equals_grpo_on_policy(G):
    """(110), (112) at theta = theta_old: the same gradient, 1 / |y| included. Off-policy they differ."""
    assert close(expected("gspo", G=G), expected("grpo", G=G), atol=1e-15)
    if G == 2:
        far = expected("gspo", NEW, clip=WIDE) - expected("grpo", NEW, clip=WIDE)
        assert far.norm() > 0.005


def test_sapo_equals_grpo_on_policy():
    """(117)-(119): f'(1) = 1 for every tau."""
    assert close(expected("sapo", G=3), expected("grpo", G=3))
    assert close(expected("sapo", G=3, tau_pos=2.0, tau_neg=5.0), expected("grpo", G=3))


def test_the_geometric_mean_ratio_is_no_importance_weight():
    """(93), (106), (107) recorded: E_old[s] = .945, E_old[w R] = J(new) = -.1574, E_old[s R] = -.1986."""
    p = W.probs(OLD)
    logs = W.log_probs(NEW), W.log_probs(OLD), W.mask
    s, w = ratios.sequence_ratio(*logs)[:, 0], ratios.product_ratio(*logs)[:, 0]
    mean = torch.where(W.mask, ratios.token_ratio(*logs), 0.0).sum(1) / T
    assert (p @ w).item() == pytest.approx(1, abs=1e-14)
    assert (p @ s).item() == pytest.approx(0.945, abs=5e-4)
    assert (p @ mean).item() == pytest.approx(0.957, abs=5e-4)
    assert (p @ (w * R)).item() == pytest.approx(W.performance(NEW, R).item(), abs=1e-14)
    assert (p @ (s * R)).item() == pytest.approx(-0.1986, abs=5e-5)
    assert (p @ (mean * R)).item() == pytest.approx(-0.1984, abs=5e-5)


@pytest.mark.parametrize("end, recorded, bound", [(1.5, 1.159, 1.234), (-1.5, 0.756, None)])
def test_the_mean_of_the_sequence_ratio_follows_the_change_in_length(end, recorded, bound):
    """E_old[s] <= 1 + E_new[1/T] - E_old[1/T] (AM-GM): above 1 only if E[1/T] grows."""
    new = OLD + torch.tensor([0.0, 0.0, end])
    s = ratios.sequence_ratio(W.log_probs(new), W.log_probs(OLD), W.mask)[:, 0]
    mean = (W.probs(OLD) @ s).item()
    limit = (1 + W.probs(new) @ (1 / T) - W.probs(OLD) @ (1 / T)).item()
    assert mean == pytest.approx(recorded, abs=5e-4)
    assert mean <= limit
    assert bound is None or limit == pytest.approx(bound, abs=5e-4)


def test_the_am_gm_bound_holds_for_random_policies():
    generator = torch.Generator().manual_seed(2)
    for scale in (0.1, 1.0, 3.0) * 30:
        old, new = scale * torch.randn(2, 7, 3, dtype=torch.float64, generator=generator)
        s = ratios.sequence_ratio(W.log_probs(new), W.log_probs(old), W.mask)[:, 0]
        assert W.probs(old) @ s <= 1 + (W.probs(new) - W.probs(old)) @ (1 / T) + 1e-12


@pytest.mark.parametrize(
    "tau, peak, at", [(1.0, 1.5747, 2.060), (1.05, 1.5363, 1.992), (2.0, 1.1985, 1.380), (5.0, 1.038, 1.075)]
)
def test_the_weight_of_sapo_peaks_above_one(tau, peak, at):
    """(120)-(122) the weight on grad log pi is r g(r), not g(r): groups of a right and a wrong answer."""
    world = TokenWorld.one_choice([1, 1])
    r = torch.linspace(0.5, 4.0, 3501, dtype=torch.float64)
    index, group = torch.tensor([0, 1]).repeat(len(r)), torch.arange(len(r)).repeat_interleave(2)
    rollouts = world.rollouts(index, group, [1.0, 0.0], world.logits_of([0.5, 0.5]))
    logp = (rollouts.logp_old + r.log().repeat_interleave(2)[:, None]).requires_grad_()
    objective = methods.get("sapo", tau_pos=tau, tau_neg=tau).objective(logp, rollouts)
    (found,) = torch.autograd.grad(objective.value * len(logp), logp)
    for weight in (found[::2, 0], -found[1::2, 0]):
        assert weight.max().item() == pytest.approx(peak, abs=6e-5 if tau < 5 else 6e-4)
        assert r[weight.argmax()].item() == pytest.approx(at, abs=1.1e-3)
    if tau == 1:  # below 1 the gate hardly falls: the decay is the factor r, .5 sech^2(.25)
        assert found[0, 0].item() == pytest.approx(0.470, abs=5e-4)


def test_summed_token_ratios_are_right_to_first_order_only():
    """Raw rewards, no clip: the gradient on-policy; at the new policy .13 off (recorded), cosine .994."""
    found, want = expected(summed(advantages.raw), NEW, G=1), W.gradient(NEW, R)
    assert close(expected(summed(advantages.raw), G=1), GRAD_J)
    assert ((found - want).norm() / want.norm()).item() == pytest.approx(0.13, abs=5e-3)
    assert cosine(found, want) == pytest.approx(0.994, abs=5e-4)


# --- KL penalties: (87), (97) -----------------------------------------------------------------------

GRAD_KL = slope(lambda table: W.kl(table, REF))
ZERO = torch.zeros(15)


def in_the_loss(estimator, logits=OLD, level="token"):
    """E over y ~ OLD of the gradient of an estimate, tokens summed or applied to whole sequences."""
    p, ref = W.probs(OLD), W.log_probs(REF)

    def total(table):
        logp = W.log_probs(table)
        if level == "sequence":
            return p @ estimator(logp.sum(1), ref.sum(1))
        return p @ torch.where(W.mask, estimator(logp, ref), 0.0).sum(1)

    return slope(total, logits)


def penalty(name, method="dr_grpo", **options):
    """Minus the expected gradient of a method without rewards, kl_coef = 1, G = 1: its penalty."""
    return -expected(method, rewards=ZERO, G=1, ref=REF, kl_coef=1.0, kl=name, **options)


def test_k1_and_k3_estimate_the_kl_and_their_variances_differ():
    """As values, over whole sequences: mean .347418, variance .676 and .283 (recorded)."""
    p, (logp, ref) = W.probs(OLD), (W.sequence_log_prob(OLD), W.sequence_log_prob(REF))
    for k, variance in ((kl.k1(logp, ref), 0.676), (kl.k3(logp, ref), 0.283)):
        assert (p @ k).item() == pytest.approx(W.kl(OLD, REF).item(), abs=1e-14)
        assert (p @ k**2 - (p @ k) ** 2).item() == pytest.approx(variance, abs=5e-4)
    tokens = torch.where(W.mask, kl.k3(W.log_probs(OLD), W.log_probs(REF)), 0.0).sum(1)
    assert (p @ tokens).item() == pytest.approx(0.347418, abs=5e-7)


def test_k1_in_the_loss_has_no_gradient_at_all():
    """E grad log pi = 0: recorded |grad KL| = .273 is what should be there."""
    assert penalty("loss_k1", max_length=1).norm() < 1e-15
    assert in_the_loss(kl.k1, level="sequence").norm() < 1e-15
    assert GRAD_KL.norm().item() == pytest.approx(0.273, abs=5e-4)


def test_k2_of_the_sequence_has_the_gradient_of_the_kl():
    assert close(in_the_loss(kl.k2, level="sequence"), GRAD_KL, atol=1e-14)


def test_k3_of_the_sequence_has_the_gradient_of_the_reverse_kl():
    reverse = slope(lambda table: W.kl(REF, table))
    assert close(in_the_loss(kl.k3, level="sequence"), reverse, atol=1e-14)
    assert cosine(reverse, GRAD_KL) == pytest.approx(0.755, abs=5e-4)  # recorded


def visits():
    """P(prefix) under OLD, (7,)."""
    chosen = W.prefix >= 0
    mass = torch.zeros(7, dtype=torch.float64)
    return mass.index_add_(0, W.prefix[chosen], W.probs(OLD)[:, None].expand_as(chosen)[chosen])


def test_k2_and_k3_of_tokens_forget_that_prefixes_change():
    """Summed over tokens they are per-prefix KL(pi || ref), KL(ref || pi), visits held fixed."""
    d, ref = visits(), REF.log_softmax(1)
    k2, k3 = (penalty(name, max_length=1) for name in ("loss_k2", "loss_k3"))
    assert close(k2, slope(lambda table: d @ kl.exact(table.log_softmax(1), ref)), atol=1e-14)
    assert close(k3, slope(lambda table: d @ kl.exact(ref, table.log_softmax(1))), atol=1e-14)
    assert close(k2, in_the_loss(kl.k2), atol=1e-14) and close(k3, in_the_loss(kl.k3), atol=1e-14)
    assert cosine(k2, GRAD_KL) == pytest.approx(0.764, abs=5e-4)  # recorded, as the next two
    assert ((k2 - GRAD_KL).norm() / GRAD_KL.norm()).item() == pytest.approx(0.645, abs=5e-4)
    assert cosine(k3, GRAD_KL) == pytest.approx(0.720, abs=5e-4)


def test_exact_kl_per_prefix_sums_to_the_kl_of_sequences():
    per_prefix = kl.exact(OLD.log_softmax(1), REF.log_softmax(1))
    assert (visits() @ per_prefix).item() == pytest.approx(W.kl(OLD, REF).item(), abs=1e-14)


@pytest.mark.parametrize("G", [2, 3])
def test_k1_in_the_reward_gives_the_gradient_of_the_regularised_objective(G):
    """(87), (89): leave-one-out is exact, Dr. GRPO times its own factor."""
    want = GRAD_J - 0.5 * GRAD_KL
    options = {"kl_coef": 0.5, "kl": "reward_k1", "ref": REF, "G": G}
    assert close(expected("rloo", **options), want)
    assert close(expected("dr_grpo", max_length=1, **options), (1 - 1 / G) * want)


def test_off_policy_k1_moves_away_from_the_old_samples_and_weighted_k1_is_exact():
    """E_old grad k1 = -grad KL(old || new), no reference in it; E_old[w k1] has grad KL(new || ref)."""
    away = slope(lambda table: -W.kl(OLD, table), NEW)
    assert close(in_the_loss(kl.k1, NEW, "sequence"), away, atol=1e-14)

    def weighted(table):
        w = ratios.product_ratio(W.log_probs(table), W.log_probs(OLD), W.mask)[:, 0]
        return W.probs(OLD) @ (w * kl.k1(W.sequence_log_prob(table), W.sequence_log_prob(REF)))

    assert close(slope(weighted, NEW), slope(lambda table: W.kl(table, REF), NEW), atol=1e-14)


def test_token_mean_k1_in_the_loss_lengthens_completions():
    """It descends E[1/T], whatever the reference: in 200 steps E[T] 2.079 -> 2.967, KL .347 -> 1.578."""
    k1 = penalty("loss_k1", method="grpo")
    assert close(k1, slope(lambda table: W.performance(table, 1 / T)), atol=1e-14)
    method, table = methods.get("grpo", kl_coef=1.0, kl="loss_k1"), OLD
    for _ in range(200):
        table = table + W.expected_group_gradient(method, table, table, ZERO, 1, REF)
    assert W.performance(OLD, T).item() == pytest.approx(2.079, abs=5e-4)
    assert W.performance(table, T).item() == pytest.approx(2.967, abs=5e-4)
    assert W.kl(table, REF).item() == pytest.approx(1.578, abs=5e-4)


def test_sequence_k2_in_the_loss_reaches_the_reference():
    """The same 200 steps end at KL .0019."""
    table, ref = OLD, W.sequence_log_prob(REF)
    for _ in range(200):
        p = W.probs(table)
        table = table - slope(lambda new, p=p: p @ kl.k2(W.sequence_log_prob(new), ref), table)
    assert W.kl(table, REF).item() == pytest.approx(0.0019, abs=5e-5)


# --- dynamic sampling and length --------------------------------------------------------------------


def gradient_of(world, method, logits, index, rewards):
    """The gradient of one group."""
    rollouts = world.rollouts(index, torch.zeros(len(index)), rewards, logits)
    return slope(lambda table: method.objective(world.log_probs(table)[index], rollouts).value, logits)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_redrawing_prompts_keeps_the_direction_redrawing_responses_does_not(name):
    """Two prompts, p = (.5, .05), G = 4; the law of what is kept, written out over all groups.

    A mixed group is kept. Redrawing the prompt divides each prompt's gradient by Z = mean P(mixed):
    1.886 for both. Redrawing the responses of the same prompt divides by its own P(mixed): 1.143, 5.391.
    """
    world, method, rewards, rho = TokenWorld.one_choice([1, 1]), methods.get(name), [1.0, 0.0], 0.5
    plain, mixed, kept = [], [], []
    for p in (0.5, 0.05):
        logits = world.logits_of([p, 1 - p])
        plain.append(rho * world.expected_group_gradient(method, logits, logits, rewards, 4)[0, 0])
        total = p_mixed = 0.0
        for index, weight in zip(*world.groups(logits, 4), strict=True):
            gradient = gradient_of(world, method, logits, index, rewards)
            if len(set(index.tolist())) == 1:
                assert (gradient == 0).all()  # a dead group moves nothing
            else:
                total, p_mixed = total + weight * gradient[0, 0], p_mixed + weight
        mixed.append(p_mixed.item())
        kept.append(rho * total)
        assert p_mixed.item() == pytest.approx(1 - p**4 - (1 - p) ** 4, abs=1e-14)
    redraw_prompt = [k / (rho * sum(mixed)) for k in kept]
    redraw_responses = [k / m for k, m in zip(kept, mixed, strict=True)]
    ratio = [
        [(k / g).item() for k, g in zip(x, plain, strict=True)] for x in (redraw_prompt, redraw_responses)
    ]
    assert ratio[0] == pytest.approx([1.886, 1.886], abs=5e-4)
    assert ratio[1] == pytest.approx([1.143, 5.391], abs=5e-4)


def test_the_token_mean_is_a_biased_ratio_without_a_baseline():
    """(102)-style mean, both rewards 1, lengths 1 and 10: true gradient 0, found .1125; per row it is 0.

    By hand, N = 2: (1/4) grad short + (1/4) grad long / 10, and nothing from the mixed pair.
    """
    world = TokenWorld.one_choice([1, 10])
    logits = world.logits_of([0.5, 0.5])
    term = methods.Term(advantages.raw, ratios.token_ratio, gates.none, aggregate.token_mean)
    per_token = methods.Method("per token", (term,))
    found = world.expected_group_gradient(per_token, logits, logits, [1.0, 1.0], 2)
    np.testing.assert_allclose(found, [[0.1125, -0.1125]], atol=1e-15)
    per_row = world.expected_group_gradient(methods.get("reinforce"), logits, logits, [1.0, 1.0], 2)
    np.testing.assert_allclose(per_row, [[0.0, 0.0]], atol=1e-15)


def long_share(p):
    """P(long | wrong) of three answers: short wrong, long wrong, right."""
    return p[1] / (p[0] + p[1])


def closed_form(scale, steps):
    """The updates of GRPO in NumPy: theta += c(p) E[(R - p) / T grad log pi] on three logits."""
    theta, rewards, lengths = np.log([0.45, 0.45, 0.1]), np.array([0, 0, 1.0]), np.array([10, 100, 10.0])
    for _ in range(steps):
        pi = np.exp(theta) / np.exp(theta).sum()
        w = scale(pi[2]) * (rewards - pi[2]) / lengths
        theta = theta + pi * (w - pi @ w)
    return long_share(np.exp(theta))


def test_one_over_t_makes_long_wrong_answers_common():
    """Short-wrong (10 tokens), long-wrong (100), right (10), p = (.45, .45, .1), lr 1, exact updates.

    P(long | wrong) rises from .5 to .833 in 400 updates in the limit of a large group (recorded). In
    groups of two c = 1 and it follows the same closed form. With a constant length it stays at .5.
    """
    world, rewards = TokenWorld.one_choice([10, 100, 10]), [0.0, 0.0, 1.0]
    found = {}
    for name in ("grpo", "dr_grpo"):
        logits = world.logits_of([0.45, 0.45, 0.1])
        for _ in range(100):
            logits = logits + world.expected_group_gradient(methods.get(name), logits, logits, rewards, 2)
        found[name] = long_share(world.probs(logits)).item()
    assert found["grpo"] == pytest.approx(closed_form(lambda p: 1.0, 100), abs=1e-6)
    assert found["grpo"] > 0.6
    assert found["dr_grpo"] == pytest.approx(0.5, abs=1e-12)
    assert closed_form(lambda p: 1 / sqrt(p * (1 - p)), 400) == pytest.approx(0.833, abs=5e-4)


@pytest.mark.parametrize("G", [2, 4])
def test_one_update_of_grpo_pushes_the_short_wrong_answer_ten_times_harder(G):
    """The gradient of (97) on three logits is c_G(p) pi_i (w_i - mean w), w = (R - p) / T."""
    world, rewards = TokenWorld.one_choice([10, 100, 10]), [0.0, 0.0, 1.0]
    logits, pi = world.logits_of([0.45, 0.45, 0.1]), np.array([0.45, 0.45, 0.1])
    w = np.array([-0.1 / 10, -0.1 / 100, 0.9 / 10])
    found = world.expected_group_gradient(methods.get("grpo"), logits, logits, rewards, G)
    np.testing.assert_allclose(found[0], c(G, 0.1) * pi * (w - pi @ w), atol=1e-8)


@pytest.mark.parametrize("name", ["dr_grpo", "grpo", "dapo", "gspo", "sapo"])
def test_every_method_climbs_on_policy(name):
    """30 exact updates, G = 2, step 2: J rises by more than .5 from -.278 (the best reward is 1.19)."""
    method, table = methods.get(name), OLD
    for _ in range(30):
        table = table + 2 * W.expected_group_gradient(method, table, table, R, 2)
    assert W.performance(table, R).item() > W.performance(OLD, R).item() + 0.5
