"""Next-token losses whose logits never exist all at once: they are made in strips and recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.task import Loss


def cross_entropy(
    hidden: Float[Array, "batch tokens width"],
    head: Float[Array, "width vocab"],
    labels: Int[Array, "batch tokens"],
    weight: Float[Array, "batch tokens"],
    *,
    chunk: int = 1024,
    z_loss: float = 0.0,
) -> Loss:
    """Σ weight · (log Σ exp(logits) - logits[label] + z_loss · (log Σ exp(logits))²), logits = hidden · head in float32.

    Args:
      labels: what each position is to predict (shifted by the caller).
      chunk: positions of every row whose logits exist at a time. Strips run along the row, so that a batch that is spread
        over devices stays where it is.
      z_loss: PaLM's penalty on the normaliser (arXiv 2204.02311, §5).

    Returns:
      The sum over positions, the sum of weights, and `accuracy` of the weighted positions (`z_loss` too where it counts).
    """

    def strip(x: Array, label: Array, w: Array) -> dict[str, Array]:
        logits = _logits(x, head)
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        nll = normaliser - _pick(logits, label)
        sums = {"nll": (w * nll).sum(), "accuracy": (w * (logits.argmax(-1) == label)).sum()}
        return sums | ({"z_loss": (w * jnp.square(normaliser)).sum()} if z_loss else {})

    sums = jax.tree.map(jnp.sum, _strips(strip, (hidden, labels, weight), chunk))
    total = sums.pop("nll") + z_loss * sums.get("z_loss", 0.0)
    return Loss(total, weight.sum(), sums)


def token_log_probs(
    hidden: Float[Array, "batch tokens width"], head: Float[Array, "width vocab"], labels: Int[Array, "batch tokens"],
    *, chunk: int = 1024,
) -> Float[Array, "batch tokens"]:
    """log p(label) at each position."""

    def strip(x: Array, label: Array) -> Array:
        logits = _logits(x, head)
        return _pick(logits, label) - jax.nn.logsumexp(logits, axis=-1)

    parts = _strips(strip, (hidden, labels), chunk)
    return jnp.moveaxis(parts, 0, 1).reshape(labels.shape[0], -1)[:, :labels.shape[1]]


def _logits(x: Array, head: Array) -> Array:
    return jnp.matmul(x, head.astype(x.dtype), preferred_element_type=jnp.float32)


def _pick(logits: Array, label: Array) -> Array:
    # A sum over a comparison, not a gather: a vocabulary that is split over devices needs no exchange of logits.
    return jnp.where(jnp.arange(logits.shape[-1]) == label[..., None], logits, 0.0).sum(-1)


def _strips(fn: Callable[..., Any], inputs: tuple[Array, ...], chunk: int) -> Any:
    """`fn` on strips of `chunk` columns (the last one padded with zeros), stacked; recomputed in the backward pass."""
    columns = inputs[0].shape[1]
    chunk = min(chunk, columns)
    count = -(-columns // chunk)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, count * chunk - columns)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, chunk, *x.shape[2:]), 1, 0)

    step = jax.checkpoint(lambda parts: fn(*parts), prevent_cse=False)
    return jax.lax.scan(lambda _, parts: (None, step(parts)), None, tuple(map(split, inputs)))[1]
