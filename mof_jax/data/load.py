"""From places in the stream to arrays: read, load every field, collate; replace what is bad."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np
from PIL import Image

from mof_jax.data.config import DataConfig
from mof_jax.data.fields.captions import Captions
from mof_jax.data.fields.field import Example, Field, OpenField, Setting, Tokenizer
from mof_jax.data.fields.views import Views
from mof_jax.data.image import images
from mof_jax.data.mixture import Located
from mof_jax.data.reader import Reader, Replaced
from mof_jax.data.record import Record
from mof_jax.data.sources import open_source
from mof_jax.data.text import captions
from mof_jax.data.text.vocabularies import UnreadableText
from mof_jax.errors import BadExample, UserError, nearest


def texts(config: DataConfig, limit: int = 100_000) -> Iterator[str]:
    """Captions of a config's sources, to train a vocabulary on; repeatable, unreadable records left out.

    Args:
      limit: records read from each source, evenly spread.

    Raises:
      UserError: a source without a text of the configured kinds; the line lists what it has.
    """
    asked = [field for field in config.batch_fields.values() if isinstance(field, Captions)] or [Captions()]
    for wanted in config.sources:
        source, some = open_source(wanted), False
        choices = [choice for field in asked for choice in field.choices(wanted.captions)]
        yield from dict.fromkeys(template for choice in choices for template in choice.templates)
        for index in range(0, len(source), max(1, -(-len(source) // limit))):
            try:
                record = source[index]
            except BadExample:
                continue
            kinds = {kind for choice in choices for kind in choice.probabilities or record.texts}
            tags = {captions.TAGS} if any(choice.tags for choice in choices) else set()
            for kind in sorted(kinds | tags):
                some |= any(text.strip() for text in record.texts.get(kind, ()))
                yield from record.texts.get(kind, ())
        if not some and wanted.weight:
            asked_for = dict.fromkeys(kind for choice in choices for kind in choice.probabilities)
            named = ", ".join(asked_for) or "any kind"
            has = ", ".join(captions.kinds(source)) or "none (text_fields names the column of the texts)"
            raise UserError(f"{wanted.label}: no text of {named} to train on; the source has {has}; choose "
                            "with captions.probabilities")


@dataclasses.dataclass
class Rows:
    """Some rows of a batch, and which examples had to be replaced: (id, reason)."""

    arrays: dict[str, np.ndarray]
    replaced: Replaced

    @staticmethod
    def concatenate(parts: Sequence[Rows]) -> Rows:
        """The parts' rows, in order."""
        arrays = {key: np.concatenate([p.arrays[key] for p in parts]) for key in parts[0].arrays}
        return Rows(arrays, [entry for part in parts for entry in part.replaced])


class Loader:
    """Opens the sources of a config and turns places in them into rows of a batch.

    Args:
      reads: names of the fields to load; None for all that the config has.

    Attributes:
      reader: the sources. fields: the opened fields by name.

    Raises:
      UserError: a source or a file that cannot be opened, captions without a tokenizer, or no such field.
    """

    def __init__(
        self, config: DataConfig, tokenizer: Tokenizer | None, seed: int, reads: Collection[str] | None = None
    ):
        self.config, self.seed = config, seed
        wanted = chosen(config.batch_fields, reads)
        self.reader = Reader(config.sources, seed, config.on_error)
        self.fields: dict[str, OpenField] = {
            name: field.open(
                Setting(name, seed, self.reader.sources, config.sources, config.preprocess, tokenizer))
            for name, field in wanted.items()
        }
        views = {name: field for name, field in wanted.items() if isinstance(field, Views)}
        self._at_least = max((field.at_least(config.preprocess) for field in views.values()), default=0)
        # Where one field alone shows pictures, and whole ones, they are resized when they are decoded.
        self._fit = None
        if len(views) == 1 and (name := next(iter(views))) and views[name].plain:
            self._fit = config.preprocess.at(views[name].size).fit
            self.fields[name].fitted = True
        self._cache: dict[tuple[int, int], tuple[Record, Image.Image]] = {}
        self._room = config.cache_gb * 2**30 if config.cache == "decoded" else 0

    def rows(self, located: Located) -> Rows:
        """The examples at n places: an array [n, …] a field, as `Field.shape` says.

        Raises:
          BadExample: under `on_error="raise"`, the first bad one.
          UserError: under `skip`, a source where replacements keep being bad.
        """
        try:
            return self._rows(located, self._load)
        except UnreadableText:  # rare: each caption is tried on its own, so that one is bad and not the batch
            return self._rows(located, self._load_and_check)

    def _rows(self, located: Located, load: Callable[..., list[Any]]) -> Rows:
        replaced: Replaced = []
        rows = [self.reader.example(source, index, functools.partial(load, source, epoch), replaced)
                for source, index, epoch in zip(*(column.tolist() for column in located))]
        columns = zip(self.fields.items(), zip(*rows))
        return Rows({name: field.collate(values) for (name, field), values in columns}, replaced)

    def _load(self, source: int, epoch: int, index: int) -> list[Any]:
        """Every field of one example, in their order."""
        example = self._example(source, index, epoch)
        return [field.load(example) for field in self.fields.values()]

    def _load_and_check(self, source: int, epoch: int, index: int) -> list[Any]:
        """`_load`, for an example that every field can collate."""
        example = self._example(source, index, epoch)
        values = [field.load(example) for field in self.fields.values()]
        for field, value in zip(self.fields.values(), values):
            field.check(value, example)
        return values

    def _example(self, source: int, index: int, epoch: int) -> Example:
        kept = self._cache.get((source, index))
        if kept is not None:
            return Example(kept[0], source, index, epoch, self.seed, lambda _: kept[1])
        return Example(self.reader.record(source, index), source, index, epoch, self.seed, self._decode)

    def _decode(self, example: Example) -> Image.Image:
        """The picture of a record, kept in memory where there is room."""
        record, name, pixels = example.record, self.reader.sources[example.source].name, self.config.pixels
        if record.image is None:
            raise BadExample(name, record.id, "no image")
        picture = images.decode(
            record.image, source=name, record=record.id, at_least=self._at_least, pixels=pixels)
        if self._fit is not None:
            picture = self._fit(picture)
        elif picture.mode != "RGB":
            picture = picture.convert("RGB")
        # Two threads may both pass the check; the bound is then exceeded by one picture.
        cost = 4 * picture.width * picture.height  # Pillow stores RGB in four bytes
        if cost <= self._room:
            self._room -= cost
            self._cache[example.source, example.index] = (dataclasses.replace(record, image=None), picture)
        return picture

    def __getstate__(self):  # decoded pictures stay in their process
        return self.__dict__ | {"_cache": {}}


def chosen(fields: dict[str, Field], reads: Collection[str] | None) -> dict[str, Field]:
    """The fields that somebody reads, of all that there are; None for all.

    Raises:
      UserError: one that is read and is not there.
    """
    for name in reads or ():
        if name not in fields:
            raise UserError(f"data.fields: no field {name!r}, which is read{nearest(name, fields)}; it has "
                            f"{', '.join(fields)}")
    return {name: field for name, field in fields.items() if reads is None or name in reads}
