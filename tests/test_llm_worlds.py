"""Token worlds. The outsiders: sequences listed by itertools, plain Python recursion, sums over ordered
tuples, finite differences, numbers worked out on paper or recorded from an independent computation.
"""

from itertools import product
from math import factorial, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlbook.llm.worlds import TokenWorld, fifteen

EXAMPLE = fifteen()
W = EXAMPLE.world


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small lose time on a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def strings(world):
    """The sequences as tuples, without padding."""
    return [tuple(ids[m].tolist()) for ids, m in zip(world.completion_ids, world.mask, strict=True)]


def tables(world, n=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*world.table, dtype=torch.float64, generator=generator) for _ in range(n)]


# --- the sequences ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab, length", [(1, 1), (1, 4), (1, 900), (2, 1), (2, 3), (3, 2), (2, 5), (5, 3)])
def test_every_completion_is_listed_once(vocab, length):
    """Against itertools: strings of ordinary tokens, ended if shorter than the limit, else truncated."""
    ended = [(*s, vocab) for k in range(length) for s in product(range(vocab), repeat=k)]
    cut = list(product(range(vocab), repeat=length))
    world = TokenWorld(vocab, length)
    assert sorted(strings(world)) == sorted(ended + cut)
    assert {s for s, t in zip(strings(world), world.truncated, strict=True) if t} == set(cut)
    assert world.length.tolist() == [len(s) for s in strings(world)]
    assert world.n_prefixes == len(ended)  # each prefix that may go on may also end
    assert world.table == (len(ended), vocab + 1)


def test_the_world_of_chapter_5_has_15_sequences_and_7_prefixes():
    """By hand: 0 is the empty prefix, 1-2 the prefixes of one token, 3-6 those of two."""
    assert (len(W), W.n_prefixes, W.table) == (15, 7, (7, 3))
    assert int(W.truncated.sum()) == 8
    rows = {s: p[m].tolist() for s, p, m in zip(strings(W), W.prefix, W.mask, strict=True)}
    assert rows[(2,)] == [0]
    assert rows[(1, 2)] == [0, 2]
    assert rows[(0, 1, 2)] == [0, 1, 4]
    assert rows[(1, 0, 1)] == [0, 2, 5]
    assert (W.prefix[~W.mask] == -1).all() and (W.completion_ids[~W.mask] == 2).all()


# --- probabilities ----------------------------------------------------------------------------------


def test_log_probs_are_those_of_a_walk_down_the_tree():
    """Plain Python: at each token one softmax of the row of the prefix; nothing after the end."""
    (logits,) = tables(W)
    order = sorted({s[:k] for s in strings(W) for k in range(len(s))}, key=lambda p: (len(p), p))
    found = W.log_probs(logits)
    for i, s in enumerate(strings(W)):
        want = []
        for k, token in enumerate(s):
            row = logits[order.index(s[:k])].tolist()
            want.append(row[token] - log(sum(np.exp(row))))
        np.testing.assert_allclose(found[i, : len(s)], want, atol=1e-14)
        assert (found[i, len(s) :] == 0).all()
    np.testing.assert_allclose(W.sequence_log_prob(logits), found.sum(1), atol=1e-14)


@pytest.mark.parametrize("vocab, length", [(1, 3), (2, 3), (3, 4)])
def test_probabilities_sum_to_one(vocab, length):
    """(86), (103): over all responses, the end token a factor."""
    world = TokenWorld(vocab, length)
    for logits in tables(world, 5):
        assert world.probs(logits).sum().item() == pytest.approx(1, abs=1e-13)


def test_without_the_end_factor_the_sum_is_231():
    """(86) erratum: a product over ordinary tokens only is no distribution (recorded: 2.312)."""
    ordinary = W.completion_ids < 2
    total = W.log_probs(EXAMPLE.old).where(ordinary, 0.0).sum(1).exp().sum()
    assert total.item() == pytest.approx(2.312, abs=5e-4)


def test_log_probs_pass_gradients():
    """d log pi(y) / d logits of one sequence: one-hot minus softmax on its prefixes, 0 elsewhere."""
    logits = EXAMPLE.old.clone().requires_grad_()
    i = strings(W).index((1, 2))
    (found,) = torch.autograd.grad(W.sequence_log_prob(logits)[i], logits)
    want = torch.zeros(7, 3, dtype=torch.float64)
    for row, token in ((0, 1), (2, 2)):
        want[row] = torch.eye(3)[token] - EXAMPLE.old[row].softmax(0)
    np.testing.assert_allclose(found, want, atol=1e-15)


