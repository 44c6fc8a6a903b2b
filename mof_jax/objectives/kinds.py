"""What a streamed statistic is: how it grows over tiles, and its slope in each score.

A new statistic is one `Kind` in `KINDS`. `members` marks the entries of a tile that take part; everything else about
masks, tiles and devices is `streamed.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

FLOOR = -1e30  # a running maximum before any score: finite, so that FLOOR - FLOOR is 0 and not nan


class Kind(NamedTuple):
    """The four functions of a statistic. Vectors are per query or per key; `over` is `positives` or `negatives`.

    Attributes:
      start: (length, dtype) -> accumulator, a pytree of vectors.
      update: (accumulator, scores, members, over, axis) -> accumulator with one more tile, reduced along `axis`.
      finish: accumulator -> (value, residual); the residual is what the slope needs besides the score.
      slope: (scores, residual, over) -> d value / d score; the residual's leaves broadcast against the tile. Entries
        outside the members may hold anything: the caller masks them.
      linear: a plain sum over its entries, so that the slope needs no residual.
    """

    start: Callable
    update: Callable
    finish: Callable
    slope: Callable
    linear: bool = False


def _lse_update(acc, scores: Float[Array, "strip keys"], members: Bool[Array, "strip keys"], over: str, axis: int):
    peak, total = acc
    scores = jnp.where(members, scores, -jnp.inf)
    new_peak = jnp.maximum(peak, scores.max(axis))
    fresh = jnp.exp(scores - jnp.expand_dims(new_peak, axis)).sum(axis)
    return new_peak, total * jnp.exp(peak - new_peak) + fresh


def _lse_finish(acc):
    peak, total = acc
    # Peak and log(total) stay apart in the residual: their sum would round away digits of the probabilities when
    # scores are near 100.
    return peak + jnp.log(total), (peak, jnp.log(jnp.where(total > 0, total, 1)))


def _lse_slope(scores, residual, over):
    peak, log_total = residual
    return jnp.exp((scores - peak) - log_total)


def _softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _sum_update(acc, scores, members, over, axis):
    return acc + jnp.where(members, scores, 0).sum(axis)


def _logistic_update(acc, scores, members, over, axis):
    return _sum_update(acc, _softplus(-scores if over == "positives" else scores), members, over, axis)


def _logistic_slope(scores, residual, over):
    return -jax.nn.sigmoid(-scores) if over == "positives" else jax.nn.sigmoid(scores)


KINDS: dict[str, Kind] = {
    "lse": Kind(
        start=lambda n, dtype: (jnp.full(n, FLOOR, dtype), jnp.zeros(n, dtype)),
        update=_lse_update,
        finish=_lse_finish,
        slope=_lse_slope,
    ),
    "sum": Kind(
        start=lambda n, dtype: jnp.zeros(n, dtype),
        update=_sum_update,
        finish=lambda acc: (acc, None),
        slope=lambda scores, residual, over: jnp.ones_like(scores),
        linear=True,
    ),
    "logistic": Kind(
        start=lambda n, dtype: jnp.zeros(n, dtype),
        update=_logistic_update,
        finish=lambda acc: (acc, None),
        slope=_logistic_slope,
        linear=True,
    ),
}
