"""From places in the stream to arrays: read, decode, augment, caption, tokenize; replace what is bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from typing import Literal, NamedTuple

from jaxtyping import Int
import numpy as np
from PIL import Image

from mof_jax.data import filter as filters
from mof_jax.data import keyed
from mof_jax.data.image import augment, images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.mixture import Located
from mof_jax.data.reader import OnError, Reader, Replaced
from mof_jax.data.record import Record
from mof_jax.data.sources import default_sources, open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.text import captions
from mof_jax.data.text.vocabularies import UnreadableText
from mof_jax.errors import BadExample, UserError
from mof_jax.ranges import Count, NotNegative, Whole

# Called from several threads at once.
Tokenizer = Callable[[Sequence[str]], Int[np.ndarray, "n context"]]

_IMAGE, _TEXT, _LOCAL = 1, 2, 4  # what a key is for


@dataclasses.dataclass(frozen=True)
class LocalViews:
    """Small crops beside the other views (multi-crop, arXiv 2006.09882).

    Attributes:
      views: crops per example, each augmented on its own.
      image_size: their side, pixels.
      augment: random changes; by default crops of 5 to 32 % of the picture's area.
    """

    views: Count = 8
    image_size: Count = 96
    augment: augment.AugmentConfig = augment.AugmentConfig(crop=augment.Crop(scale=(0.05, 0.32)))

    def __post_init__(self):
        if min(self.views, self.image_size) < 1:
            raise ValueError("views and image_size must be positive")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a run reads, and what it does to it on the host.

    Attributes:
      sources: the mixture.
      image_size: side of the pictures that leave the host, pixels.
      views: pictures per example, each augmented on its own; 0 for text only.
      captions: captions per example; 0 for pictures only.
      augment: random changes; none by default.
      local: small crops beside the views, None for none.
      resize, resample, resize_side: how a picture that is not cropped becomes square (see `images.resize`).
      pixels: whose pixels, where libraries differ (see `Preprocess`).
      shuffle: False reads in stored order.
      on_error: `raise` stops at a bad example; `skip` replaces it by another of the same source, so that positions
        never shift, and reports it.
      cache: `decoded` keeps decoded pictures in memory, up to `cache_gb`; for small sources.
      threads: loader threads; 0 loads in the caller's thread.
      prefetch: batches loaded ahead.
      workers: loader processes, on top of which each has `threads`; 0 for none. Worth it where decoding needs more
        cores than one interpreter can use.
      chunk: rows that one thread loads at a time.
    """

    sources: tuple[SourceConfig, ...] = dataclasses.field(default_factory=default_sources)
    image_size: Count = 64
    views: Whole = 1
    captions: Whole = 1
    augment: augment.AugmentConfig = augment.AugmentConfig()
    local: LocalViews | None = None
    resize: images.Resize = "squash"
    resample: images.Resample = "bicubic"
    resize_side: Count | None = None
    pixels: images.Pixels = "ours"
    shuffle: bool = True
    on_error: OnError = "raise"
    cache: Literal["none", "decoded"] = "none"
    cache_gb: NotNegative = 4.0
    threads: Whole = 4
    prefetch: Count = 4
    workers: Whole = 0
    chunk: Count = 32

    def __post_init__(self):
        _ = self.preprocess  # which checks its own fields
        if not self.sources:
            raise ValueError("sources: at least one is needed")
        if min(self.views, self.captions, self.threads, self.workers) < 0 or self.views + self.captions < 1:
            raise ValueError("views, captions, threads and workers count; views and captions cannot both be 0")
        if min(self.image_size, self.prefetch, self.chunk) < 1:
            raise ValueError("image_size, prefetch and chunk must be positive")
        if self.local and not self.views:
            raise ValueError("local views need views beside them")
        labels = [source.label for source in self.sources]
        if len(set(labels)) != len(labels):
            raise ValueError(f"sources need names of their own, got {', '.join(labels)}")

    @property
    def preprocess(self) -> Preprocess:
        """What happens to a picture outside of training."""
        return Preprocess(self.image_size, self.resize, self.resample, self.augment.fill, self.resize_side, self.pixels)