def test_logits_of_inverts_probs():
    probs = torch.rand(15, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.01
    probs /= probs.sum()
    np.testing.assert_allclose(W.probs(W.logits_of(probs)), probs, atol=1e-15)
    one = TokenWorld.one_choice([10, 100, 10])
    np.testing.assert_allclose(one.logits_of([0.45, 0.45, 0.1]).exp(), [[0.45, 0.45, 0.1]], atol=1e-15)


# --- performance, gradient, KL, optimum -------------------------------------------------------------


def test_performance_is_the_mean_reward():
    """J of the reward "number of tokens" is E[T]: 1 + P(not ended) + P(not ended twice), by hand."""
    p = EXAMPLE.old.softmax(1)
    one = p[0, :2].sum()
    two = p[0, 0] * p[1, :2].sum() + p[0, 1] * p[2, :2].sum()
    want = (1 + one + two).item()
    assert W.performance(EXAMPLE.old, W.length).item() == pytest.approx(want, abs=1e-14)
    assert want == pytest.approx(2.079, abs=5e-4)  # recorded
    assert W.performance(EXAMPLE.new, EXAMPLE.rewards).item() == pytest.approx(-0.1574, abs=5e-5)  # recorded


def test_the_gradient_of_j_against_central_differences():
    found, step = W.gradient(EXAMPLE.old, EXAMPLE.rewards), 1e-5
    for i, j in product(range(7), range(3)):
        move = torch.zeros(7, 3, dtype=torch.float64)
        move[i, j] = step
        up, down = (W.performance(EXAMPLE.old + s * move, EXAMPLE.rewards) for s in (1, -1))
        assert found[i, j].item() == pytest.approx(((up - down) / (2 * step)).item(), abs=1e-9)
    assert found.norm() > 0.1


def test_the_gradient_of_a_one_choice_world_by_hand():
    """pi (R - J): p = (.5, .3, .2), R = (0, 0, 1) gives (-.1, -.06, .16)."""
    world = TokenWorld.one_choice([3, 1, 2])
    logits = world.logits_of([0.5, 0.3, 0.2])
    np.testing.assert_allclose(world.gradient(logits, [0, 0, 1]), [[-0.1, -0.06, 0.16]], atol=1e-15)


def test_a_one_choice_world_forces_all_but_the_first_token():
    world = TokenWorld.one_choice([3, 1, 2])
    logits = world.logits_of([0.5, 0.3, 0.2])
    assert (world.table, world.length.tolist()) == ((1, 3), [3, 1, 2])
    assert world.mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    assert not world.truncated.any()
    want = [[log(0.5), 0, 0], [log(0.3), 0, 0], [log(0.2), 0, 0]]
    np.testing.assert_allclose(world.log_probs(logits), want, atol=1e-15)


def test_kl_by_hand_and_as_recorded():
    """p = (.5, .3, .2) against (.2, .2, .6); the recorded .347418 is KL(old || ref) of the 15 sequences."""
    world = TokenWorld.one_choice([3, 1, 2])
    p, q = world.logits_of([0.5, 0.3, 0.2]), world.logits_of([0.2, 0.2, 0.6])
    want = 0.5 * log(0.5 / 0.2) + 0.3 * log(0.3 / 0.2) + 0.2 * log(0.2 / 0.6)
    back = 0.2 * log(0.2 / 0.5) + 0.2 * log(0.2 / 0.3) + 0.6 * log(0.6 / 0.2)
    assert world.kl(p, q).item() == pytest.approx(want, abs=1e-14)
    assert world.kl(q, p).item() == pytest.approx(back, abs=1e-14)
    assert W.kl(EXAMPLE.old, EXAMPLE.ref).item() == pytest.approx(0.347418, abs=5e-7)


def test_kl_of_sequences_is_the_sum_over_prefixes_weighted_by_visits():
    """The chain rule: sum over prefixes of P(prefix) KL of the next token."""
    p, q = EXAMPLE.old.softmax(1), EXAMPLE.ref.softmax(1)
    visits = torch.ones(7, dtype=torch.float64)
    for row, (parent, token) in {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1), 5: (2, 0), 6: (2, 1)}.items():
        visits[row] = visits[parent] * p[parent, token]
    want = (visits[:, None] * p * (p / q).log()).sum()
    assert W.kl(EXAMPLE.old, EXAMPLE.ref).item() == pytest.approx(want.item(), abs=1e-14)


