"""What a field of a batch is: a frozen dataclass that declares a shape, and what loads one example and
collates many.

    config section  ->  Field  --open(setting)-->  OpenField
                          |                          load(example)      one row, on a thread, by its own draws
                          shape(rows, context)       collate(values)    many rows, one array of that shape
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, ClassVar, Generic, TypeVar
import zlib

import jax
from jaxtyping import Int
import numpy as np
from PIL import Image

from mof_jax.data import keyed
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.record import Record, Source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import BadExample

T = TypeVar("T")

# Called from several threads at once.
Tokenizer = Callable[[Sequence[str]], Int[np.ndarray, "n context"]]

# Of the fields that a batch had before fields had names; 3 is the reader's.
_KEYS = {"image": 1, "text": 2, "local": 4}
_NAMED = 1 << 32  # keys of all others lie above


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field is opened with.

    Attributes:
      name: of the field in the batch. seed: of the run.
      sources: the opened sources, filtered. configs: what a config says of each.
      preprocess: what happens to a picture outside of training. tokenizer: texts to ids, None where the run
        reads none.
    """

    name: str
    seed: int
    sources: Sequence[Source]
    configs: Sequence[SourceConfig]
    preprocess: Preprocess
    tokenizer: Tokenizer | None

    @property
    def key(self) -> int:
        """An integer that tells this field's draws from another's; it depends on the name alone."""
        return _KEYS.get(self.name, _NAMED | zlib.crc32(self.name.encode()))


class Example:
    """One record on its way into a batch, at a place in the stream.

    Args:
      decode: makes the picture of the example; called only by fields that show it.

    Attributes:
      record: still encoded. source, index, epoch: where it stands, see `mixture.Located`.
    """

    __slots__ = ("record", "source", "index", "epoch", "_seed", "_decode", "_picture")

    def __init__(
        self, record: Record, source: int, index: int, epoch: int, seed: int,
        decode: Callable[[Example], Image.Image],
    ):
        self.record, self.source, self.index, self.epoch = record, source, index, epoch
        self._seed, self._decode, self._picture = seed, decode, None

    @property
    def picture(self) -> Image.Image:
        """The decoded picture.

        Raises:
          BadExample: there is none, or it is broken.
        """
        if self._picture is None:
            self._picture = self._decode(self)
        return self._picture

    def draws(self, key: int, *more: int) -> keyed.Draws:
        """Randomness of this example in this epoch; `key` names the field, `more` the part of it (a view, a
        caption)."""
        return keyed.Draws(self._seed, key, self.source, self.index, self.epoch, *more)


class OpenField(abc.ABC, Generic[T]):
    """A field with everything that loading it takes. Called from several threads at once; pickled for worker
    processes."""

    @abc.abstractmethod
    def load(self, example: Example) -> T:
        """The value of one example.

        Raises:
          BadExample: it has none.
        """

    @abc.abstractmethod
    def collate(self, values: Sequence[T]) -> np.ndarray:
        """The values of n examples as one array, [n, …]."""

    def check(self, value: T, example: Example) -> None:
        """Raises `BadExample` for a value that `collate` would refuse; asked only after it has refused
        some."""

    def content(self) -> dict[str, Any]:
        """What files beside the sources hold, for a run that goes on: nothing for a field that reads none."""
        return {}


@dataclasses.dataclass(frozen=True)
class Field(abc.ABC):
    """One array of a batch.

    Attributes:
      kind: its name in a config.
    """

    kind: ClassVar[str]

    @abc.abstractmethod
    def shape(self, rows: int, context: int) -> jax.ShapeDtypeStruct:
        """The array of `rows` examples; `context` tokens a caption."""

    @abc.abstractmethod
    def open(self, setting: Setting) -> OpenField:
        """What loads it.

        Raises:
          UserError: a file that it needs is not there, or does not fit the sources.
        """

    def sized(self, image_size: int) -> Field:
        """The field with the side of its pictures filled in, where it shows some and does not say one."""
        return self


def bad(example: Example, sources: Sequence[Source], reason: str) -> BadExample:
    """A bad example, by the names of its source and record."""
    return BadExample(sources[example.source].name, example.record.id, reason)
