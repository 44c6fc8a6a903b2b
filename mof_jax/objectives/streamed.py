"""Statistics of a global score matrix that is never formed.

Every contrastive loss here is a function of a few numbers per row and per column of

    s_ij = scale * <query_i, key_j> + offset_i          over all pairs (i, j) of the global batch,

such as the log-sum-exp over the negatives of query i. `score_statistics` computes those O(n) vectors in tiles and
differentiates through them exactly, so a loss is ordinary JAX on vectors and never sees tiles, masks or devices.

    device d holds queries d and keys d      for hop in ring:          keys travel, with what belongs to them
                                               for strip of queries:   tile = strip x all keys of the hop
                                                 queries' statistics += over the tile's columns
                                                 keys' statistics    += over the tile's rows

The backward pass walks the same tiles again and recomputes the scores: with W_ij = sum over statistics of
(cotangent * ds-derivative), dquery = scale * W @ key and dkey = scale * W^T @ query. `score_total`, for sums over the
scores, needs no second walk. Residuals are O(n * dim), the largest temporary is one tile, and neither grows with the
number of devices.

The ring over devices follows Inf-CL (arXiv 2410.17243) and SigLIP (arXiv 2303.15343, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
import math
from typing import Any, Literal, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from mof_jax.errors import UserError
from mof_jax.objectives.kinds import KINDS

STRIP = 512
TILE_ELEMENTS = 2**23  # 32 MiB of f32: large enough for a full-speed matmul, small beside the features


class Statistic(NamedTuple):
    """One number per query (or per key): `kind` of its scores with its `over` keys (or queries).

    Attributes:
      kind: `lse` log-sum-exp; `sum`; `logistic` sum of softplus(-s) over positives or of softplus(s) over negatives.
      over: which entries take part. Positives are the diagonal and, given groups, all pairs of one group.
      side: `query` reduces each row of the score matrix, `key` each column.
    """

    kind: Literal["lse", "sum", "logistic"]
    over: Literal["positives", "negatives"] = "negatives"
    side: Literal["query", "key"] = "query"


class _Plan(NamedTuple):
    """What is static about one call (hashable, so `custom_vjp` can carry it)."""

    wanted: tuple[Statistic, ...]
    mesh: Mesh | None
    axes: tuple[str, ...]
    devices: int
    strip: int
    precision: Any


def score_statistics(
    query: Float[Array, "pairs dim"],
    key: Float[Array, "pairs dim"],
    scale: Float[Array, ""],
    wanted: Sequence[Statistic],
    *,
    offset: Float[Array, ""] | Float[Array, "pairs"] | None = None,
    group: Int[Array, "pairs"] | None = None,
    mesh: Mesh | None = None,
    batch_axes: Sequence[str] = (),
    strip: int = STRIP,
    precision: lax.PrecisionLike = None,
) -> tuple[Float[Array, "pairs"], ...]:
    """The wanted statistics of s_ij = scale * <query_i, key_j> + offset_i, differentiable, in O(n * dim) memory.

    Args:
      query: features of one side, any float dtype; usually L2-normalised, not required.
      key: features of the other side; row i is the partner of query i.
      scale: multiplier of the inner products (the exponentiated `logit_scale`).
      wanted: the statistics to compute, in the order they are returned.
      offset: added to the scores, one number or one per query (SigLIP's bias).
      group: int32 id per pair; pairs of equal id are each other's positives, -1 has no siblings. The diagonal always
        is positive.
      mesh: devices the pairs are spread over; `None` computes everything where it is called.
      batch_axes: the mesh axes over which `pairs` is sharded, major first.
      strip: queries per tile; fewer are taken where a tile would exceed `TILE_ELEMENTS`.
      precision: of the matmuls, as in `jax.lax.dot_general`.

    Returns:
      One vector per statistic, in f32 (f64 for f64 features), sharded like the pairs. Over an empty set `lse` is -inf.

    Raises:
      UserError: the mesh lacks a batch axis, or its size does not divide the number of pairs.
    """
    return _streamed(*_prepare(query, key, scale, wanted, offset, group, mesh, batch_axes, strip, precision))


def score_total(
    query: Float[Array, "pairs dim"], key: Float[Array, "pairs dim"], scale: Float[Array, ""], wanted: Sequence[Statistic],
    **where: Any,
) -> Float[Array, ""]:
    """The sum of `score_statistics` over all pairs, for statistics whose slope needs the score alone.

    A normaliser is known only after a pass over all scores, so its gradient needs a second one; a sum has none, and value
    and gradients come out of one walk: three matmuls in the place of four. Arguments as in `score_statistics`.

    Raises:
      ValueError: a statistic is not linear in its entries (`lse`).
    """
    if curved := [s.kind for s in wanted if not KINDS[s.kind].linear]:
        raise ValueError(f"score_total takes sums over scores, not {curved[0]}")
    return _totalled(*_prepare(query, key, scale, wanted, **where))


def _prepare(query, key, scale, wanted, offset=None, group=None, mesh=None, batch_axes=(), strip=STRIP, precision=None):
    """Checked and in the dtype of the statistics: plan, query, key, scale, offset, group."""
    devices = _check(query, key, group, mesh, batch_axes, strip)
    dtype = jnp.promote_types(jnp.float32, query.dtype)
    if offset is not None:
        offset = jnp.broadcast_to(jnp.asarray(offset, dtype), query.shape[:1])
    local = max(query.shape[0] // devices, 1)
    rows = max(1, min(strip, local, TILE_ELEMENTS // local))
    axes = tuple(batch_axes) if mesh is not None else ()
    plan = _Plan(tuple(wanted), mesh, axes, devices, rows, precision)
    return plan, query, key, jnp.asarray(scale, dtype), offset, group


def _check(query, key, group, mesh, batch_axes, strip) -> int:
    """The number of devices the pairs are spread over, once everything fits together."""
    if query.shape != key.shape or query.ndim != 2:
        raise UserError(f"query and key must both be [pairs, dim], got {query.shape} and {key.shape}")
    if group is not None and group.shape != query.shape[:1]:
        raise UserError(f"group has shape {group.shape}; {query.shape[0]} pairs need one id each")
    if strip < 1:
        raise UserError(f"strip={strip}: a tile needs at least one query")
    if mesh is None:
        return 1
    if unknown := [a for a in batch_axes if a not in mesh.shape]:
        raise UserError(f"batch_axes {unknown}: the mesh has axes {', '.join(mesh.axis_names)}")
    devices = math.prod(mesh.shape[a] for a in batch_axes)
    if query.shape[0] % devices:
        sizes = ", ".join(f"{a}={mesh.shape[a]}" for a in batch_axes)
        raise UserError(f"a global batch of {query.shape[0]} pairs is not a multiple of {devices} devices ({sizes})")
    return devices


# The derivative is defined on the global arrays, outside shard_map: each pass is one shard_map of its own, and the
# sums over devices that a transposed shard_map would insert are written out below, where they can be read.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _streamed(plan, query, key, scale, offset, group):
    return _streamed_forward(plan, query, key, scale, offset, group)[0]


def _streamed_forward(plan, query, key, scale, offset, group):
    pairs = P(plan.axes)
    run = _over_mesh(plan, _forward, (pairs, pairs, P(), pairs, pairs), pairs)
    values, residuals = run(query, key, scale, offset, group)
    return values, (query, key, scale, offset, group, residuals)


def _streamed_backward(plan, saved, cotangents):
    pairs = P(plan.axes)
    run = _over_mesh(plan, _backward, (pairs, pairs, P(), pairs, pairs, pairs, pairs), (pairs, pairs, P(), pairs))
    return *run(*saved, cotangents), None


_streamed.defvjp(_streamed_forward, _streamed_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _totalled(plan, query, key, scale, offset, group):
    return sum(values.sum() for values in _streamed_forward(plan, query, key, scale, offset, group)[0])


def _totalled_forward(plan, query, key, scale, offset, group):
    pairs = P(plan.axes)
    outputs = (P(), (pairs, pairs, P(), pairs))
    run = _over_mesh(plan, _forward_and_slopes, (pairs, pairs, P(), pairs, pairs), outputs)
    return run(query, key, scale, offset, group)


def _totalled_backward(plan, gradients, cotangent):
    return *jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients), None


_totalled.defvjp(_totalled_forward, _totalled_backward)


def _over_mesh(plan: _Plan, f: Callable, in_specs, out_specs) -> Callable:
    f = partial(f, plan)
    if not plan.axes:
        return f
    # Varying-axes checks serve autodiff through shard_map, which `custom_vjp` replaces.
    return jax.shard_map(f, mesh=plan.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


# One device's share. Arrays below have local shapes: m = pairs / devices.


def _forward(plan, query, key, scale, offset, group):
    """Values and residuals of every wanted statistic; each a tuple in the order wanted, leaves [m]."""
    accumulators, _ = _walk(plan, query, key, scale, offset, group, reduce=True)
    return _finish(plan, accumulators)


def _backward(plan, query, key, scale, offset, group, residuals, cotangents):
    """Cotangents of query, key, scale and offset."""
    return _walk(plan, query, key, scale, offset, group, of_statistics=tuple(zip(residuals, cotangents)))[1]


def _forward_and_slopes(plan, query, key, scale, offset, group):
    """The sum of every linear statistic over this device, and its gradients, in one walk."""
    ones = tuple((None, jnp.ones(query.shape[0], scale.dtype)) for _ in plan.wanted)
    accumulators, gradients = _walk(plan, query, key, scale, offset, group, reduce=True, of_statistics=ones)
    total = sum(values.sum() for values in _finish(plan, accumulators)[0])
    return lax.psum(total, plan.axes) if plan.axes else total, gradients


def _finish(plan, accumulators):
    finished = [KINDS[s.kind].finish(a) for s, a in zip(plan.wanted, accumulators)]
    return tuple(v for v, _ in finished), tuple(r for _, r in finished)


def _walk(plan, query, key, scale, offset, group, *, reduce: bool = False, of_statistics: tuple = ()):
    """Once over all tiles: grows the statistics (`reduce`), sums the gradients (given `of_statistics`), or both.

    Args:
      of_statistics: (residual, cotangent) of each wanted statistic, leaves [m].

    Returns:
      The accumulators, and the cotangents of query, key, scale and offset; either is empty where not asked for.
    """
    m, dtype = query.shape[0], scale.dtype
    accumulators = tuple(KINDS[s.kind].start(m, dtype) for s in plan.wanted) if reduce else ()
    of_keys = tuple(x if s.side == "key" else None for s, x in zip(plan.wanted, of_statistics))
    # The keys' gradient is summed transposed: [dim, strip] @ [strip, keys] needs no transposed tile, which costs an XLA:CPU
    # matmul almost half its speed.
    query_t, zeros = query.T, jnp.zeros(query.shape, dtype)
    gradients = (zeros, None if offset is None else jnp.zeros(m, dtype), zeros.T) if of_statistics else None

    def tile(own, start, size, travelling, carry):
        (keys, key_group, of_keys), (accumulators, gradients) = travelling, carry
        scores = _scores(plan, _rows(query, start, size), keys, scale, _rows(offset, start, size))
        positives = _positives(scores.shape, own, start, _rows(group, start, size), key_group)
        members = [positives if s.over == "positives" else ~positives for s in plan.wanted]
        updated = []
        for s, mine, whole in zip(plan.wanted, members, accumulators):
            part = _rows(whole, start, size) if s.side == "query" else whole
            part = KINDS[s.kind].update(part, scores, mine, s.over, 1 if s.side == "query" else 0)
            updated.append(_put(whole, part, start) if s.side == "query" else part)
        if gradients is None:
            return tuple(updated), None
        weights = jnp.zeros_like(scores)
        for s, mine, of_row, of_key in zip(plan.wanted, members, of_statistics, of_keys):
            on_row = s.side == "query"
            here = _rows(of_row, start, size) if on_row else of_key
            residual, cotangent = jax.tree.map(lambda x: x[:, None] if on_row else x[None, :], here)
            weights += jnp.where(mine, cotangent * KINDS[s.kind].slope(scores, residual, s.over), 0)
        dquery, doffset, dkey_t = gradients
        dquery = _add(dquery, _dot(plan, weights, keys.astype(dtype), 1, 0), start)
        if doffset is not None:
            doffset = _add(doffset, weights @ jnp.ones(weights.shape[1], dtype), start)  # far quicker than sum on CPU
        strip_t = lax.dynamic_slice_in_dim(query_t, start, size, axis=1).astype(dtype)
        return tuple(updated), (dquery, doffset, dkey_t + _dot(plan, strip_t, weights, 1, 0))

    def hop(own, carry):
        travelling, *sums = carry
        arriving = _pass_on(plan, travelling)  # needed only by the next hop, so it can travel under this one's matmuls
        accumulators, gradients = _over_strips(plan, m, lambda i, n, c: tile(own, i, n, travelling, c), tuple(sums))
        sides = zip(plan.wanted, accumulators)
        accumulators = tuple(a if s.side == "query" else _pass_on(plan, a) for s, a in sides)
        if gradients is not None:
            gradients = (*gradients[:2], _pass_on(plan, gradients[2]))
        return arriving, accumulators, gradients

    _, accumulators, gradients = _over_ring(plan, hop, ((key, group, of_keys), accumulators, gradients))
    if gradients is None:
        return accumulators, None
    dquery, doffset, dkey_t = gradients
    dscale = jnp.sum(query.astype(dtype) * dquery)  # sum_ij W_ij <q_i, k_j>: no tile needed
    if plan.axes:
        dscale = lax.psum(dscale, plan.axes)
    return accumulators, ((scale * dquery).astype(query.dtype), (scale * dkey_t.T).astype(key.dtype), dscale, doffset)


def _scores(plan, queries, keys, scale, offset) -> Float[Array, "strip keys"]:
    scores = scale * _dot(plan, queries, keys, 1, 1)
    return scores if offset is None else scores + offset[:, None]


def _positives(shape, own: Bool[Array, ""], start, query_group, key_group) -> Bool[Array, "strip keys"]:
    """Which entries of a tile are positive; the diagonal exists only where a device meets its own keys."""
    diagonal = (lax.broadcasted_iota(jnp.int32, shape, 0) + start) == lax.broadcasted_iota(jnp.int32, shape, 1)
    diagonal &= own
    if query_group is None:
        return diagonal
    return diagonal | ((query_group[:, None] == key_group[None, :]) & (query_group[:, None] != -1))


def _dot(plan, a, b, a_axis: int, b_axis: int):
    kind = jnp.promote_types(jnp.float32, jnp.promote_types(a.dtype, b.dtype))
    dims = (((a_axis,), (b_axis,)), ((), ()))
    return lax.dot_general(a, b, dims, precision=plan.precision, preferred_element_type=kind)


def _over_strips(plan, m: int, tile: Callable, carry):
    """`tile(start, size, carry)` over all strips; the last one is smaller where `strip` does not divide m."""
    whole, rest = divmod(m, plan.strip)
    carry = lax.fori_loop(0, whole, lambda i, c: tile(i * plan.strip, plan.strip, c), carry)
    return tile(whole * plan.strip, rest, carry) if rest else carry


def _over_ring(plan, hop: Callable, carry):
    """`hop(own, carry)` once per device; `own` says that a device sees its own keys, which is the first hop."""
    if plan.devices == 1:
        return hop(jnp.bool_(True), carry)
    return lax.fori_loop(0, plan.devices, lambda i, c: hop(i == 0, c), carry)


def _pass_on(plan, x):
    """Hands `x` to the next device of the ring; after `devices` hops everything is home again."""
    if plan.devices == 1:
        return x
    ring = [(i, (i + 1) % plan.devices) for i in range(plan.devices)]
    return jax.tree.map(lambda a: lax.ppermute(a, plan.axes, ring), x)


def _rows(x, start, size: int):
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), x)


def _put(whole, part, start):
    return jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, start, 0), whole, part)


def _add(whole, part, start):
    return _put(whole, _rows(whole, start, part.shape[0]) + part, start)
