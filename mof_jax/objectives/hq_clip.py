"""Captions that are wrong on purpose, and tags, as further supervision of CLIP: after HQ-CLIP (arXiv 2507.22431).

HQ-CLIP describes images anew, rightly and wrongly, at length and in tags, and adds two terms to CLIP's loss: an image has to tell
its description from its own wrong one, and to name its tags. Its formulas we have not seen; these are the plain forms, and no
parity is claimed.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class OwnNegatives(Objective):
    """An image tells its caption from wrong ones of its own: -log e^p / (e^p + Σ_m e^n_m), scaled cosines p and n_m.

    Of one wrong caption log(1 + e^(n - p)): log 2 where the two are equal. Other images' captions take no part; the first view.

    Attributes:
      positive, negative: fields of captions: the first of the one, all of the other.
    """

    kind: ClassVar[str] = "own_negatives"
    couples_rows: ClassVar[bool] = False
    positive: str = "text"
    negative: str = "negative"

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image", self.positive, self.negative, "scale")

    def count(self, batch: Features, context: Context) -> float:
        """Images."""
        return float(batch[self.negative].shape[0])

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        image, right, wrong = (features[name].astype(jnp.float32) for name in self.reads[:3])
        image, right = image[:, 0], right[:, 0]
        p = features["scale"] * jnp.einsum("rd,rd->r", image, right, precision="highest")
        n = features["scale"] * jnp.einsum("rd,rmd->rm", image, wrong, precision="highest")
        rows = float(p.shape[0])
        told = (p > n.max(-1)).astype(jnp.float32).sum()
        return Loss(jax.nn.softplus(jax.nn.logsumexp(n, -1) - p).sum(), rows, {"told": Mean(told, rows)})


@dataclasses.dataclass(frozen=True)
class Tags(Objective):
    """Which of a fixed list of tags an image has: binary cross-entropy of each, averaged over the list.

    It reads a head, so all rows at once. An image without a tag is not counted: nobody has looked at it.

    Attributes:
      of: a head that gives a logit a tag, of the first view. labels: a field of labels, [rows, most], -1 for none.
    """

    kind: ClassVar[str] = "tags"
    of: str = "tagger"
    labels: str = "tags"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.of, self.labels)

    def count(self, batch: Features, context: Context) -> Float[Array, ""]:
        """Images with a tag."""
        return tagged(batch[self.labels]).sum()

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        logits, labels = features[self.of][:, 0].astype(jnp.float32), features[self.labels]
        has = (labels[:, :, None] == jnp.arange(logits.shape[-1])).any(1)
        each = (jax.nn.softplus(logits) - jnp.where(has, logits, 0.0)).mean(-1)
        seen = tagged(labels)
        return Loss((each * seen).sum(), seen.sum())


def tagged(labels: Array) -> Float[Array, "rows"]:
    """1 for a row with a label, else 0."""
    return (labels >= 0).any(-1).astype(jnp.float32)
