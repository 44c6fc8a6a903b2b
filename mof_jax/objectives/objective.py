"""What a term of a loss is: a frozen dataclass whose fields are its config section, and a `loss` over named features."""

from __future__ import annotations

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.objectives.loss import Context, Features, Loss
from mof_jax.ranges import Count, NotNegative, Whole


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A weight that changes: `start` until step `begin`, then linear, `end` from `begin + steps` on."""

    start: NotNegative
    end: NotNegative
    steps: Count
    begin: Whole = 0

    def at(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The weight of a step, counted from 0."""
        share = jnp.clip((step - self.begin) / self.steps, 0.0, 1.0)
        return self.start + (self.end - self.start) * share


@dataclasses.dataclass(frozen=True)
class Objective(abc.ABC):
    """One term of a loss.

    A task gives features by name; a term says which it reads. A loss with several terms is their weighted sum, each term
    divided by what it alone counts: `{"clip": Softmax(), "caption": NextToken(weight=2.0)}`.

    Attributes:
      kind: its name in a config.
      couples_rows: whether a row's loss depends on other rows. What couples none is computed inside each micro-batch, and
        the features that only it reads are never kept.
      follows_steps: whether it depends on how many steps the whole run has: such a run cannot be made longer.
      weight: of the term in the loss; a number or a ramp.
    """

    kind: ClassVar[str]
    couples_rows: ClassVar[bool] = True
    follows_steps: ClassVar[bool] = False
    weight: NotNegative | Ramp = dataclasses.field(default=1.0, kw_only=True)

    def prepare(self, model: Any) -> Any:
        """The model's config with what this term needs in it, where the config leaves it open."""
        return model

    @property
    @abc.abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Names of features and batch fields that `loss` uses; checked when the run is built, and nothing else is computed."""

    @property
    def gives(self) -> tuple[str, ...]:
        """Names of the features that `teach` returns."""
        return ()

    def build(self, rngs: nnx.Rngs, dims: Mapping[str, int]) -> nnx.Module | None:
        """Parameters of its own (`objective/<term>/…` in the model), None for none.

        Args:
          dims: length of the last axis of each feature.
        """
        return None

    def teach(self, features: Features, context: Context) -> Features:
        """Row features [rows, …] made without gradient from those of the whole batch: targets from a teacher's scores."""
        return {}

    @abc.abstractmethod
    def count(self, batch: Features, context: Context) -> float | Float[Array, ""]:
        """What the sum is divided by, known before the model runs: a number where shapes say it.

        An array may be 0 (no supervised token): the term then adds nothing to loss and gradient.
        """

    @abc.abstractmethod
    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        """The term over the rows of `features`, batch fields among them; all rows of the batch where it couples rows.

        Args:
          own: what `build` made, with the parameters of this step.
        """

    def flops(self, batch_size: int, dims: Mapping[str, int]) -> float:
        """Model FLOPs of a training step beyond the model's own."""
        return 0.0
