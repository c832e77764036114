"""Exercises of notebook 06b, and the ready answers that its later cells use while one is unsolved."""

import numpy as np

from rlbook.checks import attempt, choose, exercise, expect

ARMS = np.array([-1.0, 0.0, 1.0])


@exercise("6b.1", "The bound that follows (Theorem 1)", answer="my_bound")
def general_bound(answer):
    """Two sets of numbers by hand; then the updates added up one by one."""
    expect(
        # (10 / (.1 x 50) + 2 x .1 x 3 / 2) / .5 = (2 + .3) / .5
        attempt(answer, 10.0, 2.0, 3.0, 0.5, 0.1, 50),
        want=4.6,
        given="gain 10, L = 2, S = 3, m = 0.5, step 0.1, K = 50",
        mistakes={
            "no alignment": (2.3, "The mean update keeps only m of the gradient: see the last division."),
            "multiplies by the alignment": (1.15, "Less alignment must make the bound worse."),
            "no half": ((2 + 0.6) / 0.5, "Smoothness costs L/2, not L."),
            "step squared": ((2 + 0.03) / 0.5, "Both terms are divided by the step once."),
            "gain not divided by K": ((100 + 0.3) / 0.5, "The gain is shared among all updates."),
            "noise divided by K": (
                (2 + 0.006) / 0.5,
                "Every update pays the noise; their mean does not fall.",
            ),
            "forgets the noise": (2 / 0.5, "The second term of the bracket is missing."),
            "forgets the step in the first term": (
                (0.2 + 0.3) / 0.5,
                "One update gains step times the square.",
            ),
            "alignment divides the gain only": (2 / 0.5 + 0.3, "m divides the whole bracket."),
        },
    )
    expect(
        # (6 / (.5 x 4) + 1 x .5 x 8 / 2) / 1 = 3 + 2
        attempt(answer, 6.0, 1.0, 8.0, 1.0, 0.5, 4),
        want=5.0,
        given="gain 6, L = 1, S = 8, m = 1, step 0.5, K = 4",
    )
    expect(attempt(answer, 0.3, 1.7, 0.4, 0.2, 0.03, 7), summed(0.3, 1.7, 0.4, 0.2, 0.03, 7), "other numbers")


@exercise("6b.2", "The mean of clipped weights", answer="my_clipped_mean")
def clipped_mean(answer):
    """Three arms by hand, one clipped on each side; then a band that never clips, and four arms."""
    x, pi, phi = np.array([1.0, 3.0, 4.0]), np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.4, 0.1])
    expect(
        # weights .4, 1.25, 3 become .5, 1.25, 1.5: .5 x .5 x 1 + .4 x 1.25 x 3 + .1 x 1.5 x 4
        attempt(answer, x, pi, phi, 0.5, 1.5),
        want=2.35,
        given="x = (1, 3, 4), pi = (0.2, 0.5, 0.3), phi = (0.5, 0.4, 0.1), band 0.5 to 1.5",
        mistakes={
            "no clip": (2.9, "This is the mean under pi: no weight was clipped."),
            "mean under the policy": (3.775, "The guide draws the samples: weigh the arms by phi."),
            "upper clip only": (2.3, "The weight 0.4 lies below the band."),
            "lower clip only": (2.95, "The weight 3 lies above the band."),
            "mean over the arms": (10.25 / 3, "Arms are not drawn evenly: weigh them by phi."),
            "self-normalised": (2.35 / 0.9, "Do not divide by the mean weight."),
            # phi / pi = 2.5, .8, .333: 1.5, .8, .5
            "ratio upside down": (1.91, "The sampling policy stands below."),
            # .4, 3.75, 12 become .5, 1.5, 1.5
            "clips the product": (1.0, "Clip the weight first, then multiply by x."),
            "discards": (1.5, "A weight outside the band is moved to its edge; the sample stays."),
            "bias in place of the mean": (-0.55, "The mean is asked, not its error."),
        },
    )
    expect(attempt(answer, x, pi, phi, 0.1, 9.0), 2.9, given="the same with a band 0.1 to 9")
    pi, phi, x = (
        np.array([0.1, 0.2, 0.3, 0.4]),
        np.array([0.4, 0.1, 0.3, 0.2]),
        np.array([-3.0, 0.5, 2.0, -1.0]),
    )
    # weights .25, 2, 1, 2 become .3, 1.2, 1, 1.2: -.36 + .06 + .6 - .24
    expect(attempt(answer, x, pi, phi, 0.3, 1.2), 0.06, given="four arms, band 0.3 to 1.2, x of both signs")


