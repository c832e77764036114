"""Errata of chapter 5 that no other test holds; notebook B_errata lists them all with their tests."""

from itertools import product
from math import asin, comb, erf, log, sqrt

import numpy as np
import pytest
import torch

from rlbook.llm import advantages, gates, methods, ratios
from rlbook.llm.worlds import TokenWorld, fifteen
from rlbook.td import returns_to_go

PAIR = TokenWorld.one_choice([1, 1])  # a right and a wrong answer of one token
THREE = TokenWorld.one_choice([10, 100, 10])  # short and wrong, long and wrong, short and right
THIRD = THREE.logits_of([0.45, 0.45, 0.1])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def moments(p, x):
    return (p @ x).item(), (p @ x**2 - (p @ x) ** 2).item()


@pytest.mark.parametrize("T", [1, 4, 10])
def test_erratum_93_the_variance_of_one_token_ratio_does_not_depend_on_the_length(T):
    """Coin .5 to .9, T tokens: a ratio is 1.8 or .2, variance .64; the product's is 1.64^T - 1.

    The geometric mean has E s = ((1.8^(1/T) + .2^(1/T)) / 2)^T: a small variance around the wrong mean.
    """
    world = TokenWorld(2, T)
    old = torch.tensor([0.0, 0.0, -80.0], dtype=torch.float64).expand(
        world.table
    )  # the end token never comes
    new = torch.tensor([log(0.9), log(0.1), -80.0], dtype=torch.float64).expand(world.table)
    p, logs = world.probs(old), (world.log_probs(new), world.log_probs(old), world.mask)
    token = ratios.token_ratio(*logs)
    for t in range(T):
        assert moments(p, token[:, t]) == pytest.approx((1, 0.64), abs=1e-12)
    assert moments(p, ratios.product_ratio(*logs)[:, 0]) == pytest.approx((1, 1.64**T - 1), rel=1e-10)
    want = ((1.8 ** (1 / T) + 0.2 ** (1 / T)) / 2) ** T
    assert moments(p, ratios.sequence_ratio(*logs)[:, 0])[0] == pytest.approx(want, abs=1e-12)
    assert T == 1 or want < 0.85


@pytest.mark.parametrize(
    "p, at_8, at_64, limit",
    [(0.5, 1.856, 1.984, 2.0), (0.1, 2.328, 3.255, 10 / 3), (0.01, 2.609, 6.736, 10.05)],
)
def test_erratum_91_a_larger_group_weighs_hard_prompts_more(p, at_8, at_64, limit):
    """The gradient of p times c_G(p) (recorded), below its limit 1 / sqrt(p (1 - p)) and sqrt(G - 1)."""
    logits, rewards = PAIR.logits_of([p, 1 - p]), [1.0, 0.0]
    for G, recorded in ((8, at_8), (64, at_64)):
        found = PAIR.expected_group_gradient(methods.get("grpo"), logits, logits, rewards, G)
        c = (found / PAIR.gradient(logits, rewards))[0, 0].item()
        assert c == pytest.approx(recorded, abs=6e-4)
        assert c < sqrt(G - 1) + 1e-9
    assert 1 / sqrt(p * (1 - p)) == pytest.approx(limit, abs=6e-4)
    assert at_8 < at_64 < limit


def push_apart(gradient):
    """How much harder the short wrong answer is pushed than the long one: the difference of their logits."""
    return (gradient[0, 0] - gradient[0, 1]).item()


def token_mean_by_hand(groups):
    """`groups` groups of two in one batch: a mixed pair among the tokens of the other rows, which number
    10 each and 90 more where the answer is long (probability .45)."""
    others = 2 * groups - 2
    law = [(k, comb(others, k) * 0.45**k * 0.55 ** (others - k)) for k in range(others + 1)]
    rest = [(10 * others + 90 * k, chance) for k, chance in law]
    return groups * 0.09 * sum(chance * (1 / (110 + n) - 1 / (20 + n)) for n, chance in rest)


def test_erratum_102_the_token_mean_keeps_a_length_bias_in_a_small_batch():
    """One group of two: -.09 / 20 + .09 / 110 = -.00368, GRPO -.09 / 20 + .09 / 200 = -.00405, Dr. GRPO 0."""
    want = {"grpo": -0.00405, "dapo": -0.09 / 20 + 0.09 / 110, "dr_grpo": 0.0}
    for name, apart in want.items():
        found = THREE.expected_group_gradient(methods.get(name), THIRD, THIRD, [0, 0, 1], 2)
        assert push_apart(found) == pytest.approx(apart, abs=2e-10)  # eps inside the root
    assert token_mean_by_hand(1) == pytest.approx(want["dapo"], abs=1e-15)


