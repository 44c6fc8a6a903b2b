"""What captions that are wrong on purpose and short tags teach beside CLIP's loss, after HQ-CLIP.

The paper (arXiv 2507.22431) has a vision-language model write a long description of every image, a wrong one,
tags and wrong tags, and trains

    CLIP(image, description) + α · hard-negative identification + β · short-tag classification

Its code is not public, and the exact form of the two further losses could not be confirmed: these are after the
paper, no reproduction of it. `negclip` is the other place for wrong captions, CLIP's own denominator.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any, ClassVar, Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mof_jax.errors import UserError
from mof_jax.nn.layers import project
from mof_jax.nn.module import Matrix, normal, param
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.objectives.pairwise import Pairwise, Side, at_least_f32, loss_of_pairs, reduce_both
from mof_jax.objectives.scores import Statistic, scores
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class OwnNegatives(Objective):
    """Which caption is an image's own, among it and the wrong ones written for it.

    Hard-negative identification, after HQ-CLIP (arXiv 2507.22431): -log of the right caption's share of
    exp(s·⟨image, caption⟩), s the model's scale. With one wrong caption that is
    log(1 + exp(s·(⟨image, wrong⟩ - ⟨image, right⟩))). No other image takes part; a mean over views and captions.

    Of several captions the c-th meets the c-th equal share of the wrong ones: the field `text` of
    `kinds=("long", "short")` goes with `negative` of `kinds=("negative:long", "negative:short")`, so that no kind
    alone tells what is wrong. A record without a wrong caption is a bad one; an empty text would be told apart.

    Attributes:
      of: images, captions, and wrong captions, so many for each caption.
    """

    kind: ClassVar[str] = "own_negatives"
    couples_rows: ClassVar[bool] = False
    of: tuple[str, str, str] = ("image", "text", "negative")

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.of, "scale")

    def count(self, batch: Features, context: Context) -> float:
        """Images' views times captions."""
        image, text = (batch[name].shape for name in self.of[:2])
        return float(image[0] * image[1] * text[1])

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        image, text, wrong = (at_least_f32(features[name]) for name in self.of)
        rows, captions, dim = text.shape
        if wrong.shape[1] % captions:
            raise UserError(
                f"config.objective: {self.kind}: an example has {captions} captions of {self.of[1]!r} and "
                f"{wrong.shape[1]} of {self.of[2]!r}; give each caption equally many in config.data.fields")
        wrong = wrong.reshape(rows, captions, -1, dim)
        right = features["scale"] * jnp.einsum("rvd,rcd->rvc", image, text)
        other = features["scale"] * jnp.einsum("rvd,rcnd->rvcn", image, wrong)
        loss = jax.nn.softplus(jax.nn.logsumexp(other, axis=-1) - right)
        identified = Mean((right > other.max(-1)).sum().astype(jnp.float32), float(loss.size))
        return Loss(loss.sum(), float(loss.size), {"identified": identified})


@dataclasses.dataclass(frozen=True)
class NegClip(Pairwise):
    """InfoNCE in which an image has to tell its caption from wrong ones too (NegCLIP, arXiv 2210.01936).

    The wrong captions stand in the denominator from image to text alone: they belong to no image and ask for none.

    Attributes:
      negatives: the wrong captions.
      seen: by an image: those of the `batch`, or its `own`.
      multi_positive: images that share a caption (the batch's `group`) are positives of each other.
    """

    kind: ClassVar[str] = "negclip"
    negatives: str = "negative"
    seen: Literal["batch", "own"] = "batch"
    multi_positive: bool = False

    @property
    def groups(self) -> bool:
        return self.multi_positive

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, self.negatives)

    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        scale, wrong = features["scale"], features[self.negatives]
        forth, back = reduce_both(image, text, scale, **where)
        if self.seen == "own":
            own = scale * jnp.einsum("rd,rnd->rn", at_least_f32(image), at_least_f32(wrong))
            more = [jax.nn.logsumexp(own, axis=-1)]
        else:
            where = {name: value for name, value in where.items() if name != "group"}
            more = [scores(image, wrong[:, i], scale=scale, **where).reduce(Statistic("lse", "all"))[0]
                    for i in range(wrong.shape[1])]
        forth = forth._replace(negatives=functools.reduce(jnp.logaddexp, more, forth.negatives))
        loss = sum(jax.nn.softplus(d.negatives - d.positives) + d.spread for d in (forth, back)) / 2
        return loss_of_pairs(loss.sum(), image, text)


@dataclasses.dataclass(frozen=True)
class ShortTags(Objective):
    """Which tags an image has, by a linear classifier of its feature.

    Short-tag classification, after HQ-CLIP (arXiv 2507.22431): the binary cross-entropy of every tag of a
    vocabulary, added up over the vocabulary; a mean over images, and over an image's views. An image without a tag
    of the vocabulary teaches nothing and is not counted.

    The classifier is the term's own, `objective/TERM/`. It reads the feature times √dim, so that the entries are of
    the size that a layer norm gives, and begins by expecting one tag an image.

    Attributes:
      of: images, and the numbers of their tags, [rows] or [rows, most], -1 for none.
      classes: of the vocabulary: the tags below this number. Others are left out, as the paper's rare ones.
    """

    kind: ClassVar[str] = "short_tags"
    couples_rows: ClassVar[bool] = False
    classes: Count
    of: tuple[str, str] = ("image", "tags")

    def __post_init__(self):
        if self.classes < 2:
            raise ValueError(f"classes {self.classes}: a vocabulary has 2 at least")

    @property
    def reads(self) -> tuple[str, ...]:
        return self.of

    def build(self, rngs: nnx.Rngs, dims: Mapping[str, int]) -> nnx.Module:
        return Classifier(rngs, dims[self.of[0]], self.classes)

    def count(self, batch: Features, context: Context) -> Float[Array, ""]:
        """Images that have a tag."""
        return self._targets(batch[self.of[1]]).any(-1).sum().astype(jnp.float32)

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        logits, targets = own(features[self.of[0]]), self._targets(features[self.of[1]])
        each = jax.nn.softplus(jnp.where(targets[:, None], -logits, logits))
        found = Mean(((logits > 0) & targets[:, None]).mean(1).sum(), targets.sum().astype(jnp.float32))
        tagged = targets.any(-1)
        loss = jnp.where(tagged, each.sum(-1).mean(-1), 0.0).sum()
        return Loss(loss, tagged.sum().astype(jnp.float32), {"found": found})

    def flops(self, batch_size: int, dims: Mapping[str, int]) -> float:
        return 3 * 2.0 * batch_size * dims[self.of[0]] * self.classes

    def _targets(self, tags: Int[Array, "rows *most"]) -> Bool[Array, "rows classes"]:
        return (tags.reshape(len(tags), -1, 1) == jnp.arange(self.classes)).any(1)


class Classifier(nnx.Module):
    """Logits of classes from a feature of unit norm, in float32; at a feature of 0 each class has chance 1/classes."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, classes: int):
        prior = nnx.initializers.constant(-math.log(classes - 1))
        shape, axes = (inputs, classes), ("embed", "vocab")
        self.kernel = param(rngs, normal(inputs**-0.5), shape, axes, matrix=Matrix())
        self.bias = param(rngs, prior, (classes,), ("vocab",), decay=False)

    def __call__(self, x: Float[Array, "*dims inputs"]) -> Float[Array, "*dims classes"]:
        return project(at_least_f32(x) * math.sqrt(x.shape[-1]), self.kernel[...]) + self.bias[...]
