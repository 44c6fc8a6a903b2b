"""Dropout and patch dropout keyed per example.

Every example has a key of its own, folded from (seed, step, global row). The masks therefore do not depend on how the batch
is split over micro-batches, devices or hosts, which is what makes gradient accumulation exact with dropout on. (A module
with one stream for the whole batch, like `nnx.Dropout`, changes its masks with the split.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

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


def patch_dropout(
    x: Float[Array, "batch patches width"], keys: Keys | None, rate: float
) -> Float[Array, "batch kept width"]:
    """Keeps a random subset of patches (FLIP, arXiv 2212.00794), the same number for every example, in their order."""
    if keys is None or rate == 0.0:
        return x
    patches = x.shape[1]
    kept = max(1, round(patches * (1.0 - rate)))
    noise = jax.vmap(lambda key: jax.random.uniform(key, (patches,)))(keys)
    index = jnp.sort(jnp.argsort(noise, axis=-1)[:, :kept], axis=-1)
    return jnp.take_along_axis(x, index[:, :, None], axis=1)
