"""pass@k against the enumeration of all subsets."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlbook.llm.trainer import pass_at_k


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=3), st.integers(1, 5))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(right, k):
    by_subsets = [np.mean([any(subset) for subset in combinations(row, k)]) for row in right]
    assert pass_at_k(np.array(right), k) == pytest.approx(np.mean(by_subsets), abs=1e-12)


def test_pass_at_k_refuses_more_samples_than_there_are():
    assert pass_at_k([[1, 0, 0, 0]], 2) == pytest.approx(0.5)  # 3 of 6 pairs
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k: expected 1 to 4 samples, got {k}"):
            pass_at_k([[1, 0, 0, 0]], k)
