"""From a row of named columns (a JSON object, a CSV line, a TFDS example) to the fields of a `Record`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The usual names, in the order in which they are looked for; a text column's name becomes its caption kind.
IMAGE_FIELDS = ("image", "file_name", "filepath", "filename", "image_path", "path")
TEXT_FIELDS = ("alt", "synthetic", "caption", "captions", "text", "title", "label_name", "tags")
ID_FIELDS = ("id", "key", "uid", "image_id")


def texts(row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Captions by kind. A column holds a string or a list of strings; anything else in it is ignored.

    Args:
      row: the columns.
      fields: caption kind -> column; empty takes the usual names, and the kinds inside a column `texts`.
    """
    if not fields:
        nested = row.get("texts")
        if isinstance(nested, Mapping):
            return {str(kind): strings(value) for kind, value in nested.items()}
        fields = {name: name for name in TEXT_FIELDS if name in row}
    return {kind: strings(row.get(column)) for kind, column in fields.items()}


def strings(value: Any) -> tuple[str, ...]:
    """A string, bytes or a list of them, as a tuple of strings."""
    if isinstance(value, bytes):
        return (value.decode("utf-8", "replace"),)
    if isinstance(value, str):
        return (value,)
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return strings(value.tolist())
    if isinstance(value, (list, tuple)):
        return tuple(s for item in value if isinstance(item, (str, bytes)) for s in strings(item))
    return ()


def scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers in the column `scores`."""
    found = row.get("scores")
    if not isinstance(found, Mapping):
        return {}
    numbers = {str(k): v for k, v in found.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items() if abs(v) < 1e300}


def group(row: Mapping[str, Any]) -> int:
    """The column `group` if it is a non-negative integer, else -1."""
    try:
        return max(-1, int(row.get("group", -1)))
    except (TypeError, ValueError, OverflowError):
        return -1


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of `names` that the row has, else None."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
