"""Batches of packed documents: interleaved pages, captions, text and chats, from one cursor.

    Stream.locate(n·V + v)  ->  SampleReader (read, compose, tokenize, decode)  ->  Packer, one a stream  ->  batches

A batch of B rows comes from V = B / R virtual streams of R rows and I pictures each; row r belongs to stream r // R.

    tokens, segment_ids, positions, image_index   int32 [B, S]     pad id and 0 where there is nothing, image_index -1 for text
    loss_weight                                   float32 [B, S]   weight with which a position is to be predicted
    images, image_valid                           uint8 [V·I, H, W, 3], bool [V·I]
    cursor                                        int32 [V, C]     each stream's state after this batch
    fill_tokens, fill_images                      float32 [V]      share of the positions, of the pictures that are used
                                                                   (nothing of pictures where a stream has none)
    kind_tokens                                   float32 [V, kinds]  supervised and image tokens drawn in this step, by kind

A stream's work is one after the other, streams work side by side in threads, and no stream looks at another: the
batches are the same on any number of hosts and threads, and a run resumes from the cursor alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
import concurrent.futures
import dataclasses
import functools
import logging
import weakref
import zlib

import jax
from jaxtyping import Int32
import numpy as np

from mof_jax.data import keyed
from mof_jax.data.image import images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.mixture import Located, Stream
from mof_jax.data.packing import documents
from mof_jax.data.packing.documents import KindConfig
from mof_jax.data.packing.packer import Packed, Packer, Shape, State, check_cursor
from mof_jax.data.packing.sequences import OnLong, Sample, encode
from mof_jax.data.pipeline import BatchInfo
from mof_jax.data.reader import OnError, Reader, Replaced, report
from mof_jax.data.sources import open_source
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.errors import BadExample, UserError
from mof_jax.ranges import Count, Grey, Whole

log = logging.getLogger("mof_jax.data")

_JUDGED = 32  # steps after which it is said if the picture buffer is too small
_REMEMBERED = 256  # steps whose samples can still be named
_BLOCK = 1024  # draws that are located at once: the permutation costs little more for many than for one
_TEXT = 2  # what a key is for


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """What a run of a multimodal language model reads.

    Attributes:
      kinds: the mixture, by name; shares are of supervised and image tokens.
      context_length: positions of a row, images included.
      rows_per_stream: rows that share a picture buffer; the batch size is a multiple of it, and the number of streams,
        batch size / rows_per_stream, a multiple of the number of hosts and of the devices that hold the batch.
      images_per_stream: pictures of a stream's buffer a step. About a tenth more than the mixture needs keeps both the
        rows and the buffer filled; `fill_tokens` and `fill_images` say how well it fits. 0 for text alone.
      max_images: pictures a document may have.
      tokens_per_image: positions a picture takes.
      image_size, resize, resample, fill, resize_side, pixels: the pictures that leave the host (see `Preprocess`).
      on_long: what becomes of a document with more tokens or pictures than fit: `error`, or `truncate` keeps its beginning.
      on_error: `raise` stops at a bad example; `skip` replaces it by another of the same source and reports it.
      shuffle: False reads in stored order.
      carry, lookahead: see `packing`; both cost memory and buy fuller rows.
      threads: loader threads; 0 loads in the caller's thread.
      prefetch: batches loaded ahead.
    """

    kinds: dict[str, KindConfig] = dataclasses.field(default_factory=lambda: {"caption": KindConfig()})
    context_length: Count = 512
    rows_per_stream: Count = 4
    images_per_stream: Whole = 64
    max_images: Whole = 16
    tokens_per_image: Count = 16
    image_size: Count = 64
    resize: images.Resize = "squash"
    resample: images.Resample = "bicubic"
    fill: Grey | tuple[Grey, Grey, Grey] = 255
    resize_side: Count | None = None
    pixels: images.Pixels = "ours"
    on_long: OnLong = "error"
    on_error: OnError = "raise"
    shuffle: bool = True
    carry: Count = 24
    lookahead: Count = 16
    threads: Whole = 4
    prefetch: Count = 2

    def __post_init__(self):
        _ = self.preprocess  # which checks its own fields
        if not self.kinds:
            raise ValueError("kinds: at least one is needed")
        for name, kind in self.kinds.items():
            try:
                kind.named(name)  # a chat by its section's name needs a template, too
            except ValueError as error:
                raise ValueError(f"kinds.{name}: {error}") from None
        positive = ("context_length", "rows_per_stream", "tokens_per_image", "image_size", "carry", "lookahead", "prefetch")
        for name in positive if self.images_per_stream == 0 else (*positive, "images_per_stream", "max_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.threads < 0:
            raise ValueError(f"threads must not be negative, got {self.threads}")
        if self.max_images > self.images_per_stream:
            raise ValueError(f"max_images {self.max_images}: a stream's buffer holds images_per_stream {self.images_per_stream}")
        if self.tokens_per_image >= self.context_length:
            raise ValueError(f"tokens_per_image {self.tokens_per_image}: a row has {self.context_length} positions")

    @property
    def preprocess(self) -> Preprocess:
        """What happens to every picture."""
        return Preprocess(self.image_size, self.resize, self.resample, self.fill, self.resize_side, self.pixels)

    @property
    def template(self) -> str:
        """The chat template that a model of these documents is asked in: its first conversations', else `plain`."""
        kinds = [self.kinds[name].named(name) for name in sorted(self.kinds)]
        return next((kind.template for kind in kinds if kind.kind == "chat"), "plain")


