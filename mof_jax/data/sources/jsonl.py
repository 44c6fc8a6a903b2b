"""A table of captions (JSONL, CSV or TSV) beside a folder of images.

One row an example. A row names its image by a path relative to the image folder; a path that leads outside that folder
is refused, whoever wrote the table. Hugging Face's `metadata.jsonl` folders and open_clip's TSV (`filepath`, `title`)
read as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
import csv
import io
import json
import mmap
import os

import numpy as np

from mof_jax.data import remote
from mof_jax.data.record import Record
from mof_jax.data.sources import fields
from mof_jax.data.sources.imagefolder import read_image
from mof_jax.errors import BadExample, UserError

_TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "captions.jsonl", "captions.csv", "captions.tsv")


class TableSource:
    """Rows of a `.jsonl`, `.csv` or `.tsv` file (or of the `metadata.*` / `captions.*` file in a folder).

    Raises:
      UserError: no table there, or a table without rows.
    """

    def __init__(
        self,
        path: str,
        name: str = "",
        image_root: str = "",
        image_field: str = "",
        text_fields: Mapping[str, str] | None = None,
    ):
        path = _find_table(path)
        self.path, self.name = path, name or os.path.basename(path)
        self._root = image_root or path.rsplit("/", 1)[0] if "/" in path or image_root else "."
        self._image_fields = (image_field,) if image_field else fields.IMAGE_FIELDS
        self._text_fields = dict(text_fields or {})
        self._rows = JsonLines(path) if path.endswith((".jsonl", ".json", ".ndjson")) else _Csv(path)
        if not len(self._rows):
            raise UserError(f"{path}: the table has no rows")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        line, row = self._rows[index]
        where = fields.first(row, self._image_fields)
        image = None
        if where is not None:
            image = read_image(self._root, str(where), self.name, f"{self.path} line {line}")
        elif self._image_fields != fields.IMAGE_FIELDS:
            raise BadExample(self.path, f"line {line}", f"no column {self._image_fields[0]!r}")
        name = fields.first(row, fields.ID_FIELDS)
        return Record(
            id=str(name if name is not None else where if where is not None else line),
            image=image,
            texts=fields.texts(row, self._text_fields),
            scores=fields.scores(row),
            group=fields.group(row),
        )


def _find_table(path: str) -> str:
    if path.endswith((".jsonl", ".json", ".ndjson", ".csv", ".tsv")):
        return path
    for table in _TABLES:
        if remote.exists(remote.join(path, table)):
            return remote.join(path, table)
    if not remote.exists(path):
        raise UserError(f"{path}: no such file or folder")
    raise UserError(f"{path}: no table in this folder (looked for {', '.join(_TABLES)})")


class JsonLines:
    """Lines by number, parsed when asked for; the file is mapped, not held, if it is local."""

    def __init__(self, path: str):
        self._path = path
        if remote.is_remote(path):
            self._data = remote.read(path)
        elif remote.size(path):
            with open(path, "rb") as f:
                self._data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            self._data = b""
        ends = np.flatnonzero(np.frombuffer(self._data, np.uint8) == ord("\n")) if len(self._data) else np.zeros(0, int)
        starts = np.concatenate([[0], ends + 1])
        stops = np.concatenate([ends, [len(self._data)]])
        kept = stops - starts > 0
        for i in np.flatnonzero(stops - starts == 1):  # the blank lines of a file that ends its lines with \r\n
            kept[i] = self._data[int(starts[i]) : int(stops[i])] != b"\r"
        self._lines = np.flatnonzero(kept)
        self._starts, self._stops = starts[self._lines], stops[self._lines]

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> tuple[int, dict]:
        line = int(self._lines[index]) + 1
        try:
            row = json.loads(self._data[int(self._starts[index]) : int(self._stops[index])])
        except (ValueError, RecursionError) as error:
            raise BadExample(self._path, f"line {line}", f"not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadExample(self._path, f"line {line}", "not a JSON object")
        return line, row

    def __getstate__(self):  # a map of a file does not travel to a worker process
        return {"path": self._path}

    def __setstate__(self, state):
        self.__init__(state["path"])


class _Csv:
    """Rows of a CSV or TSV file, held in memory (a quoted field may span lines)."""

    def __init__(self, path: str):
        text = remote.read(path).decode("utf-8-sig", "replace")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.endswith(".tsv") else ",")
        try:
            self._rows = [(reader.line_num, {k: v for k, v in row.items() if k}) for row in reader]
        except csv.Error as error:
            raise UserError(f"{path} line {reader.line_num}: {error}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[int, dict]:
        return self._rows[index]