def test_the_regularised_optimum_attains_its_value_and_no_policy_beats_it():
    """(87) J(pi*) - beta KL(pi* || ref) = beta log Z = .220869 (recorded, beta = .5); its gradient is 0."""
    beta, rewards = 0.5, EXAMPLE.rewards
    probs, value = W.optimal(EXAMPLE.ref, rewards, beta)

    def objective(logits):
        return W.performance(logits, rewards) - beta * W.kl(logits, EXAMPLE.ref)

    best = W.logits_of(probs).requires_grad_()
    (slope,) = torch.autograd.grad(objective(best), best)
    assert value.item() == pytest.approx(0.220869, abs=5e-7)
    assert objective(best).item() == pytest.approx(value.item(), abs=1e-14)
    assert slope.abs().max() < 1e-14
    for move in tables(W, 20):
        assert objective(best.detach() + 0.1 * move) < value
    weights = W.probs(EXAMPLE.ref) * (rewards / beta).exp()
    np.testing.assert_allclose(probs, weights / weights.sum(), atol=1e-15)


def test_the_regularised_optimum_survives_a_small_beta():
    """Rewards / beta far beyond the range of exp: all mass on the best sequence, value near its reward."""
    probs, value = W.optimal(EXAMPLE.ref, EXAMPLE.rewards, 1e-4)
    assert probs[EXAMPLE.rewards.argmax()] == pytest.approx(1)
    assert value.item() == pytest.approx(EXAMPLE.rewards.max().item(), abs=1e-3)


# --- samples and rollouts ---------------------------------------------------------------------------


def test_samples_have_the_right_frequencies_and_repeat_with_the_seed():
    """(88), (113): 20,000 responses, each frequency within 4 standard errors."""
    n = 20_000
    index = W.sample(EXAMPLE.old, n, torch.Generator().manual_seed(3))
    again = W.sample(EXAMPLE.old, n, torch.Generator().manual_seed(3))
    p = W.probs(EXAMPLE.old)
    error = (torch.bincount(index, minlength=15) / n - p) / (p * (1 - p) / n).sqrt()
    assert error.abs().max() < 4
    assert torch.equal(index, again)


def test_rollouts_hold_what_the_world_knows():
    index, group = [14, 0, 7], [1, 1, 4]
    r = W.rollouts(index, group, EXAMPLE.rewards, EXAMPLE.old, ref=EXAMPLE.ref)
    assert r.completion_ids.tolist() == [[1, 1, 1], [2, 2, 2], [0, 1, 1]]
    assert r.mask.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    assert r.truncated.tolist() == [True, False, True]
    assert (r.group.tolist(), r.source.tolist()) == (group, [0, 0, 0])
    assert r.prompt_ids.shape == (3, 1)
    assert torch.equal(r.rewards, EXAMPLE.rewards[index])
    want = W.sequence_log_prob(EXAMPLE.old)[index], W.sequence_log_prob(EXAMPLE.ref)[index]
    np.testing.assert_allclose(r.logp_old.sum(1), want[0], atol=1e-14)
    np.testing.assert_allclose(r.logp_ref.sum(1), want[1], atol=1e-14)
    assert r.logp_guide is None and not r.logp_old.requires_grad


def test_rollouts_of_a_guide():
    r = W.rollouts([0, 1], [0, 0], EXAMPLE.rewards, EXAMPLE.old, guide=EXAMPLE.ref, source=[0, 1])
    assert r.source.tolist() == [0, 1]
    want = W.sequence_log_prob(EXAMPLE.ref)[:2]
    np.testing.assert_allclose(r.logp_guide.sum(1), want, atol=1e-14)


# --- expectations over groups -----------------------------------------------------------------------


@pytest.mark.parametrize("G", [1, 2, 3])
def test_groups_weigh_as_all_ordered_draws_do(G):
    """(94): against the N^G ordered tuples, collected by their sorted content."""
    p, want = W.probs(EXAMPLE.old), {}
    for draw in product(range(15), repeat=G):
        key = tuple(sorted(draw))
        want[key] = want.get(key, 0) + np.prod([p[i] for i in draw])
    index, weight = W.groups(EXAMPLE.old, G)
    assert [tuple(i) for i in index.tolist()] == sorted(want)
    np.testing.assert_allclose(weight, [want[key] for key in sorted(want)], rtol=1e-12)


