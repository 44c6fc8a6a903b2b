"""Test-Time Matching (arXiv 2510.07632) without its training loop: what a model gains by knowing how a test set is paired.

A model that is told that k pictures and k texts belong together can match them as a whole and learn from its own matching.
Its score then says how good the matching was, not how well it tells one picture from another: the numbers here use the test
set's pairing, their names say so, and they compare neither with `group_score` nor with any published MMVP-VLM score.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.evals.metrics.paired import group_scores, matchings, permutation_sums


def best_matching(s: Float[np.ndarray, "groups k k"]) -> Int[np.ndarray, "groups k"]:
    """The text that the best matching of each group gives each picture.

    Of several that tie it is the last in the order of `itertools.permutations`, never the true one: equal scores know nothing.

    Raises:
      ValueError: see `paired.permutation_sums`.
    """
    sums = permutation_sums(s)
    return matchings(s.shape[1])[sums.shape[1] - 1 - sums[:, ::-1].argmax(axis=1)]


def simple_match(s: Float[np.ndarray, "groups k k"]) -> Float[np.ndarray, "groups k k"]:
    """SimpleMatch: the scores, 1 or 0, of a model fitted to its own best matching of each group.

    In the limit of a perfect fit, which is what overfitting a handful of pairs comes to: the group score of these is the group
    match of those before.
    """
    return np.eye(s.shape[1])[best_matching(s)]


def global_match(s: Float[np.ndarray, "items items"]) -> Bool[np.ndarray, "items"]:
    """Which pictures get their own text when all of a set are matched at once, by the assignment of the largest sum.

    s[i, j] scores picture i against text j. Nothing is known of groups but that each text belongs to one picture.
    """
    from scipy.optimize import linear_sum_assignment  # half a second, which a run that only trains does not wait for

    if not np.isfinite(s).all():
        return np.zeros(len(s), bool)  # scores that are no numbers match nothing
    # The solver breaks ties by position, which would match equal scores along the diagonal, rightly: it sees shuffled texts.
    order = np.random.default_rng(0).permutation(len(s))
    pictures, texts = linear_sum_assignment(np.asarray(s, np.float64)[:, order], maximize=True)
    return order[texts] == pictures


def scores_on_test_set(pairs: Float[np.ndarray, "groups k k"], whole: Float[np.ndarray, "items items"]) -> dict[str, float]:
    """`simple_match_on_test_pairs` and `global_match_on_test_set`, in percent of groups and of pictures."""
    return {"simple_match_on_test_pairs": 100 * float(group_scores(simple_match(pairs))["group"].mean()),
            "global_match_on_test_set": 100 * float(global_match(whole).mean())}
