"""Scores that are never formed: statistics and exact gradients in O(n * dim) memory, flat in devices.

The derivative is defined on the global arrays, outside shard_map: each pass is one shard_map of its
own, and the sums over devices that a transposed shard_map would insert are written out, where they
can be read. Residuals are the features and a few vectors; the largest temporary is one tile.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mof_jax.objectives.scores import trees
from mof_jax.objectives.scores.statistics import KINDS, Statistic
from mof_jax.objectives.scores.tiles import Function, InnerProduct
from mof_jax.objectives.scores.value import Scores
from mof_jax.objectives.scores.walk import Plan, Side, walk

TILE_ELEMENTS = 2**23  # 32 MiB of f32: large enough for a full-speed matmul, small beside the features


class StreamedScores(Scores):
    """Scores in tiles; see `Scores`."""

    def _reduce(self, wanted: tuple[Statistic, ...], under: Scores | None, learn_under: bool):
        return _streamed(*_prepared(self, wanted, under, learn_under))

    def _total(self, wanted: tuple[Statistic, ...], under: Scores | None, learn_under: bool):
        # A normaliser is known only after a pass over all scores, so its gradient needs a second one; a sum
        # has none, and value and gradients come out of one walk: three matmuls in the place of four.
        return _totalled(*_prepared(self, wanted, under, learn_under))


def _prepared(scores: Scores, wanted: tuple[Statistic, ...], under: Scores | None, learn_under: bool):
    """The plan, and (rows, columns, shared) of what has gradients and of what has none."""
    matrices = [scores] if under is None else [scores, under]
    makers = tuple(InnerProduct(x.precision) if x.tile is None else Function(x.tile) for x in matrices)
    layout = scores.layout
    size = max(1, min(scores.block_size, layout.queries, TILE_ELEMENTS // max(layout.keys, 1)))
    dtype = jnp.result_type(*(x.dtype for x in matrices))
    plan = Plan(wanted, makers, (True, learn_under)[: len(matrices)], layout, size, dtype)
    parts = [trees.partition(part) for x in matrices for part in (
        (x.query, x.offset), (x.key, x.key_offset), (x.scale, x.parameters))]
    learned, fixed = zip(*parts)
    pairing = scores.pairing.one_side("query"), scores.pairing.one_side("key")
    return plan, tuple(learned[i::3] for i in range(3)), (*(fixed[i::3] for i in range(3)), pairing)


def _run(plan: Plan, f, learned, fixed, rows: Any = None):
    """`f` on every device: (plan, Side of rows, Side of columns, shared, further rows)."""
    *fixed, pairing = fixed
    row_parts, column_parts, shared = (tuple(zip(*both)) for both in zip(learned, fixed))
    row_side, column_side = Side(row_parts, pairing[0]), Side(column_parts, pairing[1])

    def local(ours, columns, shared):
        return f(plan, ours[0], columns, shared, ours[1])

    return plan.layout.run(local, (row_side, rows), column_side, shared)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _streamed(plan, learned, fixed):
    return _streamed_forward(plan, learned, fixed)[0]


def _streamed_forward(plan, learned, fixed):
    (values, residuals), _, _ = _run(plan, _values, learned, fixed)
    return values, (learned, fixed, residuals)


def _streamed_backward(plan, saved, cotangents):
    learned, fixed, residuals = saved
    return _run(plan, _slopes, learned, fixed, (residuals, cotangents)), None


_streamed.defvjp(_streamed_forward, _streamed_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _totalled(plan, learned, fixed):
    return sum(values.sum() for values in _streamed_forward(plan, learned, fixed)[0])


def _totalled_forward(plan, learned, fixed):
    rows, columns, (total, shared) = _run(plan, _total_and_slopes, learned, fixed)
    return total, (rows, columns, shared)


def _totalled_backward(plan, gradients, cotangent):
    return jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients), None


_totalled.defvjp(_totalled_forward, _totalled_backward)


# One device's share, as `Layout.run` wants it: (rows, columns, what is summed over devices).


def _values(plan, rows, columns, shared, _):
    """Values and residuals of every wanted statistic; each a tuple in the order wanted."""
    accumulators, _ = walk(plan, rows, columns, shared, reduce=True)
    return _finished(plan, accumulators), (), ()


def _slopes(plan, rows, columns, shared, of_statistics):
    """Gradients of rows, columns and what is shared."""
    return _by_part(walk(plan, rows, columns, shared, of_statistics=tuple(zip(*of_statistics)))[1])


def _total_and_slopes(plan, rows, columns, shared, _):
    """The sum of every linear statistic, and its gradients, in one walk."""
    lengths = {"query": plan.layout.queries, "key": plan.layout.keys}
    ones = tuple((None, jnp.ones(lengths[s.side], plan.dtype)) for s in plan.wanted)
    accumulators, gradients = walk(plan, rows, columns, shared, reduce=True, of_statistics=ones)
    total = sum(values.sum() for values in _finished(plan, accumulators)[0])
    *sides, shared = _by_part(gradients)
    return *sides, (plan.layout.summed(total), shared)


def _finished(plan, accumulators):
    finished = [KINDS[s.kind].finish(a) for s, a in zip(plan.wanted, accumulators)]
    return tuple(v for v, _ in finished), tuple(r for _, r in finished)


def _by_part(gradients):
    """(rows, columns, shared), each a tuple over matrices, None for one without gradients."""
    return tuple(tuple(g and g[i] for g in gradients) for i in range(3))