@exercise("6b.3", "The slope of the guide's half (P4)", answer="my_off_slope")
def off_slope(answer):
    """Central differences of P4 itself; each mistake at the same point."""
    pi, score, phi, R, gamma = (
        np.array([0.2, 0.3, 0.5]),
        ARMS - 0.3,
        np.array([0.1, 0.6, 0.3]),
        ARMS == 0,
        0.1,
    )
    R, r = R.astype(float), pi / phi
    # rewarded: .6, so deviation .4899: B = (-1.2247, .8165, -1.2247)
    B, under_pi = (R - 0.6) / np.sqrt(0.24), (R - 0.3) / np.sqrt(0.21)
    slope, f = gamma / (r + gamma) ** 2, r / (r + gamma)
    expect(
        attempt(answer, pi, score, phi, R, gamma),
        want=difference(pi, score, phi, R, gamma),
        given="pi = (0.2, 0.3, 0.5), x = (-1, 0, 1), phi = (0.1, 0.6, 0.3), R = (0, 1, 0), gamma 0.1",
        atol=1e-6,  # leaves room for a small number added to the deviation
        mistakes={
            "f' without r": (phi @ (slope * B * score), "d r = r d log pi: a factor is missing."),
            "f in place of r f'": (phi @ (f * B * score), "This weight is the value of f."),
            "plain importance weight": (phi @ (r * B * score), "This is the gradient without f."),
            "no weight": (phi @ (B * score), "This imitates: the ratio is missing."),
            "mean under the policy": (pi @ (r * slope * B * score), "The guide draws the samples."),
            "z-score under the policy": (
                phi @ (r * slope * under_pi * score),
                "P2 compares the guide's samples.",
            ),
            "deviation left out": (
                phi @ (r * slope * (R - 0.6) * score),
                "Divide by the deviation of the guide's rewards.",
            ),
            "raw rewards": (phi @ (r * slope * R * score), "P4 multiplies by B, not by R."),
            "no score": (phi @ (r * slope * B), "The derivative of log pi is missing."),
            "variance for deviation": (phi @ (r * slope * (R - 0.6) / 0.24 * score), "Take the root."),
            "sample deviation": (
                phi @ (r * slope * (R - 0.6) / R.std(ddof=1) * score),
                "The deviation under the guide, population form.",
            ),
            "z-score over the arms": (
                phi @ (r * slope * (R - R.mean()) / R.std() * score),
                "Arms are not drawn evenly: mean and deviation are those under phi.",
            ),
            "ratio upside down": (
                phi @ (gamma / r / (1 / r + gamma) ** 2 * B * score),
                "The guide stands below.",
            ),
        },
    )
    for pi, phi, R, gamma in (
        ([0.6, 0.1, 0.3], [0.2, 0.5, 0.3], [1.0, 0.4, 0.0], 0.5),
        ([0.05, 0.05, 0.9], [0.7, 0.2, 0.1], [0.0, 0.3, 2.0], 0.02),
    ):
        pi, phi, R = np.array(pi), np.array(phi), np.array(R)
        score = ARMS - pi @ ARMS
        expect(
            attempt(answer, pi, score, phi, R, gamma),
            difference(pi, score, phi, R, gamma),
            given=f"pi = {pi}, phi = {phi}, R = {R}, gamma {gamma}",
            atol=1e-6,
        )


@exercise("6b.4", "Find the bug from the curves", answer="my_bug")
def bug(answer):
    """Whether the rest depends on the step, and where it lies, tells the four apart."""
    choose(
        answer,
        right="b",
        wrong={
            "a": (
                "step too large",
                "Noise would shrink with the step; both dashed curves rest in one place.",
            ),
            "c": ("clipped weights", "With that band the rest lies near mu = -0.12. Work out yours."),
            "d": ("weights upside down", "With phi / pi the rest lies near mu = -0.38. Work out yours."),
        },
    )


def summed(gain, L, S, m, step, K):
    """The ready answer to 6b.1: K updates must not gain more than `gain`."""
    cost_of_noise = sum(L * step**2 * S / 2 for _ in range(int(K)))
    return (gain + cost_of_noise) / (step * m * K)


def by_arm(x, pi, phi, low, high):
    """The ready answer to 6b.2."""
    weight = np.minimum(np.maximum(np.asarray(pi) / phi, low), high)
    return float(sum(q * w * y for q, w, y in zip(phi, weight, x, strict=True)))


def chain_rule(pi, score, phi, R, gamma):
    """The ready answer to 6b.3."""
    centred = R - phi @ R
    B = centred / np.sqrt(phi @ centred**2)
    return float(pi @ (gamma / (pi / phi + gamma) ** 2 * B * score))


def difference(pi, score, phi, R, gamma, h=1e-6):
    """P4's slope by central differences along d log pi = score."""
    B = (R - phi @ R) / np.sqrt(phi @ (R - phi @ R) ** 2)

    def value(t):
        r = pi * np.exp(t * score) / (pi @ np.exp(t * score)) / phi
        return phi @ (r / (r + gamma) * B)

    return (value(h) - value(-h)) / (2 * h)


def two_programs(rng, steps, step_size, runs):
    """The curves of 6b.4: mean of x (2 programs, steps + 1), averaged over runs."""
    R, phi = np.array([0.4, 1.0, 0.6]), np.array([0.6, 0.3, 0.1])
    drawn, curves = rng.choice(3, size=(steps, runs, 4), p=phi), []  # four samples an update
    for weighted in (True, False):
        theta, curve = np.zeros(runs), np.zeros(steps + 1)
        for k in range(steps + 1):
            pi = np.exp(theta[:, None] * ARMS)
            pi /= pi.sum(1, keepdims=True)
            mu = pi @ ARMS
            curve[k] = mu.mean()
            if k < steps:
                a = drawn[k]
                w = np.take_along_axis(pi / phi, a, 1) if weighted else 1.0
                theta = theta + step_size * (w * R[a] * (ARMS[a] - mu[:, None])).mean(1)
        curves.append(curve)
    return np.array(curves)
