"""LLaVA's instruction data: one JSON list (or JSON lines) of conversations about pictures in a folder.

    [{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                     {"from": "gpt", "value": "An apple."}]}, ...]

`image` may be a list, or be missing: then the conversation is text only.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, ClassVar

from mof_jax import storage
from mof_jax.data.packing.documents import Chat
from mof_jax.data.sources import fields
from mof_jax.data.sources.config import FileConfig
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.data.sources.jsonl import JsonLines
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed, check_text, is_number, kind, parse_json, show

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_HEADS = {b"PAR1": "a parquet file", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file",
          b"(\xb5/\xfd": "a zstandard file"}


@dataclasses.dataclass(frozen=True)
class LlavaConfig(FileConfig):
    """LLaVA's instruction data: conversations about pictures, as a JSON list or JSON lines.

    Attributes:
      image_root: folder that paths of pictures are relative to; by default the folder of the file.
    """

    kind: ClassVar[str] = "llava"

    image_root: str = ""

    def open(self) -> LlavaSource:
        return LlavaSource(self.path, self.label, self.image_root)


class LlavaSource:
    """Conversations of a `.json` list, held in memory, or of a `.jsonl` file.

    Args:
      image_root: folder of the pictures; by default the folder of the file.

    Raises:
      UserError: no such file, or not a list of conversations.
    """

    def __init__(self, path: str, name: str = "", image_root: str = ""):
        self.path, self.name = path, name or os.path.basename(path)
        self._root = image_root or (path.rsplit("/", 1)[0] if "/" in path else ".")
        check_head(path, "a list of conversations as JSON")
        self._rows: Any = JsonLines(path) if path.endswith((".jsonl", ".ndjson")) else _read_list(path)
        if not len(self._rows):
            raise UserError(f"{path}: the file has no conversations")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Chat:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place, row = self._rows[index]
        place = place if isinstance(place, str) else f"line {place}"
        if not isinstance(row, dict):
            raise BadExample(self.path, place, "not a JSON object")
        record = record_name(row, place, self.path, place)
        names = row.get("image")
        names = [] if names is None or names == "" else [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadExample(self.path, record, "image is neither a file name nor a list of them")
        messages = self._messages(row, record)
        pictures = tuple(read_image(self._root, name, self.path, record) for name in names)
        answers = tuple(m["content"] for m in messages if m["role"] == "assistant")
        return Chat(id=record, image=pictures[0] if pictures else None, texts={"answer": answers}, messages=messages,
                    images=pictures)

    def _messages(self, row: dict[str, Any], record: str) -> tuple[dict[str, str], ...]:
        turns = row.get("conversations")
        if not isinstance(turns, list) or not turns:
            raise BadExample(self.path, record, "no list of turns under 'conversations'")
        messages = []
        for number, turn in enumerate(turns):
            if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
                raise BadExample(self.path, record, f"turn {number}: needs 'from' and a text 'value'")
            role = turn.get("from")
            if not isinstance(role, str) or role not in _ROLES:
                raise BadExample(self.path, record, f"turn {number}: unknown role {show(role)} (known: {', '.join(_ROLES)})")
            try:
                messages.append({"role": _ROLES[role], "content": check_text(turn["value"])})
            except Malformed as error:
                raise BadExample(self.path, record, f"turn {number}: {error}") from None
        return tuple(messages)


def _read_list(path: str) -> list[tuple[str, Any]]:
    try:
        rows = parse_json(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of conversations; a file of JSON lines ends in .jsonl")
    return [(f"entry {number}", row) for number, row in enumerate(rows)]


def record_name(row: dict[str, Any], default: str, source: str, place: str) -> str:
    """The row's id as text, whole numbers and 0 included; `default` where it has none.

    Raises:
      BadExample: at `place` of `source`: an id that names nothing (a list, an object, true or false).
    """
    found = fields.first(row, fields.ID_FIELDS)
    if found is None:
        return default
    if not isinstance(found, str) and not is_number(found):
        raise BadExample(source, place, f"its id is {kind(found)}, neither text nor a number")
    try:
        return check_text(str(found))
    except Malformed as error:
        raise BadExample(source, place, f"its id {show(found)}: {error}") from None


def check_head(path: str, wanted: str) -> None:
    """Says what a file is that is clearly not JSON, before its lines are looked for.

    Raises:
      UserError: no such file, or a format with a head of its own.
    """
    head = storage.read(path, 0, min(4, storage.size(path)))
    for start, name in _HEADS.items():
        if head.startswith(start):
            raise UserError(f"{path}: is {name}, not {wanted}; write its rows as JSON lines")
