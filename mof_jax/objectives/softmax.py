"""InfoNCE, the loss of CLIP (arXiv 2103.00020)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mof_jax.objectives import contrastive
from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side
from mof_jax.ranges import PartOf


@dataclasses.dataclass(frozen=True)
class Softmax(Pairwise):
    """InfoNCE in both directions (CLIP, arXiv 2103.00020).

    Attributes:
      label_smoothing: share of the targets that is spread over the whole batch.
      multi_positive: images that share a caption (the batch's `group`) are positives of each other.
    """

    kind: ClassVar[str] = "softmax"
    label_smoothing: PartOf = 0.0
    multi_positive: bool = False

    @property
    def groups(self) -> bool:
        return self.multi_positive

    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        return contrastive.softmax_loss(image, text, features["scale"], label_smoothing=self.label_smoothing, **where)
