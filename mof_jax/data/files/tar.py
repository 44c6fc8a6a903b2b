"""Where the members of a tar lie, told from its headers alone.

Tars come from anywhere, so no number in a header is believed before it is held against the size of the file: a member, a
long name or a pax header that does not fit is refused before a byte of it is asked for, and every step goes forward. Read
are ustar, GNU's long names and pax (`path`, `size`); what stands for something else than a plain file or a folder is
refused, since it could lead out of the archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

from mof_jax.parsing import Malformed, show

_BLOCK = 512
_MOST_HEADERS = 16  # of extension in a row before the member they speak of
_LONGEST = 1 << 20  # bytes of a pax header
_LONGEST_NAME = 32 << 10  # bytes of a name
_SKIP = 1 << 20  # bytes that are read at once where a stream cannot seek

_PLAIN, _FOLDER = (b"0", b"\0", b"7"), b"5"
_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device, not a plain file", b"4": "a device, not a plain file",
          b"6": "a pipe, not a plain file", b"S": "sparse"}


class Member(NamedTuple):
    """A plain file in a tar: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


def members(stream: BinaryIO, size: int, notes: list[str]) -> Iterator[Member]:
    """The plain files of an uncompressed tar, in order; folders are passed over.

    Args:
      stream: the tar from its first byte; it is read front to back and need not seek.
      size: of the tar, bytes.
      notes: takes what a user should know of a tar that can be read.

    Raises:
      Malformed: no tar, a truncated or a damaged one, or a member that is a link, a device, sparse or outside the archive.
    """
    walk = _Walk(stream, size)
    while (block := walk.header()) is not None:
        name, length, kind = walk.described(block)
        if kind == _FOLDER:
            continue  # of which a size says nothing about the archive
        if kind not in _PLAIN:
            raise Malformed(f"member {show(name)} is {_KINDS.get(kind) or f'of kind {show(kind)}, not a plain file'}; refused")
        _check(name)
        if length > size - walk.at:
            raise Malformed(f"truncated inside member {show(name)} ({length:,} bytes from {walk.at:,} on, of {size:,})")
        yield Member(name, walk.at, length)
        walk.skip(length)
    if not walk.ended:
        notes.append("ends without the mark that ends a tar; if it was cut off between two members, the others are missing")
    elif walk.rest():
        notes.append("bytes behind the mark that ends a tar are not read; were two tars joined? (`tar -A` does it)")


def _check(name: str) -> None:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or not any(part not in ("", ".") for part in parts):
        raise Malformed(f"member {show(name)} leads outside the archive; refused")


class _Walk:
    """A place in a tar that only goes forward."""

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._size, self.at, self.ended = stream, size, 0, False
        self._seeks = stream.seekable()

    def header(self) -> bytes | None:
        """The next header; None at the end."""
        if self.at == self._size:
            if not self.at:
                raise Malformed("not an uncompressed tar: the file is empty")
            return None
        block = self._read(min(_BLOCK, self._size - self.at))
        if not any(block):
            self.ended = True
            return None
        if len(block) < _BLOCK:
            raise Malformed(f"truncated: {len(block)} bytes are left at {self.at - len(block):,}" if self.at > len(block)
                            else "not an uncompressed tar, or truncated in its first header")
        if not _sound(block):
            raise Malformed(f"damaged: no header at byte {self.at - _BLOCK:,}" if self.at > _BLOCK else
                            "not an uncompressed tar: its first 512 bytes are no header of one")
        return block

    def described(self, block: bytes) -> tuple[str, int, bytes]:
        """(name, bytes, kind) of the member that begins with `block`, a header of its own or of an extension before it."""
        long_name, pax = None, {}
        for _ in range(_MOST_HEADERS):
            kind, length = block[156:157], _number(block[124:136], "size")
            if kind == b"L":
                long_name = self._body(length, _LONGEST_NAME, "name").split(b"\0", 1)[0]
            elif kind == b"K":
                self._body(length, _LONGEST_NAME, "link name")
            elif kind in b"xX":
                pax = pax | _pax(self._body(length, _LONGEST, "pax header"))
            elif kind == b"g":
                if found := {"path", "size", "linkpath"} & _pax(self._body(length, _LONGEST, "pax header")).keys():
                    raise Malformed(f"a global pax header sets {min(found)!r} for all members; refused")
            else:
                return _name(block, long_name, pax), _length(length, pax), b"S" if _sparse(pax) else _folder(block, kind)
            following = self.header()
            if following is None:
                raise Malformed("truncated behind a header of extension")
            block = following
        raise Malformed(f"more than {_MOST_HEADERS} headers of extension in a row before byte {self.at:,}; refused")

    def _body(self, length: int, most: int, what: str) -> bytes:
        if length > min(most, self._size - self.at):
            raise Malformed(f"a {what} of {length:,} bytes at {self.at:,}: more than there are, or than are read ({most:,})")
        body = self._read(length)
        self.skip(0, -length % _BLOCK)
        return body

    def skip(self, length: int, padding: int | None = None) -> None:
        """Goes past a body and its padding, which the last one may lack."""
        goal = min(self._size, self.at + length + (-length % _BLOCK if padding is None else padding))
        if self._seeks:
            self._stream.seek(goal)
            self.at = goal
        while self.at < goal:
            self._read(min(_SKIP, goal - self.at))

    def rest(self) -> bool:
        """Whether anything but zeros follows."""
        while self.at < self._size:
            if any(self._read(min(_SKIP, self._size - self.at))):
                return True
        return False

    def _read(self, length: int) -> bytes:
        data = self._stream.read(length)
        self.at += len(data)
        if len(data) != length:
            raise Malformed(f"truncated at byte {self.at:,}: it became shorter while it was read")
        return data


