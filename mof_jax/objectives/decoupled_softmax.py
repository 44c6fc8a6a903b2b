"""Several positives that do not compete with each other: DEXML's decoupled softmax (arXiv 2310.10636)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from jaxtyping import Array, Float, Int

from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side, loss_of_pairs, pairing_scores, positive_counts, reduce_both
from mof_jax.objectives.scores import Statistic


@dataclasses.dataclass(frozen=True)
class DecoupledSoftmax(Pairwise):
    """Positives, the pairs of one `group`, that do not compete with each other (DEXML, arXiv 2310.10636)."""

    kind: ClassVar[str] = "decoupled"

    @property
    def groups(self) -> bool:
        return True

    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        return decoupled_softmax_loss(image, text, features["scale"], **where)


def decoupled_softmax_loss(
    image: Float[Array, "pairs dim"],
    text: Float[Array, "pairs dim"],
    logit_scale: Float[Array, ""],
    *,
    group: Int[Array, "pairs"],
    **where: Any,
) -> Loss:
    """DEXML: positives compete with the negatives but not with each other; a second pass sees s_ij - n_i."""
    directions = reduce_both(image, text, logit_scale, group=group, **where)
    losses = []
    for d, query, key in zip(directions, (image, text), (text, image)):
        against = pairing_scores(query, key, logit_scale, group, offset=-d.negatives, **where)
        losses += against.reduce(Statistic("logistic", "positives"))
    return loss_of_pairs((sum(losses) / (2 * positive_counts(group, where.get("groups", 1)))).sum(), image, text)
