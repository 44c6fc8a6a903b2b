"""What an evaluator is: a frozen dataclass that says what to measure, and `run(model) -> {metric: value}`."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mof_jax.evals.model import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(abc.ABC):
    """Something to measure.

    One that asks a model for answers has a `version`, which is written beside its results: what prompt,
    decoding and scorer they come from.

    Attributes:
      kind: its name in a config.
      requires: the capabilities that a model needs, see `task.Task.predictors`: `embed/image`,
        `embed/text`, `tokens/image`, `generate`.
      name: labels its results; every kind has a default for it.
      items: also write every row behind the figures, to `WORKDIR/items/NAME-STEP.jsonl`, see `evals.items`.
    """

    kind: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    if TYPE_CHECKING:
        name: str
    items: bool = False

    @abc.abstractmethod
    def run(self, model: Model) -> dict[str, float]:
        """The figures; counts are integers."""
