"""Pytrees with a leading row axis: cutting, putting back, and telling apart what is differentiated."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp


def rows(tree: Any, start, size: int) -> Any:
    """Rows `start` to `start + size` of every leaf."""
    return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), tree)


def put(whole: Any, part: Any, start) -> Any:
    """`whole` with rows from `start` on replaced."""
    return jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, start, 0), whole, part)


def add(whole: Any, part: Any, start) -> Any:
    """`whole` with `part` added to its rows from `start` on."""
    return jax.tree.map(lambda a, b: put(a, rows(a, start, b.shape[0]) + b, start), whole, part)


def partition(tree: Any) -> tuple[Any, Any]:
    """The leaves that have gradients, and the others; None in each where the other holds a leaf."""
    def floats(x):
        return x if jnp.issubdtype(x.dtype, jnp.inexact) else None

    def others(x):
        return None if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(floats, tree), jax.tree.map(others, tree)


def merge(tree: Any, other: Any) -> Any:
    """One tree of two in which each leaf is None in one of them."""
    return jax.tree.map(lambda a, b: b if a is None else a, tree, other, is_leaf=lambda x: x is None)


def sums_like(tree: Any, dtype) -> Any:
    """Zeros to sum gradients in: of `dtype` or what is wider."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(dtype, x.dtype)), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Leaves in the dtypes of `like`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)
