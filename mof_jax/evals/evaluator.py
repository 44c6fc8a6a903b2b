"""What an evaluator is: a frozen dataclass that says what to measure, and `run(model) -> {metric: value}`."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from mof_jax.decode.respond import Responder
    from mof_jax.evals.embed.encoder import Encoder


class Evaluator(abc.ABC):
    """Something to measure.

    One that asks a model for answers has `needs = "responder"` and a `version`, which is written beside its results: what
    prompt, decoding and scorer they come from.

    Attributes:
      kind: its name in a config. needs: which face of a model it asks.
      name: labels its results.
    """

    kind: ClassVar[str]
    needs: ClassVar[Literal["encoder", "responder"]] = "encoder"
    name: str

    @abc.abstractmethod
    def run(self, face: Encoder | Responder) -> dict[str, float]:
        """The figures; counts are integers."""
