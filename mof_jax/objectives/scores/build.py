"""`scores`: checks what a score matrix is made of and chooses its form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import inspect
from typing import Any, Literal

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from mof_jax.errors import UserError
from mof_jax.objectives.scores import trees
from mof_jax.objectives.scores.dense import DenseScores
from mof_jax.objectives.scores.layout import layout
from mof_jax.objectives.scores.pairing import Diagonal, Pairing
from mof_jax.objectives.scores.streamed import StreamedScores
from mof_jax.objectives.scores.value import Scores

BLOCK_SIZE = 512
FORMS: dict[str, type[Scores]] = {"streamed": StreamedScores, "dense": DenseScores}


def scores(
    query: Float[Array, "queries dim"] | Any,
    key: Float[Array, "keys dim"] | Any,
    *,
    scale: Float[Array, ""] | float = 1.0,
    offset: Float[Array, ""] | Float[Array, "queries"] | float | None = None,
    key_offset: Float[Array, "keys"] | None = None,
    tile: Callable[..., Float[Array, "rows columns"]] | None = None,
    parameters: Any = None,
    pairing: Pairing = Diagonal(),
    mesh: Mesh | None = None,
    batch_axes: Sequence[str] = (),
    groups: int = 1,
    replicated: bool = False,
    how: Literal["streamed", "dense"] = "streamed",
    block_size: int = BLOCK_SIZE,
    precision: lax.PrecisionLike = None,
) -> Scores:
    """The matrix s_ij = scale * <query_i, key_j> + offset_i + key_offset_j, ready to be reduced.

        s = scores(image, text, scale=scale, mesh=mesh, batch_axes=("data",))
        n, p = s.reduce(Statistic("lse", "negatives"), Statistic("lse", "positives"))
        loss = jax.nn.softplus(n - p).sum()                                             # InfoNCE

    KL of a teacher's softmax t and this one's: `lse_s - lse_t + E_t[t] - E_t[s]` with
    `Statistic("expectation", "all")`.

    Args:
      query: features, any float dtype; usually L2-normalised, not required. With `tile`, a pytree of
        arrays with a row each.
      key: features of the other side; their number may differ from the queries' (a queue, a class
        table).
      scale: multiplier of the inner products (the exponentiated `logit_scale`), or of the tiles.
      offset: added to a query's scores, one number or one per query (SigLIP's bias, Sinkhorn's
        potential).
      key_offset: the same for keys.
      tile: in the place of the inner product, `tile(parameters, query, key)` of some rows of each ->
        [rows, rows]. It is called on parts of any size and must treat every pair alike. What it
        closes over has no gradient, and must be no traced value: that is what `parameters` are for.
      parameters: a pytree, of which every device has the whole; its gradients are summed over tiles
        and devices.
      pairing: which entries are positive, negative or ignored.
      mesh: devices the rows are spread over; `None` computes everything where it is called.
      batch_axes: the mesh axes over which queries and keys are sharded, major first.
      groups: the batch is that many consecutive blocks of equal size, and only rows of one block meet.
        Positions (`Labels`, the diagonal) count from the start of a block.
      replicated: every device has all keys (a small class table); they do not travel, and are not
        reduced by column. Such extra keys beside the batch's own are a second call; `jnp.logaddexp`
        joins log-sum-exps.
      how: `streamed` never forms the matrix; `dense` does, and gives it as `.matrix`.
      block_size: queries per tile; fewer are taken where a tile would exceed 32 MiB.
      precision: of the inner products, as in `jax.lax.dot_general`.

    Returns:
      The scores: see `Scores.reduce` and `Scores.total`.

    Raises:
      UserError: shapes that do not fit each other, the pairing, the mesh or the groups, or a tile
        that closes over a tracer.
    """
    if block_size < 1:
        raise UserError(f"block_size={block_size}: a tile needs at least one query")
    if how not in FORMS:
        raise UserError(f"how={how!r}: scores are {' or '.join(FORMS)}")
    query, key, parameters = jax.tree.map(jnp.asarray, (query, key, parameters))
    queries, keys = _count(query, "query"), _count(key, "key")
    if tile is not None:
        _check_tile(tile, parameters, query, key, (queries, keys))
    elif parameters is not None:
        raise UserError("parameters are those of `tile`, and there is none")
    else:
        _check_features(query, key)
    if not isinstance(pairing, Pairing):
        raise UserError(f"pairing={pairing!r} is none; it is a value such as Diagonal() or Groups(ids)")
    floats, _ = trees.partition((query, key))
    dtype = jnp.result_type(jnp.float32, *(x.dtype for x in jax.tree.leaves(floats)))
    pairing = pairing.prepared(queries, keys)
    if tile is None:
        query, key = (_cleared(x, pairing.valid(side)) for x, side in ((query, "query"), (key, "key")))
    return FORMS[how](
        query=query,
        key=key,
        scale=_number(scale, dtype),
        offset=_per_row(offset, queries, dtype, "offset"),
        key_offset=_per_row(key_offset, keys, dtype, "key_offset"),
        tile=tile,
        parameters=parameters,
        pairing=pairing,
        shape=(queries, keys),
        layout=layout(queries, keys, mesh, batch_axes, groups, replicated),
        block_size=block_size,
        precision=precision,
        dtype=dtype,
    )


def _count(tree: Any, name: str) -> int:
    """Rows of a side."""
    counts = {x.shape[:1] for x in jax.tree.leaves(tree)}
    if len(counts) != 1 or counts == {()}:
        shapes = [x.shape for x in jax.tree.leaves(tree)]
        raise UserError(f"{name}: its arrays must have one number of rows, got {shapes}")
    return counts.pop()[0]


def _check_features(query: Any, key: Any) -> None:
    """An inner product needs two matrices of one width."""
    matrices = all(isinstance(x, jax.Array) and x.ndim == 2 for x in (query, key))
    if not matrices or query.shape[1] != key.shape[1]:
        shapes = " and ".join(map(str, jax.tree.map(jnp.shape, [query, key])))
        raise UserError(f"query and key must be [pairs, dim] of one dim, or there is a `tile`; got {shapes}")


def _check_tile(tile: Callable, parameters: Any, query: Any, key: Any, shape: tuple[int, int]) -> None:
    for name, value in _captured(tile).items():
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)):
            raise UserError(
                f"tile closes over {name!r}, a traced value that would get no gradient: make it a parameter")
    made = jax.eval_shape(tile, parameters, query, key)
    if getattr(made, "shape", None) != shape:
        raise UserError(
            f"tile gives {made} for {shape[0]} queries and {shape[1]} keys; it must be [queries, keys]")


def _captured(tile: Callable) -> dict[str, Any]:
    """What a function has from outside its arguments, by name."""
    if isinstance(tile, functools.partial):
        return _captured(tile.func) | {str(i): x for i, x in enumerate(tile.args)} | tile.keywords
    return dict(inspect.getclosurevars(tile).nonlocals) if inspect.isfunction(tile) else {}


def _cleared(x: Array, valid: Array | None) -> Array:
    """Rows that do not exist are 0: a NaN in one of them would survive multiplication by 0."""
    return x if valid is None else jnp.where(valid[:, None], x, 0)


def _number(x: Any, dtype: Any) -> Array:
    x = jnp.asarray(x, dtype)
    if x.ndim:
        raise UserError(f"scale is one number, got shape {x.shape}; for other temperatures write a `tile`")
    return x


def _per_row(x: Any, count: int, dtype: Any, name: str) -> Array | None:
    if x is None:
        return None
    x = jnp.asarray(x, dtype)
    if x.shape not in ((), (count,)):
        raise UserError(f"{name} has shape {x.shape}; it is one number or one for each of {count} rows")
    return jnp.broadcast_to(x, (count,))
