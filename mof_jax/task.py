"""A task is a value: how to build the model, its loss, and what evaluators may ask of it. The loop knows nothing else."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from flax import nnx
from jaxtyping import Array, Float, Int, Key

from mof_jax.nn.module import Params
from mof_jax.rules import Rule

Batch = Mapping[str, Array]
Predictor = Callable[..., Any]


class Loss(NamedTuple):
    """A sum and its weight, so that accumulation, packing and sharding can add and divide once.

    Attributes:
      sum: total loss of the batch; the mean is sum / weight.
      weight: what the sum is over (pairs, tokens).
      metrics: further sums over the same weight; the log shows them divided by it.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


class Task(abc.ABC):
    """What training and evaluation need to know of a paper.

    Attributes:
      accumulate: micro-batches of a step, for a loss that is a sum over rows: the step adds sums, weights and gradients.
        (A loss that couples the rows of a batch accumulates inside instead, see `tasks.contrastive`.)
      rows: rows of a batch that share a buffer and stay together on a device and in a micro-batch.
      predictors: what evaluators may ask of the model, by capability. `embed/NAME` and `tokens/NAME` are functions
        `(model, inputs)` to [rows, dim] and [rows, tokens, dim]; `generate` is `(model)` to the `Mllm` in it that answers.
      rules: the library's optional per-parameter defaults by decision (`freeze`, `decay`, `bounds`), see `train.optim`.
    """

    accumulate: int = 1
    rows: int = 1
    predictors: ClassVar[Mapping[str, Predictor]] = {}
    rules: Mapping[str, list[Rule]] = {}

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """A freshly initialised model."""

    @abc.abstractmethod
    def loss(self, model: nnx.Module, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        """The loss over the global batch; `key` belongs to (seed, step) and is None for evaluation."""

    def keyed(self, batch: Batch, key: Key[Array, ""] | None) -> Batch:
        """The batch with a key for each example, so that micro-batches draw what the whole batch would."""
        return batch

    @abc.abstractmethod
    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """Model FLOPs of one training step, by part; `trained(prefix)` says whether a part has trainable parameters."""

    def adapt(self, path: str, value: Array) -> Array:
        """A parameter of another run as this model needs it, e.g. position embeddings resampled; `value` if nothing is to do."""
        return value

    def advance(self, step: Int[Array, ""], params: Params, frozen: Params) -> Params:
        """What becomes of the parameters that no gradient trains, after the update of `step` (from 0).

        A teacher that averages its student is a part of the model, frozen by a rule; it moves here, inside the step, and
        is saved with everything else. By default nothing moves.
        """
        return frozen