def test_erratum_102_the_bias_of_the_token_mean_falls_with_the_batch():
    """Two groups share one N_tok: all 81 batches. Per unit of step it tends to 90 / 101 over the groups."""
    p, total = THREE.probs(THIRD), torch.zeros(THREE.table, dtype=torch.float64)
    for index in product(range(3), repeat=4):
        rows = torch.tensor(index)
        rollouts = THREE.rollouts(rows, [0, 0, 1, 1], [0, 0, 1], THIRD)
        table = THIRD.clone().requires_grad_()
        value = methods.get("dapo").objective(THREE.log_probs(table)[rows], rollouts).value
        total += p[rows].prod() * torch.autograd.grad(value, table)[0]
    assert push_apart(total) == pytest.approx(token_mean_by_hand(2), abs=1e-10)
    step = 0.09 / 2 / 50.5  # of a mixed pair, were N_tok constant: mean length .55 x 10 + .45 x 100
    relative = {groups: -token_mean_by_hand(groups) / step for groups in (1, 8, 64)}
    assert 4.1 < relative[1] < 4.2 and 0.14 < relative[8] < 0.15
    assert 64 * relative[64] == pytest.approx(90 / 101, rel=0.04)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo", "gspo", "sapo"])
def test_erratum_102_a_dead_group_still_pays_for_the_kl(name):
    """Two right answers, pi = .5, ref = .8, beta = .4: -.4 / 2 log(.5 / .8) on each log-probability."""
    rows, ref = [0, 0], PAIR.logits_of([0.8, 0.2])
    rollouts = PAIR.rollouts(rows, [0, 0], [1, 0], PAIR.logits_of([0.5, 0.5]), ref)
    for beta, want in ((0.4, -0.2 * log(0.5 / 0.8)), (0.0, 0.0)):
        logp = rollouts.logp_old.clone().requires_grad_()
        method = methods.get(name, kl_coef=beta, kl="loss_k2")
        (found,) = torch.autograd.grad(method.objective(logp, rollouts).value, logp)
        np.testing.assert_allclose(found, [[want]] * 2, rtol=0, atol=1e-15)


def outside(mean, std, low, high):
    """P(exp of a normal variable lies outside [1 - low, 1 + high])."""

    def below(x):
        return (1 + erf((log(x) - mean) / std / sqrt(2))) / 2

    return below(1 - low) + 1 - below(1 + high)


def test_erratum_109_one_clip_range_cannot_serve_tokens_and_sequences():
    """Log-ratios N(-.005, .1^2), so that E r = 1; T = 1000. A band of .2 holds all but 4.5 % of the tokens
    and every sequence; one of 4e-4 holds 3 % of the sequences."""
    noise = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    old = torch.zeros_like(noise)
    logs = (0.1 * noise - 0.005, old, torch.ones_like(noise))
    token, sequence = ratios.token_ratio(*logs), ratios.sequence_ratio(*logs)
    for ratio, std, band, recorded in (
        (token, 0.1, 0.2, 0.045),
        (sequence, 0.1 / sqrt(1000), 0.2, 0.0),
        (sequence, 0.1 / sqrt(1000), 4e-4, 0.97),
    ):
        want = outside(-0.005, std, band, band)
        assert want == pytest.approx(recorded, abs=2e-3)
        found = gates.plain_clip_binds(ratio, 1.0, band, band).double()
        assert found.mean().item() == pytest.approx(
            want, abs=4 * sqrt(want * (1 - want) / found.numel()) + 1e-9
        )


@pytest.mark.parametrize("G", [2, 3])
def test_erratum_106_a_group_compares_to_zero_under_any_policy(G):
    """Advantages of a group average 0 whoever sampled it; A = R - J(old), held fixed, gives the gain."""
    world, old, _, new, rewards = fifteen()
    for table in (old, new):
        index, weight = world.groups(table, G)
        group = torch.arange(len(index)).repeat_interleave(G)
        rollouts = world.rollouts(index.flatten(), group, rewards, table)
        (A,) = methods.get("gspo").advantages(rollouts)
        assert (weight @ A.reshape(-1, G).mean(1)).item() == pytest.approx(0, abs=1e-14)
        assert (weight @ A.reshape(-1, G).abs().mean(1)).item() > 0.5
    w = ratios.product_ratio(world.log_probs(new), world.log_probs(old), world.mask)[:, 0]
    J_old, J_new = (world.performance(table, rewards).item() for table in (old, new))
    assert (world.probs(old) @ (w * (rewards - J_old))).item() == pytest.approx(J_new - J_old, abs=1e-14)
    assert abs(J_new - J_old) > 0.1


def test_erratum_119_the_value_on_policy_is_not_zero():
    """A right and a wrong answer, A = 1 and -1: 1 / tau_pos - 1 / tau_neg = 1 - 1 / 1.05; GRPO has 0."""
    rollouts = PAIR.rollouts([0, 1], [0, 0], [1, 0], PAIR.logits_of([0.5, 0.5]))
    value = {
        name: methods.get(name).objective(rollouts.logp_old, rollouts).value for name in ("sapo", "grpo")
    }
    assert value["sapo"].item() == pytest.approx(1 - 1 / 1.05, abs=1e-7)
    assert value["grpo"].item() == pytest.approx(0.0, abs=1e-15)