def texts(config: SequenceConfig, limit: int = 100_000) -> Iterator[str]:
    """The words of a config's documents, to train a vocabulary on; repeatable, unreadable records left out.

    Args:
      limit: records read from each source, evenly spread.
    """
    for name in sorted(config.kinds):
        kind = config.kinds[name].named(name)
        for wanted in kind.sources:
            source = open_source(wanted)
            stride = max(1, -(-len(source) // limit))
            for number, start in enumerate(range(0, len(source), stride)):
                # Not every stride-th record: a source may repeat itself with a period of its own.
                index = min(start + keyed.hash64(number) % stride, len(source) - 1)
                try:
                    record = source[index]
                    yield from documents.words(record)
                    if number == 0:  # the words of the template itself
                        document = documents.compose(record, kind, wanted.captions, keyed.Draws(0), source.name)
                        yield from (part.text for part in document.parts if isinstance(part, documents.Text))
                except BadExample:
                    continue


class SampleReader:
    """Opens the sources of every kind, and reads any draw of any kind as a sample."""

    def __init__(self, config: SequenceConfig, tokenizer: Tokenizer, seed: int):
        self.config, self.tokenizer, self.seed = config, tokenizer, seed
        self._preprocess = config.preprocess
        self.names = tuple(sorted(config.kinds))  # the order of the kinds in a cursor does not depend on a file's order
        self.kinds = tuple(config.kinds[name].named(name) for name in self.names)
        # A kind's order is its own: another kind beside it changes nothing.
        self._keys = [zlib.crc32(name.encode()) for name in self.names]
        self.readers = [
            Reader(kind.sources, seed, config.on_error, key=(key,), prefix=f"{name}/")
            for name, kind, key in zip(self.names, self.kinds, self._keys)
        ]
        self.streams = [
            Stream([len(source) for source in reader.sources], [source.weight for source in kind.sources],
                   keyed.hash64(seed, key) >> 2, config.shuffle)
            for reader, kind, key in zip(self.readers, self.kinds, self._keys)
        ]
        self._block = functools.lru_cache(maxsize=64)(self._locate_block)

    def sample(self, kind: int, draw: int, replaced: Replaced) -> Sample:
        """Draw number `draw` of a kind, its pictures as pixels; under `skip` the first good example of the hash sequence
        that starts at it.

        Raises:
          BadExample: under `on_error="raise"`.
          UserError: under `skip`, a source where replacements keep being bad.
        """
        source, index, epoch = self._locate(kind, draw)
        load = functools.partial(self._load, kind, source, epoch=epoch)
        return self.readers[kind].example(source, index, load, replaced)

    def id(self, kind: int, draw: int) -> str:
        """`KIND/SOURCE:RECORD` of a draw, before any replacement."""
        source, index, _ = self._locate(kind, draw)
        return self.readers[kind].id(source, index)

    def _locate(self, kind: int, draw: int) -> tuple[int, int, int]:
        """(source, index, epoch) of a draw."""
        block, inside = divmod(draw, _BLOCK)
        return tuple(int(column[inside]) for column in self._block(kind, block))

    def _locate_block(self, kind: int, block: int) -> Located:
        return self.streams[kind].locate(np.arange(block * _BLOCK, (block + 1) * _BLOCK))

    def _load(self, kind: int, source: int, index: int, epoch: int) -> Sample:
        c, settings = self.config, self.kinds[kind]
        record, name = self.readers[kind].record(source, index), self.readers[kind].sources[source].name
        draws = keyed.Draws(self.seed, _TEXT, self._keys[kind], source, index, epoch)
        document = documents.compose(record, settings, settings.sources[source].captions, draws, name)
        sample = encode(document, self.tokenizer, c.tokens_per_image, c.context_length, max_images=c.max_images,
                        on_long=c.on_long, source=name)
        pixels = tuple(self._preprocess(picture, name, record.id) for picture in sample.pictures)
        return dataclasses.replace(sample, pictures=pixels)


def _after(previous: concurrent.futures.Future | None, packer: Packer) -> Packed:
    """A stream's next step, once its last one is done. Steps are submitted in order, so what is waited for is running."""
    if previous is not None:
        previous.result()
    return packer.next()


class Batches(Iterator[tuple[dict[str, np.ndarray], BatchInfo]]):
    """An endless iterator of (this process's rows, info). `close` stops its threads; so do deletion and exit."""

    def __init__(self, pipeline: SequencePipeline, packers: Sequence[Packer], start_step: int):
        self._pipeline, self._packers, self._step = pipeline, packers, start_step
        config = pipeline.config
        self._pool = concurrent.futures.ThreadPoolExecutor(config.threads, "mof-data") if config.threads else None
        self._ahead: deque[list[concurrent.futures.Future]] = deque()
        self._last: list[concurrent.futures.Future | None] = [None] * len(packers)
        close = functools.partial(self._pool.shutdown, cancel_futures=True) if self._pool else (lambda: None)
        self.close = weakref.finalize(self, close)

    def __next__(self) -> tuple[dict[str, np.ndarray], BatchInfo]:
        if not self.close.alive:
            raise StopIteration
        if self._pool is None:
            parts = [packer.next() for packer in self._packers]
        else:
            while len(self._ahead) < self._pipeline.config.prefetch:
                self._last = [self._pool.submit(_after, last, packer) for last, packer in zip(self._last, self._packers)]
                self._ahead.append(self._last)
            parts = [future.result() for future in self._ahead.popleft()]
        replaced = self._pipeline.note(self._step, parts)
        arrays = {key: np.concatenate([part.arrays[key] for part in parts]) for key in parts[0].arrays}
        info = BatchInfo(self._step, replaced)
        self._step += 1
        return arrays, info


class SequencePipeline:
    """Batches of a config, from the cursor of any step.

    Args:
      config: what to read.
      tokenizer: of the language model.
      batch_size: rows of a step over all processes.
      seed: names the order and the captions.
      process_index, process_count: this process makes the streams `[index * V / count, (index + 1) * V / count)`.
      steps: of the run; nothing here follows it.

    Attributes:
      cursor: state of all V streams before the first step, int32 [V, C].
      kinds: names of the kinds, in the order of `kind_tokens`.
      replaced: bad example -> how often this process met it.

    Raises:
      UserError: a source that cannot be opened, streams that do not fit the batch or the processes, or a tokenizer that
        drops punctuation.
    """

    def __init__(
        self,
        config: SequenceConfig,
        tokenizer: Tokenizer,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        steps: int | None = None,
    ):
        if batch_size < 1 or batch_size % config.rows_per_stream:
            raise UserError(f"batch size {batch_size} is not a multiple of data.rows_per_stream {config.rows_per_stream}")
        self.streams = batch_size // config.rows_per_stream
        if self.streams % process_count or not 0 <= process_index < process_count:
            raise UserError(f"{self.streams} streams (batch size {batch_size} / data.rows_per_stream {config.rows_per_stream}) "
                            f"cannot be shared by {process_count} processes")
        if tokenizer.config.strip_punctuation:
            raise UserError("config.tokenizer.strip_punctuation: documents keep their punctuation; set it to False")
        self.config, self.batch_size, self.seed = config, batch_size, seed
        self.reader = SampleReader(config, tokenizer, seed)
        self.kinds = self.reader.names
        count = self.streams // process_count
        self._mine = range(process_index * count, (process_index + 1) * count)
        c = config
        self._shape = Shape(c.rows_per_stream, c.context_length, c.images_per_stream, c.tokens_per_image, c.image_size,
                            tokenizer.pad_id, c.carry, c.lookahead)
        fresh = State.fresh(len(self.kinds)).pack(c.carry)
        self.cursor: Int32[np.ndarray, "streams state"] = np.tile(fresh, (self.streams, 1))
        self.replaced: dict[str, int] = {}
        self._placed: dict[int, list[list[tuple[int, int, int]]]] = {}
        self._fill: list[tuple[float, float]] | None = []  # (rows, buffer) of the first steps; None once judged

    @staticmethod
    def shapes(config: SequenceConfig, batch_size: int, context: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The global batch without its data; rows have the length that the config says."""
        streams, grid = batch_size // config.rows_per_stream, (batch_size, config.context_length)
        pictures, side = streams * config.images_per_stream, config.image_size
        shapes = {"tokens": grid, "segment_ids": grid, "positions": grid, "image_index": grid, "loss_weight": grid,
                  "cursor": (streams, State.width(len(config.kinds), config.carry)),
                  "fill_tokens": (streams,), "kind_tokens": (streams, len(config.kinds))}
        if pictures:
            shapes |= {"images": (pictures, side, side, 3), "image_valid": (pictures,), "fill_images": (streams,)}
        dtypes = {"images": np.uint8, "image_valid": np.bool_} | dict.fromkeys(
            ("loss_weight", "fill_tokens", "fill_images", "kind_tokens"), np.float32)
        return {name: jax.ShapeDtypeStruct(shape, dtypes.get(name, np.int32)) for name, shape in shapes.items()}

    def batches(
        self, start_step: int = 0, cursor: Int32[np.ndarray, "streams state"] | None = None, skip: int = 0
    ) -> Batches:
        """This process's rows of step `start_step + skip` and all later ones.

        Args:
          cursor: state of all streams before step `start_step`, as the batch before it said; None for step 0.
          skip: batches that are made and dropped: what is in the next one depends on what found room in them.

        Raises:
          UserError: a later step without its cursor, or the cursor of another packing.
        """
        if cursor is None and start_step:
            raise UserError(f"data: step {start_step} of packed documents needs its cursor, which the checkpoint lacks")
        cursor = self.cursor if cursor is None else np.asarray(cursor)
        check_cursor(cursor, *self.cursor.shape)
        made = Batches(self, [self._packer(v, cursor[v]) for v in self._mine], start_step)
        for _ in range(skip):
            next(made)
        return made

    def batch(self, step: int = 0, cursor: Int32[np.ndarray, "streams state"] | None = None) -> dict[str, np.ndarray]:
        """This process's rows of one step, given the state of all streams before it."""
        batches = self.batches(step, cursor)
        try:
            return next(batches)[0]
        finally:
            batches.close()

    def ids(self, step: int) -> list[str]:
        """`KIND/SOURCE:RECORD` of every document in this process's rows of a step, before any replacement; empty for a
        step that is not among the last ones this pipeline made."""
        streams = self._placed.get(step, [])
        return [self.reader.id(kind, draw * self.streams + v) for v, rows in zip(self._mine, streams) for _, kind, draw in rows]

    def shares(self, cursor: Int32[np.ndarray, "streams state"]) -> dict[str, float]:
        """Realised shares of the kinds since the first step, by supervised and image tokens."""
        states = [State.unpack(row, len(self.kinds)) for row in np.asarray(cursor)]
        tokens = [sum(state.tokens[k] for state in states) for k in range(len(self.kinds))]
        return {name: n / max(1, sum(tokens)) for name, n in zip(self.kinds, tokens)}

    def seen(self, steps: int, cursor: Int32[np.ndarray, "streams state"], skipped: int = 0) -> dict[str, int]:
        """`examples` (rows) of `steps` steps, the `documents` drawn for them, their `tokens` (supervised and pictures'), and
        `unique_tokens`, those of documents drawn for the first time (once a kind repeats itself, its mean document's).

        `skipped` batches between them were made too, and are taken to be like the others.
        """
        states = [State.unpack(row, len(self.kinds)) for row in np.asarray(cursor)]
        documents, tokens, unique = 0, 0, 0
        for k, (stream, reader) in enumerate(zip(self.reader.streams, self.reader.readers)):
            drawn, size = sum(state.draws[k] for state in states), sum(state.tokens[k] for state in states)
            new = sum(min(round(drawn * share), len(source)) for share, source in zip(stream.shares, reader.sources))
            documents, tokens, unique = documents + drawn, tokens + size, unique + round(size * new / max(1, drawn))
        done = lambda made: made * steps // max(1, steps + skipped)
        return {"examples": steps * self.batch_size, "documents": done(documents), "tokens": done(tokens),
                "unique_tokens": done(unique)}

    def describe(self) -> list[dict[str, object]]:
        """One row a source: name, records it has and keeps, weight, and its share of the mixture (a kind's by tokens, a
        source's inside its kind by documents)."""
        samples = self.reader
        total = sum(kind.weight for kind in samples.kinds)
        return [row for reader, kind, stream in zip(samples.readers, samples.kinds, samples.streams)
                for row in reader.describe([share * kind.weight / total for share in stream.shares.tolist()])]

    def content(self) -> dict[str, object]:
        """What the sources hold, in the form of the config's section, see `data.identity`."""
        return {"kinds": {name: reader.content() for name, reader in zip(self.reader.names, self.reader.readers)}}

    def note(self, step: int, parts: Sequence[Packed]) -> Replaced:
        """Remembers what a step was made of; returns the bad examples met."""
        self._placed[step] = [part.placed for part in parts]
        self._placed.pop(step - _REMEMBERED, None)
        self._judge([(float(p.arrays["fill_tokens"][0]), float(p.arrays.get("fill_images", [0])[0])) for p in parts])
        replaced = [entry for part in parts for entry in part.replaced]
        report(replaced, self.replaced)
        return replaced

    def _judge(self, fill: list[tuple[float, float]]) -> None:
        """Says once, after the first steps, that full picture buffers leave the rows empty."""
        if self._fill is None:
            return
        self._fill += fill
        if len(self._fill) >= _JUDGED * len(fill):
            rows, buffer = np.mean(self._fill, axis=0)
            self._fill = None
            if rows < 0.9 and buffer > 0.97:
                log.warning("rows are only %.0f%% full because the picture buffers are: raise data.images_per_stream (%d)",
                            100 * rows, self.config.images_per_stream)

    def _packer(self, v: int, state: Int32[np.ndarray, "state"]) -> Packer:
        def read(kind: int, draw: int, replaced: Replaced) -> Sample:
            return self.reader.sample(kind, draw * self.streams + v, replaced)

        weights = [kind.weight for kind in self.reader.kinds]
        return Packer(self._shape, weights, read, State.unpack(state, len(self.kinds)))
