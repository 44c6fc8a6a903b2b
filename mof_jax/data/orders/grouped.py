"""Batches, or runs of rows inside them, of one label: hard negatives by clusters, one data set at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, ClassVar

from jaxtyping import Int, Int64
import numpy as np

from mof_jax.data import keyed
from mof_jax.data.beside import Aligned, Paths, paths
from mof_jax.data.mixture import Located, OpenOrder, Stream
from mof_jax.data.orders.order import Mixture, Order, rows_together
from mof_jax.errors import UserError
from mof_jax.ranges import Count

_MEMBER, _ANOTHER = 5, 6  # what a key is for; see `mixture` for 1 and 2


@dataclasses.dataclass(frozen=True)
class Grouped(Order):
    """Rows of one label together: MCL's batches of one cluster, VLM2Vec's sub-batches of one data set (arXiv
    2410.05160).

    A label comes up as often as it has records. Of n records it gives floor(n / size) runs an epoch, of
    records in a new order each epoch, so that other ones are left over; a label with fewer records than a
    run, and a record without a label, are left out, which is said when a run starts.

    Attributes:
      path: labels beside the data, from 0, -1 for none: a sidecar by ids, or a `.npy` with a row for every
        stored record; one for each source by its name, if the run reads several. By default the source itself
        is the label.
      column: of the sidecar.
      size: rows of a run; the batch is a multiple. None for the whole batch.
    """

    kind: ClassVar[str] = "grouped"

    path: Paths = ""
    column: str = ""
    size: Count | None = None

    def open(self, mixture: Mixture) -> OpenGrouped:
        size = self.size or mixture.batch_size
        rows_together(size, mixture, "size")
        files = paths(self.path, mixture.configs, "config.data.order.path")
        found = []
        for file, source, config in zip(files, mixture.sources, mixture.configs):
            aligned = Aligned(file, self.column, source, config.cache_dir) if file else None
            labels = np.zeros(len(source), np.int64) if aligned is None else _labels(aligned)
            found.append((Members(labels, size), aligned.content() if aligned else {}))
            if config.weight and not found[-1][0].runs:
                raise UserError(f"{file or config.label}: no label has {size} of the {len(source)} records "
                                f"of {config.label}; make data.order.size smaller")
        members, contents = zip(*found)
        return OpenGrouped(mixture, size, members, contents)


def _labels(file: Aligned) -> Int64[np.ndarray, "records"]:
    """The label of every record, -1 for none.

    Raises:
      UserError: they are no whole numbers from 0, one a record.
    """
    values = file.values if file.values.ndim == 1 else file.values[:, 0] if file.values[0].size == 1 else None
    if values is None or not len(values):
        raise UserError(f"{file.path}: one label a record is needed, and it holds {file.values.shape}")
    found = np.where(file.row >= 0, values[file.row], -1)
    whole = np.where(np.isnan(found), -1, found) if found.dtype.kind == "f" else found
    whole = whole.astype(np.int64)
    wrong = np.flatnonzero((whole < -1) | ((whole != found) & (found == found)))
    if len(wrong):
        raise UserError(f"{file.path} row {int(file.row[wrong[0]]) + 1:,}: {found[wrong[0]]} is no label (0, "
                        "1, …; -1 for none)")
    return whole


class Members:
    """The records of a source by label.

    Attributes:
      order: records, those of one label together; those without one are left out.
      starts, counts: of each label in `order`. ends: runs of the labels up to each.
      label: of every record, as a number among the labels that occur, -1 for none.
      runs: of `size` records, in an epoch. left_out: records that are in no run of any epoch.
    """

    def __init__(self, labels: Int64[np.ndarray, "records"], size: int):
        order = np.argsort(labels, kind="stable")
        self.order = order[np.searchsorted(labels[order], 0):]
        _, self.starts, self.counts = np.unique(labels[self.order], return_index=True, return_counts=True)
        self.ends = np.cumsum(self.counts // size)
        self.runs = int(self.ends[-1]) if len(self.ends) else 0
        self.usable = int(self.counts[self.counts >= size].sum())
        self.left_out = len(labels) - self.usable
        self.label = np.full(len(labels), -1, np.int32)
        self.label[self.order] = np.repeat(np.arange(len(self.counts)), self.counts)


class OpenGrouped(OpenOrder):
    """Runs are what is drawn and mixed by weights: position p is row p mod size of run p // size.

    Attributes:
      members: of every source.
    """

    def __init__(
        self, mixture: Mixture, size: int, members: Sequence[Members], contents: Sequence[Mapping[str, Any]]
    ):
        self._size, self._seed, self._shuffle, self._contents = size, mixture.seed, mixture.shuffle, contents
        self.members = members
        self._runs = Stream([m.runs for m in members], mixture.weights, mixture.seed, mixture.shuffle)
        self.sizes, self.shares = np.array([m.usable for m in members]), self._runs.shares

    def locate(self, positions: int | Int[np.ndarray, "n"]) -> Located:
        """The examples at `positions`."""
        p = np.atleast_1d(np.asarray(positions, np.int64))
        source, run, epoch = self._runs.locate(p // self._size)
        index = np.empty_like(p)
        for k in np.unique(source).tolist():
            rows = source == k
            index[rows] = self._records(k, run[rows], p[rows] % self._size, epoch[rows])
        return Located(source, index, epoch)

    def _records(
        self, source: int, run: np.ndarray, row: np.ndarray, epoch: np.ndarray
    ) -> Int64[np.ndarray, "n"]:
        """Row `row` of a run of a source, in an epoch."""
        m = self.members[source]
        label = np.searchsorted(m.ends, run, side="right")
        place = (run - (m.ends - m.counts // self._size)[label]) * self._size + row
        if self._shuffle:
            key = keyed.hash64_array(self._seed, _MEMBER, source, epoch, label)
            place = keyed.permute(place, m.counts[label], key)
        return m.order[m.starts[label] + place]

    def another(self, source: int, index: int, attempt: int) -> int:
        """A record of the same label, for one that is bad."""
        m = self.members[source]
        label = m.label[index]
        place = keyed.hash64(self._seed, _ANOTHER, source, index, attempt) % int(m.counts[label])
        return int(m.order[m.starts[label] + place])

    def notes(self) -> list[str]:
        """What a user should know: records that never come up."""
        return [f"source {k}: {m.left_out:,} of {len(m.label):,} records are in no run of {self._size} of one label"
                for k, m in enumerate(self.members) if m.left_out and self.shares[k]]

    def content(self) -> dict[str, Any]:
        """What the files of labels hold."""
        return {str(k): found for k, found in enumerate(self._contents) if found}
