"""The safetensors format: a header of JSON, then the tensors' bytes. Nothing in it is run, and all of it is checked.

    8 bytes: length of the header, little endian │ header {name: {dtype, shape, data_offsets}} │ data

Files come from outside: a header must describe its file exactly (no gap, no overlap, nothing beyond the end), or one line
names the file and the tensor. Tensors are read one at a time and not mapped, so that a conversion holds one of them and a
file that shrinks under it is an error instead of a bus error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import json
import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_count, parse_object, show

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("float64"), "F32": np.dtype("float32"), "F16": np.dtype("float16"), "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"), "I32": np.dtype("int32"), "I16": np.dtype("int16"), "I8": np.dtype("int8"),
    "U64": np.dtype("uint64"), "U32": np.dtype("uint32"), "U16": np.dtype("uint16"), "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 32 << 20  # bytes; a shard of the largest public models needs less than one
_MOST_DIMENSIONS = 16


class Entry(NamedTuple):
    """One tensor of a file: where its bytes are, counted from the start of the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    stop: int


def read_header(path: str) -> dict[str, Entry]:
    """The tensors of a file, by name.

    Raises:
      UserError: no such file, a header that is no header, or one that does not describe the file exactly.
    """
    size = storage.size(path)
    length = int.from_bytes(storage.read(path, 0, 8), "little") if size >= 8 else -1
    if not 2 <= length <= size - 8:
        raise UserError(f"{path}: not a safetensors file, or cut short ({size:,} bytes); fetch it again")
    if length > MAX_HEADER:
        raise UserError(f"{path}: a header of {length:,} bytes; at most {MAX_HEADER:,} are read")
    try:
        header = parse_object(storage.read(path, 8, 8 + length))
    except Malformed as error:
        raise UserError(f"{path}: its safetensors header {error}; fetch the file again") from None
    entries = {name: _entry(path, name, value, 8 + length, size) for name, value in header.items() if name != "__metadata__"}
    end, last = 8 + length, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != end:
            what = "overlap" if entry.start < end else "leave a gap"
            raise UserError(f"{path}: {last} and {name} {what} (bytes {end:,} and {entry.start:,}); the file is damaged")
        end, last = entry.stop, name
    if end != size:
        raise UserError(f"{path}: {size:,} bytes, its header describes {end:,}; fetch it again")
    return entries


def read_tensor(path: str, name: str, entry: Entry) -> np.ndarray:
    """One tensor, in memory; read-only.

    Raises:
      UserError: the file has become shorter.
    """
    data = storage.read(path, entry.start, entry.stop)
    if len(data) != entry.stop - entry.start:
        raise UserError(f"{path}: {name} is cut short; the file changed while it was read")
    return np.frombuffer(data, entry.dtype).reshape(entry.shape)


def write(path: str, tensors: Mapping[str, tuple[Sequence[int], np.dtype]], arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes a file tensor by tensor; no reader ever sees half of it.

    Args:
      tensors: (shape, dtype) by name, in the order in which `arrays` come.
      arrays: (name, values); one at a time is held.

    Raises:
      ValueError: `arrays` are not what was announced.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses files without it
    at = 0
    for name, (shape, dtype) in tensors.items():
        size = math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def chunks():
        yield len(text).to_bytes(8, "little") + text
        waiting = list(tensors)[::-1]
        for name, x in arrays:
            shape, dtype = tensors[name] if waiting and waiting.pop() == name else ((), None)
            if (tuple(shape), dtype) != (x.shape, x.dtype):
                raise ValueError(f"{name}: {x.dtype}{x.shape} was not announced here")
            yield np.ascontiguousarray(x).reshape(-1).view(np.uint8).data
        if waiting:
            raise ValueError(f"{waiting[-1]}: announced, and not written")

    storage.write_atomic(path, chunks())


def _entry(path: str, name: str, value: Any, base: int, size: int) -> Entry:
    """A checked line of the header."""
    what = f"{path}: tensor {name[:200]!r}"
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(shape, list) or not all(is_count(n) for n in [*shape, start, stop]):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{what}: its header line {show(value, 120)} is malformed; fetch the file again") from None
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(f"{what}: unknown dtype {show(dtype)}")
    # NumPy takes no more dimensions, and no sizes whose product overflows, be one of them 0.
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(n, 1) for n in shape) >= 1 << 60:
        raise UserError(f"{what}: a shape of {len(shape)} dimensions, {show(shape)}; no tensor has such a one")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != expected:
        raise UserError(f"{what}: {dtype} of shape {shape} takes {expected:,} bytes, its header gives it {stop - start:,}")
    if base + stop > size:
        raise UserError(f"{what}: lies beyond the end of the file ({size:,} bytes); the file is cut short, fetch it again")
    return Entry(tuple(shape), DTYPES[dtype], base + start, base + stop)

