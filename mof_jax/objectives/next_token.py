"""The next token of packed documents, from hidden states and the vocabulary's matrix."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.objectives.language import cross_entropy
from mof_jax.objectives.loss import Context, Features, Loss
from mof_jax.objectives.objective import Objective
from mof_jax.ranges import Count, NotNegative


@dataclasses.dataclass(frozen=True)
class NextToken(Objective):
    """The next token's cross-entropy, a mean over supervised tokens.

    Reads `hidden` [rows, tokens, width], the vocabulary's matrix `unembed` [width, vocab], and the batch's `tokens` and
    `loss_weight` [rows, tokens].

    Attributes:
      block_size: logits held at once, in tokens per row; the whole [rows, tokens, vocab] never exists.
      z_loss: weight of (log Σ exp logits)², which keeps logits from drifting (PaLM uses 1e-4).
    """

    kind: ClassVar[str] = "next_token"
    couples_rows: ClassVar[bool] = False
    reads = ("hidden", "unembed", "tokens", "loss_weight")
    block_size: Count = 2048
    z_loss: NotNegative = 0.0

    def count(self, batch: Features, context: Context) -> Float[Array, ""]:
        """Supervised tokens, each with its weight."""
        return shifted(batch["loss_weight"]).sum()

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        labels, weight = shifted(features["tokens"]), shifted(features["loss_weight"])
        return cross_entropy(features["hidden"], features["unembed"], labels, weight, block_size=self.block_size,
                             z_loss=self.z_loss)


def shifted(x: Array) -> Array:
    """What each position is to predict. A document's first position has no weight, so nothing is predicted across documents, nor
    around the row's end."""
    return jnp.roll(x, -1, axis=1)
