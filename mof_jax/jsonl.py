"""JSON lines that a run writes and others read: one object a line, whole or passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import logging
import math
import time
from typing import Any

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_count, parse_object, show

logger = logging.getLogger(__name__)

_FLUSH_S = 60.0  # seconds between two writes of a remote file of lines, saves and evaluations apart


class JsonLines:
    """An append-only file of JSON objects, one a line, written by process 0.

    Objects of a store cannot be appended to: there the whole file is written anew, at `flush` and now and then between.
    """

    def __init__(self, path: str, keep_until: int | None = None, cut: Callable[[Mapping[str, Any]], bool] = lambda line: False):
        """Opens `path`; lines whose `step` lies beyond `keep_until`, and those to `cut`, go: a resumed run will write them again.
        A line that cannot be read stays as it is, for whoever looks."""
        import jax  # who only reads lines does not wait for it

        self.path = path
        self._active = jax.process_index() == 0
        self._whole: list[str] | None = None  # a remote file's lines
        self._flushed = time.monotonic()
        if not self._active:
            return
        there = storage.exists(path)
        kept = [text for text, line in _parsed(path)
                if keep_until is None or line is None or (line.get("step", 0) <= keep_until and not cut(line))] if there else []
        if there and keep_until is not None:
            with _disk(path):
                storage.write_atomic(path, ["".join(kept).encode(errors="surrogateescape")])
        if storage.is_remote(path):
            self._whole = kept

    def write(self, line: Mapping[str, Any]) -> None:
        """Adds a line.

        Raises:
          UserError: the disk is full, or not writable any more.
        """
        if not self._active:
            return
        text = json.dumps({k: _plain(v) for k, v in line.items()}) + "\n"
        if self._whole is None:
            with _disk(self.path), open(self.path, "a") as f:
                f.write(text)
            return
        self._whole.append(text)
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Lets others see every line so far."""
        if self._whole is not None:
            storage.write_atomic(self.path, ["".join(self._whole).encode(errors="surrogateescape")])
            self._flushed = time.monotonic()


def read_lines(path: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines that a run has written; each has a whole `step`.

    A last line that a kill has cut off is passed over. So is one that is damaged otherwise, with a warning that names it: what
    stands behind it counts.
    """
    found = _parsed(path)
    for number, (text, line) in enumerate(found, 1):
        if line is None:
            logger.warning("%s line %d is damaged and left out: %s", path, number, show(text.strip()))
    return [line for _, line in found if line is not None]


def _parsed(path: str) -> list[tuple[str, dict[str, Any] | None]]:
    """Each whole line of a file with the object that it holds; None for one that is no line of a run."""
    *whole, cut_off = storage.read(path).decode(errors="surrogateescape").split("\n")
    return [(f"{text}\n", _object(text)) for text in whole if text.strip()] + (
        [(f"{cut_off}\n", line)] if (line := _object(cut_off)) is not None else [])


def _object(text: str) -> dict[str, Any] | None:
    try:
        line = parse_object(text)
    except Malformed:
        return None
    return line if is_count(line.get("step", 0)) else None


@contextlib.contextmanager
def _disk(path: str) -> Iterator[None]:
    """Around what is written to a local file.

    Raises:
      UserError: the disk is full, or not writable any more.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {storage.failure(error) or storage.reason(error)}") from None


def _plain(value: Any) -> Any:
    """JSON has no NaN: a non-finite float becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
