"""What every source yields, and what a source is."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Protocol, runtime_checkable


@dataclasses.dataclass(frozen=True)
class Record:
    """One example, still encoded.

    Attributes:
      id: stable name of the example inside its source (a key, a relative path).
      image: encoded image bytes (PNG, JPEG, WebP), or None for text only.
      texts: captions by kind, e.g. `{"alt": ("a red apple",), "synthetic": (...,), "tags": (...,)}`.
      scores: filter scores by name, e.g. `{"dfn": 0.31}`.
      group: pictures that share one caption share a non-negative group; -1 means "no siblings".
      attributes: anything else a source knows (label, family, vendor ...), never read by training.
    """

    id: str
    image: bytes | None
    texts: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    group: int = -1
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Random access to records. Thread-safe; cheap to index.

    `__getitem__` raises `BadExample` for a record that cannot be read, `IndexError` outside the range.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...
