"""Contrast of more than two modalities at once: the volume that they span in the place of a cosine.

GRAM (arXiv 2412.11959) scores k unit vectors by minus the volume of the parallelotope that they span, the
square root of the determinant of their Gram matrix: 0 where they are linearly dependent, 1 where they are
orthogonal, |sin| for two. A volume knows no signs: antiparallel vectors have none, and neither have three in
one plane, however low their cosines. What is trained by volumes is ranked by volumes, see
`evals.embed.tuple_retrieval`.

With l_ij the products of anchor i with the k - 1 other features of example j, M_j the Gram matrix of those,

    Vol²_ij = ⟨a_i, a_i⟩ det M_j - l_ijᵀ adj(M_j) l_ij        (the determinant of a bordered matrix)

so that all pairs take k - 1 products of two matrices and a few numbers an example, and no determinant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
from typing import Any, ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.mesh import BATCH_AXES
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.objectives.pairwise import at_least_f32
from mof_jax.objectives.scores import Scores, Statistic, scores
from mof_jax.objectives.softmax import softmax_loss
from mof_jax.ranges import Count, PartOf, Positive

EPS = 1e-6
Part = Float[Array, "rows dim"]
Vector = Float[Array, "rows"]  # a number an example


@dataclasses.dataclass(frozen=True)
class Contrast(Objective):
    """InfoNCE of the cosines of any two features: a term a pair is the usual way to align several modalities.

    Attributes:
      of: the two features; of the first view of each, unit norm.
      label_smoothing: share of the targets that is spread over the whole batch.
      block_size: rows of the score matrix held at a time.
    """

    kind: ClassVar[str] = "contrast"
    most: ClassVar[float] = 2
    of: tuple[str, ...] = ("text", "image")
    label_smoothing: PartOf = 0.0
    block_size: Count = 512

    def __post_init__(self):
        if not 2 <= len(self.of) == len(set(self.of)) <= self.most:
            number, given = "two of them" if self.most == 2 else "two at least", ", ".join(self.of)
            raise ValueError(f"of: {given or 'nothing'}; {self.kind} takes different features, {number}")

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.of, "scale")

    def count(self, batch: Features, context: Context) -> float:
        """Examples."""
        return float(batch[self.of[0]].shape[0])

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        where = {} if context.mesh is None else dict(mesh=context.mesh, batch_axes=BATCH_AXES)
        parts = [features[name][:, 0] for name in self.of]
        found = self.contrast(parts, features["scale"], block_size=self.block_size, **where)
        return found._replace(metrics={**found.metrics, "logit_scale": Mean(features["scale"])})

    def contrast(self, parts: Sequence[Part], scale: Float[Array, ""], **where: Any) -> Loss:
        """The loss of features in the order of `of`; `where` as in `scores.scores`."""
        return softmax_loss(*parts, scale, label_smoothing=self.label_smoothing, **where)


@dataclasses.dataclass(frozen=True)
class Gram(Contrast):
    """InfoNCE of minus the volume that an anchor spans with an example's features (GRAM, arXiv 2412.11959).

    Attributes:
      of: the anchor, then the others; of the first view of each, unit norm.
      label_smoothing: share of the targets that is spread over the whole batch; 0.1 in the paper's code.
      eps: added to the squared volume: the slope of its root has no bound at 0, where a tuple is aligned.
    """

    kind: ClassVar[str] = "gram"
    most: ClassVar[float] = math.inf
    label_smoothing: PartOf = 0.1
    eps: Positive = EPS

    def contrast(self, parts: Sequence[Part], scale: Float[Array, ""], **where: Any) -> Loss:
        return gram_loss(*parts, scale=scale, label_smoothing=self.label_smoothing, eps=self.eps, **where)

    def flops(self, batch_size: int, dims: Mapping[str, int]) -> float:
        """Of the products of all pairs beyond the one that every model of two towers counts."""
        return 3.0 * 2.0 * batch_size**2 * dims[self.of[0]] * (len(self.of) - 2)


def gram_loss(
    anchor: Part, *others: Part, scale: Float[Array, ""] | float, label_smoothing: float = 0.0,
    eps: float = EPS, **where: Any,
) -> Loss:
    """InfoNCE of s_ij = -scale · Vol(anchor_i, others_j), the mean of both directions; row i is a tuple.

    Label smoothing e mixes the target with the uniform one over the n rows that meet: (1 - e) on the tuple,
    e / n on all.
    """
    volume = _root(determinant(_gram([anchor, *others])), eps)
    sides = ("query", "key")
    wanted = [Statistic("lse", "negatives", side) for side in sides]
    wanted += [Statistic("sum", "negatives", side) for side in sides if label_smoothing]
    found = volume_scores(anchor, *others, scale=scale, eps=eps, **where).reduce(*wanted)
    own, rows = -scale * volume, jnp.float32(len(anchor))
    losses = [jax.nn.softplus(negatives - own) for negatives in found[:2]]
    meet = rows / where.get("groups", 1)
    losses += [label_smoothing * (own - (own + rest) / meet) for rest in found[2:]]
    solved = sum(jax.nn.sigmoid(own - negatives) for negatives in found[:2]) / 2
    means = {"positive_volume": volume, "positive_probability": solved}
    metrics = {name: Mean(jax.lax.stop_gradient(values).sum(), rows) for name, values in means.items()}
    return Loss(sum(losses).sum() / 2, rows, metrics)


def volume_scores(
    anchor: Float[Array, "queries dim"], *others: Float[Array, "keys dim"],
    scale: Float[Array, ""] | float = 1.0, eps: float = EPS, **where: Any,
) -> Scores:
    """The scores -scale · Vol(anchor_i, others_j), of vectors of any length; `where` as in `scores.scores`.

    A volume near 0 is a difference of nearly equal numbers: products are full f32, also where a device has a
    quicker way.
    """
    query = {"x": at_least_f32(anchor)}
    query["square"] = _gram([query["x"]])[0][0]
    gram = _gram(others)
    adjugate = [[_cofactor(gram, e, c) for e in range(c + 1)] for c in range(len(others))]
    key = {"x": [at_least_f32(x) for x in others], "det": determinant(gram), "adj": adjugate}
    return scores(query, key, scale=scale, tile=functools.partial(_tile, eps), **where)


def _tile(eps: float, _: None, query: dict[str, Any], key: dict[str, Any]) -> Float[Array, "rows columns"]:
    """Minus the volumes of some anchors with some tuples."""
    inner = [jnp.matmul(query["x"], x.T, precision="highest") for x in key["x"]]
    squared = query["square"][:, None] * key["det"]
    for c, row in enumerate(key["adj"]):
        for e, factor in enumerate(row):
            squared -= (1 if e == c else 2) * factor * inner[c] * inner[e]
    return -_root(squared, eps)


def _root(squared: Array, eps: float) -> Array:
    """Rounding takes the determinant of dependent vectors a little below 0."""
    return jnp.sqrt(jnp.maximum(squared, 0) + eps)


def _gram(vectors: Sequence[Part]) -> list[list[Vector]]:
    return [[jnp.sum(at_least_f32(x) * at_least_f32(y), 1) for y in vectors] for x in vectors]


def determinant(matrix: list[list[Vector]]) -> Vector | float:
    """By minors: a polynomial, with finite slopes where the matrix, one row a modality, is singular."""
    if not matrix:
        return 1.0
    return sum((-1) ** c * x * determinant(_minor(matrix, 0, c)) for c, x in enumerate(matrix[0]))


def _cofactor(matrix: list[list[Vector]], row: int, column: int) -> Vector:
    """An entry of the adjugate of a symmetric matrix."""
    return jnp.zeros_like(matrix[0][0]) + (-1) ** (row + column) * determinant(_minor(matrix, row, column))


def _minor(matrix: list[list[Vector]], row: int, column: int) -> list[list[Vector]]:
    return [[*line[:column], *line[column + 1:]] for r, line in enumerate(matrix) if r != row]
