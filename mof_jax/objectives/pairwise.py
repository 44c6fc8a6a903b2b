"""What the losses on pairs of an image and a text have in common: every view with every caption, and who are positives.

With n_i the log-sum-exp of query i's negatives and s_i its positive score (several positives: see `Reduced`),

    InfoNCE            softplus(n_i - s_i)            CLIP, arXiv 2103.00020
    DCL                n_i - s_i                      decoupled contrastive learning, arXiv 2110.06848
    decoupled softmax  mean over positives of softplus(n_i - s_ij)      DEXML, arXiv 2310.10636
    sigmoid            sum_j softplus(-t_ij s_ij)     SigLIP, arXiv 2303.15343

so InfoNCE = softplus(DCL) term by term. The first three are averaged over both directions, image to text and text to image.
Reducing over the negatives alone keeps every gradient accurate to f32 when the pairs are nearly solved, where `p_ii - 1` of the
textbook form has lost its digits.

Every loss function (`softmax.softmax_loss`, …) takes

    image, text    Float[Array, "pairs dim"]; row i of one belongs to row i of the other; normalise them first
    logit_scale    the multiplier of the inner products, already exponentiated
    group          int32 id per pair: pairs with one id are each other's positives (several images of one caption);
                   -1, or no `group`, for none
    **where        `mesh`, `batch_axes`, `groups`, `how`, `block_size`, `precision` of `scores.scores`

and returns `Loss` with weight = number of pairs: the usual mean loss is `sum / weight`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.mesh import BATCH_AXES
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.objectives.scores import Diagonal, Groups, Scores, Statistic, scores
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
        where: dict[str, Any] = dict(block_size=self.block_size, group=features["group"] if self.groups else None)
        if context.mesh is not None:
            where |= dict(mesh=context.mesh, batch_axes=BATCH_AXES)
        images, texts = ([x[:, i] for i in range(x.shape[1])] for x in (features["image"], features["text"]))
        parts = [self.pair(image, text, features, where) for image in images for text in texts]
        total: Loss = jax.tree.map(lambda *x: sum(x), *parts)
        scalars = {f"logit_{name}": Mean(features[name]) for name in ("scale", "bias") if name in features}
        return total._replace(metrics={**total.metrics, **scalars})

    @abc.abstractmethod
    def pair(self, image: Side, text: Side, features: Features, where: dict[str, Any]) -> Loss:
        """The loss of one view and one caption; `where` says how scores are computed, see above."""


class Reduced(NamedTuple):
    """The scores of one direction, reduced to a few numbers per query.

    Attributes:
      negatives: log-sum-exp over the negatives, -inf where there are none.
      positives: log-sum-exp over the positives.
      spread: `positives` minus the positives' mean score; exactly 0 for a single positive, because a difference of two
        equal arrays would send +g and -g back and round the gradient of a nearly solved pair away.
    """

    negatives: Float[Array, "pairs"]
    positives: Float[Array, "pairs"]
    spread: Float[Array, "pairs"]

    @property
    def positive_mean(self) -> Float[Array, "pairs"]:
        """Mean score of the positives."""
        return self.positives - self.spread


def reduce_both(image, text, logit_scale, *, group=None, **where) -> tuple[Reduced, Reduced]:
    """Both directions of the score matrix, image to text and text to image, reduced in one pass."""
    sides = ("query", "key")
    s = pairing_scores(image, text, logit_scale, group, **where)
    wanted = [Statistic("lse", "negatives", side) for side in sides]
    if group is None:
        positive = pair_scores(image, text, logit_scale)
        negatives = s.reduce(*wanted)
        return tuple(Reduced(n, positive, jnp.zeros_like(positive)) for n in negatives)
    wanted += [Statistic(kind, "positives", side) for kind in ("lse", "sum") for side in sides]
    n0, n1, p0, p1, s0, s1 = s.reduce(*wanted)
    count = positive_counts(group, where.get("groups", 1))
    return Reduced(n0, p0, p0 - s0 / count), Reduced(n1, p1, p1 - s1 / count)


def pair_scores(query, key, scale) -> Float[Array, "pairs"]:
    """The diagonal of the score matrix, in f32."""
    query, key = at_least_f32(query), at_least_f32(key)
    return scale * jnp.sum(query * key, axis=1)


def mean_scores(query, key, scale, blocks: int = 1) -> Float[Array, "pairs"]:
    """Each query's mean score over the keys of its block of the batch: one product with the mean key."""
    query, key = at_least_f32(query), at_least_f32(key)
    if blocks > 1:
        block = len(key) // blocks
        mean = jnp.repeat(key.reshape(blocks, block, -1).mean(axis=1), block, axis=0)
    else:
        mean = key.mean(axis=0)
    return scale * jnp.sum(query * mean, axis=1)


def positive_counts(group: Int[Array, "pairs"], blocks: int = 1) -> Float[Array, "pairs"]:
    """How many positives each pair has in its block of the batch, itself among them."""
    if blocks > 1:
        return jax.vmap(positive_counts)(group.reshape(blocks, -1)).reshape(-1)
    ordered = jnp.sort(group)
    count = jnp.searchsorted(ordered, group, side="right") - jnp.searchsorted(ordered, group, side="left")
    return jnp.where(group == -1, 1, count).astype(jnp.float32)


def pairing_scores(query, key, scale, group, **where) -> Scores:
    """The scores of all pairs; those of one `group` are each other's positives."""
    pairing = Diagonal() if group is None else Groups(group)
    return scores(query, key, scale=scale, pairing=pairing, **where)


def loss_of_pairs(total: Float[Array, ""], image, text, **metrics: Float[Array, "pairs"]) -> Loss:
    """A sum over pairs, with the mean cosine of the positives beside it."""
    metrics["positive_cosine"] = pair_scores(image, text, 1.0)
    pairs = jnp.float32(image.shape[0])
    means = {name: Mean(jax.lax.stop_gradient(values).sum(), pairs) for name, values in metrics.items()}
    return Loss(total, pairs, means)


def at_least_f32(x):
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))
