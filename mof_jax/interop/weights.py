"""Where weights lie: one safetensors file, a folder with one, or shards with an index; or one of torch's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import json
import math
import os
from typing import Any

import numpy as np

from mof_jax import storage
from mof_jax.errors import UserError, nearest
from mof_jax.interop import pickles, safetensors
from mof_jax.interop.safetensors import Entry
from mof_jax.parsing import Malformed, check_text, parse_object

WEIGHTS = ("model.safetensors", "open_clip_model.safetensors")
PICKLES = ("pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pt")
FILES = (".safetensors", ".json", *pickles.SUFFIXES)  # endings of what is no folder
MAX_JSON = 64 << 20


class Weights:
    """Named tensors on disk.

    Attributes:
      where: for messages. entries: (shape, dtype) by name.
    """

    def __init__(self, where: str, files: Mapping[str, tuple[str, Entry]]):
        self.where, self._files = where, dict(files)

    @classmethod
    def open(cls, path: str) -> Weights:
        """A `.safetensors` file, an index (`….safetensors.index.json`), a file of torch's, or a folder with any of these.

        Raises:
          UserError: nothing there, or a damaged file; pickles without torch, or with more in them than tensors.
        """
        if path.endswith(pickles.SUFFIXES):
            return Arrays(pickles.read(path), path)
        if path.endswith(".json"):
            return cls(path, _sharded(path))
        if path.endswith(".safetensors"):
            return cls(path, {name: (path, entry) for name, entry in safetensors.read_header(path).items()})
        for name in WEIGHTS:
            for found in (storage.join(path, name), storage.join(path, f"{name}.index.json")):
                if storage.exists(found):
                    return cls.open(found)
        for name in PICKLES:
            if storage.exists(storage.join(path, name)):
                return cls.open(storage.join(path, name))
        if storage.exists(storage.join(path, "pytorch_model.bin.index.json")):
            raise UserError(f"{path}: holds pickled weights in shards, which are not read; save them as safetensors "
                            "(`model.save_pretrained(DIR)` of transformers does)")
        raise UserError(f"{path}: no weights there (none of {', '.join(WEIGHTS)})")

    @property
    def names(self) -> list[str]:
        """In the order of the files."""
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor; `UserError` if there is none."""
        return self._find(name)[1].shape

    def dtype(self, name: str) -> np.dtype:
        """Of one tensor; `UserError` if there is none."""
        return self._find(name)[1].dtype

    def read(self, name: str) -> np.ndarray:
        """One tensor, in memory."""
        path, entry = self._find(name)
        return safetensors.read_tensor(path, name, entry)

    def _find(self, name: str) -> tuple[str, Entry]:
        if name not in self._files:
            raise UserError(f"{self.where}: has no tensor {name}{nearest(name, self._files)}")
        return self._files[name]


class Arrays(Weights):
    """Named arrays in memory, as `Weights`: what tests and other formats start from."""

    def __init__(self, arrays: Mapping[str, np.ndarray], where: str = "arrays"):
        super().__init__(where, {name: (where, Entry(x.shape, x.dtype, 0, x.nbytes)) for name, x in arrays.items()})
        self._arrays = arrays

    def read(self, name: str) -> np.ndarray:
        self._find(name)
        return self._arrays[name]


def save(
    folder: str, tensors: Mapping[str, tuple[Sequence[int], np.dtype]], arrays: Iterable[tuple[str, np.ndarray]],
    name: str = "model.safetensors", limit: int = 5 << 30,
) -> list[str]:
    """Writes one file, or shards of at most `limit` bytes with an index, tensor by tensor; returns the files' names.

    Args:
      tensors, arrays: see `safetensors.write`.
    """
    size = lambda item: math.prod(item[0]) * np.dtype(item[1]).itemsize
    shards: list[dict[str, tuple[Sequence[int], np.dtype]]] = [{}]
    room = limit
    for key, item in tensors.items():
        if shards[-1] and size(item) > room:
            shards.append({})
            room = limit
        shards[-1][key] = item
        room -= size(item)
    stream, count = iter(arrays), len(shards)
    stem = name.removesuffix(".safetensors")
    files = [name] if count == 1 else [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards):
        safetensors.write(storage.join(folder, file), shard, (next(stream) for _ in shard))
    if count > 1:
        index = {"metadata": {"total_size": sum(map(size, tensors.values()))},
                 "weight_map": {key: file for file, shard in zip(files, shards) for key in shard}}
        storage.write_atomic(storage.join(folder, f"{name}.index.json"), [json.dumps(index, indent=1).encode()])
    return files


def read_json(path: str) -> dict[str, Any]:
    """A JSON object from outside.

    Raises:
      UserError: missing, too large, no JSON object, or one with text that could not be written down again.
    """
    if storage.size(path) > MAX_JSON:
        raise UserError(f"{path}: {storage.size(path):,} bytes, too large")
    try:
        data = storage.read(path)
        found = parse_object(data)
        if b"\\ud" in data.lower():
            check_text(json.dumps(found, ensure_ascii=False))
        return found
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def _sharded(index: str) -> dict[str, tuple[str, Entry]]:
    """The tensors of all shards; the index and the shards must say the same."""
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(file, str) for file in placed.values()):
        raise UserError(f"{index}: has no weight_map from tensors to files")
    for file in dict.fromkeys(placed.values()):
        # A name that leaves the folder would read any file of this machine.
        if os.path.basename(file) != file or "\\" in file or "\0" in file or not file.endswith(".safetensors"):
            raise UserError(f"{index}: {file[:200]!r} is not the name of a .safetensors file beside it")
    folder = index.rpartition("/")[0] or "."
    headers = {file: safetensors.read_header(storage.join(folder, file)) for file in dict.fromkeys(placed.values())}
    for name, file in placed.items():
        if name not in headers[file]:
            raise UserError(f"{index}: says that {name} is in {file}, which lacks it; index and shards do not belong together")
    for file, header in headers.items():
        for name in header:
            if placed.get(name) != file:
                says = f"puts into {placed[name]}" if name in placed else "lacks"
                raise UserError(f"{index}: {file} holds {name}, which the index {says}")
    return {name: (storage.join(folder, file), headers[file][name]) for name, file in placed.items()}
