"""What every source yields, and what a source is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import math
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mof_jax.parsing import Malformed, is_number, kind, show


@dataclasses.dataclass(frozen=True)
class Record:
    """One example, still encoded.

    Attributes:
      id: stable name of the example inside its source (a key, a relative path).
      image: encoded image bytes (PNG, JPEG, WebP), or None for text only.
      texts: captions by kind, e.g. `{"alt": ("a red apple",), "synthetic": (...,), "tags": (...,)}`.
      scores: filter scores by name, e.g. `{"dfn": 0.31}`; NaN where it is known that there is none.
      group: pictures that share one caption share a non-negative group; -1 means "no siblings".
      attributes: anything else a source knows (label, family, vendor ...), never read by training.
      arrays: numbers by name (boxes, masks, recordings), for fields that ask for them; a source may compute them when asked.
    """

    id: str
    image: bytes | None
    texts: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    group: int = -1
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, compare=False)


class Computed(Mapping[str, np.ndarray]):
    """Arrays of a record that are made each time they are asked for.

    Args:
      make: by name, functions of facts. facts: of this record.
    """

    __slots__ = ("_make", "_facts")

    def __init__(self, make: Mapping[str, Callable[..., np.ndarray]], *facts: Any):
        self._make, self._facts = make, facts

    def __getitem__(self, name: str) -> np.ndarray:
        return self._make[name](*self._facts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._make)

    def __len__(self) -> int:
        return len(self._make)


@runtime_checkable
class Source(Protocol):
    """Random access to records. Thread-safe; cheap to index.

    `__getitem__` raises `BadExample` for a record that cannot be read, `IndexError` outside the range.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


def as_score(value: Any) -> float:
    """A filter score somebody else wrote; NaN, which no filter keeps, for `null` and NaN.

    Raises:
      Malformed: text, true or false, a list, an object, or a number that is not finite.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if is_number(value):
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Malformed("is infinite, or beyond what float64 holds")
    raise Malformed(f"is {kind(value)} ({show(value, 40)}), not a number")
