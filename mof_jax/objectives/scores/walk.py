"""One device's share of the work: once over all tiles of its queries with all keys that pass by.

    for hop in ring:              keys travel, with what belongs to them
      for block of queries:       tile = block x all keys of the hop
        queries' statistics += over the tile's columns
        keys' statistics    += over the tile's rows

Gradients walk the same tiles and compute the scores again: with W_ij = sum over statistics of
(cotangent * d value / d s_ij), a tile's maker pulls W back to queries, keys and parameters. Here all
arrays have the shapes of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from mof_jax.objectives.scores import trees
from mof_jax.objectives.scores.layout import Layout
from mof_jax.objectives.scores.pairing import Pairing, Tile
from mof_jax.objectives.scores.statistics import KINDS, Entries, Statistic
from mof_jax.objectives.scores.tiles import Function, InnerProduct


class Plan(NamedTuple):
    """What is static about one walk (hashable, so that `custom_vjp` can carry it).

    Attributes:
      makers: of the matrix that is reduced and, if there is one, of the matrix under which
        expectations are taken.
      differentiated: which of them have gradients.
      block_size: queries per tile. dtype: of scores and statistics.
    """

    wanted: tuple[Statistic, ...]
    makers: tuple[InnerProduct | Function, ...]
    differentiated: tuple[bool, ...]
    layout: Layout
    block_size: int
    dtype: Any


class Side(NamedTuple):
    """The queries or the keys.

    Attributes:
      matrices: what each maker needs of them: (leaves with gradients, the others). pairing: their
        vectors of the pairing.
    """

    matrices: tuple[tuple[Any, Any], ...]
    pairing: Pairing


def walk(
    plan: Plan, rows: Side, columns: Side, shared: tuple, *, reduce: bool = False, of_statistics: tuple = ()
):
    """Grows the statistics (`reduce`), sums the gradients (given `of_statistics`), or both.

    Args:
      shared: what each maker needs besides rows and columns, as `Side.matrices`.
      of_statistics: (residual, cotangent) of each wanted statistic, leaves with a row per query or key.

    Returns:
      The accumulators; and for each matrix the gradients of its rows, columns and shared part, in the
      dtypes of what they belong to, summed over devices where all have the same part. What was not
      asked for is empty or None.
    """
    layout = plan.layout
    parts = list(zip(rows.matrices, columns.matrices, shared))
    pulled = [d and bool(of_statistics) for d in plan.differentiated]
    makes = [maker.over(r, s, d) for maker, (r, _, s), d in zip(plan.makers, parts, pulled)]
    accumulators = tuple(_start(plan, s) for s in plan.wanted) if reduce else ()
    sums = tuple(maker.sums(*part) if d else None for maker, part, d in zip(plan.makers, parts, pulled))
    of_keys = tuple(x if s.side == "key" else None for s, x in zip(plan.wanted, of_statistics))

    def tile(hop, here, start, size, carry):
        (columns, of_keys), (accumulators, sums) = here, carry
        made = [make(start, size, part) for make, part in zip(makes, columns.matrices)]
        scores, under = made[0][0], made[1][0] if len(made) > 1 else None
        place = _Place(layout, hop, start, scores.shape)
        pairing = trees.rows(rows.pairing, start, size).joined(columns.pairing)
        members = pairing.members(Tile(scores, place.diagonal, place.columns))
        entries = Entries(scores, under, place.positions)
        chosen = [members.over(s.over) for s in plan.wanted]
        accumulators = _grown(plan, accumulators, entries, chosen, start)
        if of_statistics:
            slopes = [trees.rows(x, start, size) if y is None else y for x, y in zip(of_statistics, of_keys)]
            weights = _weights(plan, entries, chosen, slopes)
            sums = tuple(s and _added(s, pull(w), start) for s, (_, pull), w in zip(sums, made, weights))
        return accumulators, sums

    def hop(i, carry):
        here, *grown = carry
        arriving = layout.pass_on(here)  # needed by the next hop only: it travels under this one's matmuls
        accumulators, sums = _over_blocks(plan, partial(tile, i, here), tuple(grown))
        accumulators = tuple(
            a if s.side == "query" else layout.pass_on(a) for s, a in zip(plan.wanted, accumulators))
        return arriving, accumulators, tuple(s and (s[0], layout.pass_on(s[1]), s[2]) for s in sums)

    _, accumulators, sums = layout.over_ring(hop, ((columns, of_keys), accumulators, sums))
    summed = zip(sums, plan.makers, parts)
    return accumulators, tuple(s and _gradients(plan, maker, s, part) for s, maker, part in summed)


class _Place(NamedTuple):
    """Where a tile lies; positions are computed only for those who ask."""

    layout: Layout
    hop: Any
    start: Any
    shape: tuple[int, int]

    def columns(self):
        return self.layout.first_key(self.hop) + lax.iota(jnp.int32, self.shape[1])

    def positions(self, axis: int):
        if axis == 1:
            return self.columns()[None, :]
        return (self.layout.first_query() + self.start + lax.iota(jnp.int32, self.shape[0]))[:, None]

    def diagonal(self):
        if not self.layout.square:
            return self.positions(0) == self.positions(1)
        # It exists only where a device meets its own keys.
        row, column = (lax.broadcasted_iota(jnp.int32, self.shape, axis) for axis in (0, 1))
        return ((row + self.start) == column) & jnp.equal(self.hop, 0)


def _start(plan: Plan, statistic: Statistic):
    length = plan.layout.queries if statistic.side == "query" else plan.layout.keys
    return KINDS[statistic.kind].start(statistic, length, plan.dtype)


def _grown(plan: Plan, accumulators: tuple, entries: Entries, chosen: Sequence, start) -> tuple:
    """The accumulators with one more tile."""
    updated = []
    for s, members, whole in zip(plan.wanted, chosen, accumulators):
        part = trees.rows(whole, start, len(members)) if s.side == "query" else whole
        part = KINDS[s.kind].update(part, entries, members, s)
        updated.append(trees.put(whole, part, start) if s.side == "query" else part)
    return tuple(updated)


def _weights(plan: Plan, entries: Entries, chosen: Sequence, of_statistics: Sequence) -> list:
    """Cotangents of a tile's scores, for each matrix; None for one without gradients."""
    weights = [jnp.zeros_like(entries.scores) if d else None for d in plan.differentiated]
    for s, members, here in zip(plan.wanted, chosen, of_statistics):
        residual, cotangent = jax.tree.map(lambda x, axis=s.axis: jnp.expand_dims(x, axis), here)
        slopes = KINDS[s.kind].slope, KINDS[s.kind].under_slope
        for i, slope in enumerate(slopes[: len(weights)]):
            if weights[i] is not None and slope is not None:
                weights[i] += jnp.where(members, cotangent * slope(entries, residual, s), 0)
    return weights


def _added(sums, part, start):
    rows, columns, shared = sums
    rows = trees.add(rows, part[0], start)
    return rows, *jax.tree.map(jnp.add, (columns, shared), part[1:])


def _gradients(plan: Plan, maker, sums, part):
    rows, columns, shared = sums
    if plan.layout.replicated:
        columns = plan.layout.summed(columns)
    rows, columns, shared = maker.gradients((rows, columns, shared), *part)
    learned = tuple(learned for learned, _ in part)
    return trees.cast_like((rows, columns, plan.layout.summed(shared)), learned)


def _over_blocks(plan: Plan, tile: Callable, carry):
    """`tile(start, size, carry)` over all blocks of queries; the last is smaller where they do not fit."""
    size = plan.block_size
    whole, rest = divmod(plan.layout.queries, size)
    carry = lax.fori_loop(0, whole, lambda i, c: tile(i * size, size, c), carry)
    return tile(whole * size, rest, carry) if rest else carry
