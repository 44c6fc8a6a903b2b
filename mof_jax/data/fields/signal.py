"""Numbers of a fixed shape: a teacher's embedding, a recording of several channels, boxes, masks."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from mof_jax.data.fields.field import Example, Field, OpenField, Setting
from mof_jax.data.fields.stored import Kept, Numbers
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class Signal(Kept, Field):
    """An array, float32 [batch, *size], or uint8.

    Attributes:
      size: of the array of one example; one that is kept flat, as a row of a table is, takes this shape.
      dtype: uint8 for what is made of such (masks); whole numbers are not made smaller to fit.
    """

    kind: ClassVar[str] = "signal"

    size: tuple[Count, ...] = ()
    dtype: Literal["float32", "uint8"] = "float32"

    def __post_init__(self):
        if not self.size:
            raise ValueError("size: the shape of one example's array is needed")

    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *self.size), np.dtype(self.dtype))

    def open(self, setting: Setting) -> OpenSignal:
        return OpenSignal(self, self.size, np.dtype(self.dtype), setting)


@dataclasses.dataclass(frozen=True)
class Vector(Kept, Field):
    """One vector an example, float32 [batch, dim].

    Attributes:
      dim: its length.
    """

    kind: ClassVar[str] = "vector"

    dim: Count = 1

    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, self.dim), np.float32)

    def open(self, setting: Setting) -> OpenSignal:
        return OpenSignal(self, (self.dim,), np.dtype(np.float32), setting)


class OpenSignal(OpenField[np.ndarray]):
    """Looks arrays up; one of another size, or with a number that is not finite, is a bad example."""

    def __init__(self, kept: Kept, size: tuple[int, ...], dtype: np.dtype, setting: Setting):
        self._numbers, self._size, self._dtype = Numbers(kept, setting), size, dtype

    def load(self, example: Example) -> np.ndarray:
        found = self._numbers.find(example)
        if found is None:
            raise self._numbers.none(example)
        if found.shape != self._size and not (found.ndim <= 1 and found.size == math.prod(self._size)):
            raise self._numbers.bad(example, f"has an array of shape {found.shape} where {self._size} is "
                                             "expected")
        if self._dtype == np.uint8 and found.dtype not in (np.uint8, np.bool_):
            raise self._numbers.bad(example, f"has an array of {found.dtype} where uint8 is expected")
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused
            values = np.asarray(found, self._dtype)
        if self._dtype.kind == "f" and not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise self._numbers.bad(example, f"number {place} of its array is {found.reshape(-1)[place]}, "
                                             "which is not finite")
        return values.reshape(self._size)

    def collate(self, values: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(values)

    def content(self) -> dict[str, Any]:
        return self._numbers.content()
