"""Masked patches painted from the others: the loss of MAE (arXiv 2111.06377)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
import jax.numpy as jnp

from mof_jax.objectives.loss import Context, Features, Loss
from mof_jax.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class Pixels(Objective):
    """The mean squared error of the patches that the encoder did not see (MAE, arXiv 2111.06377).

    A sum over masked patches of every view; its weight is their number.
    """

    kind: ClassVar[str] = "pixels"
    couples_rows: ClassVar[bool] = False
    reads = ("painted", "pixels")

    def count(self, batch: Features, context: Context) -> float:
        """Masked patches."""
        return float(batch["masked"].size)

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        painted, wanted = features["painted"], features["pixels"]
        views = [jnp.square(painted[:, i] - wanted[:, i]).mean(-1) for i in range(painted.shape[1])]
        return Loss(sum(errors.sum() for errors in views), float(sum(errors.size for errors in views)))
