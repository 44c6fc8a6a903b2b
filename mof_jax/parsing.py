"""Bytes that somebody else wrote, as JSON, text and numbers: understood, or `Malformed` with a reason of one line.

Whatever a file can do to a parser (nest too deeply, hold a number of 5,000 digits, say one key twice) comes out as this one
exception, so that a reader catches it once and adds the name of the file and the record. For arrays see `data.files.npy`.
"""

from __future__ import annotations

import codecs
import json
import math
import numbers
import re
from typing import Any, TypeGuard

_BOMS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"),
         (codecs.BOM_UTF16_BE, "UTF-16"))
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST = 200  # characters of another library's words in a reason


class Malformed(ValueError):
    """What is there is not what it should be; the text says why, in one line."""


def parse_json(data: bytes | bytearray | memoryview | str) -> Any:
    """The value that a JSON text holds (RFC 8259; `NaN` and `Infinity`, which Python and NumPy users write, are read).

    Raises:
      Malformed: no UTF-8, no JSON, nested too deeply, a number of more digits than Python reads, or one key twice in an object.
    """
    text = data if isinstance(data, str) else decode(bytes(data))
    try:
        return json.loads(text, object_pairs_hook=_object)
    except Malformed:
        raise
    except json.JSONDecodeError as error:
        raise Malformed(f"not JSON: {error}") from None
    except RecursionError:
        raise Malformed("not JSON that is read here: nested too deeply") from None
    except ValueError:  # of int(): more than sys.get_int_max_str_digits()
        raise Malformed("not JSON that is read here: a number has too many digits") from None


def parse_object(data: bytes | bytearray | memoryview | str) -> dict[str, Any]:
    """The JSON object that a text holds.

    Raises:
      Malformed: see `parse_json`, or another kind of value.
    """
    found = parse_json(data)
    if not isinstance(found, dict):
        raise Malformed(f"holds {kind(found)}, not an object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Malformed(f"key {show(twice)} stands twice in one object")
    return found


def decode(data: bytes) -> str:
    """Bytes as text: UTF-8, without the mark that some programs put before it.

    Raises:
      Malformed: another encoding; the first byte that is none of UTF-8 is named, and where it stands.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            raise Malformed(f"is {name}, not UTF-8; save it as UTF-8")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"byte 0x{data[error.start]:02x} at {error.start:,} is not UTF-8; save it as UTF-8") from None


def check_text(text: str) -> str:
    """`text` itself, if it is text that can be written down again.

    Raises:
      Malformed: half a surrogate pair (what a JSON escape cut in two leaves), or a NUL.
    """
    if (found := _SURROGATE.search(text)) is not None:
        raise Malformed(f"half a surrogate pair (\\u{ord(found[0]):04x}) at {found.start():,} is no character")
    if (at := text.find("\0")) >= 0:
        raise Malformed(f"a NUL at {at:,} is no text")
    return text


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that can be written down again, see `check_text`."""
    return isinstance(value, str) and "\0" not in value and _SURROGATE.search(value) is None


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; True is none, and neither is an integer beyond float64."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def is_count(value: Any, below: int = 1 << 63) -> TypeGuard[int]:
    """Whether a value is a whole number from 0 to `below`, which is left out."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null", int: "a number",
             float: "a number"}
    return names.get(type(value), type(value).__name__)


def show(value: Any, longest: int = 60) -> str:
    """A value somebody else wrote, quoted for a message: one line, printable, at most `longest` characters."""
    text = repr(value[: longest + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(text: str) -> str:
    """A message as one printable line: line breaks become blanks, what cannot be printed its escape."""
    joined = " ".join(part.strip() for part in text.splitlines() if part.strip()) if len(text.splitlines()) > 1 else text
    return "".join(c if c.isprintable() else " " if c == "\t" else c.encode("unicode_escape").decode() for c in joined)


def reason(error: BaseException) -> str:
    """Another library's exception as a reason: its first line, cut to a length one reads."""
    text = one_line(str(error).strip().split("\n")[0].strip()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST - 1]}…"
