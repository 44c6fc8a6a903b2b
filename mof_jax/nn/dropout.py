"""Dropout and patch dropout keyed per example.

Every example has a key of its own, folded from (seed, step, global row). The masks therefore do not depend on how the batch
is split over micro-batches, devices or hosts, which is what makes gradient accumulation exact with dropout on. (A module
with one stream for the whole batch, like `nnx.Dropout`, changes its masks with the split.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Keys = Key[Array, "batch"]


def example_keys(key: Key[Array, ""], rows: int) -> Keys:
    """One key for each of the `rows` rows of the global batch."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows, dtype=jnp.uint32))


def fold(keys: Keys | None, data: int | Array) -> Keys | None:
    """Keys of a sub-stream (a layer, a tower); None stays None."""
    return None if keys is None else jax.vmap(lambda key: jax.random.fold_in(key, data))(keys)


def dropout(x: Float[Array, "batch *dims"], keys: Keys | None, rate: float) -> Float[Array, "batch *dims"]:
    """Zeroes entries with probability `rate` and rescales the rest; the identity without keys (evaluation)."""
    if keys is None or rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def kept_patches(keys: Keys | None, patches: int, rate: float) -> Int[Array, "batch kept"] | None:
    """The patches that patch dropout keeps; None, for all of them, without keys (evaluation)."""
    if keys is None or rate == 0.0:
        return None
    return split_patches(keys, patches, max(1, round(patches * (1.0 - rate))))[0]


def split_patches(keys: Keys, patches: int, kept: int) -> tuple[Int[Array, "batch kept"], Int[Array, "batch rest"]]:
    """A random subset of `kept` of the `patches` of each example and the rest, both in the patches' order."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)
    order = jnp.argsort(noise, axis=-1)
    return jnp.sort(order[:, :kept], axis=-1), jnp.sort(order[:, kept:], axis=-1)


def take_patches(x: Float[Array, "#batch patches width"], index: Int[Array, "batch kept"]) -> Float[Array, "batch kept width"]:
    """The patches at `index`, example by example."""
    return jnp.take_along_axis(jnp.broadcast_to(x, (index.shape[0], *x.shape[1:])), index[:, :, None], axis=1)
