"""Files of JSON lines, any line of which can be read without the others."""

from __future__ import annotations

import json
import os
from typing import Any
import weakref

import numpy as np

from mof_jax import storage
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, parse_json

_CHUNK = 8 << 20


class JsonLines:
    """Lines by number, parsed when asked for. A local file is read line by line, not held; it must stay as it is.

    Not mapped: a map of a file that becomes shorter kills the process at its next look. May be used by several threads, and
    travels to a worker process, which opens the file again.
    """

    def __init__(self, path: str, expected: tuple[int, int] | None = None):
        """
        Args:
          expected: size and time of the local file, of an earlier look at it.

        Raises:
          UserError: no such file, or not the one that is expected.
        """
        self._path, self._data = path, b""
        self._file, self._state = -1, None
        if storage.is_remote(path):
            self._data = storage.read(path)
        else:
            storage.size(path)  # says what is wrong
            try:
                self._file = os.open(path, os.O_RDONLY)
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}") from None
            weakref.finalize(self, os.close, self._file)
            self._state = self._now()
            if expected not in (None, self._state):
                raise self._changed()
        self._lines, self._starts, self._stops = self._find_lines()

    def _find_lines(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number (from 0), first byte and end of every line that is not blank."""
        size = self._state[0] if self._state else len(self._data)
        found, feeds = [], []  # where lines end, and whether \r stands there too
        last = b""
        for start in range(0, size, _CHUNK):
            block = self._read(start, min(size, start + _CHUNK))
            bytes_ = np.frombuffer(last + block, np.uint8)
            ends = np.flatnonzero(bytes_[len(last):] == ord("\n"))
            found.append(ends + start)
            feeds.append((bytes_[ends + len(last) - 1] == ord("\r")) & (ends + len(last) > 0))
            last = block[-1:]
        ends = np.concatenate([*found, [size]]).astype(np.int64)
        returned = np.concatenate([*feeds, [last == b"\r"]]).astype(bool)
        starts = np.concatenate([[0], ends[:-1] + 1])
        lengths = ends - starts
        lines = np.flatnonzero((lengths > 1) | ((lengths == 1) & ~returned))
        return lines, starts[lines], ends[lines]

    def _now(self) -> tuple[int, int]:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> UserError:
        return UserError(f"{self._path}: changed while it was read (another size or time than when it was opened); let it be, or "
                         "write a new file and rename it")

    def _read(self, start: int, stop: int) -> bytes:
        if self._state is None:
            return self._data[start:stop]
        parts = []
        while start < stop:
            try:
                data = os.pread(self._file, stop - start, start)
            except OSError as error:
                raise UserError(f"{self._path}: {error.strerror}") from None
            if not data:
                raise self._changed()
            parts.append(data)
            start += len(data)
        if self._now() != self._state:
            raise self._changed()
        return b"".join(parts)

    def __len__(self) -> int:
        return len(self._lines)

    def raw(self, index: int) -> bytes:
        """Line `index` as it stands there."""
        return self._read(int(self._starts[index]), int(self._stops[index]))

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        line = int(self._lines[index]) + 1
        try:
            row = parse_json(self.raw(index))
        except Malformed as error:
            raise BadExample(self._path, f"line {line}", str(error)) from None
        if not isinstance(row, dict):
            raise BadExample(self._path, f"line {line}", "not a JSON object")
        return line, row

    def mentions(self, key: str) -> bool:
        """Whether `"key"` stands anywhere in the file; reads all of it."""
        spelled = {json.dumps(key, ensure_ascii=ascii_).encode(errors="replace") for ascii_ in (True, False)}
        size, longest = self._state[0] if self._state else len(self._data), max(map(len, spelled))
        for start in range(0, size, _CHUNK):
            block = self._read(start, min(size, start + _CHUNK + longest))
            if any(word in block for word in spelled):
                return True
        return False

    def __getstate__(self) -> dict[str, Any]:  # an open file does not travel to a worker process
        return {"path": self._path, "expected": self._state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)
