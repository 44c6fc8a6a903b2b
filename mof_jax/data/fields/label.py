"""Whole numbers of an example: its class, its cluster, its tags."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar, Literal

import jax
from jaxtyping import Int32
import numpy as np

from mof_jax.data.fields.field import Example, Field, OpenField, Setting
from mof_jax.data.fields.stored import Kept, Numbers
from mof_jax.ranges import Count

_LIMIT = 2**31  # labels are int32


@dataclasses.dataclass(frozen=True)
class Label(Kept, Field):
    """Labels from 0, int32 [batch]; with `count`, int32 [batch, count], -1 behind the last of an example.

    Attributes:
      count: labels that an example may have at most; None for exactly one, and no further axis.
      classes: labels are below; None for any.
      missing: what an example is that the file does not know, or that has no label where it has to have one:
        a bad one (`error`), or one of label -1 (`none`).
    """

    kind: ClassVar[str] = "label"

    count: Count | None = None
    classes: Count | None = None
    missing: Literal["error", "none"] = "error"

    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows,) if self.count is None else (rows, self.count), np.int32)

    def open(self, setting: Setting) -> OpenLabel:
        return OpenLabel(self, setting)


class OpenLabel(OpenField[Sequence[int]]):
    """Looks labels up, and holds each against what the config says of them."""

    def __init__(self, config: Label, setting: Setting):
        self._config, self._numbers = config, Numbers(config, setting)
        self._most = 1 if config.count is None else config.count

    def load(self, example: Example) -> Sequence[int]:
        c, found = self._config, self._numbers.find(example)
        if found is None and c.missing == "error":
            raise self._numbers.none(example)
        labels = [] if found is None else self._labels(found, example)
        if len(labels) > self._most:
            raise self._numbers.bad(example, f"has {len(labels)} labels where at most {self._most} are "
                                             "expected (count)")
        if not labels and c.count is None and c.missing == "error":
            raise self._numbers.bad(example, "has no label")
        return labels

    def _labels(self, found: np.ndarray, example: Example) -> list[int]:
        """The labels among what is kept: -1 and NaN stand for none."""
        if found.ndim > 1:
            raise self._numbers.bad(example, f"has an array of shape {found.shape} where labels are expected")
        limit, labels = self._config.classes or _LIMIT, []
        for value in np.atleast_1d(found).tolist():
            if value == -1 or value != value:
                continue
            if value != int(value):
                raise self._numbers.bad(example, f"label {value} is no whole number")
            if not 0 <= value < limit:
                raise self._numbers.bad(example, f"label {int(value)} is not among {limit} classes")
            labels.append(int(value))
        return labels

    def collate(self, values: Sequence[Sequence[int]]) -> Int32[np.ndarray, "n *count"]:
        found = np.full((len(values), self._most), -1, np.int32)
        for row, labels in enumerate(values):
            found[row, : len(labels)] = labels
        return found[:, 0] if self._config.count is None else found

    def content(self) -> dict[str, Any]:
        return self._numbers.content()
