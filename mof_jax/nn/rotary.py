"""Rotary position embeddings (RoFormer, arXiv 2104.09864), in the half-split layout of Llama's weights."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rotary_angles(positions: Int[Array, "batch tokens"], dim: int, theta: float) -> Float[Array, "batch tokens half"]:
    """position · θ^(-2i/dim) for i < dim/2, in float32."""
    frequency = theta ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    return positions[..., None].astype(jnp.float32) * frequency


def rotate(
    x: Float[Array, "batch tokens heads dim"], angles: Float[Array, "batch tokens half"]
) -> Float[Array, "batch tokens heads dim"]:
    """Turns the plane of channels i and i + dim/2 by the i-th angle; the products q·k then depend on distances alone."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
