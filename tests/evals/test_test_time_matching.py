"""What knowing the test set's pairing is worth."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mof_jax.evals.metrics import paired
from mof_jax.evals.mmvp import test_time_matching


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
def test_simple_match_turns_group_match_into_group_score(k, seed, ties):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 3, (20, k, k)).astype(float) if ties else rng.standard_normal((20, k, k))
    fitted = test_time_matching.simple_match(s)
    after = paired.group_scores(fitted)
    np.testing.assert_array_equal(after["group"], paired.group_scores(s)["group_match"])
    chosen = test_time_matching.best_matching(s)
    assert (np.sort(chosen, axis=1) == np.arange(k)).all() and (fitted.argmax(axis=2) == chosen).all()
    best = [max(sum(one[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(k))) for one in s]
    np.testing.assert_allclose(np.take_along_axis(s, chosen[..., None], axis=2).sum(axis=(1, 2)), best)


@pytest.mark.parametrize("k", [2, 3])
def test_chance_matches_one_in_k_factorial(k):
    s = np.random.default_rng(k).standard_normal((100_000, k, k))
    rate = 1 / math.factorial(k)
    found = paired.group_scores(test_time_matching.simple_match(s))["group"].mean()
    assert abs(found - rate) < 4 * math.sqrt(rate * (1 - rate) / len(s))


def test_the_whole_set_at_once():
    """The assignment of the largest sum, by brute force; each picture's own text wins where the diagonal is large."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        s = rng.standard_normal((5, 5))
        best = max(itertools.permutations(range(5)), key=lambda order: sum(s[i, j] for i, j in enumerate(order)))
        assert test_time_matching.global_match(s).tolist() == [i == j for i, j in enumerate(best)]
    assert test_time_matching.global_match(rng.standard_normal((50, 50)) + 20 * np.eye(50)).all()


def test_equal_scores_are_not_matched_rightly():
    """A solver that breaks ties by position would match a constant model along the diagonal."""
    found = test_time_matching.scores_on_test_set(np.zeros((40, 2, 2)), np.zeros((80, 80)))
    assert found["simple_match_on_test_pairs"] == 0.0 and found["global_match_on_test_set"] < 10.0
