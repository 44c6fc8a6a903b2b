"""Few-shot linear classification in closed form: ridge regression on frozen features."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.labelled_sources import Labels, unit
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Positive, Whole


@dataclasses.dataclass(frozen=True)
class FewShot(Evaluator):
    """`shots` training pictures a class, one ridge regression onto ±1 targets, accuracy on `test`.

    Attributes:
      label: attribute that names the class.
      shots: pictures a class; classes that have fewer are left out.
      l2: ridge strengths tried; the best by leave-one-out error on the training pictures is used.
      seed: which pictures are drawn.
    """

    kind: ClassVar[str] = "fewshot"
    requires: ClassVar[tuple[str, ...]] = ("embed/image",)

    train: SourceConfig
    test: SourceConfig
    name: str = "fewshot"
    label: str = "label"
    shots: tuple[Count, ...] = (1, 4)
    l2: tuple[Positive, ...] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    seed: Whole = 0

    def run(self, model: Model) -> dict[str, float]:
        """`acc@1_<shots>shot` in percent; `left_out_<shots>shot` counts the test pictures of classes with fewer training
        pictures, which it leaves out, besides those that `Labels.counts` counts."""
        embedder = model.embedder
        labels = Labels.read(self.train, self.test, self.label)
        train, test = labels.features(embedder.images)
        result = labels.counts
        for shots in self.shots:
            rows = draw_shots(labels.train, shots, self.seed)
            classes = np.unique(labels.train[rows])
            kept = np.isin(labels.test, classes)
            if not len(rows) or not kept.any():
                raise UserError(f"{self.name}.shots: no class of {self.train.label} has {shots} pictures and a test picture")
            number = lambda y: np.searchsorted(classes, y)
            x, z = unit(train[rows]), unit(test[kept])
            predicted = ridge_predict(x, number(labels.train[rows]), z, len(classes), self.l2)
            hit = (np.asarray(predicted) == number(labels.test[kept])) & np.isfinite(z).all(1)  # no features, no hit
            of = [unit for unit, known in zip(labels.units, kept) if known]
            model.keep(f"acc@1_{shots}shot", of, 100.0 * hit)
            result[f"acc@1_{shots}shot"] = 100 * float(np.mean(hit))
            result[f"left_out_{shots}shot"] = int((~kept).sum())
        return result


def draw_shots(labels: Int[np.ndarray, "records"], shots: int, seed: int) -> Int[np.ndarray, "drawn"]:
    """Indices of `shots` records of every class that has that many, in order."""
    order = np.random.default_rng(seed).permutation(len(labels))
    drawn: list[int] = []
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        if len(mine) >= shots:
            drawn += mine[:shots].tolist()
    return np.array(sorted(drawn), np.int64)


def ridge_predict(
    x: Float[np.ndarray, "train dim"],
    y: Int[np.ndarray, "train"],
    z: Float[np.ndarray, "test dim"],
    classes: int,
    strengths: tuple[float, ...],
) -> Int[Array, "test"]:
    """Classes of `z` by ridge regression on (x, y), the strength chosen by leave-one-out squared error.

    In the kernel form: with K = x xᵀ, A = (K + λI)⁻¹ and α = A t, the leave-one-out residual of row i is αᵢ / Aᵢᵢ.
    """
    mean = x.mean(0)
    x, z = x - mean, z - mean
    targets = 2.0 * jax.nn.one_hot(jnp.asarray(y), classes) - 1.0
    bias = targets.mean(0)
    kernel = jnp.matmul(x, x.T, precision="highest")

    def solve(strength: float) -> tuple[Array, Array]:
        inverse = jnp.linalg.inv(kernel + strength * jnp.eye(len(x)))
        alpha = jnp.matmul(inverse, targets - bias, precision="highest")
        return jnp.mean(jnp.square(alpha / jnp.diag(inverse)[:, None])), alpha

    _, alpha = min((solve(s) for s in strengths), key=lambda pair: float(pair[0]))
    weights = jnp.matmul(x.T, alpha, precision="highest")
    return jnp.argmax(jnp.matmul(z, weights, precision="highest") + bias, axis=-1)
