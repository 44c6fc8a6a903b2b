"""InfoNCE without the positive in its denominator: DCL (arXiv 2110.06848)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float, Int

from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side, loss_of_pairs, reduce_both


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
        return decoupled_loss(image, text, features["scale"], **where)


def decoupled_loss(
    image: Float[Array, "pairs dim"],
    text: Float[Array, "pairs dim"],
    logit_scale: Float[Array, ""],
    *,
    group: Int[Array, "pairs"] | None = None,
    **where: Any,
) -> Loss:
    """DCL: the positive leaves the denominator. Unbounded below, so not a likelihood; -inf without negatives."""
    directions = reduce_both(image, text, logit_scale, group=group, **where)
    return loss_of_pairs(sum((d.negatives - d.positive_mean).sum() for d in directions) / 2, image, text)
