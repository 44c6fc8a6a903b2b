"""Every example with its hard partners behind it, by a file of neighbours."""

from __future__ import annotations

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

_FILL = 7  # what a key is for; see `mixture` for 1 and 2


@dataclasses.dataclass(frozen=True)
class Mined(Order):
    """Runs of an example and its `partners`, hard negatives that were mined before.

    The first of a run are the examples of a shuffled epoch. A partner that the file does not give, or that a
    filter has dropped, is another record of the source, drawn anew in each epoch; how many that are is said
    when a run starts.

    Attributes:
      path: neighbours, int [n, k], best first, -1 for none. They are numbers of rows of this file: of the ids
        beside it, or, of a `.npy` without ids, of the source's records as they are stored. One for each
        source by its name, if the run reads several.
      partners: of the k, how many follow.
    """

    kind: ClassVar[str] = "mined"

    path: Paths = ""
    partners: Count = 1

    def __post_init__(self):
        if not self.path:
            raise ValueError("path: a file of neighbours is needed")

    def open(self, mixture: Mixture) -> OpenMined:
        rows_together(1 + self.partners, mixture, "partners")
        files = paths(self.path, mixture.configs, "config.data.order.path")
        found: list[Neighbours | None] = []
        for file, source, config in zip(files, mixture.sources, mixture.configs):
            if config.weight and not file:
                raise UserError(f"config.data.order.path: no file of neighbours for source {config.label!r}")
            aligned = Aligned(file, "", source, config.cache_dir) if file else None
            found.append(Neighbours(aligned, self.partners) if aligned else None)
        return OpenMined(mixture, self.partners, found)


class Neighbours:
    """Whose partners are whose, by numbers of the records of a source.

    Attributes:
      file: the neighbours as they are stored.

    Raises:
      UserError: no table of whole numbers with enough columns.
    """

    def __init__(self, file: Aligned, partners: int):
        values = file.values
        if values.ndim != 2 or values.dtype.kind not in "iu" or values.shape[1] < partners:
            raise UserError(f"{file.path}: whole numbers [n, {partners} or more] are needed, and it holds "
                            f"{values.dtype} {values.shape}")
        self.file = file
        self._record = np.full(len(values) + 1, -1, np.int64)  # of each row; the last place is that of no row
        some = np.flatnonzero(file.row >= 0)
        self._record[file.row[some]] = some

    def partner(self, index: Int64[np.ndarray, "n"], place: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        """The record that is partner number `place` of each of some records; -1 where there is none.

        Raises:
          UserError: a number that is none of a row.
        """
        rows = self.file.row[index]
        found = np.where(rows >= 0, self.file.values[rows, place].astype(np.int64), -1)
        wrong = np.flatnonzero((found < -1) | (found >= len(self.file.values)))
        if len(wrong):
            raise UserError(f"{self.file.path} row {int(rows[wrong[0]]) + 1:,}: neighbour "
                            f"{int(found[wrong[0]])} is none of {len(self.file.values):,} rows")
        return self._record[found]


class OpenMined(OpenOrder):
    """Position p is row p mod (1 + partners) of the run of example p // (1 + partners) of a shuffled
    stream."""

    def __init__(self, mixture: Mixture, partners: int, neighbours: list[Neighbours | None]):
        self._partners, self._neighbours, self._seed = partners, neighbours, mixture.seed
        self.sizes = np.asarray(mixture.sizes, np.int64)
        self._firsts = Stream(mixture.sizes, mixture.weights, mixture.seed, mixture.shuffle)
        self.shares = self._firsts.shares

    def locate(self, positions: int | Int[np.ndarray, "n"]) -> Located:
        """The examples at `positions`."""
        p = np.atleast_1d(np.asarray(positions, np.int64))
        run, row = p // (1 + self._partners), p % (1 + self._partners)
        source, index, epoch = self._firsts.locate(run)
        found = index.copy()
        for k in np.unique(source).tolist():
            rows = np.flatnonzero((source == k) & (row > 0))
            found[rows] = self._neighbours[k].partner(index[rows], row[rows] - 1)
        missing = np.flatnonzero(found < 0)
        hashed = keyed.hash64_array(self._seed, _FILL, source, run, row)
        found[missing] = (hashed % self.sizes[source].astype(np.uint64)).astype(np.int64)[missing]
        return Located(source, found, epoch)

    def notes(self) -> list[str]:
        """What a user should know: partners that are missing among some of the records."""
        said = []
        for k, neighbours in enumerate(self._neighbours):
            if neighbours is None or not self.shares[k]:
                continue
            some = np.unique(np.linspace(0, self.sizes[k] - 1, 4096).astype(int))
            pairs = np.stack([neighbours.partner(some, np.full(len(some), n)) for n in range(self._partners)])
            if share := float((pairs < 0).mean()):
                path = neighbours.file.path
                said.append(f"{path}: {share:.1%} of the partners are missing, and drawn at random")
        return said

    def content(self) -> dict[str, Any]:
        """What the files of neighbours hold."""
        return {str(k): dict(n.file.content()) for k, n in enumerate(self._neighbours) if n is not None}