def _sound(block: bytes) -> bool:
    """Whether a header's checksum is right, over bytes with or without a sign (old programs took them with one)."""
    try:
        said = _number(block[148:156], "checksum")
    except Malformed:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    plain = sum(rest)
    return said == plain or said == plain - 256 * sum(byte > 127 for byte in rest)


def _number(field: bytes, what: str) -> int:
    """A number of a header: octal digits, or 0x80 and the number itself where it is larger."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        raise Malformed(f"a header with the negative {what} {int.from_bytes(field, 'big', signed=True):,}; refused")
    digits = field.split(b"\0", 1)[0].strip()
    if digits.strip(b"01234567"):
        raise Malformed(f"a header whose {what} is {show(digits)}, not a number")
    return int(digits or b"0", 8)


def _name(block: bytes, long_name: bytes | None, pax: Mapping[str, bytes]) -> str:
    found = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        found = prefix + b"/" + found
    found = found if long_name is None else long_name
    found = pax.get("path", found).rstrip(b"/")
    odd = "NUL" if b"\0" in found else "backslash" if b"\\" in found else ""
    if odd:
        raise Malformed(f"member {show(found)} has a {odd} in its name; refused")
    return found.decode("utf-8", "backslashreplace")


def _length(length: int, pax: Mapping[str, bytes]) -> int:
    said = pax.get("size")
    if said is None:
        return length
    if not said.isdigit() or len(said) > 20:
        raise Malformed(f"a pax header with the size {show(said)}, not a number")
    return int(said)


def _folder(block: bytes, kind: bytes) -> bytes:
    """The kind; before there were kinds, a name that ends in / was a folder's."""
    return _FOLDER if kind == b"\0" and block[:100].split(b"\0", 1)[0].endswith(b"/") else kind


def _sparse(pax: Mapping[str, bytes]) -> bool:
    return any(key.startswith("GNU.sparse.") for key in pax)


def _pax(body: bytes) -> dict[str, bytes]:
    """The records of a pax header: `LENGTH KEY=VALUE` and a line break each."""
    found, at = {}, 0
    while at < len(body) and body[at]:
        digits = body[at : at + 8].split(b" ", 1)[0]
        stop = at + int(digits) if digits.isdigit() else -1
        key, equals, value = body[at + len(digits) + 1 : max(stop - 1, 0)].partition(b"=")
        if not at + len(digits) + 1 < stop <= len(body) or body[stop - 1 : stop] != b"\n" or not equals:
            raise Malformed(f"a damaged pax header ({show(body[at : at + 20])})")
        found[key.decode("utf-8", "replace")] = value
        at = stop
    return found
