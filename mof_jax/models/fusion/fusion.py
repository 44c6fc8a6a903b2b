"""What a fusion is: which adapters stand between encoders and language model, and how tokens come out of them."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
from jaxtyping import Array, Float

Features = Float[Array, "images patches width"]
Tokens = Float[Array, "images tokens width"]


class Patches(NamedTuple):
    """What an encoder gives: `grid` × `grid` features of a width. `tokens`: how many the connector makes of them."""

    name: str
    grid: int
    width: int
    tokens: int


@dataclasses.dataclass(frozen=True)
class Fusion(abc.ABC):
    """A mixture of features.

    Attributes:
      kind: its name in a config.
      least, most: how many encoders it mixes; `most` None for any number.
    """

    kind: ClassVar[str]
    least: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    def check(self, encoders: Sequence[Patches]) -> None:
        """Refuses encoders that the kind has no meaning for.

        Raises:
          ValueError: too few, too many, or of shapes that it cannot mix.
        """
        n = len(encoders)
        if n < self.least or (self.most is not None and n > self.most):
            wanted = self.least if self.most == self.least else f"at least {'two' if self.least == 2 else self.least}"
            raise ValueError(f"fusion {self.kind!r} needs {wanted} encoder{'s' * (wanted != 1)}, got {n}")

    @abc.abstractmethod
    def adapters(self, encoders: Sequence[Patches]) -> dict[str, tuple[int, int]]:
        """Adapters by name, `adapters/<name>/…`, each with its grid and the width of its inputs.

        One with an encoder's name reads that encoder alone; any other reads all of them.
        """

    @abc.abstractmethod
    def mix(
        self, features: Sequence[Features], encoders: Sequence[Patches], adapters: Mapping[str, Callable[[Features], Tokens]]
    ) -> Tokens:
        """Image tokens from each encoder's features."""

    def tokens(self, encoders: Sequence[Patches]) -> int:
        """K: how many tokens an image becomes."""
        return encoders[0].tokens


def match_grid(x: Float[Array, "batch patches width"], grid: int) -> Float[Array, "batch resized width"]:
    """Patches of another grid, resampled bilinearly to `grid` × `grid`."""
    side = math.isqrt(x.shape[1])
    if side == grid:
        return x
    x = jax.image.resize(x.reshape(x.shape[0], side, side, -1), (x.shape[0], grid, grid, x.shape[-1]), "bilinear")
    return x.reshape(x.shape[0], grid * grid, -1)