def test_there_are_3060_groups_of_four():
    index, weight = W.groups(EXAMPLE.old, 4)
    assert len(index) == factorial(18) // (factorial(4) * factorial(14)) == 3060
    assert weight.sum().item() == pytest.approx(1, abs=1e-12)


class Spread:
    """Not linear in the rows of a group: the mean over groups of (sum of R log pi)^2 / tokens."""

    def objective(self, logp, rollouts):
        _, group = torch.unique(rollouts.group, return_inverse=True)
        n = int(group.max()) + 1
        total = torch.zeros(n, dtype=logp.dtype).index_add(0, group, rollouts.rewards * logp.sum(1))
        tokens = torch.zeros(n, dtype=logp.dtype).index_add(0, group, rollouts.mask.sum(1).to(logp.dtype))
        return SimpleNamespace(value=(total**2 / tokens).mean())


@pytest.mark.parametrize("one_by_one", [False, True])
def test_the_expected_gradient_is_the_sum_over_ordered_groups(one_by_one):
    """Every ordered pair of 7 sequences, sampled from one policy and judged under another."""
    world = TokenWorld(2, 2)
    old, new = tables(world, 2)
    rewards = torch.linspace(-1, 2, 7, dtype=torch.float64)
    table, p = new.clone().requires_grad_(), world.probs(old)
    logp, total = world.sequence_log_prob(table), 0.0
    for i, j in product(range(7), repeat=2):
        score = rewards[i] * logp[i] + rewards[j] * logp[j]
        total = total + p[i] * p[j] * score**2 / (world.length[i] + world.length[j])
    (want,) = torch.autograd.grad(total, table)
    found = world.expected_group_gradient(Spread(), new, old, rewards, 2, one_by_one=one_by_one)
    np.testing.assert_allclose(found, want, atol=1e-14)


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: TokenWorld(0, 3), "vocab: expected a number in"),
        (lambda: TokenWorld(2, 1.5), "max_length: expected a whole number"),
        (lambda: TokenWorld(10, 9), "at most 1000000 tokens"),
        (lambda: TokenWorld(10**9, 10**9), "at most 1000000 tokens"),
        (lambda: TokenWorld.one_choice([]), "lengths: expected at least one"),
        (lambda: TokenWorld.one_choice([1, 10**9]), "lengths: expected at most 1000000 tokens"),
        (lambda: TokenWorld.one_choice([1, 0]), "lengths: expected a number in"),
        (lambda: W.log_probs(torch.zeros(3, 7)), r"logits: expected shape \(7, 3\), got \(3, 7\)"),
        (lambda: W.log_probs(torch.full((7, 3), torch.nan)), "logits: expected finite numbers"),
        (lambda: W.log_probs("logits"), "logits: expected real numbers"),
        (lambda: W.gradient(torch.zeros(3, 7), EXAMPLE.rewards), "logits: expected shape"),
        (lambda: W.performance(EXAMPLE.old, torch.ones(14)), r"rewards: expected shape \(15,\)"),
        (lambda: W.optimal(EXAMPLE.ref, EXAMPLE.rewards, 0.0), "beta: expected a number in"),
        (lambda: W.logits_of(torch.full((15,), 0.1)), "probs: expected positive numbers that sum to 1"),
        (lambda: W.logits_of(torch.eye(15)[0]), "probs: expected positive"),
        (lambda: W.sample(EXAMPLE.old, 0), "n: expected a number in"),
        (lambda: W.rollouts([15], [0], EXAMPLE.rewards, EXAMPLE.old), "index: expected whole numbers from 0"),
        (lambda: W.rollouts([-1], [0], EXAMPLE.rewards, EXAMPLE.old), "index: expected whole numbers from 0"),
        (lambda: W.rollouts([], [], EXAMPLE.rewards, EXAMPLE.old), "index: expected at least one"),
        (lambda: W.rollouts([0.5], [0], EXAMPLE.rewards, EXAMPLE.old), "index: expected whole numbers"),
        (lambda: W.gradient("logits", EXAMPLE.rewards), "logits: expected real numbers"),
        (lambda: W.rollouts([0, 1], [0], EXAMPLE.rewards, EXAMPLE.old), "group: expected shape"),
        (lambda: W.groups(EXAMPLE.old, 12), "G: expected at most 100000 groups"),
        (lambda: W.groups(EXAMPLE.old, 0), "G: expected a number in"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
