"""Scaled dot-product attention: one function, several kernels."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Kernel = Literal["xla", "cudnn"]


def attention(
    q: Float[Array, "batch queries heads dim"],
    k: Float[Array, "batch keys heads dim"],
    v: Float[Array, "batch keys heads dim"],
    *,
    mask: Bool[Array, "batch #queries keys"] | None = None,
    causal: bool = False,
    kernel: Kernel = "xla",
) -> Float[Array, "batch queries heads dim"]:
    """softmax(q kᵀ / √dim) v, with the softmax in float32.

    Args:
      mask: which keys a query may see, beyond causality. A query that sees no key gets the mean of all values.
      kernel: "xla" runs anywhere; "cudnn" is the flash kernel of NVIDIA GPUs and needs bf16 or f16.
    """
    if kernel == "cudnn":
        mask = None if mask is None else mask[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="cudnn")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if causal:
        queries, keys = scores.shape[-2:]
        scores = jnp.where(jnp.tri(queries, keys, keys - queries, dtype=bool), scores, _NEVER)
    if mask is not None:
        scores = jnp.where(mask[:, None], scores, _NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


_NEVER = -1e30  # finite, so that a fully masked row gives a mean instead of NaN
