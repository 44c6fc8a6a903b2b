"""Numbers that lie beside the data and go by the ids of its records: labels, clusters, embeddings, signals.

    x.npy      [n, …], beside it x.txt (an id a line) or x.json ({"ids": [...]}, and "names" of the columns
               where they have some, as scores do)
    x.parquet, x.jsonl, x.csv, x.tsv     a column of numbers, or of lists of them, and a column of ids

Ids become 64-bit hashes, sorted, with the row of each: a look-up is a binary search, 16 bytes a row, no
Python object. The array of a `.npy` is mapped into memory, and so is the table of hashes, which a large
sidecar keeps in the cache folder; so 10⁸ rows cost pages of the files that are touched, once for all
processes of a host. Two ids of one hash are refused when the sidecar is opened, like an id that occurs twice;
that an id which is not there meets the hash of another has a chance of n / 2⁶⁴.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import functools
import hashlib
import io
import itertools
import os
from typing import Any
import zlib

from jaxtyping import Int64, UInt64
import numpy as np

from mof_jax import storage
from mof_jax.data.files import columns
from mof_jax.data.files.npy import read_header
from mof_jax.errors import UserError, nearest
from mof_jax.parsing import Malformed, is_count, is_text, parse_json, show

ENDINGS = (".npy", *columns.ENDINGS)

_BLOCK = 1 << 22  # bytes of ids that are hashed at once
_KEPT = 1 << 20  # rows from which on the table of hashes is worth a file
_SAMPLED = 64  # rows that stand for all in a digest


class Sidecar:
    """Rows of numbers by id. Called from several threads; a worker process opens it again.

    Args:
      path: see above; `~` is the user's home. A remote file is copied to `cache_dir` first.
      column: which column; of a table by default its only one besides the ids.

    Attributes:
      values: [n, …], numbers.

    Raises:
      UserError: no such file or column, another format, other numbers of ids and rows, or an id that occurs
        twice.
    """

    def __init__(self, path: str, column: str = "", cache_dir: str = ""):
        self._arguments = (path, column, cache_dir)
        self.path = path = storage.expand(path)
        if not path.endswith(ENDINGS):
            raise UserError(f"{path}: a sidecar ends in {', '.join(ENDINGS)}")
        if path.endswith(".npy"):
            self.values, self._hashes, self._rows = _open_npy(path, column, cache_dir)
        else:
            self.values, self._hashes, self._rows = _open_table(path, column, cache_dir)

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, name: str) -> int:
        """The row of a record, -1 if the sidecar has none."""
        wanted = hashes([name])[0]
        at = int(np.searchsorted(self._hashes, wanted))
        return int(self._rows[at]) if at < len(self._hashes) and self._hashes[at] == wanted else -1

    def rows(self, names: Sequence[str]) -> Int64[np.ndarray, "names"]:
        """The rows of many records, -1 where there is none."""
        wanted = hashes(names)
        at = np.minimum(np.searchsorted(self._hashes, wanted), max(0, len(self) - 1))
        if not len(self):
            return np.full(len(names), -1)
        return np.where(self._hashes[at] == wanted, self._rows[at].astype(np.int64), -1)

    def content(self) -> dict[str, Any]:
        """Tells another sidecar from this one, wherever it lies: its rows, and a digest of some of them and
        their ids."""
        return {"rows": len(self), "digest": "-".join(map(digest, (self._hashes, self._rows, self.values)))}

    def __reduce__(self):  # maps do not travel
        return Sidecar, self._arguments


def hashes(names: Iterable[str | bytes]) -> UInt64[np.ndarray, "names"]:
    """64 bits of BLAKE2b of each name's UTF-8."""
    digest = hashlib.blake2b
    raw = (name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape") for name in names)
    return np.frombuffer(b"".join([digest(name, digest_size=8).digest() for name in raw]), "<u8")


def digest(values: np.ndarray) -> str:
    """Eight hex digits of some rows, evenly spread."""
    some = np.unique(np.linspace(0, max(0, len(values) - 1), min(_SAMPLED, len(values))).astype(int))
    return f"{zlib.crc32(np.ascontiguousarray(values[some])):08x}"


def _sorted(path: str, found: UInt64[np.ndarray, "n"], name_of: Any) -> tuple[np.ndarray, np.ndarray]:
    """Hashes in order, and the row of each.

    Raises:
      UserError: two rows of one id, which `name_of(row)` tells.
    """
    order = np.argsort(found, kind="stable")
    ordered = found[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        first, second = sorted(order[twice[0] : twice[0] + 2].tolist())
        one, other = show(name_of(first)), show(name_of(second))
        if one != other:
            raise UserError(f"{path}: ids {one} and {other} have one hash; rename one of them")
        raise UserError(f"{path}: id {one} occurs twice, at rows {first + 1:,} and {second + 1:,}")
    return ordered, order.astype(np.uint32 if len(order) < 1 << 32 else np.int64)


def _open_table(path: str, column: str, cache_dir: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, hashes, rows)."""
    local = storage.local_copy(path, cache_dir)
    parts = [(hashes(ids), cells) for ids, cells in columns.read(local, column)]
    found = np.concatenate([np.zeros(0, np.uint64), *(part for part, _ in parts)])

    def name_of(row: int) -> str:
        names = (name for ids, _ in columns.read(local, column) for name in ids)
        return next(itertools.islice(names, row, None))

    return columns.join([cells for _, cells in parts]), *_sorted(path, found, name_of)


# .npy with ids beside it


def _open_npy(path: str, column: str, cache_dir: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values, hashes, rows)."""
    values = map_npy(path, cache_dir)
    beside = ids_beside(path)
    if not beside:
        raise UserError(f"{path}: its ids are missing; write them to {path.removesuffix('.npy')}.txt, one a "
                        "line")
    if beside.endswith(".json"):
        ids, names = _read_json(beside)
        found = hashes(ids)
        values = _named(path, values, names, column)
        hashed = rows = None
    else:
        if column:
            raise UserError(f"{path}: column {column!r}: its columns have no names; list ids and names in a "
                            ".json beside it")
        ids, kept = None, _kept_at(beside, cache_dir)
        hashed, rows = _load_kept(kept, len(values))
        found = _hash_lines(beside) if hashed is None else hashed
    if len(found) != len(values):
        raise UserError(f"{path}: {len(values):,} rows, and {len(found):,} ids in {beside}")
    if hashed is None:
        name_of = functools.partial(_line, beside) if ids is None else ids.__getitem__
        hashed, rows = _sorted(beside, found, name_of)
        if ids is None and len(rows) >= _KEPT:
            _keep(kept, hashed, rows)
    return values, hashed, rows


def ids_beside(path: str) -> str:
    """The file of ids that belongs to a `.npy`, "" if there is none.

    Raises:
      UserError: there are two.
    """
    stem = path.removesuffix(".npy")
    found = [stem + ending for ending in (".txt", ".json") if storage.exists(stem + ending)]
    if len(found) > 1:
        raise UserError(f"{path}: ids in both {' and '.join(found)}; remove one")
    return found[0] if found else ""


def map_npy(path: str, cache_dir: str = "") -> np.ndarray:
    """The array of a `.npy` file, mapped into memory; its head is checked against the size of the file first.

    Raises:
      UserError: no such file, another format, or a damaged one.
    """
    local = storage.local_copy(path, cache_dir)
    try:
        with storage.open_stream(local) as stream:
            shape, fortran, dtype = read_header(stream)
            start = stream.tell()
        expected = start + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if not shape:
            raise Malformed("holds one number, not rows")
        if os.path.getsize(local) != expected:
            raise Malformed(f"{os.path.getsize(local):,} bytes where an array of shape {shape} takes "
                            f"{expected:,}")
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    if 0 in shape:
        return np.zeros(shape, dtype)
    return np.asarray(np.memmap(local, dtype, "r", start, shape, "F" if fortran else "C"))


def _named(path: str, values: np.ndarray, names: list[str] | None, column: str) -> np.ndarray:
    if not column:
        return values
    if names is None or values.ndim != 2 or values.shape[1] != len(names):
        raise UserError(f"{path}: column {column!r}: its columns have no names")
    if column not in names:
        raise UserError(f"{path}: no column {column!r}{nearest(column, names)}; it has "
                        f"{', '.join(map(show, names))}")
    return values[:, names.index(column)]


def _read_json(path: str) -> tuple[list[str], list[str] | None]:
    """(ids, names of the columns if they are given)."""
    try:
        listed = parse_json(storage.read(path))
        ids, names = (listed.get("ids"), listed.get("names")) if isinstance(listed, dict) else (listed, None)
        if not isinstance(ids, list) or not isinstance(names, list | None):
            raise Malformed('expected {"ids": [...]}')
        for number, value in enumerate(ids):
            if not is_text(value) and not is_count(value, below=1 << 128):
                raise Malformed(f"id {number} is {show(value)}, neither text nor a whole number")
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    return list(map(str, ids)), names


def _lines(path: str) -> Iterator[list[bytes]]:
    """The ids of a `.txt`, some thousands at a time."""
    with storage.open_stream(path) as stream:
        rest = b""
        while block := stream.read(_BLOCK):
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            yield lines
        if rest:
            yield [rest]


def _hash_lines(path: str) -> UInt64[np.ndarray, "n"]:
    found, done = [], 0
    for lines in _lines(path):
        lines = [line.rstrip(b"\r") for line in lines]
        if b"" in lines:
            raise UserError(f"{path} line {done + lines.index(b'') + 1:,}: empty; an id a line")
        found.append(hashes(lines))
        done += len(lines)
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _line(path: str, row: int) -> str:
    """The id in a row of a `.txt`, found by reading it again."""
    for lines in _lines(path):
        if row < len(lines):
            return lines[row].rstrip(b"\r").decode("utf-8", "backslashreplace")
        row -= len(lines)
    raise IndexError(row)


# The table of hashes in the cache folder


def _kept_at(beside: str, cache_dir: str) -> str:
    folder = os.path.join(cache_dir or storage.default_cache(), "sidecars")
    return os.path.join(folder, f"{storage.fingerprint(beside)}.npy")


def _load_kept(path: str, count: int) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """(hashes, rows) as an earlier run left them; None unless they are as many as the rows."""
    if not os.path.isfile(path):
        return None, None
    try:
        table = map_npy(path)
    except UserError:
        return None, None  # not worth an error: it is made again
    return (table[0], table[1]) if table.dtype == np.uint64 and table.shape == (2, count) else (None, None)


def _keep(path: str, hashed: np.ndarray, rows: np.ndarray) -> None:
    storage.make_folder(os.path.dirname(path))
    head = io.BytesIO()
    shape = {"descr": "<u8", "fortran_order": False, "shape": (2, len(rows))}
    np.lib.format.write_array_header_1_0(head, shape)
    storage.write_atomic(path, [head.getvalue(), hashed.data, rows.astype("<u8").data])
