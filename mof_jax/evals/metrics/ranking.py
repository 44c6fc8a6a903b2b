"""Ranks and neighbours over similarity matrices that are never whole: strips of queries, spread over the devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int
import numpy as np

from mof_jax.mesh import BATCH_AXES, batch_shards

STRIP = 256

Hop: TypeAlias = tuple[Int[np.ndarray, "edges"], Int[np.ndarray, "edges"]]  # from, to


def positive_ranks(
    mesh: Mesh,
    queries: Float[np.ndarray, "queries dim"],
    keys: Float[np.ndarray, "keys dim"],
    query_ids: Int[np.ndarray, "queries"],
    key_ids: Int[np.ndarray, "keys"],
    hops: Sequence[Hop] = (),
) -> Int[np.ndarray, "queries"]:
    """How many wrong keys score at least as high as a query's best right key.

    Rank 0 is a hit at 1. Ties count against the query, so a model that embeds everything alike scores zero; so does one whose
    scores are no numbers.

    Args:
      hops: how ids of queries lead to ids of keys; without any, equal ids are right. Each hop is a list of edges, e.g. from
        pictures to items and from items to the texts that they have.
    """
    met_by = [*(origin for origin, _ in hops[1:]), key_ids]
    sizes = [1 + max(int(end.max(initial=0)), int(following.max(initial=0))) for (_, end), following in zip(hops, met_by)]

    def strip(q: Array, ids: Array, keys: Array, key_ids: Array, hops: Sequence[tuple[Array, Array]]) -> Array:
        scores = jnp.matmul(q, keys.T, precision="highest")
        right = ids[:, None] == key_ids if not hops else _reached(ids, hops, sizes)[:, key_ids]
        best = jnp.max(jnp.where(right, scores, -jnp.inf), axis=1, keepdims=True)
        return jnp.sum(~right & ~(scores < best), axis=1)

    return _over_strips(mesh, strip, (queries, query_ids), (keys, key_ids, tuple(hops)))


def _reached(
    ids: Int[Array, "queries"], hops: Sequence[tuple[Array, Array]], sizes: Sequence[int]
) -> Bool[Array, "queries ends"]:
    """Which ids behind the last hop each query leads to."""
    met = ids[:, None] == hops[0][0]
    for n, (origin, end) in enumerate(hops):
        met = met if n == 0 else reached[:, origin]
        reached = jnp.zeros((sizes[n], len(ids)), bool).at[end].max(met.T).T
    return reached


def nearest(
    mesh: Mesh, queries: Float[np.ndarray, "queries dim"], keys: Float[np.ndarray, "keys dim"], k: int
) -> tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
    """Scores and indices of the k best keys of each query, best first."""
    return _over_strips(mesh, lambda q, keys: jax.lax.top_k(jnp.matmul(q, keys.T, precision="highest"), k), (queries,), (keys,))


def _over_strips(mesh: Mesh, fn: Callable[..., Any], rows: tuple[np.ndarray, ...], whole: tuple[np.ndarray, ...]) -> Any:
    """`fn(strip of rows..., *whole)`, strips spread over the devices, results joined in order."""
    count, shards = len(rows[0]), batch_shards(mesh)
    strip = max(1, min(STRIP, -(-count // shards)))
    strips = -(-count // (strip * shards)) * shards
    pad = lambda x: np.concatenate([x, np.repeat(x[-1:], strips * strip - count, axis=0)]).reshape(strips, strip, *x.shape[1:])

    def local(rows: tuple[Array, ...], whole: tuple[Array, ...]) -> Any:
        return jax.lax.map(lambda part: fn(*part, *whole), rows)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(BATCH_AXES), P()), out_specs=P(BATCH_AXES), check_vma=False)
    out = jax.jit(sharded, out_shardings=jax.sharding.NamedSharding(mesh, P()))(tuple(pad(np.asarray(x)) for x in rows), whole)
    return jax.tree.map(lambda x: np.asarray(x).reshape(strips * strip, *x.shape[2:])[:count], out)
