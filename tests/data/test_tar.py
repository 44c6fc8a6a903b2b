"""Headers of tars: the places that `tarfile` tells, and nothing believed that does not fit the file."""

import io
import struct
import tarfile
import time

import pytest

from mof_jax.data.files.tar import members
from mof_jax.parsing import Malformed

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def written(fill, kind="gnu") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[kind]) as tar:
        fill(tar)
    return out.getvalue()


def put(tar, name, data=b"x" * 700, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(data))


def header(kind: bytes, size: bytes, name: bytes = b"a.jpg") -> bytes:
    """A header with a right checksum, whatever it says."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157], block[257:265] = name, size, kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def read(data: bytes, seekable: bool = True, notes: list | None = None):
    stream = io.BytesIO(data)
    if not seekable:
        stream.seekable = lambda: False
    return list(members(stream, len(data), [] if notes is None else notes))


@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("kind", FORMATS)
def test_names_places_and_sizes_are_those_of_tarfile(kind, seekable):
    def fill(tar):
        put(tar, "0.jpg")
        put(tar, "./a/é 漢.txt", b"")
        put(tar, "p" * 80 + "/" + "q" * 90, b"y" * 512)
        put(tar, "folder", b"", type=tarfile.DIRTYPE)
        put(tar, "folder/1.json", b"z" * 511, type=tarfile.AREGTYPE)
        put(tar, "old/", b"", type=tarfile.AREGTYPE)
        if kind != "ustar":
            put(tar, "n" * 3000 + ".jpg", b"w" * 513, pax_headers={"comment": "é\n=", "mtime": "1.5"})
        put(tar, "last.jpg", b"v")

    data = written(fill, kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
    assert len(expected) == (6 if kind != "ustar" else 5) and [tuple(m) for m in read(data, seekable)] == expected


def test_a_size_in_a_pax_header_and_one_beyond_octal_digits():
    record = b"10 size=3\n"
    data = header(b"x", b"%011o" % len(record)) + record.ljust(512, b"\0") + header(b"0", b"%011o" % 0) + b"abc".ljust(512, b"\0")
    data += header(b"0", struct.pack(">BxxxQ", 0x80, 5), b"b.jpg") + b"hello".ljust(512, b"\0") + bytes(1024)
    assert [tuple(m) for m in read(data)] == [("a.jpg", 1536, 3), ("b.jpg", 2560, 5)]


def test_a_name_that_is_no_utf8_is_shown_by_its_bytes():
    assert read(header(b"0", b"0", b"caf\xe9.jpg") + bytes(1024))[0].name == "caf\\xe9.jpg"


def size256(n: int) -> bytes:
    return b"\x80" + n.to_bytes(11, "big") if n >= 0 else n.to_bytes(12, "big", signed=True)


PAX = b"12 path=abc\n"


@pytest.mark.parametrize("kind", [b"0", b"L", b"K", b"x", b"g", b"5"])
@pytest.mark.parametrize("size", [-1, -512, -513, -1024, -(2**60)])
def test_negative_sizes_are_refused_wherever_they_stand(kind, size):
    with pytest.raises(Malformed, match=f"negative size {size:,}; refused"):
        read(header(b"0", b"0") + header(kind, size256(size)) + bytes(2048))


@pytest.mark.parametrize("kind, says", [(b"0", "truncated inside member 'a.jpg'"), (b"L", "a name of"), (b"K", "a link name of"),
                                        (b"x", "a pax header of"), (b"g", "a pax header of")])
@pytest.mark.parametrize("size", [4096, 1 << 30, 1 << 40, 1 << 70])
def test_sizes_beyond_the_file_are_refused_before_anything_is_asked_for(kind, says, size):
    with pytest.raises(Malformed, match=says):
        read(header(b"0", b"0") + header(kind, size256(size)) + bytes(2048))


@pytest.mark.parametrize("kind, body", [(b"x", PAX), (b"L", b"name"), (b"K", b"name"), (b"g", b"13 comment=a\n")])
def test_headers_without_end_are_refused(kind, body):
    with pytest.raises(Malformed, match="more than 16 headers of extension in a row"):
        read((header(kind, b"%011o" % len(body)) + body.ljust(512, b"\0")) * 2000 + header(b"0", b"0") + bytes(1024))


@pytest.mark.parametrize("data, says", [
    (header(b"S", b"0"), "'a.jpg' is sparse; refused"),
    (header(b"M", b"0"), "'a.jpg' is of kind b'M', not a plain file; refused"),
    (header(b"2", b"0"), "is a link; refused"),
    (header(b"6", b"0"), "is a pipe, not a plain file"),
    (header(b"0", b"9z"), "a header whose size is b'9z', not a number"),
    (header(b"0", b"0", b"a\\b.jpg"), "has a backslash in its name"),
    (header(b"0", b"0", b"a/../../b.jpg"), "leads outside the archive"),
    (header(b"0", b"0", b"."), "leads outside the archive"),
    (header(b"x", b"%011o" % 9) + b"9 size=-\n".ljust(512, b"\0") + header(b"0", b"0"), "pax header with the size b'-'"),
    (header(b"x", b"%011o" % 9) + b"99 path=a".ljust(512, b"\0") + header(b"0", b"0"), "damaged pax header"),
    (header(b"x", b"%011o" % 12) + b"12 path=a\0b\n".ljust(512, b"\0") + header(b"0", b"0"), "has a NUL in its name"),
    (header(b"g", b"%011o" % 12) + PAX.ljust(512, b"\0") + header(b"0", b"0"), "global pax header sets 'path' for all members"),
    (header(b"x", b"%011o" % 24) + b"24 GNU.sparse.major=001\n".ljust(512, b"\0") + header(b"0", b"0"), "is sparse"),
    (header(b"L", b"%011o" % 4) + b"name".ljust(512, b"\0"), "truncated behind a header of extension"),
])
def test_what_is_no_plain_file_or_no_header_is_named(data, says):
    with pytest.raises(Malformed, match=says):
        read(data)


def test_damage_in_the_middle_is_no_end_of_the_tar():
    """`tarfile` takes a broken header for the end, and the samples behind it vanish."""
    data = bytearray(written(lambda tar: [put(tar, f"{n}.jpg") for n in range(4)]))
    data[2 * 1536 + 5] ^= 1
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        assert len(tar.getmembers()) == 2
    with pytest.raises(Malformed, match="damaged: no header at byte 3,072"):
        read(bytes(data))
    with pytest.raises(Malformed, match="truncated: 100 bytes are left at 3,072"):
        read(written(lambda tar: [put(tar, f"{n}.jpg") for n in range(4)])[: 2 * 1536 + 100])


@pytest.mark.parametrize("seekable", [True, False])
def test_a_tar_without_its_end_and_one_behind_another_are_noted(seekable):
    data = written(lambda tar: put(tar, "0.jpg"))
    for content, said in ((data, ""), (data[:1536], "ends without the mark"), (data + data, "bytes behind the mark")):
        notes = []
        assert len(read(content, seekable, notes)) == 1 and len(notes) == bool(said) and all(said in note for note in notes)


def test_a_tar_of_many_members_takes_no_longer_than_it_must():
    """All of one first part of a name, so that none of the steps may look at every other."""
    from mof_jax.data.sources.samples import Endings

    data = b"".join(header(b"0", b"0", b"v1.%06d.%s" % (n // 2, (b"jpg", b"txt")[n % 2])) for n in range(20_000))
    began = time.monotonic()
    samples, unread = Endings().gather(members(io.BytesIO(data), len(data), []))
    assert len(samples) == 10_000 and samples[-1].key == "v1.009999" and not unread and time.monotonic() - began < 5
