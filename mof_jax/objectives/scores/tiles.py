"""How a tile of scores is made, and how a gradient of its entries goes back to what it was made of.

    s_ij = scale * f(query_i, key_j) + offset_i + key_offset_j

with f the inner product, whose derivative is written out, or a function of a tile, which JAX
differentiates inside the tile.

What both are made of comes in three parts: `rows` (query, offset), `columns` (key, key_offset) and
`shared` (scale, parameters). Each is a pair of trees, the leaves that have gradients and the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from mof_jax.objectives.scores import trees


class InnerProduct(NamedTuple):
    """f = <query_i, key_j>; `precision` as in `jax.lax.dot_general`."""

    precision: Any = None

    def over(self, rows, shared, differentiate: bool) -> Callable:
        """`tile(start, size, columns)` -> scores, and `pull(weights)` -> the tile's part of `sums`."""
        ((query, offset), _), ((scale, _), _) = rows, shared
        # The keys' gradient is summed transposed: [dim, block] @ [block, keys] needs no transposed
        # tile, which costs an XLA:CPU matmul almost half its speed.
        query_t, dtype = query.T, scale.dtype

        def tile(start, size, columns):
            (keys, key_offset), _ = columns
            scores = scale * self._dot(trees.rows(query, start, size), keys, 1, 1)
            scores = _shifted(scores, trees.rows(offset, start, size), key_offset)

            def pull(weights):
                offsets = _of_offsets(weights, offset, key_offset)
                dquery = self._dot(weights, keys.astype(dtype), 1, 0)
                block_t = lax.dynamic_slice_in_dim(query_t, start, size, axis=1).astype(dtype)
                return (dquery, offsets[0]), (self._dot(block_t, weights, 1, 0), offsets[1]), ()

            return scores, pull

        return tile

    def sums(self, rows, columns, shared):
        """Zeros in which tiles' gradients are added, of rows, columns and what is shared."""
        ((query, offset), _), ((key, key_offset), _), ((scale, _), _) = rows, columns, shared
        dtype = scale.dtype
        offset, key_offset = trees.sums_like((offset, key_offset), dtype)
        return (jnp.zeros(query.shape, dtype), offset), (jnp.zeros(key.T.shape, dtype), key_offset), ()

    def gradients(self, sums, rows, columns, shared):
        """Gradients of rows, columns and what is shared, from the sums over all tiles."""
        ((query, _), _), ((scale, _), _) = rows, shared
        (dquery, doffset), (dkey_t, dkey_offset), _ = sums
        dscale = jnp.sum(query.astype(scale.dtype) * dquery)  # sum_ij W_ij <q_i, k_j>: no tile needed
        return (scale * dquery, doffset), (scale * dkey_t.T, dkey_offset), (dscale, None)

    def _dot(self, a, b, a_axis: int, b_axis: int):
        kind = jnp.promote_types(jnp.float32, jnp.promote_types(a.dtype, b.dtype))
        dims = (((a_axis,), (b_axis,)), ((), ()))
        return lax.dot_general(a, b, dims, precision=self.precision, preferred_element_type=kind)


class Function(NamedTuple):
    """f(parameters, query, key) is the tile of some rows of each side: [rows of query, rows of key]."""

    f: Callable[..., jax.Array]

    def over(self, rows, shared, differentiate: bool) -> Callable:
        """As `InnerProduct.over`; the derivative is prepared only where it will be asked for."""
        ((query, offset), (query_rest, _)), ((scale, parameters), (_, parameters_rest)) = rows, shared

        def tile(start, size, columns):
            (keys, key_offset), (keys_rest, _) = columns

            def raw(parameters, query, keys):
                parameters = trees.merge(parameters, parameters_rest)
                query = trees.merge(query, trees.rows(query_rest, start, size))
                return self.f(parameters, query, trees.merge(keys, keys_rest)).astype(scale.dtype)

            operands = parameters, trees.rows(query, start, size), keys
            scores, back = jax.vjp(raw, *operands) if differentiate else (raw(*operands), None)

            def pull(weights):
                dparameters, dquery, dkeys = back(scale * weights)
                offsets = _of_offsets(weights, offset, key_offset)
                shared = jnp.sum(weights * scores), dparameters
                return (dquery, offsets[0]), (dkeys, offsets[1]), shared

            return _shifted(scale * scores, trees.rows(offset, start, size), key_offset), pull

        return tile

    def sums(self, rows, columns, shared):
        return trees.sums_like((rows[0], columns[0], shared[0]), shared[0][0].dtype)

    def gradients(self, sums, rows, columns, shared):
        return sums


def _shifted(scores, offset, key_offset):
    scores = scores if offset is None else scores + offset[:, None]
    return scores if key_offset is None else scores + key_offset[None, :]


def _of_offsets(weights, offset, key_offset):
    """Sums over the tile's columns and rows, as products: far quicker than a sum on CPU."""
    rows, columns = weights.shape
    doffset = None if offset is None else weights @ jnp.ones(columns, weights.dtype)
    return doffset, None if key_offset is None else jnp.ones(rows, weights.dtype) @ weights
