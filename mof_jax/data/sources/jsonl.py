"""A table of captions (JSONL, CSV or TSV) beside a folder of images.

One row an example. A row names its image by a path relative to the image folder; a path that leads outside that folder
is refused, whoever wrote the table. Hugging Face's `metadata.jsonl` folders and open_clip's tables (`filepath`, `title`,
tabs between them whatever the file is called) read as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import os
from typing import Any, ClassVar

import numpy as np

from mof_jax import storage
from mof_jax.data.files import tables
from mof_jax.data.files.lines import JsonLines
from mof_jax.data.record import Record
from mof_jax.data.sources import fields
from mof_jax.data.sources.config import FileConfig
from mof_jax.data.sources.imagefolder import is_picture, read_image
from mof_jax.errors import BadExample, UserError, nearest
from mof_jax.parsing import Malformed, show

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "captions.jsonl", "captions.csv", "captions.tsv")
_JSON = (".jsonl", ".json", ".ndjson")
_LOOKED_AT = 64  # rows of JSON lines, evenly spread, whose keys stand for all
_ADDRESSES = ("image_url", "img_url", "image_link")
# Rows of other kinds than a table's: their keys, whether those hold lists, and who reads them.
_OTHERS = ((("conversations",), "a conversation", "llava"), (("messages",), "a conversation under 'messages'", ""),
           (("texts", "images"), "a page", "obelics"), (("text_list", "image_info"), "a page", "mmc4"))


@dataclasses.dataclass(frozen=True)
class JsonlConfig(FileConfig):
    """A table of captions (`.jsonl`, `.csv`, `.tsv`) beside a folder of pictures, or the folder with its `metadata.*`.

    Attributes:
      image_root: folder that paths of pictures are relative to; by default the folder of the file.
      image_field: column with the path of the picture; by default the usual names.
      text_fields: caption kind to column, e.g. `{"alt": "caption"}`; by default the usual names.
    """

    kind: ClassVar[str] = "jsonl"

    image_root: str = ""
    image_field: str = ""
    text_fields: dict[str, str] = dataclasses.field(default_factory=dict)

    def open(self) -> TableSource:
        return TableSource(self.path, self.label, self.image_root, self.image_field, self.text_fields)


class TableSource:
    """Rows of a `.jsonl`, `.csv` or `.tsv` file (or of the `metadata.*` / `captions.*` file in a folder).

    Attributes:
      unread: columns that nothing is taken from.

    Raises:
      UserError: no table there, a table without rows, or none of its columns holds pictures or texts.
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
        self._named = tuple(name for name in (image_field, *self._text_fields.values()) if name)
        self._rows = JsonLines(path) if path.endswith(_JSON) else _Cells(path, self._named)
        if not len(self._rows):
            raise UserError(f"{path}: the table has no rows")
        names = self._check_keys(self._rows) if isinstance(self._rows, JsonLines) else self._rows.renamed
        read = {*self._image_fields, *(self._text_fields.values() or (*fields.TEXT_FIELDS, "texts")), *fields.ID_FIELDS, "scores",
                "group"}
        self.unread = tuple(name for name, usual in names.items() if name and usual not in read)

    def _check_keys(self, rows: JsonLines) -> dict[str, str]:
        """The keys of the rows that are looked at, and what they are read as.

        Raises:
          UserError: none of them is of a table, or one that was named is nowhere.
        """
        seen: dict[str, int] = {}
        some: list[dict[str, Any]] = []
        for index in np.unique(np.linspace(0, len(rows) - 1, _LOOKED_AT).astype(int)).tolist():
            try:
                line, row = rows[index]
            except BadExample:
                continue
            what, kind = other_kind(row)
            if what and not self._text_fields:
                how = f"read it with kind {kind!r}" if kind else "write its turns as LLaVA's 'conversations' (kind 'llava')"
                raise UserError(f"{self.path} line {line}: holds {what}, which a table would not keep; {how}, or {fields.CHOOSE}")
            seen |= dict.fromkeys(row, line)
            try:
                some.append(self._row(index)[1])
            except BadExample:
                continue
        if not seen:
            if rows.raw(0).strip() == b"[":
                raise UserError(f"{self.path}: one list over several lines; write one JSON object a line")
            return {}
        if not self._named:
            _check_pictures(self.path, some)
        lost = next((name for name in self._named if name not in seen and not rows.mentions(name)), None)
        if lost is not None:
            raise UserError(f"{self.path}: no column {lost!r}{nearest(lost, seen)}; it has {_listed(seen)}")
        try:
            renamed = fields.usual(seen, self._named)
        except Malformed:
            return {}  # each of its rows says so
        if not {*fields.IMAGE_FIELDS, *fields.TEXT_FIELDS, "texts", *self._named, *renamed} & set(seen):
            raise UserError(f"{self.path}: no column of pictures or texts; it has {_listed(seen)}; {fields.CHOOSE}")
        return {name: renamed.get(name, name) for name in seen}

    def __len__(self) -> int:
        return len(self._rows)

    def row_id(self, index: int) -> str:
        """Name of record `index`, whether or not its picture can be read. (`id` would be for records that can.)"""
        line, row = self._row(index)
        return self._id(line, row, self._where(line, row))

    def __getitem__(self, index: int) -> Record:
        line, row = self._row(index)
        where = self._where(line, row)
        try:
            texts, scores = fields.texts(row, self._text_fields), fields.scores(row)
        except Malformed as error:
            raise BadExample(self.path, f"line {line}", str(error)) from None
        if where is None and not any(text.strip() for values in texts.values() for text in values):
            raise BadExample(self.path, f"line {line}", f"neither a picture nor a text; it has {_listed(row)}")
        image = None if where is None else read_image(self._root, where, self.name, f"{self.path} line {line}")
        return Record(id=self._id(line, row, where), image=image, texts=texts, scores=scores, group=fields.group(row))

    def given_scores(self, index: int) -> Any:
        """What stands in the column `scores` of record `index`, whatever it is."""
        return self._row(index)[1].get("scores")

    def _row(self, index: int) -> tuple[int, dict[str, Any]]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        line, row = self._rows[index]
        try:
            renamed = fields.usual(row, self._named)
        except Malformed as error:
            raise BadExample(self.path, f"line {line}", str(error)) from None
        return line, {renamed.get(name, name): value for name, value in row.items()} if renamed else row

    def _where(self, line: int, row: Mapping[str, Any]) -> str | None:
        """Path of the row's picture, None for a row of text."""
        try:
            where = fields.picture(row, self._image_fields)
        except Malformed as error:
            raise BadExample(self.path, f"line {line}", str(error)) from None
        if where is None and self._image_fields != fields.IMAGE_FIELDS:
            name = self._image_fields[0]
            raise BadExample(self.path, f"line {line}", f"column {name!r} is empty" if name in row else f"no column {name!r}")
        return where

    def _id(self, line: int, row: Mapping[str, Any], where: str | None) -> str:
        try:
            return fields.name(row) or where or str(line)
        except Malformed as error:
            raise BadExample(self.path, f"line {line}", str(error)) from None


