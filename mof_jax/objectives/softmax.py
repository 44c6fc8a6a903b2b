"""InfoNCE, the loss of CLIP (arXiv 2103.00020)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, Int

from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side, loss_of_pairs, mean_scores, reduce_both
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
        return softmax_loss(image, text, features["scale"], label_smoothing=self.label_smoothing, **where)


def softmax_loss(
    image: Float[Array, "pairs dim"],
    text: Float[Array, "pairs dim"],
    logit_scale: Float[Array, ""],
    *,
    group: Int[Array, "pairs"] | None = None,
    label_smoothing: float = 0.0,
    **where: Any,
) -> Loss:
    """InfoNCE in both directions: cross-entropy against the uniform distribution over a query's positives.

    Label smoothing e mixes the target with the uniform one over the whole batch: (1 - e) * positives + e / pairs.
    """
    directions = reduce_both(image, text, logit_scale, group=group, **where)
    losses = [jax.nn.softplus(d.negatives - d.positives) + d.spread for d in directions]
    if label_smoothing:
        blocks = where.get("groups", 1)
        means = mean_scores(image, text, logit_scale, blocks), mean_scores(text, image, logit_scale, blocks)
        losses = [l + label_smoothing * (d.positive_mean - mean) for l, d, mean in zip(losses, directions, means)]
    solved = sum(jax.nn.sigmoid(d.positives - d.negatives) for d in directions) / 2
    return loss_of_pairs(sum(losses).sum() / 2, image, text, positive_probability=solved)
