"""What a head is: a frozen dataclass that says which feature it reads, and builds a module over all rows."""

from __future__ import annotations

import abc
from collections.abc import Mapping
import dataclasses
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

Moved = Mapping[str, Array]


class HeadModule(nnx.Module):
    """The parameters of a head."""

    def __call__(self, x: Float[Array, "rows views inputs"]) -> tuple[Float[Array, "rows views outputs"], Moved]:
        """Its feature, and new values of its moving variables by their path in it.

        `x` are all rows of the batch: statistics over them are the global batch's, on any mesh.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Head(abc.ABC):
    """A feature made of another.

    What evaluators or several terms may read is a head of the model; what one loss alone needs is the objective's own.

    Attributes:
      kind: its name in a config.
      reads: the feature that it is made of, [rows, views, inputs].
    """

    kind: ClassVar[str]
    reads: str

    @abc.abstractmethod
    def dim(self, inputs: int) -> int:
        """Width of its feature, of one that is so wide."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, inputs: int) -> HeadModule:
        """Its parameters, for inputs of a width."""

    @abc.abstractmethod
    def flops(self, inputs: int) -> float:
        """Forward FLOPs of one row and view."""
