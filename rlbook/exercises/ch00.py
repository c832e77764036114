"""Exercises of notebook 00."""

import numpy as np

from rlbook.checks import attempt, exercise, expect


@exercise("0.1", "Discounted return (Ex. 1.4)", answer="my_return")
def discounted_return(answer):
    """Ex. 1.4 by hand; each of the usual mistakes gives another number."""
    # by hand, Ex. 1.4 with rewards (1, 2, 3): 1 + 0.9 * 2 + 0.81 * 3 = 5.23
    expect(
        attempt(answer, np.array([1.0, 2.0, 3.0]), 0.9),
        want=5.23,
        given="rewards (1, 2, 3), discount 0.9",
        mistakes={
            "no discount": (6.0, "Later rewards count less."),
            "discounts from the first step": (4.707, "The first reward counts in full."),
            "same discount for all later steps": (5.5, "The third reward is discounted twice."),
            "discounts the wrong end": (5.61, "The first reward counts most, not the last."),
            "a return for every step": (
                [5.23, 4.7, 3.0],
                "Only the return from the first step is asked for.",
            ),
        },
    )
    # by hand: 0 - 2 * 0.5 + 4 * 0.25 + 8 * 0.125 = 1
    expect(attempt(answer, np.array([0.0, -2.0, 4.0, 8.0]), 0.5), 1.0, "rewards (0, -2, 4, 8), discount 0.5")
    expect(attempt(answer, np.array([3.0]), 0.7), 3.0, "a single reward of 3")
    expect(attempt(answer, np.array([3.0, 5.0]), 0.0), 3.0, "rewards (3, 5), discount 0")
