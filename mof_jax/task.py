"""A task is a value: how to build the model, its loss, and what evaluators may ask of it. The loop knows nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from flax import nnx
from jaxtyping import Array, Float, Key

Batch = Mapping[str, Array]


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


class Task(Protocol):
    """What training and evaluation need to know of a paper.

    Attributes:
      predict: named functions `(model, inputs) -> outputs` for evaluators, e.g. `image` and `text` embeddings.
      rules: the library's optional per-parameter defaults by decision (`decay`, `bounds`), see `train.optim`.
    """

    predict: Mapping[str, Callable[[nnx.Module, Array], Array]]
    rules: Mapping[str, list]

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """A freshly initialised model."""

    def loss(self, model: nnx.Module, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        """The loss over the global batch; `key` belongs to (seed, step) and is None for evaluation."""

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """Model FLOPs of one training step, by part; `trained(prefix)` says whether a part has trainable parameters."""

    def adapt(self, path: str, value: Array) -> Array:
        """A parameter of another run as this model needs it, e.g. position embeddings resampled; `value` if nothing is to do."""
