"""The number that siblings share: pictures of one caption, captions of one picture."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

import jax
from jaxtyping import Int32
import numpy as np

from mof_jax.data.fields.field import Example, Field, OpenField, Setting, bad


@dataclasses.dataclass(frozen=True)
class Group(Field):
    """The records' groups, int32 [batch]; -1 for a record without siblings."""

    kind: ClassVar[str] = "group"

    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows,), np.int32)

    def open(self, setting: Setting) -> OpenGroup:
        return OpenGroup(setting)


class OpenGroup(OpenField[int]):
    """Groups that no two sources of a run share: sources take turns."""

    def __init__(self, setting: Setting):
        self._sources = setting.sources

    def load(self, example: Example) -> int:
        own = example.record.group
        if own < 0:
            return -1
        group = own * len(self._sources) + example.source
        if group >= 2**31:
            raise bad(example, self._sources, f"group {own} is too large for 32 bits")
        return group

    def collate(self, values: Sequence[int]) -> Int32[np.ndarray, "n"]:
        return np.array(values, np.int32)
