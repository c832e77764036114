"""Chapter 5: token worlds small enough to list every completion, so that every expectation is a sum.

A policy is a table of logits, one row for each prefix. Nothing here samples unless it says so: J, its
gradient, KL, the KL-regularised optimum and the expected gradient of any method of `rlbook.llm.methods`
are exact. Everything is torch float64. N sequences, T tokens, V ordinary tokens, K prefixes.
"""

from itertools import combinations_with_replacement
from math import comb, lgamma
from typing import NamedTuple

import torch

from rlbook import validate
from rlbook.llm.batch import Rollouts

MOST_TOKENS = 1_000_000  # of a world, padding included
MOST_GROUPS = 100_000  # of an expectation


class Groups(NamedTuple):
    """Every unordered group of G sequences, as `TokenWorld.groups` lists them."""

    index: torch.Tensor  # (M, G) which sequences
    weight: torch.Tensor  # (M,) probability of drawing them, in any order; sums to 1


class TokenWorld:
    """(86) All completions over `vocab` ordinary tokens and an end token, up to `max_length` tokens.

    A completion stops with the end token (which counts as a token), or is truncated at `max_length`
    without one. TokenWorld(2, 3) has 15 sequences and 7 prefixes.

    | attribute      | shape        | meaning                                                             |
    | -------------- | ------------ | ------------------------------------------------------------------- |
    | completion_ids | (N, T) int64 | tokens 0..V-1, the end token V; also V where the sequence is over   |
    | mask           | (N, T) bool  | the tokens that count                                               |
    | length         | (N,)         | how many these are                                                  |
    | truncated      | (N,) bool    | no end token                                                        |
    | prefix         | (N, T) int64 | row of the logits table that chose the token; -1: nothing to choose |
    | table          | (K, A)       | shape of a logits table; K = `n_prefixes`                           |

    Prefixes are numbered by length, then in the order of their tokens: 0 is the empty one.
    Raises ValueError if a number is no whole number >= 1 or N x T exceeds a million.
    """

    def __init__(self, vocab, max_length):
        vocab, max_length = validate.integer("vocab", vocab), validate.integer("max_length", max_length)
        n_prefixes, level = 0, 1  # level: prefixes of one length
        for _ in range(max_length):
            n_prefixes, level = n_prefixes + level, level * vocab
            if (n_prefixes + level) * max_length > MOST_TOKENS:  # a prefix may end; the longest are truncated
                raise ValueError(
                    f"vocab, max_length: expected at most {MOST_TOKENS} tokens in all sequences together, "
                    f"got ({vocab}, {max_length})"
                )
        ids = [list(tokens) for tokens in _complete(vocab, max_length)]
        prefix = [_prefix_numbers(tokens, vocab) for tokens in ids]
        self._fill(ids, prefix, vocab, [tokens[-1] != vocab for tokens in ids], (n_prefixes, vocab + 1))

    @classmethod
    def one_choice(cls, lengths):
        """A world with one decision: the first token picks one of N responses of these lengths.

        All later tokens are forced (log-probability 0), so the policy is one row of N logits, and length
        is the only thing that tells the responses apart.
        """
        lengths = [validate.integer("lengths", length) for length in lengths]
        if not lengths:
            raise ValueError("lengths: expected at least one length, got none")
        if len(lengths) * max(lengths) > MOST_TOKENS:
            raise ValueError(f"lengths: expected at most {MOST_TOKENS} tokens in all, got a {max(lengths)}")
        n, world = len(lengths), cls.__new__(cls)
        ids = [[i] + [n] * (length - 1) for i, length in enumerate(lengths)]
        prefix = [[0] + [-1] * (length - 1) for length in lengths]
        world._fill(ids, prefix, n, [False] * n, (1, n))
        return world

    def _fill(self, ids, prefix, pad, truncated, table):
        self.length = torch.tensor([len(tokens) for tokens in ids])
        width = int(self.length.max())
        self.mask = torch.arange(width) < self.length[:, None]
        self.completion_ids = torch.tensor([tokens + [pad] * (width - len(tokens)) for tokens in ids])
        self.prefix = torch.tensor([rows + [-1] * (width - len(rows)) for rows in prefix])
        self.truncated = torch.tensor(truncated)
        self.table = table

    @property
    def n_prefixes(self):
        """K, the number of rows of a logits table."""
        return self.table[0]

    def __len__(self):
        """N, the number of sequences."""
        return len(self.length)

    def log_probs(self, logits):
        """log pi(y_t | y_<t) (N, T) for a logits table (K, A), 0 where nothing is chosen. Differentiable."""
        logits = _tensor("logits", logits, self.table)
        chosen = self.prefix >= 0
        ids = self.completion_ids.clamp(max=self.table[1] - 1)
        return torch.where(chosen, logits.log_softmax(-1)[self.prefix.clamp(min=0), ids], 0.0)

    def sequence_log_prob(self, logits):
        """(86) log pi(y) (N,), the sum over the tokens, the end token among them. Differentiable."""
        return self.log_probs(logits).sum(-1)

    def probs(self, logits):
        """(86) pi(y) (N,), sums to 1. Differentiable."""
        return self.sequence_log_prob(logits).exp()

    def logits_of(self, probs):
        """The logits table (K, A) of the policy whose sequence probabilities are `probs` (N,), all > 0."""
        probs = _tensor("probs", probs, (len(self),))
        if probs.min() <= 0 or abs(probs.sum() - 1) > 1e-6:  # room for float32
            raise ValueError(
                f"probs: expected positive numbers that sum to 1, got {probs.min():g} .. sum {probs.sum():g}"
            )
        chosen = self.prefix >= 0
        mass = torch.zeros(self.table, dtype=torch.float64)  # probability of passing through (prefix, token)
        rows, tokens = self.prefix[chosen], self.completion_ids[chosen]
        mass.index_put_((rows, tokens), probs[:, None].expand_as(chosen)[chosen], accumulate=True)
        return mass.log()

    def performance(self, logits, rewards):
        """J(theta) = sum_y pi(y) R(y), a scalar tensor; rewards (N,). Differentiable."""
        return self.probs(logits) @ _tensor("rewards", rewards, (len(self),))

    def gradient(self, logits, rewards):
        """The gradient (K, A) of J with respect to the logits table."""
        return _gradient(lambda table: self.performance(table, rewards), logits, self.table)

    def kl(self, logits, other):
        """KL(pi || pi_other) of whole sequences, a scalar tensor; swap the tables for the other direction."""
        log_prob = self.sequence_log_prob(logits)
        return (log_prob.exp() * (log_prob - self.sequence_log_prob(other))).sum()

    def optimal(self, ref_logits, rewards, beta):
        """(87) The maximiser of J - beta KL(pi || pi_ref): probabilities (N,), and its value beta log Z.

        pi* is pi_ref exp(R / beta) / Z. Raises ValueError unless beta > 0.
        """
        beta = validate.number("beta", beta, 0.0, open_low=True)
        rewards = _tensor("rewards", rewards, (len(self),))
        tilted = self.sequence_log_prob(ref_logits) + rewards / beta
        return tilted.softmax(-1), beta * tilted.logsumexp(-1)

    def sample(self, logits, n, generator=None):
        """(88) Indices (n,) of sequences drawn independently from pi; `generator` is a torch.Generator."""
        n = validate.integer("n", n)
        return torch.multinomial(self.probs(logits).detach(), n, replacement=True, generator=generator)

    def rollouts(self, index, group, rewards, logits_old, ref=None, guide=None, source=None):
        """The sequences `index` (B,) in groups `group` (B,), as the `Rollouts` any method takes.

        rewards (N,) belong to the world's sequences. logits_old, ref and guide are tables: what the
        sequences were sampled with, the reference of a KL penalty, the guide. source (B,) is 1 on rows
        the guide wrote (default: none). The prompt is one dummy token.
        """
        index = torch.from_numpy(validate.indices("index", index, len(self), ndim=1))
        source = torch.zeros_like(index) if source is None else torch.as_tensor(source, dtype=torch.int64)
        tables = {"logp_old": logits_old, "logp_ref": ref, "logp_guide": guide}
        with torch.no_grad():
            logp = {k: self.log_probs(table)[index] for k, table in tables.items() if table is not None}
        return Rollouts(
            prompt_ids=torch.zeros(len(index), 1, dtype=torch.int64),
            completion_ids=self.completion_ids[index],
            mask=self.mask[index],
            rewards=_tensor("rewards", rewards, (len(self),))[index],
            group=torch.as_tensor(group, dtype=torch.int64),
            source=source,
            truncated=self.truncated[index],
            **logp,
        )

    def groups(self, logits, G):
        """Every group of G independent draws from pi, order ignored, with its multinomial probability.

        N = 15 and G = 4 give 3,060 groups, not 15^4. Raises ValueError beyond 100,000.
        """
        G = validate.integer("G", G)
        if comb(len(self) + G - 1, G) > MOST_GROUPS:
            raise ValueError(
                f"G: expected at most {MOST_GROUPS} groups, got {comb(len(self) + G - 1, G)} for G = {G}"
            )
        index = torch.tensor(list(combinations_with_replacement(range(len(self)), G)))
        copies = torch.zeros(len(index), len(self), dtype=torch.float64)
        copies.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64))
        ways = lgamma(G + 1) - torch.lgamma(copies + 1).sum(1)
        return Groups(index, (ways + self.sequence_log_prob(logits).detach()[index].sum(1)).exp())

    def expected_group_gradient(self, method, logits, logits_old, rewards, G, ref=None, one_by_one=False):
        """The exact mean, over groups of G drawn from pi_old, of the gradient (K, A) of an objective.

        | argument           | meaning                                                                      |
        | ------------------ | ---------------------------------------------------------------------------- |
        | method             | has `.objective(logp, rollouts)` with a `.value`, as in `rlbook.llm.methods` |
        | logits, logits_old | tables of pi_theta and of the policy that sampled                            |
        | rewards            | (N,), one for each sequence of the world                                     |
        | ref                | table of the reference policy, if the objective has a KL term                |
        | one_by_one         | evaluate each group alone: slow, but right for any objective                 |

        Groups with the same number of tokens, of tokens in ended rows and of ended rows go through the
        objective as one batch. That is exact if the objective of such a batch is the mean over its
        groups, as with 1 / T_i, a constant, the token mean, or overlong filtering. Otherwise (a
        statistic of the whole batch) ask for `one_by_one`.
        """
        index, weight = self.groups(logits_old, G)
        whole = (~self.truncated).long()
        counts = torch.stack([self.length, self.length * whole, whole], 1)[index].sum(1)
        kinds, kind = counts.unique(dim=0, return_inverse=True)
        batches = [torch.where(kind == k)[0] for k in range(len(kinds))]
        if one_by_one:
            batches = torch.arange(len(index))[:, None]
        slope = torch.zeros(self.mask.shape, dtype=torch.float64)  # of the expectation, in log pi(y_t | y_<t)
        log_probs = self.log_probs(logits).detach()
        for batch in batches:
            rows = index[batch].flatten()
            group = torch.arange(len(batch)).repeat_interleave(G)
            logp = log_probs[rows].requires_grad_()
            value = method.objective(logp, self.rollouts(rows, group, rewards, logits_old, ref)).value
            (found,) = torch.autograd.grad(value, logp)
            share = weight[batch] * len(batch)  # turns the mean over groups into the expectation
            slope.index_add_(0, rows, found * share.repeat_interleave(G)[:, None])
        return _gradient(lambda table: (self.log_probs(table) * slope).sum(), logits, self.table)


