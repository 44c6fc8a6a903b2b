"""The input pipeline: a pure function of (config, seed, step), executed by Grain.

    order.locate(step * batch + row)  ->  Loader.rows (read, load every field, collate)  ->  batches

The unit of work is a chunk: some rows of one step. Grain loads chunks in threads or worker processes, in
order, and the chunks of a step are joined. There is no iterator state to save: the step is the position, so a
run resumes on any number of hosts, threads and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
import dataclasses
import functools
import logging
import weakref

import grain
import jax
import numpy as np

from mof_jax.data.config import DataConfig
from mof_jax.data.fields.field import Tokenizer
from mof_jax.data.load import Loader, Rows, chosen, texts
from mof_jax.data.mixture import HostRows, Located, OpenOrder
from mof_jax.data.orders.order import Mixture
from mof_jax.data.reader import Replaced, report
from mof_jax.errors import WorkerLost
from mof_jax.parsing import one_line

__all__ = ["BatchInfo", "DataConfig", "Pipeline", "texts"]

log = logging.getLogger("mof_jax.data")

_FOREVER = 2**62
_LOST = "Worker process was terminated unexpectedly"  # Grain's words: its exception is a plain RuntimeError


@dataclasses.dataclass(frozen=True)
class BatchInfo:
    """What the host knows about a batch: its step, and the examples replaced in this host's rows as (id,
    reason)."""

    step: int
    replaced: Replaced


class Batches(Iterator[tuple[dict[str, np.ndarray], BatchInfo]]):
    """An endless iterator of (this process's rows, info). `close` stops its threads; so do deletion and
    exit."""

    def __init__(self, rows: grain.DatasetIterator, start_step: int, report: Callable[[Replaced], None]):
        self._rows, self._step, self._report = rows, start_step, report
        # Grain's own clean-up runs too late at the interpreter's exit and fails there; this one runs before.
        self.close = weakref.finalize(self, rows.close)

    def __next__(self) -> tuple[dict[str, np.ndarray], BatchInfo]:
        """The next step's.

        Raises:
          WorkerLost: a loader process was killed.
        """
        try:
            rows = next(self._rows)
        except RuntimeError as error:
            if _LOST not in str(error):
                raise
            raise WorkerLost(f"data: step {self._step + 1}: {one_line(str(error))} Out of memory? See data.workers and "
                             "data.prefetch. Run it again: it goes on from its newest checkpoint") from None
        self._report(rows.replaced)
        info = BatchInfo(self._step, rows.replaced)
        self._step += 1
        return rows.arrays, info


class Pipeline:
    """Batches of a config, from any step.

    Args:
      config: what to read.
      tokenizer: texts -> int32 [n, context]; None if no field has captions.
      batch_size: rows of a step over all processes.
      seed: names the order, the captions and the augmentations.
      process_index, process_count: this process loads the contiguous rows
        `[index * batch_size / count, (index + 1) * batch_size / count)` of every step.
      reads: names of the fields that somebody reads; others are not loaded. None for all.
      steps: of the run, for an order that follows shares of it.

    Raises:
      UserError: a source that cannot be opened, or a batch that the processes cannot share evenly.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer | None,
        batch_size: int,
        seed: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        reads: Collection[str] | None = None,
        steps: int | None = None,
    ):
        self.config, self.batch_size, self.seed = config, batch_size, seed
        self.loader = Loader(config, tokenizer, seed, reads)
        reader = self.loader.reader
        mixture = Mixture(reader.sources, config.sources, seed, config.shuffle, batch_size, steps)
        self.stream: OpenOrder = config.order.open(mixture)
        for note in self.stream.notes():
            log.warning("data.order: %s", note)
        reader.another = self.stream.another
        self.host = HostRows(self.stream, batch_size, process_index, process_count)
        self.replaced: dict[str, int] = {}  # bad example -> how often this process met it

    # There is nothing to remember but the step, see `train.state.TrainState.cursor`.
    cursor: np.ndarray | None = None

    @staticmethod
    def shapes(
        config: DataConfig, batch_size: int, context: int, reads: Collection[str] | None = None
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """The global batch without its data; `context` tokens a caption, `reads` as above."""
        return {name: field.shape(batch_size, context) for name, field in chosen(config.batch_fields, reads).items()}

    def batches(self, start_step: int = 0, cursor: np.ndarray | None = None, skip: int = 0) -> Batches:
        """This process's rows of step `start_step + skip` and all later ones; `Loader.rows` says what a batch
        holds."""
        chunks, start_step = self._chunks_per_step, start_step + skip
        dataset = grain.MapDataset.range(start_step * chunks, _FOREVER).map(self._chunk)
        ahead = self.config.prefetch * chunks
        threads = min(self.config.threads, ahead)
        dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead))
        if self.config.workers:
            dataset = _in_processes(dataset, self.config.workers, max(1, ahead // self.config.workers))
        rows = iter(dataset.batch(chunks, batch_fn=Rows.concatenate))
        return Batches(rows, start_step, functools.partial(report, counts=self.replaced))

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """This process's rows of one step, loaded in the caller's thread."""
        chunks = range(step * self._chunks_per_step, (step + 1) * self._chunks_per_step)
        return Rows.concatenate([self._chunk(i) for i in chunks]).arrays

    def ids(self, step: int) -> list[str]:
        """`SOURCE:RECORD` of every row of the global batch, before any replacement; no picture is decoded."""
        located = self.stream.locate(np.arange(step * self.batch_size, (step + 1) * self.batch_size))
        return [self.loader.reader.id(k, i) for k, i in zip(located.source.tolist(), located.index.tolist())]

    def describe(self) -> list[dict[str, object]]:
        """One row a source: its name, how many records it has and keeps, its weight and its share of the
        stream."""
        return self.loader.reader.describe(self.stream.shares)

    def content(self) -> dict[str, object]:
        """What the sources hold, and the files of fields, in the form of the config's section, see
        `data.identity`."""
        fields = {name: {"content": found} for name, field in self.loader.fields.items() if (found := field.content())}
        order = self.stream.content()
        found = {"fields": fields} if fields else {}
        return self.loader.reader.content() | found | ({"order": {"content": order}} if order else {})

    def seen(self, steps: int, cursor: np.ndarray | None = None, skipped: int = 0) -> dict[str, int]:
        """`examples` of `steps` steps, and `unique_examples` among them: each source is exhausted before it
        repeats, and a mixture takes of each what its share says; where partners are mined, that is at most.
        (Of `skipped` batches between them it is not asked which come back in a later epoch.)"""
        examples = steps * self.batch_size
        drawn = self.stream.drawn(examples).tolist()
        unique = sum(min(round(n), size) for n, size in zip(drawn, self.stream.sizes.tolist()))
        return {"examples": examples, "unique_examples": unique}

    @property
    def _chunks_per_step(self) -> int:
        return -(-self.host.rows // self.config.chunk)

    def _chunk(self, number: int) -> Rows:
        """Rows of chunk `number`, counted from step 0."""
        step, part = divmod(int(number), self._chunks_per_step)
        rows = slice(part * self.config.chunk, (part + 1) * self.config.chunk)
        return self.loader.rows(Located(*(column[rows] for column in self.host.locate(step))))


def _in_processes(dataset: grain.IterDataset, workers: int, ahead: int) -> grain.IterDataset:
    """`dataset` loaded by worker processes, in the same order."""
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which a notebook or a test never parses
        flags.FLAGS.mark_as_parsed()
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead))
