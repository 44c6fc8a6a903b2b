"""Embeddings on disk: a folder that `embed` wrote, or a plain `.npy` file, read through memory maps and never unpickled."""

from __future__ import annotations

from collections.abc import Sequence
import functools
import hashlib
import math
import os
from typing import Any
import zlib

from jaxtyping import Bool, Float, Int
import ml_dtypes
import numpy as np

from mof_jax import storage
from mof_jax.data.files.npy import read_header
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_count, is_text, kind, parse_object, show

MANIFEST, VALID = "manifest.json", "valid.npy"
KIND = "mof_jax embeddings"
DTYPES = ("float32", "bfloat16", "float16")
_PLAIN = ("float32", "float16", "float64")  # what a file of somebody else's may hold
_MOST_ROWS, _MOST_FILES = 1 << 48, 1_000_000


class Embeddings:
    """N rows of features, in shards that stay on disk.

    Attributes:
      path: where they come from, for messages. row_shape: shape of a row, [dim] or [patches, dim].
      dtype: as stored; rows are handed out as float32.
      valid: which rows stand for a picture that could be read. fingerprint: changes with the content.
      manifest: what `embed` noted, empty for a plain file.
    """

    def __init__(self, path: str, shards: Sequence[np.ndarray], dtype: str, valid: Bool[np.ndarray, "rows"], fingerprint: str,
                 manifest: dict[str, Any], ids: Sequence[str] | None = None):
        self.path, self._shards, self.dtype, self.valid = path, list(shards), dtype, valid
        self.fingerprint, self.manifest, self._ids = fingerprint, manifest, ids
        self.row_shape = self._shards[0].shape[1:]
        self._starts = np.cumsum([0] + [len(s) for s in self._shards])

    @classmethod
    def open(cls, path: str) -> Embeddings:
        """A folder written by `embed`, or a `.npy` of shape [rows, dim].

        Raises:
          UserError: nothing there, an unfinished folder, a truncated or malformed file, a dtype that is no float.
        """
        if path.endswith(".npy"):
            rows = map_npy(path)
            if rows.ndim != 2 or not rows.size or rows.dtype.name not in _PLAIN:
                raise UserError(f"{path}: holds {rows.dtype.name} of shape {rows.shape}; expected floats of shape [rows, dim]")
            return cls(path, [rows], rows.dtype.name, np.ones(len(rows), bool), _sampled_digest(rows), {})
        return _open_folder(cls, path)

    @classmethod
    def of(cls, rows: Float[np.ndarray, "rows dim"], ids: Sequence[str] | None = None, name: str = "array") -> Embeddings:
        """An array that is in memory already."""
        rows = np.asarray(rows, np.float32)
        if rows.ndim != 2 or not rows.size:
            raise UserError(f"{name}: shape {rows.shape}; expected [rows, dim]")
        return cls(name, [rows], "float32", np.ones(len(rows), bool), _sampled_digest(rows), {}, ids)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self.row_shape[-1]

    @functools.cached_property
    def ids(self) -> list[str] | None:
        """Names of the records, None where nobody wrote them down."""
        if self._ids is not None or not self.manifest:
            return None if self._ids is None else list(self._ids)
        found: list[str] = []
        for file in names(self.manifest, "records"):
            path = storage.join(self.path, file)
            ids = _json(path).get("ids")
            if not isinstance(ids, list) or not all(map(is_text, ids)):
                raise UserError(f"{path}: 'ids' is no list of texts; delete the folder and embed again")
            found += ids
        if len(found) != len(self):
            raise UserError(f"{self.path}: {len(found)} ids for {len(self)} rows; delete the folder and embed again")
        return found

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "rows *row"]:
        """Rows `start:stop`, in memory."""
        start, stop = max(0, start), min(stop, len(self))
        out = np.empty((max(0, stop - start), *self.row_shape), np.float32)
        for first, shard in zip(self._starts, self._shards):
            low, high = max(start, first), min(stop, first + len(shard))
            if low < high:
                out[low - start : high - start] = self._floats(shard[low - first : high - first])
        return out

    def take(self, indices: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n *row"]:
        """The rows at `indices`."""
        out = np.empty((len(indices), *self.row_shape), np.float32)
        where = np.searchsorted(self._starts, indices, side="right") - 1
        for s in np.unique(where):
            here = where == s
            out[here] = self._floats(self._shards[s][indices[here] - self._starts[s]])
        return out

    def _floats(self, stored: np.ndarray) -> np.ndarray:
        return np.asarray(stored).view(ml_dtypes.bfloat16) if self.dtype == "bfloat16" else stored


def names(manifest: dict[str, Any], what: str) -> list[str]:
    """File names of all shards; `what` is `features` or `records`."""
    count = math.ceil(manifest["count"] / manifest["shard"])
    ending = {"features": "npy", "records": "json"}[what]
    return [f"{what}-{i:05d}-of-{count:05d}.{ending}" for i in range(count)]


def _open_folder(cls: type[Embeddings], path: str) -> Embeddings:
    if not storage.exists(storage.join(path, MANIFEST)):
        raise UserError(f"{path}: no embeddings there (no {MANIFEST}); give a folder made by `mof data embed`, or a .npy file")
    manifest = _json(storage.join(path, MANIFEST))
    try:
        row_shape, fingerprint = _check(manifest)
    except Malformed as error:
        raise UserError(f"{path}/{MANIFEST}: not a manifest of embeddings ({error})") from None
    if not manifest["complete"]:
        raise UserError(f"{path}: embedding is unfinished; run the same `mof data embed` again to complete it")
    files = names(manifest, "features")
    stored = "uint16" if manifest["dtype"] == "bfloat16" else manifest["dtype"]
    shards = []
    for i, file in enumerate(files):
        rows = map_npy(storage.join(path, file))
        wanted = (min(manifest["shard"], manifest["count"] - i * manifest["shard"]), *row_shape)
        if rows.dtype.name != stored or rows.shape != wanted:
            raise UserError(f"{path}/{file}: {rows.dtype.name} of shape {rows.shape}, the manifest says {stored} of {wanted}; "
                            "delete the file and embed again")
        shards.append(rows)
    valid = np.array(map_npy(storage.join(path, VALID)))
    if valid.dtype != bool or valid.shape != (manifest["count"],):
        raise UserError(f"{path}/{VALID}: {valid.dtype} of shape {valid.shape}, expected one bool a row")
    return cls(path, shards, manifest["dtype"], valid, fingerprint, manifest)


def _check(manifest: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    """(shape of a row, fingerprint) of a manifest, which are missing from an unfinished one.

    Raises:
      Malformed: a value that no manifest has.
    """
    if manifest.get("kind") != KIND or manifest.get("dtype") not in DTYPES:
        raise Malformed(f"kind {show(manifest.get('kind'))}, dtype {show(manifest.get('dtype'))}")
    for name in ("count", "shard"):
        if not is_count(manifest.get(name), _MOST_ROWS) or not manifest[name]:
            raise Malformed(f"{name} is {show(manifest.get(name))}")
    if -(-manifest["count"] // manifest["shard"]) > _MOST_FILES:
        raise Malformed(f"{manifest['count']:,} rows in files of {manifest['shard']:,} are more than {_MOST_FILES:,} files")
    if not isinstance(manifest.get("complete"), bool):
        raise Malformed(f"complete is {show(manifest.get('complete'))}")
    if not manifest["complete"]:
        return (), ""
    shape, fingerprint = manifest.get("row_shape"), manifest.get("fingerprint")
    if not isinstance(shape, list) or not shape or not all(is_count(n, _MOST_ROWS) and n for n in shape):
        raise Malformed(f"row_shape is {show(shape)}")
    if not is_text(fingerprint):
        raise Malformed(f"fingerprint is {kind(fingerprint)}")
    return tuple(shape), fingerprint


def map_npy(path: str) -> np.ndarray:
    """A memory map of a `.npy` file; its header is checked before anything is mapped, and no pickle is ever loaded.

    Raises:
      UserError: missing, malformed, an array of Python objects, or of another length than its header says.
    """
    path = storage.local_copy(path)
    size = storage.size(path)
    try:
        with open(path, "rb") as f:
            shape, fortran, dtype = read_header(f)
            offset = f.tell()
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    expected = offset + math.prod(shape) * dtype.itemsize
    if size != expected:
        state = "truncated" if size < expected else "longer than its header says"
        raise UserError(f"{path}: {state} ({size:,} bytes, shape {shape} of {dtype} takes {expected:,}); write it again")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")


def _json(path: str) -> dict[str, Any]:
    try:
        return parse_object(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def _sampled_digest(rows: np.ndarray) -> str:
    """Of the shape and up to 256 rows, spread evenly: the same for a copy of the file, and cheap for a huge one."""
    picked = np.unique(np.linspace(0, len(rows) - 1, 256).astype(int))
    total = functools.reduce(lambda crc, i: zlib.crc32(np.ascontiguousarray(rows[i]), crc), picked, 0)
    return hashlib.sha256(f"{rows.shape} {rows.dtype} {total}".encode()).hexdigest()[:12]


def is_embeddings(path: str) -> bool:
    """Whether `path` looks like stored embeddings rather than a checkpoint."""
    return path.endswith(".npy") or os.path.basename(path) == MANIFEST or storage.exists(storage.join(path, MANIFEST))
