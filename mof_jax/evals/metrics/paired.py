"""Scores of pairs and groups as pure functions of arrays: what was right, or how well each picture fits each text.

MMVP asks one question about both pictures of a pair and counts the pair (arXiv 2401.06209); MMVP-VLM and Winoground
(arXiv 2204.03162) score every picture of a group against every text of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.data.pairs import PATTERNS
from mof_jax.errors import UserError
from mof_jax.evals.items import Items
from mof_jax.evals.metrics.statistics import STATISTICS

_RESAMPLES = 2000
_LARGEST = 7  # pictures of a group: 5,040 ways to match them with their texts


def pair_accuracy(right: Bool[np.ndarray, "pairs 2"]) -> Bool[np.ndarray, "pairs"]:
    """Whether both questions of a pair are answered rightly: 25 % by guessing, 0 % for one who always says the same."""
    return np.asarray(right, bool).all(axis=1)


def paired_interval(
    a: Bool[np.ndarray, "items"], b: Bool[np.ndarray, "items"], seed: int = 0
) -> tuple[float, float]:
    """95 % interval of mean(a) - mean(b) over items drawn with replacement, the same ones for both."""
    difference = a.astype(np.float64) - b
    # Few values occur (three, of booleans), so a resample is a draw of how often each of them does.
    values, counts = np.unique(difference, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(
        len(difference), counts / len(difference), size=_RESAMPLES
    )
    low, high = np.quantile(draws @ values / len(difference), [0.025, 0.975])
    return float(low), float(high)


def paired_resamples(
    a: Items, b: Items, seed: int = 0, resamples: int = _RESAMPLES
) -> Float[np.ndarray, "resamples"]:
    """Differences of two figures, a's less b's, over units drawn with replacement, the same ones for both.

    All rows of a unit come with it as often as it is drawn. A figure that is no mean over rows is taken anew
    on each resample.

    Args:
      a, b: rows over the same units, in any order.

    Raises:
      ValueError: other units. UserError: a figure that too few resamples have (1 % or more have none).
    """
    names = sorted(set(a.units))
    if names != sorted(set(b.units)):
        raise ValueError("the two have rows of different units")
    number = {name: i for i, name in enumerate(names)}
    of_a, of_b = (np.array([number[unit] for unit in x.units]) for x in (a, b))
    figure_a, figure_b = (STATISTICS[x.statistic](x.values) for x in (a, b))
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.array([figure_a(w[of_a]) - figure_b(w[of_b]) for w in drawn.astype(np.float64)])
    known = found[np.isfinite(found)]
    if len(known) <= 0.99 * resamples:
        raise UserError(
            f"{resamples - len(known)} of {resamples} resamples of {len(names)} units have no {a.statistic}; "
            "evaluate on more of them"
        )
    return known


def bootstrap_interval(values: Bool[np.ndarray, "items"] | Float[np.ndarray, "items"], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean over items drawn with replacement.

    For pairs hand over one value a pair: the two halves are not independent.
    """
    return paired_interval(np.asarray(values), np.zeros(len(values)), seed)


