"""A yes or no for every pair, the loss of SigLIP (arXiv 2303.15343)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
from jaxtyping import Array, Float, Int

from mof_jax.objectives.loss import Features, Loss
from mof_jax.objectives.pairwise import Pairwise, Side, loss_of_pairs, pair_scores, pairing_scores
from mof_jax.objectives.scores import Statistic

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
        return sigmoid_loss(image, text, features["scale"], features["bias"], **where)


def sigmoid_loss(
    image: Float[Array, "pairs dim"],
    text: Float[Array, "pairs dim"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    *,
    group: Int[Array, "pairs"] | None = None,
    **where: Any,
) -> Loss:
    """SigLIP: every entry of the score matrix is a yes-or-no question; summed over all, divided by the batch."""
    wanted = [Statistic("logistic", "negatives")]
    if group is not None:
        wanted.append(Statistic("logistic", "positives"))
    total = pairing_scores(image, text, logit_scale, group, offset=logit_bias, **where).total(*wanted)
    if group is None:
        total += jax.nn.softplus(-(pair_scores(image, text, logit_scale) + logit_bias)).sum()
    return loss_of_pairs(total, image, text)
