"""What a model answered, question by question: kept beside the scores, and compared with another model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import os
from typing import Any

import jax

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_text, parse_object, show


def write_answers(folder: str | None, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """`FOLDER/answers/NAME.jsonl`, one object a question; written by process 0, nothing where `folder` is None.

    Raises:
      UserError: it cannot be written.
    """
    if folder is None or jax.process_index():
        return
    storage.make_folder(os.path.join(folder, "answers"))
    storage.write_atomic(os.path.join(folder, "answers", f"{name}.jsonl"), (_line(dict(row)) for row in rows))


def _line(row: dict[str, Any]) -> bytes:
    """A row as one line of UTF-8; half a surrogate pair, which has none, stands there as its escape."""
    text = json.dumps(row, ensure_ascii=False)
    return (text if is_text(text) else json.dumps(row)).encode() + b"\n"


def read_answers(path: str, key: str = "right") -> dict[str, Any]:
    """`id -> key` of a file that `write_answers` left.

    Raises:
      UserError: no such file, or lines without an id or the key, or with an id twice.
    """
    found: dict[str, Any] = {}
    for number, line in enumerate(storage.read(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_object(line)
            if missing := next((name for name in ("id", key) if name not in row), None):
                raise Malformed(f"a line has no {missing!r}; it is not a file of answers")
            if not is_text(row["id"]):
                raise Malformed(f"the id {show(row['id'])} is no text")
            if row["id"] in found:
                raise Malformed(f"the id {show(row['id'])} stands there twice")
        except Malformed as error:
            raise UserError(f"{path} line {number}: {error}") from None
        found[row["id"]] = row[key]
    return found
