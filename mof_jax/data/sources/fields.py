"""From a row of named columns (a JSON object, a CSV line, a TFDS example) to the fields of a `Record`.

A value of another type than its column takes is never dropped: it is `Malformed`, and the reason names the column. What is
missing (`null`, NaN where a number is expected, an empty list) stays missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mof_jax.data.record import as_score
from mof_jax.parsing import Malformed, check_text, is_number, kind, show

# The usual names, in the order in which they are looked for; a text column's name becomes its caption kind.
IMAGE_FIELDS = ("image", "file_name", "filepath", "filename", "image_path", "path")
TEXT_FIELDS = ("alt", "synthetic", "caption", "captions", "text", "title", "label_name", "tags")
ID_FIELDS = ("id", "key", "uid", "image_id")
CHOOSE = "name columns with image_field, text_fields"


def usual(names: Collection[str], keep: Collection[str] = ()) -> dict[str, str]:
    """Column -> usual name, for the columns that only capitals tell from one (`Filepath`, `TEXT`).

    Pictures and texts are looked at apart: where one of a kind is called as usual, no other is renamed.

    Args:
      keep: names that the user gave, which stay.

    Raises:
      Malformed: two columns that would have one name.
    """
    found: dict[str, str] = {}
    for group in (IMAGE_FIELDS, TEXT_FIELDS):
        if any(name in group for name in names):
            continue
        for name in names:
            if isinstance(name, str) and name not in keep and name.lower() in group:
                if name.lower() in found.values():
                    raise Malformed(f"two columns are called {name.lower()!r} but for capitals; rename one")
                found[name] = name.lower()
    return found


def texts(row: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Captions by kind. A column holds a string or a list of strings, or nothing (`null`).

    Args:
      row: the columns.
      fields: caption kind -> column; empty takes the kinds inside a column `texts`, else the usual names.

    Raises:
      Malformed: something else in one of these columns, or text that cannot be written down again.
    """
    if not fields:
        nested = row.get("texts")
        if isinstance(nested, Mapping):
            return {check_text(str(kind_)): _strings(value, f"texts.{kind_}") for kind_, value in nested.items()}
        if nested is not None:
            raise Malformed(f"column 'texts' is {_kind(nested)} where an object of texts by kind is expected; name it with "
                            "text_fields if it is one kind")
        fields = {name: name for name in TEXT_FIELDS if name in row}
    return {kind_: _strings(row.get(column), column) for kind_, column in fields.items()}


def strings(value: Any) -> tuple[str, ...]:
    """A string, bytes or a list of them, as a tuple of strings; () for None.

    Raises:
      Malformed: anything else, bytes that are not UTF-8, half a surrogate pair, or a NUL.
    """
    if value is None:
        return ()
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"byte 0x{value[error.start]:02x} at {error.start:,} is not UTF-8") from None
    if isinstance(value, str):
        return (check_text(value),)
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return strings(value.tolist())
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            if item is not None and not isinstance(item, (str, bytes)):
                raise Malformed(f"entry {number} is {_kind(item)} ({show(item, 40)}), not text")
        return tuple(s for item in value for s in strings(item))
    raise Malformed(f"{_kind(value)} ({show(value, 40)}), not text")


def _strings(value: Any, column: str) -> tuple[str, ...]:
    try:
        return strings(value)
    except Malformed as error:
        raise Malformed(f"column {show(column)}: {error}") from None


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, Mapping) else kind(value)


def scores(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers in the column `scores`, NaN for what is `null` or NaN there. Other values are left out, for a filter that asks for
    one of them to name it (see `as_score`)."""
    found = row.get("scores")
    if not isinstance(found, Mapping):
        return {}
    numbers: dict[str, float] = {}
    for name, value in found.items():
        try:
            numbers[str(name)] = as_score(value)
        except Malformed:
            continue
    return numbers


def group(row: Mapping[str, Any]) -> int:
    """The column `group` if it is a non-negative whole number (or the text of one), else -1."""
    value = row.get("group")
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-1, value)
    try:
        number = float(str(value))  # "3.0" is how pandas writes 3 in a column with gaps
    except ValueError:
        return -1
    return int(number) if number.is_integer() and 0 <= number < 2**53 else -1


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of `names` that the row has, else None."""
    return next((row[name] for name in names if not _missing(row.get(name))), None)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)


def name(row: Mapping[str, Any]) -> str | None:
    """The record's name, by the first of `ID_FIELDS` that the row has: text, or a number (0 is one).

    Raises:
      Malformed: something else, or text that cannot be written down again.
    """
    column = next((name for name in ID_FIELDS if not _missing(row.get(name))), None)
    if column is None:
        return None
    value = row[column].item() if hasattr(row[column], "item") else row[column]
    if isinstance(value, int) and not isinstance(value, bool) or is_number(value):
        return str(value)
    try:
        (found,) = strings(value)
    except ValueError:  # `Malformed` is one
        found = ""
    if not found or isinstance(value, (list, tuple)):
        raise Malformed(f"column {column!r} is {_kind(value)} ({show(value, 40)}), no name of a record")
    return found


def picture(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """Where the picture is, by the first of `names` that the row has.

    Raises:
      Malformed: something else than text that can be written down again.
    """
    column = next((name for name in names if not _missing(row.get(name))), None)
    if column is None:
        return None
    if not isinstance(row[column], str):
        raise Malformed(f"column {column!r} is {_kind(row[column])} where the path of a picture is expected; or {CHOOSE}")
    try:
        return check_text(row[column])
    except Malformed as error:
        raise Malformed(f"column {column!r}: {error}") from None
