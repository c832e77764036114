"""Exercises of notebook 05a, and the ready answers that its later cells use while one is unsolved."""

import numpy as np
import torch

from rlbook.checks import Wrong, attempt, choose, exercise, expect


@exercise("5a.1", "The best policy under a KL penalty (87)", answer="my_optimum")
def optimum(answer):
    """Three sequences by hand; huge rewards; then the property that marks a maximum."""
    p, R = np.array([0.5, 0.25, 0.25]), 0.5 * np.log([1.0, 2.0, 4.0])
    odd = np.exp(R)  # 1, sqrt 2, 2
    expect(
        # exp(R / beta) = (1, 2, 4); times p: (0.5, 0.5, 1), which sums to 2
        attempt(answer, p, R, 0.5),
        want=[0.25, 0.25, 0.5],
        given="p_ref = (1/2, 1/4, 1/4), R = (0, ln(2)/2, ln 2), beta 1/2",
        mistakes={
            "multiplies by beta": (
                p * odd**0.5 / (p @ odd**0.5),
                "A small beta must pull harder, not softer.",
            ),
            "missing beta": (p * odd / (p @ odd), "beta does not appear."),
            "forgets the reference": ([1 / 7, 2 / 7, 4 / 7], "The reference weighs each sequence too."),
            "not normalised": ([0.5, 0.5, 1.0], "Probabilities sum to 1."),
            # (0.5, 0.125, 0.0625) / 0.6875
            "sign": ([8 / 11, 2 / 11, 1 / 11], "Higher rewards must get more probability."),
            "greedy": ([0, 0, 1], "That is the optimum without a penalty, beta = 0."),
            # softmax(p + R / beta)
            "p for log p": (
                np.exp(p) * [1, 2, 4] / (np.exp(p) @ [1, 2, 4]),
                "Inside the exponential stands log p_ref, outside p_ref.",
            ),
        },
    )
    with np.errstate(over="ignore", invalid="ignore"):
        far = attempt(answer, np.array([0.5, 0.5]), np.array([1000.0, 999.0]), 1.0)
    if not np.isfinite(np.asarray(far, dtype=float)).all():
        raise Wrong(
            "R = (1000, 999), beta 1: expected finite numbers. Subtract the largest R first.", "overflows"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        farther = attempt(answer, np.array([0.5, 0.5]), np.array([2000.0, 0.0]), 1.0)
    if not np.isfinite(np.asarray(farther, dtype=float)).all():
        raise Wrong(
            "R = (2000, 0), beta 1: expected (1, 0). Subtract the largest R, not another number.",
            "subtracts another number than the largest",
        )
    expect(farther, [1, 0], "p_ref = (1/2, 1/2), R = (2000, 0), beta 1")
    # e / (1 + e)
    expect(far, [0.7310585786, 0.2689414214], "p_ref = (1/2, 1/2), R = (1000, 999), beta 1", atol=1e-8)
    rng = np.random.default_rng(0)
    p, R = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    got = attempt(answer, p, R, 0.3)
    expect(np.shape(got), (6,), "six sequences, the shape")
    expect(np.sum(got), 1.0, "six random sequences, the sum")
    # at the maximum of sum q (R - beta log(q / p)) the bracket is the same number for every sequence
    level = R - 0.3 * np.log(np.asarray(got) / p)
    expect(np.ptp(level), 0.0, "six random sequences, spread of R - beta log(pi / p_ref)")


@exercise("5a.2", "Scores with the KL penalty (89)", answer="my_scores")
def scores(answer):
    """Two completions of two and three tokens by hand; then other shapes against a loop."""
    R, beta = np.array([1.0, 0.0]), 0.1
    logp = np.array([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0]])
    ref = np.array([[-2.0, -1.5, -1.0], [-3.0, -1.0, -2.0]])
    mask = np.array([[1, 1, 0], [1, 1, 1]], dtype=bool)
    k3 = np.where(mask, np.exp(ref - logp) - 1 - (ref - logp), 0).sum(1)
    expect(
        # log-ratios: 1 - 0.5 = 0.5 (the third is padding), and 2 + 0 + 1 = 3
        attempt(answer, R, logp, ref, mask, beta),
        want=[0.95, -0.3],
        given="R = (1, 0), log-ratios (1, -0.5, padding) and (2, 0, 1), beta 0.1",
        mistakes={
            "no mask on padding": ([1.75, -0.3], "The third position of the first row is padding."),
            "mean over tokens": ([0.975, -0.1], "(87) sums the log-ratios; a mean pays for length."),
            "KL direction": ([1.05, 0.3], "The policy stands above the reference in (87)."),
            "missing beta": ([0.5, -3.0], "The penalty has a weight."),
            "mean over the batch": ([0.825, -0.175], "Each completion pays for its own log-ratios."),
            # k2: (1 + 0.25) / 2 and (4 + 0 + 1) / 2
            "k2 for k1": ([0.9375, -0.25], "(87) has the log-ratio itself, k1."),
            "k3 for k1": (R - beta * k3, "(87) has the log-ratio itself, k1."),
            "last token only": ([1.05, -0.1], "Every token of the completion counts."),
        },
    )
    rng = np.random.default_rng(1)
    R, logp, ref = rng.normal(size=5), -rng.random((5, 4)), -rng.random((5, 4))
    mask = np.arange(4) < np.array([4, 1, 2, 3, 4])[:, None]
    want = [R[i] - 0.7 * sum(logp[i, t] - ref[i, t] for t in range(4) if mask[i, t]) for i in range(5)]
    logp[~mask] = np.nan  # what stands in padding never matters
    expect(attempt(answer, R, logp, ref, mask, 0.7), want, "five completions of up to 4 tokens, beta 0.7")


