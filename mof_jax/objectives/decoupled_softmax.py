"""Several positives that do not compete with each other: DEXML's decoupled softmax (arXiv 2310.10636)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from mof_jax.objectives import contrastive
from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side


@dataclasses.dataclass(frozen=True)
class DecoupledSoftmax(Pairwise):
    """Positives, the pairs of one `group`, that do not compete with each other (DEXML, arXiv 2310.10636)."""

    kind: ClassVar[str] = "decoupled"

    @property
    def groups(self) -> bool:
        return True

    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        return contrastive.decoupled_softmax_loss(image, text, features["scale"], **where)
