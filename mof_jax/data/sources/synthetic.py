"""Random pictures with captions, made from their index: for benchmarks and tests that need no files."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from mof_jax.data import keyed
from mof_jax.data.image import images
from mof_jax.data.record import Record
from mof_jax.data.sources.config import SourceConfig
from mof_jax.ranges import Count

_COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "yellow": (240, 210, 50)}
_SHAPES = ("square", "bar", "column")


@dataclasses.dataclass(frozen=True)
class SyntheticConfig(SourceConfig):
    """Coloured shapes on noise, made from their index: for benchmarks and tests.

    Attributes:
      size: number of pictures. pixels: their side.
    """

    kind: ClassVar[str] = "synthetic"
    embedded: ClassVar[bool] = True

    size: Count = 1024
    pixels: Count = 64

    def open(self) -> SyntheticSource:
        return SyntheticSource(self.size, self.pixels, self.label)


class SyntheticSource:
    """`size` pictures of `pixels` x `pixels`: a coloured shape on noise, as PNG, and a caption that says so."""

    def __init__(self, size: int = 1024, pixels: int = 64, name: str = "synthetic"):
        self.name, self._size, self._pixels = name, size, pixels

    def __len__(self) -> int:
        return self._size

    def id(self, index: int) -> str:
        """Name of record `index`."""
        return f"{index:08d}"

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._size:
            raise IndexError(index)
        draws = keyed.Draws(index)
        colour, shape = draws.choice(sorted(_COLOURS)), draws.choice(_SHAPES)
        n = self._pixels
        picture = np.random.Generator(np.random.Philox(key=index)).integers(160, 255, (n, n, 3), np.uint8)
        high = slice(0, n) if shape == "column" else slice(n // 4, 3 * n // 4)
        wide = slice(0, n) if shape == "bar" else slice(n // 4, 3 * n // 4)
        picture[high, wide] = _COLOURS[colour]
        texts = {"alt": (f"a {colour} {shape}",), "synthetic": (f"a {shape} of {colour} on grey noise",)}
        return Record(self.id(index), images.encode(picture), texts | {"tags": (colour, shape)})
