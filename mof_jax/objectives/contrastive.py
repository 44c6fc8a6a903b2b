"""Contrastive losses over the global batch, each a few lines on statistics of scores.

With n_i the log-sum-exp of query i's negatives and s_i its positive score (several positives: see `Reduced`),

    InfoNCE            softplus(n_i - s_i)            CLIP, arXiv 2103.00020
    DCL                n_i - s_i                      decoupled contrastive learning, arXiv 2110.06848
    decoupled softmax  mean over positives of softplus(n_i - s_ij)      DEXML, arXiv 2310.10636
    sigmoid            sum_j softplus(-t_ij s_ij)     SigLIP, arXiv 2303.15343

so InfoNCE = softplus(DCL) term by term. The first three are averaged over both directions, image to text and text to
image. Reducing over the negatives alone keeps every gradient accurate to f32 when the pairs are nearly solved, where
`p_ii - 1` of the textbook form has lost its digits.

Every loss takes

    image, text    Float[Array, "pairs dim"]; row i of one belongs to row i of the other; normalise them first
    logit_scale    the multiplier of the inner products, already exponentiated
    group          int32 id per pair: pairs with one id are each other's positives (several pictures of one caption);
                   -1, or no `group`, for none
    **where        `mesh`, `batch_axes`, `groups`, `how`, `precision` of `scores.scores`, and `strip`, its
                   `block_size`

and returns `Loss` with weight = number of pairs: the usual mean loss is `sum / weight`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.objectives.scores import BLOCK_SIZE, Diagonal, Groups, Scores, Statistic, scores
from mof_jax.task import Loss


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
    return _loss(sum(losses).sum() / 2, image, text, positive_probability=solved)


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
    total = _scores(image, text, logit_scale, group, offset=logit_bias, **where).total(*wanted)
    if group is None:
        total += jax.nn.softplus(-(pair_scores(image, text, logit_scale) + logit_bias)).sum()
    return _loss(total, image, text)


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
    return _loss(sum((d.negatives - d.positive_mean).sum() for d in directions) / 2, image, text)


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
        against = _scores(query, key, logit_scale, group, offset=-d.negatives, **where)
        losses += against.reduce(Statistic("logistic", "positives"))
    return _loss((sum(losses) / (2 * positive_counts(group, where.get("groups", 1)))).sum(), image, text)


def reduce_both(image, text, logit_scale, *, group=None, **where) -> tuple[Reduced, Reduced]:
    """Both directions of the score matrix, image to text and text to image, reduced in one pass."""
    sides = ("query", "key")
    s = _scores(image, text, logit_scale, group, **where)
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
    query, key = _at_least_f32(query), _at_least_f32(key)
    return scale * jnp.sum(query * key, axis=1)


def mean_scores(query, key, scale, blocks: int = 1) -> Float[Array, "pairs"]:
    """Each query's mean score over the keys of its block of the batch: one product with the mean key."""
    query, key = _at_least_f32(query), _at_least_f32(key)
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


def _scores(query, key, scale, group, *, strip: int = BLOCK_SIZE, **where) -> Scores:
    pairing = Diagonal() if group is None else Groups(group)
    return scores(query, key, scale=scale, pairing=pairing, block_size=strip, **where)


def _loss(total: Float[Array, ""], image, text, **metrics: Float[Array, "pairs"]) -> Loss:
    metrics["positive_cosine"] = pair_scores(image, text, 1.0)
    sums = {name: jax.lax.stop_gradient(values).sum() for name, values in metrics.items()}
    return Loss(total, jnp.float32(image.shape[0]), sums)


def _at_least_f32(x):
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))
