"""Tiny valid inputs that several targets share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import io
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
from PIL import Image

from mof_jax.errors import BadExample

from ..harness import say

_MOST = 32  # records that are read of a source


def picture(number: int = 0, kind: str = "PNG", mode: str = "RGB", side: int = 12, **more: Any) -> bytes:
    """An encoded picture of smooth colours."""
    ramp = (np.arange(side * side).reshape(side, side) * 3 + number) % 256
    image = Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], -1).astype(np.uint8)).convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def lines(*rows: Any) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def dumped(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value).encode()


def npy(values: Any, dtype: str = "float32") -> bytes:
    """An array as a `.npy` file."""
    out = io.BytesIO()
    np.save(out, np.array(values, dtype))
    return out.getvalue()


def written(write: Callable[[pathlib.Path], None]) -> dict[str, bytes]:
    """The files that `write` leaves in a new folder, by path."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        write(root)
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_all(source: Any, use: Callable[[Any], Any] = lambda record: None) -> None:
    """Reads the records of a source, or `_MOST` of them, evenly spread; the first bad one is raised behind the last."""
    places: Iterable[int] = (
        range(len(source)) if len(source) <= _MOST else np.linspace(0, len(source) - 1, _MOST).astype(int).tolist()
    )
    bad: list[BadExample] = []
    for index in places:
        try:
            use(source[index])
        except BadExample as error:
            bad.append(error)
    say(bad)


def attempts(actions: Sequence[Callable[[], Any]]) -> None:
    """Calls all; the first typed error is raised behind the last."""
    errors = []
    for action in actions:
        try:
            action()
        except BadExample as error:
            errors.append(error)
    say(errors)