def mcnemar(a: Bool[np.ndarray, "items"], b: Bool[np.ndarray, "items"]) -> float:
    """Exact two-sided p-value of McNemar's test: are two models equally often right on the same items?

    Only the items that one of them has right and the other wrong count; 1 if there are none.
    """
    from scipy import stats  # half a second, which a run that only trains does not wait for

    a, b = np.asarray(a, bool), np.asarray(b, bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def matchings(k: int) -> Int[np.ndarray, "permutations k"]:
    """Every way to give k pictures one text each, the true one first.

    Raises:
      ValueError: k is too large to try them all.
    """
    if not 0 < k <= _LARGEST:
        raise ValueError(f"groups of {k}: every matching is tried, of 1 to {_LARGEST} pictures")
    return np.array(list(itertools.permutations(range(k))))


def permutation_sums(s: Float[np.ndarray, "groups k k"]) -> Float[np.ndarray, "groups permutations"]:
    """Σ_i s[i, π(i)] for every matching π of a group's pictures with its texts, in the order of `matchings`.

    Raises:
      ValueError: groups that are not square, or too large.
    """
    if s.ndim != 3 or s.shape[1] != s.shape[2]:
        raise ValueError(f"scores of shape {s.shape}; groups of as many pictures as texts are (groups, k, k)")
    # Sums of a few float32 are exact in float64, so that equal ones tie whatever the order they are added in.
    return np.asarray(s, np.float64)[:, np.arange(s.shape[1]), matchings(s.shape[1])].sum(axis=-1)


def group_scores(s: Float[np.ndarray, "groups k k"]) -> dict[str, Bool[np.ndarray, "groups"]]:
    """What a group of k pictures and their k texts gets right; s[g, i, j] scores picture i against text j.

    `image`: every text finds its picture (Winoground's image score, MMVP-VLM's score). Of equally good pictures the last
      is chosen, as MMVP-VLM's script does: it takes the first of two only if its probability exceeds one half.
    `text`: every picture's own text scores strictly above the others.
    `group`: every s_ii is strictly the largest of its row and of its column.
    `group_match`: the true matching has strictly the largest sum of all matchings (arXiv 2510.07632).

    By chance, for independent scores of one continuous distribution: image and text 1/k^k, group (k-1)!/(2k-1)!, match 1/k!.

    Raises:
      ValueError: see `permutation_sums`.
    """
    sums = permutation_sums(s)
    k = s.shape[1]
    own, true = np.eye(k, dtype=bool), s[:, np.arange(k), np.arange(k)]
    earlier = np.triu(np.ones((k, k), bool), 1)  # pictures before a text's own one, which it may tie with
    whole = lambda won: (won | own).all(axis=(1, 2))
    pictures, texts = true[:, None, :] > s, true[:, :, None] > s
    return {"image": whole(np.where(earlier, true[:, None, :] >= s, pictures)), "text": whole(texts),
            "group": whole(pictures & texts), "group_match": (sums[:, :1] > sums[:, 1:]).all(axis=1)}


def pair_scores(right: Bool[np.ndarray, "pairs 2"], patterns: Sequence[str] = ()) -> dict[str, float]:
    """A result in percent: `pair_accuracy` with its interval, `question_accuracy`, `pair_accuracy_<pattern>`, and how many pairs.

    Args:
      patterns: of each pair, "" where it is unknown; none at all likewise.
    """
    passed = pair_accuracy(right)
    low, high = bootstrap_interval(passed)
    return {"pairs": len(passed), "pair_accuracy": 100 * float(passed.mean()), "pair_low": 100 * low,
            "pair_high": 100 * high, "question_accuracy": 100 * float(np.mean(right)),
            **_by_pattern("pair_accuracy", passed, patterns)}


NAMES = {"image": "image_score", "text": "text_score", "group": "group_score", "group_match": "group_match"}


def similarity_scores(s: Float[np.ndarray, "pairs 2 2"], patterns: Sequence[str] = ()) -> dict[str, float]:
    """A result in percent: `image_score` with its interval, `text_score`, `group_score`, `group_match`, each by pattern too.

    Args:
      s: see `group_scores`. patterns: see `pair_scores`.
    """
    found = {NAMES[key]: passed for key, passed in group_scores(s).items()}
    low, high = bootstrap_interval(found["image_score"])
    result = {"pairs": len(s), "image_score": 0.0, "image_low": 100 * low, "image_high": 100 * high}
    result |= {name: 100 * float(passed.mean()) for name, passed in found.items()}
    for name, passed in found.items():
        result |= _by_pattern(name, passed, patterns)
    return result


def _by_pattern(name: str, passed: Bool[np.ndarray, "pairs"], patterns: Sequence[str]) -> dict[str, float]:
    of = np.array(patterns, dtype=str)
    return {f"{name}_{key}": 100 * float(passed[of == key].mean()) for key in PATTERNS if key in patterns}


def by_pattern(result: Mapping[str, float], name: str) -> dict[str, float]:
    """Pattern -> value of `name` in a result, in the paper's order; patterns that it lacks are left out."""
    return {key: result[f"{name}_{key}"] for key in PATTERNS if f"{name}_{key}" in result}