@exercise("5a.3", "Advantages by comparison within a group (90), (91)", answer="my_advantages")
def advantages(answer):
    """Three interleaved groups by hand; groups of one; random groups against a loop."""
    u = np.array([1.0, 3.0, 0.0, 2.0, 0.0, 5.0, 0.0, 2.0])
    group = np.array([7, 2, 7, 4, 7, 2, 7, 4])
    # group 7: (1, 0, 0, 0), mean 1/4, variance 3/16, sqrt(3/16 + 3/8) = 3/4: (1, -1/3, -1/3, -1/3)
    # group 2: (3, 5), mean 4, variance 1, -+ 1 / sqrt(11/8); group 4: (2, 2): 0
    a, e = np.sqrt(8 / 11), np.array

    def rows(first, rest, pair):
        return e([first, -pair, rest, 0, rest, pair, rest, 0])

    def divided(deviation, pair):
        return rows(0.75 / deviation, -0.25 / deviation, pair)

    s7, eps = np.sqrt(3 / 16), 3 / 8
    expect(
        attempt(answer, u, group, eps),
        want=rows(1, -1 / 3, a),
        given="groups (1, 0, 0, 0), (3, 5), (2, 2), interleaved, eps 3/8",
        mistakes={
            "ddof=1": (
                divided(np.sqrt(1 / 4 + eps), 1 / np.sqrt(2 + eps)),  # variances 1/4 and 2
                "(90) divides the sum of squares by G, not by G - 1.",
            ),
            "eps outside the root": (
                divided(s7 + eps, 8 / 11),
                "In (90) the number eps stands under the root.",
            ),
            "whole-batch baseline": (
                (u - u.mean()) / np.sqrt(u.var() + eps),
                "Compare a row with its own group, not with the batch.",
            ),
            "no division": (divided(1, 1.0), "The deviation is missing."),
            "divides by the variance": (divided(9 / 16, 8 / 11), "A root is missing."),
            "no mean": (
                e([4 / 3, 3 * a, 0, 2 / np.sqrt(eps), 0, 5 * a, 0, 2 / np.sqrt(eps)]),
                "The group's mean is not taken off.",
            ),
            "batch deviation": (
                (u - e([0.25, 4, 0.25, 2, 0.25, 4, 0.25, 2])) / np.sqrt(u.var() + eps),
                "The deviation is the group's too.",
            ),
            "missing eps": (
                divided(s7, 1.0),
                "eps is missing; a group of equal scores would be 0 / 0.",
            ),
            "eps as a floor": (
                divided(np.sqrt(eps), 1.0),
                "eps is added to the variance, it is not the least value of it.",
            ),
        },
    )
    expect(attempt(answer, np.array([3.0, 5.0]), np.array([1, 2]), 1e-8), [0, 0], "two groups of one")
    rng = np.random.default_rng(2)
    u, group = rng.normal(size=12), rng.integers(0, 3, 12)
    want = np.empty(12)
    for i in range(12):
        mine = [u[j] for j in range(12) if group[j] == group[i]]
        mean = sum(mine) / len(mine)
        want[i] = (u[i] - mean) / (sum((x - mean) ** 2 for x in mine) / len(mine) + 0.01) ** 0.5
    expect(attempt(answer, u, group, 0.01), want, "12 random scores in 3 groups, eps 0.01")