class Example(NamedTuple):
    """A world with tables and rewards drawn at random; see `fifteen`."""

    world: TokenWorld
    old: torch.Tensor  # (K, A) the policy that sampled
    ref: torch.Tensor  # (K, A) an unrelated reference policy
    new: torch.Tensor  # (K, A) `old` after some updates: the policy to improve
    rewards: torch.Tensor  # (N,)


def fifteen(seed=0):
    """The world that chapter 5 checks itself in: two tokens and an end token, three steps, 15 sequences."""
    world, generator = TokenWorld(2, 3), torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    old, ref = 0.7 * normal(*world.table), 0.7 * normal(*world.table)
    return Example(world, old, ref, old + 0.35 * normal(*world.table), normal(len(world)))


def _complete(vocab, max_length):
    """All complete sequences: after each prefix the end first, then the ordinary tokens in order."""
    stack = [()]
    while stack:
        tokens = stack.pop()
        if len(tokens) == max_length:
            yield tokens
        else:
            yield (*tokens, vocab)
            stack += [(*tokens, token) for token in reversed(range(vocab))]


def _prefix_numbers(tokens, vocab):
    """For each token the number of its prefix: shorter ones first, then as numbers in base V."""
    numbers, shorter, value = [], 0, 0
    for k, token in enumerate(tokens):
        numbers.append(shorter + value)
        shorter, value = shorter + vocab**k, value * vocab + token
    return numbers


def _gradient(function, logits, shape):
    table = _tensor("logits", logits, shape).detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(table), table)
    return gradient


def _tensor(name, value, shape):
    """`value` as a finite float64 tensor of `shape`; a tensor keeps its gradient."""
    try:
        found = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: expected real numbers, got {error}") from None
    if tuple(found.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return found
