"""Patches as a picture of features, and how it is pooled."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np


def check_square(tokens: int) -> None:
    """Refuses a number of tokens that is no grid's."""
    if math.isqrt(tokens) ** 2 != tokens:
        raise ValueError(f"tokens: {tokens} is not a square number")


def to_grid(x: Float[Array, "batch patches width"], grid: int) -> Float[Array, "batch grid grid width"]:
    """Patches in row-major order as a picture of features."""
    return x.reshape(x.shape[0], grid, grid, x.shape[-1])


def adaptive_average_pool(x: Float[Array, "batch height width dim"], side: int) -> Float[Array, "batch side side dim"]:
    """Average pooling to `side` × `side` cells of any grid: cell i averages ⌊i·n/side⌋ … ⌈(i+1)·n/side⌉ - 1, bins may overlap."""
    rows, columns = (jnp.asarray(_pool_matrix(n, side), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x)


def _pool_matrix(size: int, side: int) -> np.ndarray:
    matrix = np.zeros((side, size))
    for i in range(side):
        first, last = i * size // side, -(-(i + 1) * size // side)
        matrix[i, first:last] = 1 / (last - first)
    return matrix
