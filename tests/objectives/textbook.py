"""The contrastive losses as the textbook writes them, with the whole pairs x pairs matrix."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def scores(image, text, scale, bias=0.0, precision=None) -> Float[Array, "pairs pairs"]:
    """s_ij = scale * <image_i, text_j> + bias."""
    return scale * jnp.einsum("id,jd->ij", image, text, precision=precision) + bias


def positives(pairs: int, group=None) -> Bool[Array, "pairs pairs"]:
    """The diagonal, and all pairs that share a group other than -1."""
    diagonal = jnp.eye(pairs, dtype=bool)
    return diagonal if group is None else diagonal | ((group[:, None] == group) & (group[:, None] != -1))


def softmax_loss(image, text, scale, *, group=None, label_smoothing=0.0, precision=None) -> Float[Array, ""]:
    """Mean symmetric cross-entropy."""
    s = scores(image, text, scale, precision=precision)
    if group is None and not label_smoothing:
        return (jax.nn.logsumexp(s, 0) + jax.nn.logsumexp(s, 1) - 2 * jnp.diag(s)).mean() / 2
    target = positives(len(s), group).astype(s.dtype)
    target = (1 - label_smoothing) * target / target.sum(1, keepdims=True) + label_smoothing / len(s)
    rows, columns = jax.nn.log_softmax(s, 1), jax.nn.log_softmax(s, 0)
    return -(target * rows + target.T * columns).sum() / (2 * len(s))


def sigmoid_loss(image, text, scale, bias, *, group=None, precision=None) -> Float[Array, ""]:
    """Sum over the matrix of -log sigmoid(+-s), divided by the number of pairs."""
    s = scores(image, text, scale, bias, precision)
    sign = jnp.where(positives(len(s), group), 1.0, -1.0)
    return -jax.nn.log_sigmoid(sign * s).sum() / len(s)


def decoupled_loss(image, text, scale, *, group=None, precision=None) -> Float[Array, ""]:
    """Mean over both directions of log-sum-exp over the negatives minus the mean positive score."""
    s, mask = scores(image, text, scale, precision=precision), positives(len(image), group)
    negatives = jnp.where(mask, -jnp.inf, s)
    positive = [jnp.where(mask, s, 0).sum(axis) / mask.sum(axis) for axis in (0, 1)]
    return sum((jax.nn.logsumexp(negatives, axis) - positive[axis]).mean() for axis in (0, 1)) / 2


def decoupled_softmax_loss(image, text, scale, *, group, precision=None) -> Float[Array, ""]:
    """Mean over both directions, queries and their positives of -log(e^s / (e^s + sum of negatives))."""
    s, mask = scores(image, text, scale, precision=precision), positives(len(image), group)
    total = 0.0
    for axis in (0, 1):
        n = jax.nn.logsumexp(jnp.where(mask, -jnp.inf, s), axis, keepdims=True)
        total += (jnp.where(mask, jax.nn.softplus(n - s), 0).sum(axis) / mask.sum(axis)).mean() / 2
    return total
