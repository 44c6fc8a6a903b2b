"""What a statistic of scores is: how it grows over tiles, and its slope in each score.

A new statistic is one `Kind` in `KINDS` and its line in `dense.py`. `members` marks the entries of a
tile that take part; masks, tiles and devices are the business of `pairing.py`, `walk.py` and
`streamed.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

FLOOR = -1e30  # a running maximum before any score: finite, so that FLOOR - FLOOR is 0 and not nan
NOWHERE = 2**31 - 1  # the position of a maximum before any score


class Statistic(NamedTuple):
    """One number per query (or per key): `kind` of its scores with its `over` keys (or queries).

    | kind          | value                                                          | of nothing |
    | ------------- | -------------------------------------------------------------- | ---------- |
    | `lse`         | log-sum-exp                                                    | -inf       |
    | `sum`         | sum                                                            | 0          |
    | `count`       | how many take part; without gradient                           | 0          |
    | `logistic`    | sum of softplus(-s) over positives, of softplus(s) over negatives | 0       |
    | `expit`       | sum of sigmoid(s)                                              | 0          |
    | `max`         | the largest                                                    | -inf       |
    | `kth`         | the `k`-th largest; equal scores count apart                   | -inf, also of fewer |
    | `expectation` | sum of w_ij s_ij; w: softmax of a second matrix over the same entries | 0   |
    | `weighted`    | sum of w_ij s_ij; w: exp of a second matrix                    | 0          |

    The gradient of `max` and `kth` goes to one entry: of equal scores the earlier position counts as
    the larger.

    Attributes:
      over: which entries take part; see `pairing`. `logistic` has a sign only over positives or
        negatives.
      side: `query` reduces each row of the score matrix, `key` each column.
      k: of `kth`, 1 is the largest.
    """

    kind: Literal["lse", "sum", "count", "logistic", "expit", "max", "kth", "expectation", "weighted"]
    over: Literal["positives", "negatives", "all"] = "negatives"
    side: Literal["query", "key"] = "query"
    k: int = 1

    @property
    def axis(self) -> int:
        """The axis of the score matrix that is reduced."""
        return 1 if self.side == "query" else 0


class Entries(NamedTuple):
    """A tile of the score matrix, as statistics see it.

    Attributes:
      scores: of the matrix that is reduced. under: the same entries of the matrix that makes weights,
        if there is one.
      positions: of an axis (0 or 1): where its entries lie in the whole matrix, in a shape that
        broadcasts to the tile.
    """

    scores: Float[Array, "rows columns"]
    under: Float[Array, "rows columns"] | None
    positions: Callable[[int], Int[Array, "..."]]


class Kind(NamedTuple):
    """The functions of a statistic. Vectors are per query or per key, along the axis that stays.

    Attributes:
      start: (statistic, length, dtype) -> accumulator, a pytree of arrays with `length` rows.
      update: (accumulator, entries, members, statistic) -> accumulator with one more tile.
      finish: accumulator -> (value, residual); the residual is what the slope needs besides the
        entries.
      slope: (entries, residual, statistic) -> d value / d score; the residual's leaves broadcast
        against the tile. Entries outside the members may hold anything: the caller masks them.
      linear: a plain sum over its entries, so that the slope needs no residual.
      under_slope: as `slope`, for the scores of the second matrix; None for a statistic of one matrix.
    """

    start: Callable[..., Any]
    update: Callable[..., Any]
    finish: Callable[..., Any]
    slope: Callable[..., Any]
    linear: bool = False
    under_slope: Callable[..., Any] | None = None


def _lse_start(statistic: Statistic, length: int, dtype):
    return jnp.full(length, FLOOR, dtype), jnp.zeros(length, dtype)


def _lse_update(acc, entries: Entries, members: Bool[Array, "rows columns"], statistic: Statistic):
    peak, total = acc
    scores = jnp.where(members, entries.scores, -jnp.inf)
    new_peak = jnp.maximum(peak, scores.max(statistic.axis))
    fresh = jnp.exp(scores - jnp.expand_dims(new_peak, statistic.axis)).sum(statistic.axis)
    return new_peak, total * jnp.exp(peak - new_peak) + fresh


def _lse_finish(acc):
    peak, total = acc
    # Peak and log(total) stay apart in the residual: their sum would round away digits of the
    # probabilities when scores are near 100.
    return peak + jnp.log(total), (peak, jnp.log(jnp.where(total > 0, total, 1)))


def _lse_slope(entries, residual, statistic):
    peak, log_total = residual
    return jnp.exp((entries.scores - peak) - log_total)


def _sum_start(statistic, length, dtype):
    return jnp.zeros(length, dtype)


def _sum_finish(acc):
    return acc, None


def _add(acc, values, members, statistic):
    return acc + jnp.where(members, values, 0).sum(statistic.axis)


def _sum_update(acc, entries, members, statistic):
    return _add(acc, entries.scores, members, statistic)


def _sum_slope(entries, residual, statistic):
    return jnp.ones_like(entries.scores)


def _count_update(acc, entries, members, statistic):
    return _add(acc, jnp.ones_like(entries.scores), members, statistic)


def _count_slope(entries, residual, statistic):
    return jnp.zeros_like(entries.scores)


def _softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _logistic_update(acc, entries, members, statistic):
    losses = _softplus(-entries.scores if statistic.over == "positives" else entries.scores)
    return _add(acc, losses, members, statistic)


def _logistic_slope(entries, residual, statistic):
    scores = entries.scores
    return -jax.nn.sigmoid(-scores) if statistic.over == "positives" else jax.nn.sigmoid(scores)


def _expit_update(acc, entries, members, statistic):
    return _add(acc, jax.nn.sigmoid(entries.scores), members, statistic)


def _expit_slope(entries, residual, statistic):
    return jax.nn.sigmoid(entries.scores) * jax.nn.sigmoid(-entries.scores)


# `max` and `kth` remember positions: a score that is computed again may round differently, even
# within one program, so that none need equal the maximum.


def _max_start(statistic, length, dtype):
    return jnp.full(length, -jnp.inf, dtype), jnp.full(length, NOWHERE, jnp.int32)


def _max_update(acc, entries, members, statistic):
    best, at = acc
    axis = statistic.axis
    scores = jnp.where(members, entries.scores, -jnp.inf)
    peak, first = scores.max(axis), entries.positions(axis).reshape(-1)[jnp.argmax(scores, axis)]
    earlier = (peak > best) | ((peak == best) & (peak > -jnp.inf) & (first < at))
    return jnp.maximum(best, peak), jnp.where(earlier, first, at)


def _position_slope(entries, residual, statistic):
    return (entries.positions(statistic.axis) == residual).astype(entries.scores.dtype)


def _kth_start(statistic, length, dtype):
    shape = length, statistic.k
    return jnp.full(shape, -jnp.inf, dtype), jnp.full(shape, NOWHERE, jnp.int32)


def _kth_update(acc, entries, members, statistic):
    """The k best of the tile join the k best so far, by score and then by position; a NaN is the largest."""
    axis, k = statistic.axis, statistic.k
    scores = jnp.where(members, entries.scores, -jnp.inf)
    best, at = lax.top_k(scores if axis == 1 else scores.T, min(k, scores.shape[axis]))
    at = jnp.where(best == -jnp.inf, NOWHERE, entries.positions(axis).reshape(-1)[at])
    best, at = (jnp.concatenate(pair, axis=1) for pair in zip(acc, (best, at)))
    order = jnp.where(jnp.isnan(best), -jnp.inf, -best)
    _, at, best = lax.sort((order, at, best), dimension=1, num_keys=2)
    return best[:, :k], at[:, :k]


def _kth_finish(acc):
    best, at = acc
    return best[:, -1], at[:, -1]


def _expectation_start(statistic, length, dtype):
    return *_lse_start(statistic, length, dtype), jnp.zeros(length, dtype)


def _expectation_update(acc, entries, members, statistic):
    peak, total, weighted = acc
    axis = statistic.axis
    under = jnp.where(members, entries.under, -jnp.inf)
    new_peak = jnp.maximum(peak, under.max(axis))
    weights = jnp.exp(under - jnp.expand_dims(new_peak, axis))
    shrink = jnp.exp(peak - new_peak)
    fresh = jnp.where(members, weights * entries.scores, 0).sum(axis)
    return new_peak, total * shrink + weights.sum(axis), weighted * shrink + fresh


def _expectation_finish(acc):
    peak, total, weighted = acc
    total = jnp.where(total > 0, total, 1)
    return weighted / total, (peak, jnp.log(total), weighted / total)


def _expectation_slope(entries, residual, statistic):
    peak, log_total, _ = residual
    return jnp.exp((entries.under - peak) - log_total)


def _expectation_under_slope(entries, residual, statistic):
    return _expectation_slope(entries, residual, statistic) * (entries.scores - residual[2])


def _weighted_update(acc, entries, members, statistic):
    return _add(acc, jnp.exp(entries.under) * entries.scores, members, statistic)


def _weighted_slope(entries, residual, statistic):
    return jnp.exp(entries.under)


def _weighted_under_slope(entries, residual, statistic):
    return jnp.exp(entries.under) * entries.scores


KINDS: dict[str, Kind] = {
    "lse": Kind(_lse_start, _lse_update, _lse_finish, _lse_slope),
    "sum": Kind(_sum_start, _sum_update, _sum_finish, _sum_slope, linear=True),
    "count": Kind(_sum_start, _count_update, _sum_finish, _count_slope, linear=True),
    "logistic": Kind(_sum_start, _logistic_update, _sum_finish, _logistic_slope, linear=True),
    "expit": Kind(_sum_start, _expit_update, _sum_finish, _expit_slope, linear=True),
    "max": Kind(_max_start, _max_update, tuple, _position_slope),
    "kth": Kind(_kth_start, _kth_update, _kth_finish, _position_slope),
    "expectation": Kind(
        _expectation_start, _expectation_update, _expectation_finish, _expectation_slope,
        under_slope=_expectation_under_slope),
    "weighted": Kind(
        _sum_start, _weighted_update, _sum_finish, _weighted_slope, linear=True,
        under_slope=_weighted_under_slope),
}
