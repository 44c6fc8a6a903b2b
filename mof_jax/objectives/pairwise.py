"""What the losses on pairs of an image and a text have in common: every view with every caption, and who are positives."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

from flax import nnx
import jax
from jaxtyping import Array, Float

from mof_jax.mesh import BATCH_AXES
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.ranges import Count

Side = Float[Array, "rows dim"]


@dataclasses.dataclass(frozen=True)
class Pairwise(Objective):
    """A loss of unit-norm features of two sides, `image` and `text` [rows, views, dim].

    Each view of one side gives a loss with each of the other; they are added.

    Attributes:
      block_size: rows of the score matrix held at a time.
    """

    scalars: ClassVar[tuple[str, ...]] = ("scale",)  # shared features that are logged as they are
    block_size: Count = 512

    @property
    def groups(self) -> bool:
        """Whether the batch's `group` says who else is a positive."""
        return False

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image", "text", *self.scalars, *(("group",) if self.groups else ()))

    def count(self, batch: Features, context: Context) -> float:
        """Pairs."""
        return float(batch["image"].shape[0] * batch["image"].shape[1] * batch["text"].shape[1])

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        where: dict[str, Any] = dict(strip=self.block_size, group=features["group"] if self.groups else None)
        if context.mesh is not None:
            where |= dict(mesh=context.mesh, batch_axes=BATCH_AXES)
        images, texts = ([x[:, i] for i in range(x.shape[1])] for x in (features["image"], features["text"]))
        parts = [self.pair(image, text, features, where) for image in images for text in texts]
        total: Loss = jax.tree.map(lambda *x: sum(x), *parts)
        scalars = {f"logit_{name}": Mean(features[name]) for name in ("scale", "bias") if name in features}
        return total._replace(metrics={**total.metrics, **scalars})

    @abc.abstractmethod
    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        """The loss of one view and one caption; `where` goes to the functions of `objectives.contrastive`."""
