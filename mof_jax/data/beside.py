"""Files beside the sources of a mixture: which belongs to which, and their rows in the order of a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxtyping import Int64
import numpy as np

from mof_jax import storage
from mof_jax.data import filter as filters
from mof_jax.data.files.sidecar import Sidecar, digest, ids_beside, map_npy
from mof_jax.data.record import Source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import BadExample, UserError, nearest
from mof_jax.parsing import show

Paths = str | dict[str, str]  # one file, or one for each source by the source's name

_LOOKED_AT = 16  # records of a source that say whether a file was made from it
_AT_ONCE = 65_536  # ids that are looked up at once


def paths(given: Paths, configs: Sequence[SourceConfig], where: str) -> list[str]:
    """The file of every source, "" for none.

    Args:
      where: the key that says them, for errors.

    Raises:
      UserError: one file for several sources that are read, or a name that no source has.
    """
    read = [config.label for config in configs if config.weight]
    if isinstance(given, str):
        if given and len(read) > 1:
            raise UserError(f"{where}: ids are unique in a source; name a file for each, {{{read[0]!r}: …}}")
        given = {read[0]: given} if given and read else {}
    known = [config.label for config in configs]
    for name in given:
        if name not in known:
            raise UserError(f"{where}: no source {name!r}{nearest(name, known)}")
    return [given.get(name, "") for name in known]


def check_source(sidecar: Sidecar, source: Source) -> None:
    """Raises `UserError` if the sidecar has none of some records of the source."""
    names = []
    for index in np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int)).tolist():
        try:
            names.append(filters.record_id(source, index))
        except BadExample:
            continue
    if names and (sidecar.rows(names) < 0).all():
        raise UserError(f"{sidecar.path}: has none of {len(names)} records of {source.name} that were looked "
                        f"for, the first {show(names[0])}; was it made from another source?")


class Aligned:
    """The rows of a file in the order of a source.

    A `.npy` without ids beside it has a row for every record of the source as it is stored, before `skip` and
    `filter`, in its order: nothing is looked up, so that it serves sources of any size. Any other sidecar
    goes by ids, all of which are asked for once.

    Attributes:
      values: [rows, …], as stored. row: of each record of the source, -1 where the file has none.

    Raises:
      UserError: see `Sidecar`; a file without ids that has not as many rows as the source, or one of another
        source.
    """

    def __init__(self, path: str, column: str, source: Source, cache_dir: str = ""):
        path, self._cache_dir = storage.expand(path), cache_dir
        if path.endswith(".npy") and not ids_beside(path):
            self.path, self.values, self._sidecar = path, map_npy(path, cache_dir), None
            stored, self.row = _stored_rows(source)
            if len(self.values) != len(stored):
                raise UserError(f"{path}: {len(self.values):,} rows without ids, and {stored.name} has "
                                f"{len(stored):,} records")
            if column:
                raise UserError(f"{path}: column {column!r}: its columns have no names; list ids and names "
                                "in a .json beside it")
        else:
            self._sidecar = Sidecar(path, column, cache_dir)
            check_source(self._sidecar, source)
            self.path, self.values = self._sidecar.path, self._sidecar.values
            self.row = _looked_up(self._sidecar, source)

    def __getstate__(self):  # maps do not travel
        return self.__dict__ | {"values": None}

    def __setstate__(self, state):
        sidecar = state["_sidecar"]
        values = sidecar.values if sidecar else map_npy(state["path"], state["_cache_dir"])
        self.__dict__.update(state, values=values)

    def content(self) -> Mapping[str, object]:
        """Tells it from another file, see `Sidecar.content`."""
        if self._sidecar:
            return self._sidecar.content()
        return {"rows": len(self.values), "digest": digest(self.values)}


def _stored_rows(source: Source) -> tuple[Source, Int64[np.ndarray, "records"]]:
    """The source that a subset was taken of, and where in it each record stands."""
    rows = np.arange(len(source))
    while isinstance(source, filters.Subset):
        rows, source = source.indices[rows], source.source
    return source, rows


def _looked_up(sidecar: Sidecar, source: Source) -> Int64[np.ndarray, "records"]:
    found = []
    for start in range(0, len(source), _AT_ONCE):
        names = [_name(source, index) for index in range(start, min(len(source), start + _AT_ONCE))]
        rows = sidecar.rows([name or "" for name in names])
        found.append(np.where([name is None for name in names], -1, rows))
    return np.concatenate(found)


def _name(source: Source, index: int) -> str | None:
    try:
        return filters.record_id(source, index)
    except BadExample:
        return None