def other_kind(row: Mapping[str, Any]) -> tuple[str, str]:
    """What a row of JSON lines is that is none of a table, in words, and the kind of source that reads it ("", "" for none)."""
    for keys, what, kind in _OTHERS:
        if all(isinstance(row.get(key), list) for key in keys) and not any(name in row for name in fields.TEXT_FIELDS):
            return what, kind
    return "", ""


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(show(name, 40) for name in list(names)[:24])
    return shown + (f" and {len(names) - 24} more" if len(names) > 24 else "") or "no column"


def _find_table(path: str) -> str:
    if path.endswith((*_JSON, ".csv", ".tsv")):
        return path
    for table in TABLES:
        if storage.exists(storage.join(path, table)):
            return storage.join(path, table)
    if not storage.exists(path):
        raise UserError(f"{path}: no such file or folder")
    raise UserError(f"{path}: no table in this folder (looked for {', '.join(TABLES)})")


class _Cells:
    """Rows of a CSV or TSV file, held in memory (a quoted field may span lines)."""

    def __init__(self, path: str, named: Collection[str]):
        table = tables.read(path, (*named, *fields.IMAGE_FIELDS, *fields.TEXT_FIELDS), fields.CHOOSE, case=False)
        lost = next((name for name in named if name not in table.header), None)
        if lost is not None:
            raise UserError(f"{path}: no column {lost!r}{nearest(lost, table.header)}; it has {_listed(table.header)}")
        self._path, self._header, self._rows = path, table.header, table.rows
        self.renamed = dict(zip(table.header, table.header))
        if named:
            return
        try:
            renamed = fields.usual(table.header)
        except Malformed as error:
            raise UserError(f"{path}: {error}") from None
        self.renamed |= renamed
        names = [self.renamed[name] for name in self._header]
        some = [dict(zip(names, row.cells)) for row in table.rows[:_LOOKED_AT] if not row.fault]
        _check_pictures(path, some, ("url", *_ADDRESSES))  # addresses in JSON lines may be those of pages

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        line, cells, fault = self._rows[index]
        if fault:
            raise BadExample(self._path, f"line {line}", fault)
        return line, {name: cell for name, cell in zip(self._header, cells) if name}


def _check_pictures(path: str, rows: Sequence[Mapping[str, Any]], addresses: Collection[str] = _ADDRESSES) -> None:
    """Pictures under a name that nobody looks for would be left out; an address is not fetched.

    Args:
      rows: some of the table. addresses: names in small letters of columns whose addresses are those of pictures; others are
        told by their endings.

    Raises:
      UserError: the table has no column with a usual name for pictures, and another holds nothing but pictures.
    """
    names = dict.fromkeys(name for row in rows for name in row if name not in fields.TEXT_FIELDS)
    if any(name in fields.IMAGE_FIELDS for name in names):
        return
    for name in names:
        values = [row[name] for row in rows if name in row and row[name] not in (None, "")]
        if not values or not all(isinstance(value, str) and not any(map(str.isspace, value)) for value in values):
            continue
        pictures = all(map(is_picture, values))
        if all("://" in value for value in values) and (pictures or name.lower() in addresses):
            raise UserError(f"{path}: column {show(name)} holds addresses, and nothing is fetched; download the pictures, with "
                            "img2dataset for one, or name a column with image_field, or text_fields for the texts alone")
        if pictures:
            raise UserError(f"{path}: column {show(name)} holds pictures ({show(values[0])}) and is none of "
                            f"{', '.join(fields.IMAGE_FIELDS)}; name it with image_field, or text_fields for the texts alone")
