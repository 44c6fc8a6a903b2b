"""What a model answered, question by question: kept beside the scores, and compared with another model's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import os
from typing import Any

import jax

from mof_jax.errors import UserError
from mof_jax.train.metrics import read_lines


def write_answers(folder: str | None, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """`FOLDER/answers/NAME.jsonl`, one object a question; written by process 0, nothing where `folder` is None."""
    if folder is None or jax.process_index():
        return
    os.makedirs(os.path.join(folder, "answers"), exist_ok=True)
    path = os.path.join(folder, "answers", f"{name}.jsonl")
    with open(f"{path}.partial", "w") as f:
        f.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)
    os.replace(f"{path}.partial", path)


def read_answers(path: str, key: str = "right") -> dict[str, Any]:
    """`id -> key` of a file that `write_answers` left.

    Raises:
      UserError: no such file, or lines without an id or the key.
    """
    try:
        return {line["id"]: line[key] for line in read_lines(path)}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except KeyError as error:
        raise UserError(f"{path}: a line has no {error}; it is not a file of answers") from None
