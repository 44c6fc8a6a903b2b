"""A linear probe: multinomial logistic regression on frozen features, fitted to its optimum by L-BFGS."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
import numpy as np
import optax

from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.feature_baselines import Features, accuracies
from mof_jax.evals.embed.labelled_sources import Labels, unit
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Positive, Range, Whole


@dataclasses.dataclass(frozen=True)
class Probe(Evaluator):
    """Accuracy on `test` of a linear classifier of `train`'s features.

    Attributes:
      label: attribute that names a record's class; test records of a class that `train` lacks are left out.
      l2: strengths tried. The one that does best on the validation part is then fitted to all of `train`.
      validation: share of `train` that chooses the strength; seed: which records are in it.
      steps: of L-BFGS at most, for each strength.
      baselines: also measure what was there without training, see `evals.embed.feature_baselines`.
    """

    kind: ClassVar[str] = "probe"
    requires: ClassVar[tuple[str, ...]] = ("embed/image",)

    train: SourceConfig
    test: SourceConfig
    name: str = "probe"
    label: str = "label"
    l2: tuple[Positive, ...] = (1e-3, 1e-4, 1e-5)
    validation: Annotated[float, Range(0, 1, above=True, below=True)] = 0.2
    seed: Whole = 0
    steps: Count = 100
    baselines: bool = False

    def __post_init__(self):
        if not self.l2 or min(self.l2) <= 0:
            raise ValueError("l2: at least one strength, all positive (without one there may be no optimum)")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation {self.validation} is not a share between 0 and 1")

    def run(self, model: Model) -> dict[str, float]:
        """`acc@1` in percent, over the test pictures whose class is known; see `Labels.counts`."""
        labels = Labels.read(self.train, self.test, self.label)

        def right(features: Features) -> Bool[np.ndarray, "test"]:
            train, test = standardised(*labels.features(features))
            hit = predict(self.fitted(train, labels.train, labels.classes), test) == labels.test
            return hit & np.isfinite(test).all(1)  # no features, no hit

        return {**labels.counts, **accuracies(model, right, labels.units, self.baselines)}

    def fitted(
        self, x: Float[np.ndarray, "train dim"], y: Int[np.ndarray, "train"], classes: int
    ) -> Float[Array, "inputs classes"]:
        """Weights at the strength that the validation part prefers, fitted to all of (x, y)."""
        order = np.random.default_rng(self.seed).permutation(len(x))
        held, rest = np.split(order, [max(1, round(self.validation * len(x)))])
        if not len(rest):
            raise UserError(f"{self.name}.validation: {len(x)} training records leave none to fit")
        accuracy: dict[float, float] = {}
        weights = None
        for strength in sorted(set(self.l2), reverse=True):  # from strong to weak: each optimum is close to the next one's
            weights = fit(x[rest], y[rest], classes, strength, self.steps, weights)
            accuracy[strength] = float(np.mean(predict(weights, x[held]) == y[held]))
        return fit(x, y, classes, max(accuracy, key=accuracy.get), self.steps, weights)


def standardised(
    train: Float[np.ndarray, "train dim"], test: Float[np.ndarray, "test dim"]
) -> tuple[Float[np.ndarray, "train dim"], Float[np.ndarray, "test dim"]]:
    """Unit rows, then every feature with the training records' mean 0 and deviation 1, so that strengths mean the same for
    every tower."""
    train, test = unit(train), unit(test)
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    return (train - mean) / deviation, (test - mean) / deviation


def fit(
    x: Float[np.ndarray, "rows dim"],
    y: Int[np.ndarray, "rows"],
    classes: int,
    strength: float,
    steps: int = 100,
    start: Float[Array, "inputs classes"] | None = None,
    tolerance: float = 1e-4,
) -> Float[Array, "inputs classes"]:
    """argmin over W of mean cross-entropy of softmax([x, 1] W) + strength/2 · ‖W without its last row, the bias‖².

    Convex, so the optimum does not depend on `start`. Stops after `steps`, or once the gradient's norm is below `tolerance`
    times what it is at W = 0.
    """
    zero = jnp.zeros((x.shape[1] + 1, classes), jnp.float32)
    return _minimise(zero if start is None else start, jnp.asarray(x, jnp.float32), jnp.asarray(y), strength, steps, tolerance)


@jax.jit
def _minimise(weights: Array, x: Array, y: Array, strength: Array, steps: Array, tolerance: Array) -> Array:
    def loss(weights: Array) -> Array:
        scores = jnp.matmul(x, weights[:-1], precision="highest") + weights[-1]
        fit = optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()
        return fit + 0.5 * strength * jnp.square(weights[:-1]).sum()

    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)
    limit = tolerance * jnp.linalg.norm(jax.grad(loss)(jnp.zeros_like(weights)))

    def step(carry: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
        weights, state = carry
        value, grad = value_and_grad(weights, state=state)
        updates, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(weights, updates), state

    def unfinished(carry: tuple[Array, optax.OptState]) -> Array:
        count, norm = optax.tree.get(carry[1], "count"), optax.tree.norm(optax.tree.get(carry[1], "grad"))
        return (count == 0) | ((count < steps) & (norm > limit))

    return jax.lax.while_loop(unfinished, step, (weights, solver.init(weights)))[0]


def predict(weights: Float[Array, "inputs classes"], x: Float[np.ndarray, "rows dim"]) -> Int[np.ndarray, "rows"]:
    """The class of the largest score."""
    return np.asarray(jnp.argmax(jnp.matmul(x, weights[:-1], precision="highest") + weights[-1], axis=-1))
