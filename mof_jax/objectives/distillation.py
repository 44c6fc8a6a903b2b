"""Self-distillation: targets from a teacher's scores by Sinkhorn-Knopp, cross-entropy between crops, schedules.

Rows of a batch meet here only in `sinkhorn_knopp`, whose sums over rows are global under `jit` on any mesh.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sinkhorn_knopp(
    scores: Float[Array, "rows prototypes"], temperature: Float[Array, ""] | float, iterations: int = 3
) -> Float[Array, "rows prototypes"]:
    """Soft assignments that use every prototype equally (SwAV, arXiv 2006.09882, eq. 3; DINOv2, arXiv 2304.07193).

    exp(scores / temperature), scaled in turn so that each prototype receives rows / prototypes and each row gives 1. The row
    scaling is the last: rows sum to 1 exactly, prototypes approach equal shares as `iterations` grow. In logarithms, so no
    temperature overflows. No gradient.
    """
    logs = jax.lax.stop_gradient(scores.astype(jnp.float32) / temperature)
    share = math.log(scores.shape[0] / scores.shape[1])
    for _ in range(iterations):
        logs = logs + share - jax.nn.logsumexp(logs, axis=0, keepdims=True)
        logs = jax.nn.log_softmax(logs, axis=1)
    return jnp.exp(logs)


def cross_entropy_of_crops(
    scores: Float[Array, "rows crops prototypes"],
    targets: Float[Array, "rows views prototypes"],
    temperature: float,
) -> Float[Array, "rows"]:
    """Σ over pairs (view t, crop s ≠ t) of -Σₖ targets[t] · log softmax(scores[s] / temperature) (DINO, arXiv 2104.14294, eq. 3).

    The first crops are the views that the targets come from; a crop is never compared with its own target, which leaves
    views · (crops - 1) pairs a row.
    """
    logs = jax.nn.log_softmax(scores.astype(jnp.float32) / temperature, axis=-1)
    pairs = -jnp.einsum("btk,bsk->bts", targets, logs)
    return jnp.where(jnp.eye(*pairs.shape[1:], dtype=bool), 0.0, pairs).sum((1, 2))


def entropy(p: Float[Array, "*dims classes"]) -> Float[Array, "*dims"]:
    """-Σ p log p in nats; log(classes) for a uniform p, 0 for a certain one."""
    return -(p * jnp.log(jnp.maximum(p, 1e-30))).sum(-1)


def teacher_temperature(
    step: Float[Array, ""], start: float, end: float, warmup: int
) -> Float[Array, ""]:
    """Rises linearly from `start` to `end` over `warmup` steps: sharper targets keep the beginning from collapsing."""
    return start + (end - start) * jnp.clip(step / max(1, warmup), 0.0, 1.0) if warmup else jnp.float32(end)
