"""Next-token losses whose logits never exist all at once: they are made for a part of the vocabulary at a time, and made again
in the backward pass.

A part of the vocabulary and not of the tokens: with parameters split over devices (FSDP), each column of the head is gathered
once a pass, and its gradient is complete when it is reduced. Strips of tokens would gather the whole head, and reduce a whole
gradient, for every strip.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.mesh import split_rows
from mof_jax.objectives.loss import Loss, Mean

_NEVER = -1e30  # the logit of a column that pads a part


class _Scores(NamedTuple):
    """What is kept of a position's logits: log Σ exp, that of its label, whether that is the largest."""

    normaliser: Float[Array, "batch tokens"]
    picked: Float[Array, "batch tokens"]
    right: Float[Array, "batch tokens"]


def cross_entropy(
    hidden: Float[Array, "batch tokens width"],
    head: Float[Array, "width vocab"],
    labels: Int[Array, "batch tokens"],
    weight: Float[Array, "batch tokens"],
    *,
    block_size: int = 1024,
    z_loss: float = 0.0,
) -> Loss:
    """Σ weight · (log Σ exp(logits) - logits[label] + z_loss · (log Σ exp(logits))²), logits = hidden · head in float32.

    Args:
      labels: what each position is to predict (shifted by the caller).
      block_size: how much room logits take: as much as all those of `block_size` positions of every row.
      z_loss: PaLM's penalty on the normaliser (arXiv 2204.02311, §5).

    Returns:
      The sum over positions, the sum of weights, and `accuracy` of the weighted positions (`z_loss` too where it counts).
    """
    scores = _scores(hidden, head, labels, block_size)
    total = (weight * (scores.normaliser - scores.picked)).sum()
    sums = {"accuracy": (weight * scores.right).sum()}
    if z_loss:
        sums["z_loss"] = (weight * jnp.square(scores.normaliser)).sum()
        total += z_loss * sums["z_loss"]
    count = weight.sum()
    return Loss(total, count, {name: Mean(x, count) for name, x in sums.items()})


def token_log_probs(
    hidden: Float[Array, "batch tokens width"], head: Float[Array, "width vocab"], labels: Int[Array, "batch tokens"],
    *, block_size: int = 1024,
) -> Float[Array, "batch tokens"]:
    """log p(label) at each position."""
    scores = _scores(hidden, head, labels, block_size)
    return scores.picked - scores.normaliser


def _scores(hidden: Array, head: Array, labels: Array, block_size: int) -> _Scores:
    parts, columns = _parts(head.astype(hidden.dtype), -(-hidden.shape[1] // block_size))
    wide = hidden.astype(jnp.float32)  # so that its gradient, a sum over the parts, is added up in float32

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def part(inputs: tuple[Array, Array]) -> tuple[Array, ...]:
        weights, column = inputs
        logits = jnp.where(column >= 0, _logits(wide, weights), _NEVER)
        # A sum over a comparison, not a gather: a vocabulary that is split over devices needs no exchange of logits.
        own = jnp.where(column == labels[..., None], logits, 0.0).sum(-1)
        seen = jax.lax.stop_gradient(logits)
        return jax.nn.logsumexp(logits, axis=-1), own, seen.max(-1), column[seen.argmax(-1)]

    normalisers, picked, largest, where = jax.lax.scan(lambda _, x: (None, part(x)), None, (parts, columns))[1]
    best = jnp.take_along_axis(where, largest.argmax(0)[None], axis=0)[0]
    return _Scores(jax.nn.logsumexp(normalisers, axis=0), picked.sum(0), (best == labels).astype(jnp.float32))


def _parts(head: Array, count: int) -> tuple[Float[Array, "parts width columns"], Int[Array, "parts columns"]]:
    """The head's columns in about `count` parts, and which those are, -1 for padding. Part i is the i-th part of every device's
    own columns: none moves."""
    mesh, vocab = jax.sharding.get_abstract_mesh(), head.shape[1]
    shards = 1 if mesh.empty else mesh.shape["tensor"]
    shards = 1 if vocab % shards else shards
    own = vocab // shards
    size = -(-own // count)
    count = -(-own // size)

    def cut(x: Array, value: int) -> Array:
        x = x.reshape(shards, own, *x.shape[1:])
        x = jnp.pad(x, ((0, 0), (0, count * size - own)) + ((0, 0),) * (x.ndim - 2), constant_values=value)
        return split_rows(x.reshape(-1, *x.shape[2:]), count, shards)

    return cut(head.T, 0).swapaxes(1, 2), cut(jnp.arange(vocab), -1)


@jax.custom_vjp
def _logits(x: Float[Array, "*dims width"], head: Float[Array, "width columns"]) -> Float[Array, "*dims columns"]:
    """x·head, x in the head's dtype, the result and x's gradient in float32. The logits' gradient is rounded to that dtype, as
    any activation's is, before it is multiplied."""
    return jnp.matmul(x.astype(head.dtype), head, preferred_element_type=jnp.float32)


def _logits_forward(x: Array, head: Array) -> tuple[Array, tuple[Array, Array]]:
    return _logits(x, head), (x, head)


def _logits_backward(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, head = saved
    flat = gradient.astype(head.dtype).reshape(-1, gradient.shape[-1])
    by_x = jnp.matmul(flat, head.T, preferred_element_type=jnp.float32).reshape(x.shape)
    return by_x, jnp.matmul(x.astype(head.dtype).reshape(-1, x.shape[-1]).T, flat)


_logits.defvjp(_logits_forward, _logits_backward)
