"""Rankings with several right answers: average precision, precision and discounted gain among the first k.

Equal scores are no order: thresholds pass all of them at once (average precision), or every order of them
is averaged over (P@k, nDCG@k). So scikit-learn has it (`average_precision_score`, `ndcg_score`), and a
model that scores everything alike gains nothing by where a row stands.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
import numpy as np

Weights = Float[np.ndarray, "rows"]


def average_precision(
    scores: Float[np.ndarray, "rows"], labels: Bool[np.ndarray, "rows"], weights: Weights | None = None
) -> float:
    """Σ_n (R_n - R_{n-1}) P_n over the different scores, best first, with recall R and precision P of all
    rows that score at least that much; NaN without a positive.

    Args:
      weights: how often each row counts.
    """
    w = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(
        np.append(np.diff(scores[order]) != 0, True)
    )  # the last row of each group of equal scores
    right = np.cumsum((w * labels)[order])[ends]
    passed = np.cumsum(w[order])[ends]
    if not right[-1]:
        return float("nan")
    precision = np.divide(right, passed, out=np.zeros_like(right), where=passed > 0)
    return float(np.diff(right, prepend=0.0) @ precision / right[-1])


def mean_average_precision(
    scores: Float[np.ndarray, "rows labels"],
    labels: Bool[np.ndarray, "rows labels"],
    weights: Weights | None = None,
) -> float:
    """The mean of `average_precision` over labels that have a positive: macro mAP."""
    found = [average_precision(scores[:, k], labels[:, k], weights) for k in range(labels.shape[1])]
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def gain_at(
    scores: Float[np.ndarray, "queries candidates"], relevance: Float[np.ndarray, "queries candidates"],
    discounts: Float[np.ndarray, "k"],
) -> Float[np.ndarray, "queries"]:
    """Σ_r discounts[r] · E relevance of rank r, over all orders of equal scores: each group of them shares
    its ranks' discounts evenly."""
    total = np.zeros(len(scores))
    weight = np.zeros(scores.shape[1])
    weight[: len(discounts)] = discounts[: scores.shape[1]]
    for row, (s, gain) in enumerate(zip(scores, np.asarray(relevance, np.float64))):
        _, group = np.unique(-s, return_inverse=True)
        counts = np.bincount(group)
        shared = np.add.reduceat(weight, np.cumsum(counts) - counts) / counts
        total[row] = shared[group] @ gain
    return total


def precision_at(
    scores: Float[np.ndarray, "queries candidates"], labels: Bool[np.ndarray, "queries candidates"], k: int
) -> Float[np.ndarray, "queries"]:
    """The share of right ones among a query's k best candidates; with fewer candidates than k it cannot
    reach 1."""
    return gain_at(scores, labels, np.full(k, 1.0 / k))


def ndcg_at(
    scores: Float[np.ndarray, "queries candidates"],
    relevance: Float[np.ndarray, "queries candidates"],
    k: int,
) -> Float[np.ndarray, "queries"]:
    """DCG@k, the relevance of rank r (from 1) over log2(1 + r), by that of the best order (Järvelin &
    Kekäläinen 2002); 0 for a query without a relevant candidate, as scikit-learn has it."""
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    relevance = np.asarray(relevance, np.float64)
    best = -np.sort(-relevance, axis=1)[:, :k] @ discounts[: relevance.shape[1]]
    gained = gain_at(np.asarray(scores), relevance, discounts)
    return np.divide(gained, best, out=np.zeros_like(gained), where=best > 0)
