"""The blindest of many pairs: the best few of each image, and the best few of all, in one walk over the parts."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtyping import Float, Int
import numpy as np

Part = tuple[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"], Float[np.ndarray, "pairs"]]


def best(parts: Iterable[Part], top_k: int | None, limit: int | None) -> Int[np.ndarray, "kept"]:
    """Which pairs to keep, as sorted positions in the parts laid end to end.

    A pair stays if it is among the `top_k` of either of its images and then among the `limit` of all; equal scores go by
    position. What is held is the best so far: at most `top_k` an image, or `limit`.

    Args:
      parts: (i, j, score), higher is better.
    """
    image, score, place = np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64)
    begun = 0
    for i, j, scores in parts:
        places = begun + np.arange(len(i))
        begun += len(i)
        if top_k:
            image, score, place = (np.concatenate(x) for x in ((image, i, j), (score, scores, scores), (place, places, places)))
            order = np.lexsort((place, -score, image))
            image, score, place = image[order], score[order], place[order]
            kept = np.arange(len(image)) - np.searchsorted(image, image) < top_k
            image, score, place = image[kept], score[kept], place[kept]
        else:
            score, place = np.concatenate([score, scores]), np.concatenate([place, places])
            score, place = _first(score, place, limit)
    place, where = np.unique(place, return_index=True)
    return np.sort(_first(score[where], place, limit)[1])


def _first(score: np.ndarray, place: np.ndarray, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((place, -score))[:limit]
    return score[order], place[order]
