"""Fingerprints of states: an integer a leaf, computed on the devices, the same on any mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


@jax.jit
def fingerprints(tree: Any) -> dict[str, UInt32[Array, ""]]:
    """One integer a leaf: Σ bits·(2·index + 1) mod 2³². Order-free, so equal on every mesh; any flipped bit changes it."""
    return {name: _fingerprint(x) for name, x in named(tree).items()}


def _fingerprint(x: Array) -> UInt32[Array, ""]:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
    bits = x.astype(jnp.uint32) if x.dtype == bool else jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
    index, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):  # an index from iotas: a reshape would gather a sharded array
        index = index + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(bits * (2 * index + 1), dtype=jnp.uint32)


def named(tree: Any) -> dict[str, Array]:
    """Leaves by a readable name: `params:image/patch_embed/kernel`, `opt:0:mu:text/embed`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    label = lambda k: str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))))
    return {":".join(label(k) for k in keys): leaf for keys, leaf in leaves}
