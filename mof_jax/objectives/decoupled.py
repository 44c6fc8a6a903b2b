"""InfoNCE without the positive in its denominator: DCL (arXiv 2110.06848)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mof_jax.objectives import contrastive
from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side


@dataclasses.dataclass(frozen=True)
class Decoupled(Pairwise):
    """InfoNCE without the positive in its denominator (DCL, arXiv 2110.06848).

    Attributes:
      multi_positive: images that share a caption (the batch's `group`) are positives of each other.
    """

    kind: ClassVar[str] = "dcl"
    multi_positive: bool = False

    @property
    def groups(self) -> bool:
        return self.multi_positive

    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        return contrastive.decoupled_loss(image, text, features["scale"], **where)
