"""Mutations of files: of any bytes, and of what the headers of tars, arrays and archives say."""

from __future__ import annotations

from collections.abc import Callable
import io
import random
import struct
import tarfile

from . import values

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


def mutate(data: bytes, layout: str, rng: random.Random) -> bytes:
    """A file like `data`, but wrong: half of the times by its layout (see `LAYOUTS`), else byte by byte."""
    change = LAYOUTS.get(layout)
    if change is not None and rng.random() < (0.8 if layout in _TEXTS else 0.5):
        return change(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        data = rng.choice(_BYTES)(data, rng)
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """A stretch, more often than not a short one near the beginning, where headers are."""
    start = rng.randrange(min(len(data), rng.choice((64, 512, len(data) or 1))) or 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 64, 512)))


def _delete(data: bytes, rng: random.Random) -> bytes:
    a, b = _span(data, rng)
    return data[:a] + data[b:]


def _double(data: bytes, rng: random.Random) -> bytes:
    a, b = _span(data, rng)
    return data[:b] + data[a:b] * rng.choice((1, 1, 3, 50)) + data[b:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    a, _ = _span(data, rng)
    return (
        data[:a]
        + rng.choice((b"\0", b"\xff" * 8, b"\xed\xa0\xbd", b"\xef\xbb\xbf", b"\r\n", b'"', rng.randbytes(5)))
        + data[a:]
    )


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = _span(data, rng)
    c, d = _span(data, rng)
    (a, b), (c, d) = sorted(((a, b), (c, d)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice((rng.randrange(len(data) + 1), max(0, len(data) - 1), min(len(data), rng.randrange(64))))]


def _number(data: bytes, rng: random.Random) -> bytes:
    """A number of one to eight bytes, little- or big-endian, replaced by one at an edge."""
    width = rng.choice((1, 2, 4, 8))
    a, _ = _span(data, rng)
    wanted = rng.choice(_NUMBERS) & (1 << 8 * width) - 1
    return data[:a] + wanted.to_bytes(width, rng.choice(("little", "big"))) + data[a + width :]


def _word(data: bytes, rng: random.Random) -> bytes:
    """Bytes replaced by what a text or a number may be."""
    a, b = _span(data, rng)
    return (
        data[:a]
        + rng.choice(
            (b"-1", b"NaN", b"Infinity", b"1e400", b"null", b"9" * 40, b"0", b"{}", b"[]", b"\\ud83d", b"\\u0000")
        )
        + data[b:]
    )


_BYTES = (_flip, _flip, _delete, _double, _insert, _swap, _cut, _number, _number, _word)


def _text(change: Callable[[str, random.Random], str]) -> Callable[[bytes, random.Random], bytes]:
    """A change of text as one of bytes; half a surrogate pair becomes bytes that are no UTF-8."""
    return lambda data, rng: change(data.decode(errors="surrogateescape"), rng).encode(errors="surrogatepass")


def _tar(data: bytes, rng: random.Random) -> bytes:
    """A field of a header replaced, its checksum right again; or members put before the others that tell of the next one."""
    blocks = [i for i in range(0, len(data) - 511, 512) if data[i + 257 : i + 262] == b"ustar"]
    if not blocks or rng.random() < 0.35:
        return _announced(rng) + data
    at = rng.choice(blocks)
    header = bytearray(data[at : at + 512])
    start, width = rng.choice(
        ((0, 100), (100, 8), (124, 12), (124, 12), (124, 12), (136, 12), (156, 1), (156, 1), (157, 100), (345, 155))
    )
    octal = lambda n: f"{n:o}".encode()[-width + 1 :].rjust(width - 1, b"0") + b"\0"
    binary = lambda n: (n & (1 << 8 * width) - 1 | 1 << 8 * width - 1).to_bytes(width, "big")
    if width == 1:
        field = bytes([rng.choice(b"\001234567LKxgSDNVM")])
    elif width > 12:
        field = rng.choice(
            (
                b"../../x.jpg",
                b"/x.jpg",
                b"a/../../b.jpg",
                b"\xff\xfe.jpg",
                b"a.b.c.jpg",
                b"",
                b".jpg",
                b"a\nb.txt",
                b"000.jpg",
                b"con:.txt",
                b"~/x.jpg",
                b"a" * width,
            )
        ).ljust(width, b"\0")[:width]
    else:
        field = rng.choice(
            (
                octal(0),
                octal(1),
                octal(2**31),
                octal(8**11 - 1),
                binary(-1),
                binary(-512),
                binary(-1024),
                binary(2**40),
                binary(2**63 - 1),
                b" " * width,
                b"-1".ljust(width, b"\0"),
                b"9" * width,
                b"\xff" * width,
            )
        )
    header[start : start + width] = field
    return data[:at] + _checked(header) + data[at + 512 :]


def _announced(rng: random.Random) -> bytes:
    """Extended headers: long names and pax records, whole or saying more than there is."""
    kind = rng.choice((b"L", b"K", b"x", b"g", b"S"))
    records = rng.choice(
        (
            ("path", "../x.jpg"),
            ("size", "-1"),
            ("size", str(2**70)),
            ("size", "x"),
            ("path", "a" * 9000),
            ("path", "\0"),
            ("GNU.sparse.realsize", str(2**50)),
            ("GNU.sparse.map", "0,1,2"),
            ("linkpath", "/etc"),
            ("mtime", "nan"),
        )
    )
    body = f" {records[0]}={records[1]}\n"
    length = len(body) + 2
    length += len(str(length)) - 2
    body = f"{rng.choice((length, length, length + 1, 0, -1, 2**40))}{body}" if kind in b"xg" else records[1] + "\0"
    content = body.encode()
    size = rng.choice((len(content), len(content), 2**40, 2**63 - 1, 0))
    info = tarfile.TarInfo("././@LongLink")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = f"{size:011o}".encode() + b"\0" if size < 8**11 else (size | 1 << 95).to_bytes(12, "big")
    header[156:157] = kind
    return (_checked(header) + content.ljust(-(-len(content) // 512) * 512, b"\0")) * rng.choice((1, 1, 1, 2, 500))


def _checked(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def _npy(data: bytes, rng: random.Random) -> bytes:
    """Another header before the numbers of a `.npy`."""
    if data[:6] != b"\x93NUMPY":
        return _number(data, rng)
    length = int.from_bytes(data[8:10], "little")
    descr = rng.choice(
        (
            "'<f4'",
            "'<f8'",
            "'|O'",
            "'<U9'",
            "'|b1'",
            "'<c8'",
            "'|V0'",
            "[('a', '<f4')]",
            "'>i8'",
            "3",
            "'<M8[s]'",
            "'<f4",
        )
    )
    shape = rng.choice(
        (
            "(3,)",
            "()",
            "(0, 4)",
            "(4, 0)",
            f"({2**40},)",
            f"({2**70}, 1)",
            "(-1, 3)",
            "(2.5,)",
            "(True,)",
            "3",
            "((3,),)",
            f"({'1,' * 70})",
            f"(0, {10**30})",
            "('a',)",
            "(3,",
        )
    )
    order = rng.choice(("False", "False", "True", "1", "None"))
    head = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    head = (
        rng.choice(
            (head, head, head + "x", head[:-3], "[" * 3000, "", head.replace("'shape'", "'shapes'"), "9" * 5000)
        ).encode()
        + b"\n"
    )
    said = rng.choice((len(head), len(head), len(head) + 1, 0, 65535))
    return (
        data[:6]
        + rng.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\4\0"))
        + struct.pack("<H", said)
        + head
        + data[10 + length :]
    )


def _zip(data: bytes, rng: random.Random) -> bytes:
    """A number in one of an archive's own headers replaced, or bytes of a member."""
    heads = [i for mark in (b"PK\3\4", b"PK\1\2", b"PK\5\6") for i in _found(data, mark)]
    if not heads:
        return _number(data, rng)
    at = rng.choice(heads) + rng.choice((4, 6, 8, 10, 14, 18, 20, 22, 24, 26, 28, 30, 42))
    width = rng.choice((1, 2, 4))
    return data[:at] + (rng.choice(_NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, "little") + data[at + width :]


def _found(data: bytes, mark: bytes) -> list[int]:
    places, at = [], data.find(mark)
    while at >= 0:
        places.append(at)
        at = data.find(mark, at + 1)
    return places


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    """Another JSON header, its length right or not."""
    length = int.from_bytes(data[:8], "little")
    header = values.mutate_json(data[8 : 8 + length].decode(errors="replace"), rng).encode(errors="surrogatepass")
    said = rng.choice((len(header), len(header), len(header), 0, len(header) + 1, 2**40, 2**63))
    return said.to_bytes(8, "little") + header + data[8 + length :]


def _record(data: bytes, rng: random.Random) -> bytes:
    """A record of ours with another header (`data.sources.arrayrecord`)."""
    length = int.from_bytes(data[4:8], "little")
    header = values.mutate_json(data[8 : 8 + length].decode(errors="replace"), rng).encode(errors="surrogatepass")
    said = rng.choice((len(header), len(header), len(header), 0, 2**32 - 1)) & 2**32 - 1
    return data[:4] + said.to_bytes(4, "little") + header + data[8 + length :]


def _exif(data: bytes, rng: random.Random) -> bytes:
    """A picture with other tags: types that a tag does not have, counts and offsets that lie beyond the block."""
    from PIL import Image

    out, picture, exif = io.BytesIO(), Image.open(io.BytesIO(data)), Image.Exif()
    exif[0x0112] = rng.choice((1, 3, 6, 8, 0, 9, 255))
    raw = bytearray(exif.tobytes())
    entry = struct.pack(
        "<HHII",
        rng.choice((0x010F, 0x0112, 0x8769, 0x8825, 0x02BC, 0x0111, 0x9286)),
        rng.choice((0, 1, 2, 3, 4, 5, 7, 10, 11, 12, 13, 99)),
        rng.choice((0, 1, 2, 2**16, 2**31)),
        rng.choice((0, 8, 26, 2**31)),
    )
    at = raw.find(b"II*\0") + 8
    if at >= 8:
        raw[at : at + 2] = struct.pack("<H", 2)
        raw[at + 2 : at + 2] = entry
    if picture.format == "GIF":
        return _number(data, rng)
    extra = {
        "xmp": f"<x:xmpmeta><tiff:Orientation>{rng.choice(('6', '99', '', 'x' * 9, '9' * 30))}</tiff:Orientation>".encode()
    }
    picture.save(
        out,
        picture.format,
        exif=bytes(raw),
        **(extra if picture.format in ("JPEG", "WEBP") and rng.random() < 0.5 else {}),
    )
    return out.getvalue()


_TEXTS = {"json", "jsonl", "toml", "csv"}
LAYOUTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "json": _text(values.mutate_json),
    "jsonl": _text(values.mutate_lines),
    "toml": _text(values.mutate_toml),
    "csv": _text(values.mutate_csv),
    "tar": _tar,
    "npy": _npy,
    "zip": _zip,
    "safetensors": _safetensors,
    "record": _record,
    "picture": _exif,
}
