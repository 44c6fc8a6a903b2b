"""One column of numbers, and the ids of its rows, out of a table: parquet, JSON lines, CSV or TSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mof_jax import storage
from mof_jax.data.files import tables
from mof_jax.data.files.lines import JsonLines
from mof_jax.errors import UserError, nearest
from mof_jax.parsing import Malformed, is_count, is_text, kind, reason, show

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv")
IDS = ("id", "key", "uid", "image_id")

_NONE = -(2**63)  # a whole number that is missing, until all parts are known
_AT_ONCE = 65_536  # rows that are Python objects at one time, where the format allows


def read(path: str, column: str = "") -> Iterator[tuple[list[str], np.ndarray]]:
    """The ids of a table's rows and a column, some rows at a time; `join` makes one array of the parts.

    Args:
      path: a local file. column: its name; by default the only one besides the ids.

    Raises:
      UserError: no such column, no ids, or a cell that is no number and no list of numbers; the line names
        the row.
    """
    reader = {".parquet": _parquet, ".jsonl": _jsonl, ".csv": _cells, ".tsv": _cells}[path[path.rindex("."):]]
    for where, names, cells in reader(path, column):
        try:
            yield [_id(name) for name in names], _numbers(cells)
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None


def join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts of a column as one array: [n], or [n, width] where a cell is a list.

    Whole numbers become int64, lists of them are padded with -1; others float64, padded with NaN. An empty
    cell is -1 or NaN.
    """
    if not parts:
        return np.zeros(0, np.int64)
    floats = any(part.dtype.kind == "f" for part in parts)
    if any(part.ndim == 2 for part in parts):
        wide = [part if part.ndim == 2 else part[:, None] for part in parts]
        width = max(part.shape[1] for part in wide)
        parts = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=_missing(p)) for p in wide]
    if floats:
        return np.concatenate([np.where(p == _missing(p), np.nan, p.astype(np.float64)) for p in parts])
    whole = np.concatenate(parts)
    return np.where(whole == _NONE, -1, whole)


def choose(path: str, header: Sequence[str], column: str) -> tuple[str, str]:
    """(column of the ids, column of the values) among the names of a table.

    Raises:
      UserError: one of them is not there, or it is not clear which is meant.
    """
    ids = next((name for name in IDS if name in header), None)
    shown = ", ".join(show(name, 40) for name in header) or "no column"
    if ids is None:
        raise UserError(f"{path}: no column of ids ({', '.join(IDS)}); it has {shown}")
    others = [name for name in header if name and name != ids]
    if not column and len(others) != 1:
        raise UserError(f"{path}: several columns besides {ids!r}; choose with column: "
                        f"{', '.join(map(show, others)) or 'none'}")
    if column and column not in others:
        raise UserError(f"{path}: no column {column!r}{nearest(column, others)}; it has {shown}")
    return ids, column or others[0]


def _missing(part: np.ndarray) -> float | int:
    """What stands for a number that is not there."""
    return np.nan if part.dtype.kind == "f" else _NONE


# Each yields (where, ids, cells) for some rows at a time.
_Rows = Iterator[tuple[str, Sequence[Any], Sequence[Any]]]


def _parquet(path: str, column: str) -> _Rows:
    import pyarrow
    from pyarrow import parquet

    storage.size(path)  # says it if there is no such file
    try:
        with parquet.ParquetFile(path) as file:
            ids, values = choose(path, file.schema_arrow.names, column)
            done = 0
            for batch in file.iter_batches(_AT_ONCE, columns=[ids, values]):
                names, cells = batch.column(ids).to_pylist(), batch.column(values).to_pylist()
                yield f"{path} from row {done + 1:,}", names, cells
                done += len(batch)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a parquet file that can be read ({reason(error)})") from None


def _jsonl(path: str, column: str) -> _Rows:
    lines = JsonLines(path)
    names = list(dict.fromkeys(name for index in range(min(len(lines), 64)) for name in lines[index][1]))
    ids, values = choose(path, names, column)
    for index in range(len(lines)):
        line, row = lines[index]
        if ids not in row:
            raise UserError(f"{path} line {line}: no {ids!r}")
        yield f"{path} line {line}", [row[ids]], [row.get(values)]


def _cells(path: str, column: str) -> _Rows:
    table = tables.read(path, (*([column] if column else []), *IDS), "name the columns id and column")
    ids, values = choose(path, table.header, column)
    at, value_at = table.header.index(ids), table.header.index(values)
    for row in table.rows:
        if row.fault:
            raise UserError(f"{path} line {row.line}: {row.fault}")
        where = f"{path} line {row.line}"
        try:
            yield where, [row.cells[at]], [_spelled(row.cells[value_at])]
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None


def _spelled(cell: str) -> Any:
    """The number in a cell, or those between its blanks; None for an empty one."""
    try:
        found = [int(word) if word.lstrip("-").isdecimal() else float(word) for word in cell.split()]
    except ValueError:
        raise Malformed(f"{show(cell, 40)} is no number, and no numbers with blanks between them") from None
    return found if len(found) > 1 else found[0] if found else None


def _id(value: Any) -> str:
    if is_count(value, below=1 << 128):
        return str(value)
    if not is_text(value) or not value:
        raise Malformed(f"id {show(value)} is neither text nor a whole number")
    return value


def _numbers(cells: Sequence[Any]) -> np.ndarray:
    """[n], or [n, width] where one of the cells is a list; whole numbers alone are int64, `_NONE` where there
    is none."""
    if len(cells) == 1 and type(cells[0]) is int and abs(cells[0]) < 2**63:  # most rows of labels, and quicker
        return np.array(cells, np.int64)
    lists = any(isinstance(cell, list) for cell in cells)
    rows = [cell if isinstance(cell, list) else [] if cell is None else [cell] for cell in cells]
    floats = False
    for row in rows:
        for value in row:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise Malformed(f"{show(value, 40)} is {kind(value)}, not a number")
            floats = floats or isinstance(value, float)
    width = max([1, *map(len, rows)])
    found = np.full((len(rows), width), np.nan) if floats else np.full((len(rows), width), _NONE)
    try:
        for number, row in enumerate(rows):
            found[number, : len(row)] = row
    except OverflowError:
        raise Malformed("a whole number beyond 64 bits") from None
    return found if lists else found[:, 0]

