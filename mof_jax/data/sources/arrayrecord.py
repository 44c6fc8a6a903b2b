"""ArrayRecord shards: the format for training, because any record can be read without the others.

A record is

    b"MOF1" | length of the header, uint32 little-endian | header, UTF-8 JSON | image bytes as they came

with the header `{"id", "texts", "scores", "group", "attributes", "image": number of image bytes or null}`. Shards are
written with `group_size:1` (one record a chunk) and carry checksums of their own. Beside the shards, `index.json` says
how many records each holds, so that a remote data set opens without fetching its shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import os
import re
import struct
import threading

from array_record.python import array_record_module
import numpy as np

from mof_jax.data import remote
from mof_jax.data.record import Record
from mof_jax.errors import BadExample, UserError

SUFFIX = ".array_record"
INDEX = "index.json"

_MAGIC = b"MOF1"
_LENGTH = struct.Struct("<I")
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # random access: no buffers, no threads of its own
_SHARDED = re.compile(r"^(?P<name>.+)@(?P<count>\d+)$")


def encode(record: Record) -> bytes:
    """A record as bytes."""
    header = {
        "id": record.id,
        "texts": {kind: list(values) for kind, values in record.texts.items()},
        "scores": dict(record.scores),
        "group": record.group,
        "attributes": dict(record.attributes),
        "image": None if record.image is None else len(record.image),
    }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([_MAGIC, _LENGTH.pack(len(text)), text, record.image or b""])


def parse(data: bytes, source: str, position: int) -> Record:
    """The record that `encode` wrote.

    Raises:
      BadExample: other bytes.
    """
    if data[:4] != _MAGIC or len(data) < 8:
        raise BadExample(source, position, "not a mof_jax record; write such files with `mof data convert`")
    start = 8 + _LENGTH.unpack_from(data, 4)[0]
    try:
        header = json.loads(data[8:start])
        image = header["image"]
        if image is not None and len(data) - start != image:
            raise BadExample(source, header["id"], f"{len(data) - start} image bytes where {image} were written")
        return Record(
            id=str(header["id"]),
            image=None if image is None else data[start:],
            texts={str(kind): tuple(map(str, values)) for kind, values in header["texts"].items()},
            scores={str(name): float(value) for name, value in header["scores"].items()},
            group=int(header["group"]),
            attributes=header["attributes"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise BadExample(source, position, f"broken record header: {error!r}") from None


class ArrayRecordSource:
    """Records of one or many shards.

    Args:
      path: a file, a glob, `name@N` (for `name-00000-of-0000N.array_record`), or a folder of shards; local or remote.
        Remote shards are copied to `cache_dir`, each when it is first read.

    Raises:
      UserError: no such shards, a missing one among `name@N`, or a file that is not ArrayRecord.
    """

    def __init__(self, path: str, name: str = "", cache_dir: str = ""):
        self.name, self._cache_dir = name or os.path.basename(path.rstrip("/")), cache_dir
        self._paths = find_shards(path)
        self._lock = threading.Lock()
        self._readers: dict[int, array_record_module.ArrayRecordReader] = {}
        known = _read_index(self._paths)
        counts = [known.get(i, -1) for i in range(len(self._paths))]
        self._counts = [n if n >= 0 else self._open(i).num_records() for i, n in enumerate(counts)]
        self._ends = np.cumsum(self._counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def fingerprint(self) -> str:
        """Changes with the shards."""
        return "-".join([str(len(self)), remote.fingerprint(self._paths[0]), remote.fingerprint(self._paths[-1])])

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        position = index - int(self._ends[shard]) + self._counts[shard]
        where = os.path.basename(self._paths[shard])
        try:
            data = self._reader(shard).read([position])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            raise BadExample(f"{self.name}: {where}", position, f"cannot be read: {_short(error)}") from None
        return parse(data, f"{self.name}: {where}", position)

    def _reader(self, shard: int):
        reader = self._readers.get(shard)
        if reader is None:
            with self._lock:
                reader = self._readers.get(shard) or self._open(shard)
        return reader

    def _open(self, shard: int):
        """Opens a shard. The reader itself reports a missing or foreign file as 0 records, so that is checked here."""
        path = remote.local_copy(self._paths[shard], self._cache_dir)
        if not os.path.isfile(path):
            raise UserError(f"{path}: no such shard")
        reader = array_record_module.ArrayRecordReader(path, _OPTIONS)
        if not reader.ok() or not reader.num_records():
            raise UserError(f"{self._paths[shard]}: not an ArrayRecord file, truncated, or without records")
        expected = self._counts[shard] if hasattr(self, "_counts") else reader.num_records()
        if reader.num_records() != expected:
            raise UserError(f"{self._paths[shard]}: {reader.num_records()} records where {INDEX} says {expected}")
        self._readers[shard] = reader
        return reader

    def __getstate__(self):  # readers and locks stay in their process
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state):
        self.__dict__.update(state, _readers={}, _lock=threading.Lock())


def _short(error: Exception) -> str:
    return str(error).split(";")[0].split("\n")[0][:160]


def find_shards(path: str) -> list[str]:
    """The shard files that a path, glob, `name@N` or folder stands for, in order."""
    if match := _SHARDED.match(path):
        count = int(match["count"])
        name = match["name"].removesuffix(SUFFIX)
        paths = [f"{name}-{i:05d}-of-{count:05d}{SUFFIX}" for i in range(count)]
        for shard in paths:
            if not remote.exists(shard):
                raise UserError(f"{shard}: missing shard of {path}")
        if not paths:
            raise UserError(f"{path}: names no shards")
        return paths
    paths = remote.glob(path)
    if len(paths) == 1 and not path.endswith(SUFFIX):
        inside = remote.glob(remote.join(path, f"*{SUFFIX}"))
        if not inside and not (remote.exists(path) and (remote.is_remote(path) or os.path.isfile(path))):
            raise UserError(f"{path}: no {SUFFIX} shards here")
        paths = inside or paths
    if not paths:
        raise UserError(f"{path}: matches no file")
    for shard in paths:
        if not remote.is_remote(shard) and not os.path.isfile(shard):
            raise UserError(f"{shard}: no such file")
    return paths


def _read_index(paths: list[str]) -> dict[int, int]:
    """Record counts by shard number, for the shards that an `index.json` beside them lists."""
    folder = paths[0].rpartition("/")[0] or "."
    path = remote.join(folder, INDEX)
    if not remote.exists(path):
        return {}
    try:
        listed: Mapping[str, int] = json.loads(remote.read(path))["shards"]
        return {i: int(listed[name]) for i, p in enumerate(paths) if (name := p.rsplit("/", 1)[-1]) in listed}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an index of shards ({error}); delete it to count the records again") from None


@contextlib.contextmanager
def writer(folder: str, name: str, shards: int) -> Iterator[Callable[[int, Record], None]]:
    """Writes a data set: `folder/name-00000-of-0000N.array_record ...` and `index.json`.

    Yields a function `(shard, record)`. Shards are written under temporary names and renamed at the end, the index
    last; after an error nothing is left.
    """
    if remote.is_remote(folder):
        raise UserError(f"{folder}: ArrayRecord shards are written to a local folder; copy it to the store afterwards")
    os.makedirs(folder, exist_ok=True)
    final = [f"{name}-{i:05d}-of-{shards:05d}{SUFFIX}" for i in range(shards)]
    for file in (*final, INDEX):
        if os.path.exists(os.path.join(folder, file)):
            raise UserError(f"{os.path.join(folder, file)}: exists already; choose another folder")
    part = [os.path.join(folder, f".{file}.part") for file in final]
    counts = [0] * shards
    writers = [array_record_module.ArrayRecordWriter(p, "group_size:1") for p in part]

    def write(shard: int, record: Record) -> None:
        writers[shard].write(encode(record))
        counts[shard] += 1

    try:
        yield write
    except BaseException:
        for w, p in zip(writers, part):
            w.close()
            os.unlink(p)
        raise
    for w in writers:
        w.close()
    kept = {}
    for p, file, count in zip(part, final, counts):
        os.replace(p, os.path.join(folder, file))
        kept[file] = count
    index = json.dumps({"format": "mof_jax/1", "records": sum(counts), "shards": kept}, indent=1)
    remote.write_atomic(os.path.join(folder, INDEX), [index.encode()])