def texts(config: DataConfig, limit: int = 100_000) -> Iterator[str]:
    """Captions of a config's sources, to train a vocabulary on; repeatable, unreadable records left out.

    Args:
      limit: records read from each source, evenly spread.

    Raises:
      UserError: a source without a text of the configured kinds; the line lists what it has.
    """
    for wanted in config.sources:
        source, some = open_source(wanted), False
        yield from wanted.captions.templates
        for index in range(0, len(source), max(1, -(-len(source) // limit))):
            try:
                record = source[index]
            except BadExample:
                continue
            kinds = {
                *(wanted.captions.probabilities or record.texts),
                *([captions.TAGS] if wanted.captions.tags else []),
            }
            for kind in sorted(kinds):
                some |= any(text.strip() for text in record.texts.get(kind, ()))
                yield from record.texts.get(kind, ())
        if not some and wanted.weight:
            named = ", ".join(wanted.captions.probabilities) or "any kind"
            has = ", ".join(captions.kinds(source)) or "none (text_fields names the column of the texts)"
            raise UserError(f"{wanted.label}: no text of {named} to train on; the source has {has}; choose with "
                            "captions.probabilities")


class View(NamedTuple):
    """One version of a picture, and the draws that its colours still need."""

    picture: Image.Image
    draws: keyed.Draws


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
    """Opens the sources of a config and turns places in them into rows of a batch."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer | None, seed: int):
        if config.captions and tokenizer is None:
            raise UserError("captions need a tokenizer; set data.captions=0 to read pictures only")
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self.reader = Reader(config.sources, seed, config.on_error)
        wanted = [(config.preprocess.at_least, config.augment)]
        wanted += [(config.local.image_size, config.local.augment)] if config.local else []
        self._at_least = max(int(np.ceil(size * changes.oversample)) for size, changes in wanted)
        self._cache: dict[tuple[int, int], tuple[Record, Image.Image]] = {}
        self._room = config.cache_gb * 2**30 if config.cache == "decoded" else 0

    def rows(self, located: Located) -> Rows:
        """The examples at n places.

        Returns:
          `image` uint8 [n, views, size, size, 3], `local` uint8 of the same form with local views, `text` int32
          [n, captions, context], `group` int32 [n] (-1: none).

        Raises:
          BadExample: under `on_error="raise"`, the first bad one.
          UserError: under `skip`, a source where replacements keep being bad.
        """
        try:
            return self._rows(located, self._load)
        except UnreadableText:  # rare: each caption is tried on its own, so that one is a bad example and not the batch
            return self._rows(located, self._load_and_read)

    def _rows(self, located: Located, load: Callable) -> Rows:
        c, n = self.config, len(located.source)
        group, texts, replaced = np.empty(n, np.int32), [], []
        views: dict[str, list[View]] = {}
        for row, (source, index, epoch) in enumerate(zip(*(column.tolist() for column in located))):
            example = functools.partial(load, source, epoch=epoch)
            pictures, words, group[row] = self.reader.example(source, index, example, replaced)
            texts += words
            for name, mine in pictures.items():
                views.setdefault(name, []).extend(mine)
        changes = {"image": c.augment, "local": c.local and c.local.augment}
        arrays = {"group": group}
        for name, mine in views.items():
            pixels = augment.colour(np.stack([np.asarray(v.picture) for v in mine]), changes[name], [v.draws for v in mine])
            arrays[name] = pixels.reshape(n, -1, *pixels.shape[1:])
        if c.captions:
            tokens = np.asarray(self.tokenizer(texts), np.int32)
            arrays["text"] = tokens.reshape(n, c.captions, tokens.shape[-1])
        return Rows(arrays, replaced)

    def _load(self, source: int, index: int, epoch: int):
        """(views by kind, captions, group) of one example."""
        c = self.config
        record, picture = self._decoded(source, index)
        views, place = {}, (source, index, epoch)
        if c.views:
            views["image"] = self._views(picture, c.views, c.image_size, c.augment, (_IMAGE, *place))
        if c.local:
            views["local"] = self._views(picture, c.local.views, c.local.image_size, c.local.augment, (_LOCAL, *place))
        words, wanted = [], c.sources[source].captions
        for caption in range(c.captions):
            draws = keyed.Draws(self.seed, _TEXT, source, index, epoch, caption)
            words.append(captions.choose(record, wanted, draws, self.reader.sources[source].name))
        return views, words, self._group(record, source)

    def _load_and_read(self, source: int, index: int, epoch: int):
        """`_load`, for an example whose captions the vocabulary can read."""
        views, words, group = self._load(source, index, epoch)
        try:
            self.tokenizer(words)
        except UnreadableText as error:
            opened = self.reader.sources[source]
            raise BadExample(opened.name, filters.record_id(opened, index), str(error)) from None
        return views, words, group

    def _views(
        self, picture: Image.Image, count: int, size: int, changes: augment.AugmentConfig, key: tuple[int, ...]
    ) -> list[View]:
        """`count` random versions of a picture, all but their colours."""
        c, views = self.config, []
        if changes.whole and c.local:  # the picture has not been resized yet
            picture = c.preprocess.at(size).fit(picture)
        for view in range(count):
            draws = keyed.Draws(self.seed, *key, view)
            views.append(View(augment.augment(picture, size, changes, draws, c.resize, c.resample), draws))
        return views

    def _group(self, record: Record, source: int) -> int:
        """A group number that no other source of the run uses: sources take turns."""
        if record.group < 0:
            return -1
        group = record.group * len(self.reader.sources) + source
        if group >= 2**31:
            raise BadExample(self.reader.sources[source].name, record.id, f"group {record.group} is too large for 32 bits")
        return group

    def _decoded(self, source: int, index: int) -> tuple[Record, Image.Image | None]:
        """The record and its picture, from memory if it was kept there."""
        found = self._cache.get((source, index))
        if found is not None:
            return found
        record = self.reader.sources[source][index]
        if not self.config.views:
            return record, None
        name = self.reader.sources[source].name
        if record.image is None:
            raise BadExample(name, record.id, "no image")
        c = self.config
        picture = images.decode(record.image, source=name, record=record.id, at_least=self._at_least, pixels=c.pixels)
        if c.augment.whole and not c.local:  # every view starts from one resized picture
            picture = c.preprocess.fit(picture)
        elif picture.mode != "RGB":
            picture = picture.convert("RGB")
        # Two threads may both pass the check; the bound is then exceeded by one picture.
        cost = 4 * picture.width * picture.height  # Pillow stores RGB in four bytes
        if cost <= self._room:
            self._room -= cost
            record = dataclasses.replace(record, image=None)
            self._cache[source, index] = (record, picture)
        return record, picture

    def __getstate__(self):  # decoded pictures stay in their process
        return self.__dict__ | {"_cache": {}}
