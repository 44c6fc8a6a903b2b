"""A yes or no for every pair, the loss of SigLIP (arXiv 2303.15343)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mof_jax.objectives import contrastive
from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side

BIAS = -10.0  # of a fresh model, whose pairs are nearly all negatives


@dataclasses.dataclass(frozen=True)
class Sigmoid(Pairwise):
    """A yes or no for every pair (SigLIP, arXiv 2303.15343).

    Attributes:
      multi_positive: images that share a caption (the batch's `group`) are positives of each other.
    """

    kind: ClassVar[str] = "sigmoid"
    scalars: ClassVar[tuple[str, ...]] = ("scale", "bias")
    multi_positive: bool = False

    @property
    def groups(self) -> bool:
        return self.multi_positive

    def prepare(self, model: Any) -> Any:
        """The model with a bias for the scores, -10 at first."""
        return model if model.logit_bias_init is not None else dataclasses.replace(model, logit_bias_init=BIAS)

    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        return contrastive.sigmoid_loss(image, text, features["scale"], features["bias"], **where)
