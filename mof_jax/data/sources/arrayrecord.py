"""ArrayRecord shards: the format for training, because any record can be read without the others.

A record is

    b"MOF1" | length of the header, uint32 little-endian | header, UTF-8 JSON | image bytes as they came

with the header `{"id", "texts", "scores", "group", "attributes", "image": number of image bytes or null}`. Shards are
written with `group_size:1` (one record a chunk) and carry checksums of their own. Beside the shards, `index.json` says
how many records each holds, so that a remote data set opens without fetching its shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import json
import os
import re
import struct
import threading
from typing import Any, ClassVar

from array_record.python import array_record_module
import numpy as np

from mof_jax import storage
from mof_jax.data.record import Record
from mof_jax.data.sources.config import FileConfig
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, check_text, is_count, kind, parse_object, show

SUFFIX = ".array_record"
INDEX = "index.json"

_MAGIC = b"MOF1"
_LENGTH = struct.Struct("<I")
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # random access: no buffers, no threads of its own
_SHARDED = re.compile(r"(?P<name>.+)@(?P<count>[0-9]+)", re.DOTALL)
_MOST_SHARDS = 100_000  # five digits in their names
_MOST_RECORDS = 1 << 40  # of a shard


@dataclasses.dataclass(frozen=True)
class ArrayRecordConfig(FileConfig):
    """ArrayRecord shards, as `mof data convert` writes them: a file, a pattern, `name@N` or a folder."""

    kind: ClassVar[str] = "arrayrecord"

    def open(self) -> ArrayRecordSource:
        return ArrayRecordSource(self.path, self.label, cache_dir=self.cache_dir)


def encode(record: Record) -> bytes:
    """A record as bytes.

    Raises:
      BadExample: text that cannot be written down (half a surrogate pair).
    """
    header = {
        "id": record.id,
        "texts": {kind: list(values) for kind, values in record.texts.items()},
        "scores": dict(record.scores),
        "group": record.group,
        "attributes": dict(record.attributes),
        "image": None if record.image is None else len(record.image),
    }
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise BadExample("ArrayRecord", ascii(record.id)[1:-1], f"cannot be written: {error.reason}") from None
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
        header = parse_object(data[8:start])
        if missing := {"id", "texts", "scores", "group", "attributes", "image"} - header.keys():
            raise Malformed(f"has no {min(missing)!r}")
        name, image, group = header["id"], header["image"], header["group"]
        if not isinstance(name, str):
            raise Malformed(f"'id' is {kind(name)}")
        if image is not None and not is_count(image):
            raise Malformed(f"'image' is {show(image)}, not a number of bytes")
        if isinstance(group, bool) or not isinstance(group, int) or not -1 <= group < 1 << 63:
            raise Malformed(f"'group' is {show(group)}")
        record = Record(check_text(name), None, _texts(header["texts"]), _scores(header["scores"]), group,
                        _attributes(header["attributes"]))
    except Malformed as error:
        raise BadExample(source, position, f"broken record header: {error}") from None
    if image is not None and len(data) - start != image:
        raise BadExample(source, name, f"{len(data) - start} image bytes where {image} were written")
    return record if image is None else dataclasses.replace(record, image=data[start:])


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Malformed(f"{what!r} is {kind(value)}, not an object")
    for name in value:
        check_text(name)
    return value


def _texts(value: Any) -> dict[str, tuple[str, ...]]:
    for name, texts in _object(value, "texts").items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Malformed(f"the texts {name!r} are {kind(texts)}, not a list of texts")
    return {name: tuple(map(check_text, texts)) for name, texts in value.items()}


def _scores(value: Any) -> dict[str, float]:
    try:
        for name, score in _object(value, "scores").items():
            if isinstance(score, bool) or not isinstance(score, (int, float)):
                raise Malformed(f"the score {name!r} is {kind(score)}, not a number")
        return {name: float(score) for name, score in value.items()}
    except OverflowError:
        raise Malformed("a score is beyond float64") from None


def _attributes(value: Any) -> dict[str, Any]:
    for name, attribute in _object(value, "attributes").items():
        if isinstance(attribute, (dict, list)):
            raise Malformed(f"the attribute {name!r} is {kind(attribute)}")
        if isinstance(attribute, str):
            check_text(attribute)
    return value


class ArrayRecordSource:
    """Records of one or many shards.

    Args:
      path: a file, a pattern (see `storage.glob`), `name@N` (for `name-00000-of-0000N.array_record`), or a folder of shards;
        local or remote.
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
        return "-".join([str(len(self)), storage.fingerprint(self._paths[0]), storage.fingerprint(self._paths[-1])])

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
        path = storage.local_copy(self._paths[shard], self._cache_dir)
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
    """The shard files that a path, pattern, `name@N` or folder stands for, in order."""
    if (match := _SHARDED.fullmatch(path)) and not storage.exists(path):
        digits, name = match["count"], match["name"].removesuffix(SUFFIX)
        if len(digits) > len(str(_MOST_SHARDS)) or not 0 < int(digits) <= _MOST_SHARDS:
            raise UserError(f"{path}: names no shards; write name@N, N from 1 to {_MOST_SHARDS:,}")
        paths = []
        for i in range(int(digits)):
            paths.append(f"{name}-{i:05d}-of-{int(digits):05d}{SUFFIX}")
            if not storage.exists(paths[-1]):
                raise UserError(f"{paths[-1]}: missing shard of {path}")
        return paths
    paths = storage.files(path, SUFFIX)
    if not paths:
        there = any(c in path for c in "*?[{") and not storage.exists(path)
        raise UserError(f"{path}: matches no file" if there else f"{path}: no {SUFFIX} shards here")
    for shard in paths:
        if not storage.is_remote(shard) and not os.path.isfile(shard):
            raise UserError(f"{shard}: no such file")
    return paths


def _read_index(paths: list[str]) -> dict[int, int]:
    """Record counts by shard number, for the shards that an `index.json` beside them lists."""
    folder = paths[0].rpartition("/")[0] or "."
    path = storage.join(folder, INDEX)
    if not storage.exists(path):
        return {}
    try:
        listed = parse_object(storage.read(path)).get("shards")
        if not isinstance(listed, dict):
            raise Malformed(f"'shards' is {kind(listed)}, not an object")
        known = {i: listed[name] for i, p in enumerate(paths) if (name := p.rsplit("/", 1)[-1]) in listed}
        for i, count in known.items():
            if not is_count(count, below=_MOST_RECORDS):
                raise Malformed(f"{paths[i].rsplit('/', 1)[-1]} has {show(count)} records")
        return known
    except Malformed as error:
        raise UserError(f"{path}: not an index of shards ({error}); delete it to count the records again") from None


@contextlib.contextmanager
def writer(folder: str, name: str, shards: int) -> Iterator[Callable[[int, Record], None]]:
    """Writes a data set: `folder/name-00000-of-0000N.array_record ...` and `index.json`.

    Yields a function `(shard, record)`. Shards are written under temporary names and renamed at the end, the index
    last; after an error nothing is left.
    """
    if storage.is_remote(folder):
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
    storage.write_atomic(os.path.join(folder, INDEX), [index.encode()])
