"""What an evaluator is: a frozen dataclass that says what to measure, and `run(model) -> {metric: value}`."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from mof_jax.evals.model import Model


class Evaluator(abc.ABC):
    """Something to measure.

    One that asks a model for answers has a `version`, which is written beside its results: what prompt, decoding and scorer they
    come from.

    Attributes:
      kind: its name in a config.
      requires: the capabilities that a model needs, see `task.Task.predictors`: `embed/image`, `embed/text`, `tokens/image`,
        `generate`.
      name: labels its results.
    """

    kind: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    name: str

    @abc.abstractmethod
    def run(self, model: Model) -> dict[str, float]:
        """The figures; counts are integers."""