@exercise("5a.4", "Which row of logits chose which token?", answer="my_log_probs")
def log_probs(answer):
    """Two tokens after a prompt of two by hand; huge logits; random logits against a loop."""
    P = np.array([[0.5, 0.5], [0.25, 0.75], [0.1, 0.9], [0.8, 0.2]])
    logits = np.log(P) + np.array([[1.0], [-2.0], [3.0], [0.5]])
    ids = np.array([0, 1, 1, 0])
    expect(
        # row 1 chose token 1 at position 2 (0.75), row 2 chose token 0 at position 3 (0.1)
        attempt(answer, logits, ids, 2),
        want=np.log([0.75, 0.1]),
        given="rows with probabilities (.5, .5), (.25, .75), (.1, .9), (.8, .2), ids 0 1 1 0, a prompt of 2",
        mistakes={
            "row of the token itself": (
                np.log([0.9, 0.8]),
                "Row t was computed after reading token t, so it cannot have chosen it.",
            ),
            "reads the token before": (np.log([0.75, 0.9]), "The rows are right, the tokens are one early."),
            "raw logits": (
                [np.log(0.75) - 2, np.log(0.1) + 3],
                "Logits are log-probabilities only up to a number a row.",
            ),
            "prompt counted": (np.log([0.5, 0.75, 0.1]), "The prompt was given, not chosen: leave it out."),
            "no log": ([0.75, 0.1], "These are probabilities."),
            "sum over tokens": (np.log(0.075), "One number a token is asked for."),
            "softmax over positions": (
                [
                    logits[1, 1] - np.log(np.exp(logits[:, 1]).sum()),
                    logits[2, 0] - np.log(np.exp(logits[:, 0]).sum()),
                ],
                "Probabilities sum to 1 over the vocabulary, the last axis.",
            ),
        },
    )
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        far = attempt(answer, np.array([[1000.0, 999.0], [0.0, 0.0], [0.0, 0.0]]), np.array([0, 1, 1]), 1)
        tail = attempt(answer, np.array([[0.0, 2000.0], [0.0, 0.0]]), np.array([0, 0]), 1)
    far, tail = np.asarray(far, dtype=float), np.asarray(tail, dtype=float)
    seen = "logits (1000, 999) in one row, (0, 0) in the next: expected finite numbers."
    if not np.isfinite(far).ravel()[:1].all():
        raise Wrong(f"{seen} Subtract a row's maximum first.", "overflows")
    if not np.isfinite(far).all():
        raise Wrong(f"{seen} Each row needs its own maximum.", "one maximum for the table")
    # log of 1 / (1 + e), and of 1/2
    expect(far, [-np.log(1 + np.e), -np.log(2)], "logits (1000, 999), (0, 0), token 1 twice", atol=1e-8)
    if not np.isfinite(tail).all():
        raise Wrong(
            "logits (0, 2000), token 0: expected -2000. Subtract the row's maximum, and take no "
            "log of a probability: this one is 0 in floats.",
            "no finite log of a small probability",
        )
    expect(
        tail,
        [-2000.0],
        "logits (0, 2000), token 0",
        mistakes={
            "adds to the probability": (
                np.where((tail < 0) & (tail > -800), tail, 0),
                "A small number under the log hides small probabilities.",
            )
        },
    )
    rng = np.random.default_rng(3)
    logits, ids = rng.normal(size=(7, 5)), rng.integers(0, 5, 7)
    want = [logits[t - 1, ids[t]] - np.log(sum(np.exp(x) for x in logits[t - 1])) for t in range(3, 7)]
    expect(attempt(answer, logits, ids, 3), want, "7 random positions, 5 tokens, a prompt of 3")


@exercise("5a.5", "Find the bug from the curves", answer="my_bug")
def bug(answer):
    """Only one of the four keeps the logged KL near 0 while the policy walks away."""
    choose(
        answer,
        right="b",
        wrong={
            "a": (
                "sign of the penalty",
                "Then the logged KL would grow as well, and the log would show it.",
            ),
            "c": ("k1 in the loss", "The policy would walk away, but the logged KL would say so."),
            "d": ("beta ten times too large", "Then the policy would stay near the start: both curves low."),
        },
    )


def tilted(p_ref, R, beta):
    """The ready answer to 5a.1."""
    return torch.softmax(torch.tensor(np.log(p_ref) + np.asarray(R) / beta), 0).numpy()


def penalised(R, logp, logp_ref, mask, beta):
    """The ready answer to 5a.2."""
    return R - beta * np.nansum(np.where(mask, logp - logp_ref, np.nan), axis=1)


def in_groups(scores, group, eps):
    """The ready answer to 5a.3."""
    found = np.empty(len(scores))
    for one in set(group.tolist()):
        u = scores[group == one]
        found[group == one] = (u - u.mean()) / np.sqrt(u.var() + eps)
    return found


def shifted(logits, ids, n_prompt):
    """The ready answer to 5a.4."""
    table = torch.tensor(logits[n_prompt - 1 : -1]).log_softmax(-1)
    return table.gather(-1, torch.tensor(ids[n_prompt:])[:, None])[:, 0].numpy()


def two_programs(example, beta, steps, step_size):
    """The curves of 5a.5: (KL as logged, KL to the start), each (2, steps + 1).

    Exact ascent on J less beta KL(pi || reference) from the reference; row 0 a sound program, row 1 a
    broken one.
    """
    world, _, start, _, rewards = example
    logged, true = np.empty((2, 2, steps + 1))
    for program in range(2):
        now = reference = start
        for k in range(steps + 1):
            logged[program, k] = world.kl(now, reference)
            true[program, k] = world.kl(now, start)
            theta = now.clone().requires_grad_()
            value = world.performance(theta, rewards) - beta * world.kl(theta, reference)
            (slope,) = torch.autograd.grad(value, theta)
            reference = now if program else start
            now = now + step_size * slope
    return logged, true