def test_erratum_120_the_printed_gate_is_zero_where_the_gate_is_one():
    """sech^2(tau (r - 1) / 2), not tau (r - 1): 1 at r = 1; for tau = 1 and r < 1 never below .786."""
    r, one = (
        torch.linspace(0, 1, 11, dtype=torch.float64).requires_grad_(),
        torch.ones(1, dtype=torch.float64),
    )
    (gate,) = torch.autograd.grad(gates.soft_gate(r, one, tau_pos=1.0).sum(), r)
    printed = (r - 1).detach().numpy()
    np.testing.assert_allclose(gate, 1 / np.cosh(printed / 2) ** 2, rtol=0, atol=1e-15)
    assert gate[-1].item() == 1.0 and printed[-1].item() == 0.0 and (printed[:-1] < 0).all()
    assert gate.min().item() == pytest.approx(0.7864, abs=5e-5)


def test_erratum_108_eps_outside_the_root_leaves_half_of_a_tiny_gap():
    """Rewards (.5, .5001), eps = 1e-4: outside the root .00005 / .00015 = .333; inside, as printed, .0050."""
    half = 0.00005
    assert half / (half + 1e-4) == pytest.approx(0.333, abs=5e-4)
    inside = advantages.z_score(torch.tensor([0.5, 0.5001], dtype=torch.float64), torch.zeros(2), eps=1e-4)
    assert inside[1].item() == pytest.approx(0.0050, abs=5e-5)


def test_erratum_91_the_limit_weight_is_the_slope_of_two_arcsin_root_p():
    """Large groups climb 2 arcsin sqrt(p) in the place of p: slope 1 / sqrt(p (1 - p)), here for G = 256."""
    for p in (0.5, 0.3, 0.1):
        slope = (2 * asin(sqrt(p + 1e-6)) - 2 * asin(sqrt(p - 1e-6))) / 2e-6
        assert slope == pytest.approx(1 / sqrt(p * (1 - p)), abs=1e-6)
        logits = PAIR.logits_of([p, 1 - p])
        found = PAIR.expected_group_gradient(methods.get("grpo"), logits, logits, [1.0, 0.0], 256)
        assert (found / PAIR.gradient(logits, [1.0, 0.0]))[0, 0].item() == pytest.approx(slope, rel=0.02)


def test_erratum_86_the_reward_of_a_response_is_that_of_its_last_token():
    """R at the end, 0 before, gamma = 1: every token has the return R, and (34) is the gradient of J."""
    world, old, _, _, rewards = fifteen()
    T = world.length.tolist()
    returns = torch.zeros(len(T), world.mask.shape[1], dtype=torch.float64)
    for row, reward in enumerate(rewards.tolist()):
        returns[row, : T[row]] = torch.from_numpy(returns_to_go([0.0] * (T[row] - 1) + [reward], 1.0))
        assert (returns[row, : T[row]] == reward).all()
    table = old.clone().requires_grad_()
    value = (world.probs(old)[:, None] * returns * world.log_probs(table)).sum()
    (found,) = torch.autograd.grad(value, table)
    np.testing.assert_allclose(found, world.gradient(old, rewards), rtol=0, atol=1e-14)


def test_erratum_107_the_mean_ratio_may_exceed_one_for_a_longer_policy():
    """Lengths 1, 2, 3 from (.3, .4, .3) to (.33, .31, .36): mean length 2 to 2.03, E[1/T] .6 to .605,
    E s = .33 + sqrt(.4 * .31) + (.3^2 * .36)^(1/3) = 1.0009.
    """
    world = TokenWorld.one_choice([1, 2, 3])
    old, new = (world.logits_of(p) for p in ([0.3, 0.4, 0.3], [0.33, 0.31, 0.36]))
    s = ratios.sequence_ratio(world.log_probs(new), world.log_probs(old), world.mask)[:, 0]
    by_hand = 0.33 + sqrt(0.4 * 0.31) + (0.3**2 * 0.36) ** (1 / 3)
    assert (world.probs(old) @ s).item() == pytest.approx(by_hand, abs=1e-12)
    T = world.length.double()
    (length, inverse), (longer, more) = [
        [(world.probs(x) @ f).item() for f in (T, 1 / T)] for x in (old, new)
    ]
    assert (length, longer) == pytest.approx((2.0, 2.03)) and (inverse, more) == pytest.approx((0.6, 0.605))
    assert 1.0009 < by_hand <= 1 + more - inverse


def test_erratum_118_the_temperature_at_zero_advantage_does_not_matter():
    ratio, zero = torch.tensor([0.5, 1.0, 2.0]), torch.zeros(3)
    assert gates.soft_gate(ratio, zero, 1.0, 2.0).tolist() == [0.0] * 3


def test_erratum_102_dapo_as_published_has_no_kl():
    """(102) subtracts beta KL; the default here is 0, as for every method."""
    assert {name: methods.get(name).kl_coef for name in methods.TABLE} == dict.fromkeys(methods.TABLE, 0.0)
