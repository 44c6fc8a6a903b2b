"""Which way up a picture is, from whatever its file says about that.

Cameras write it into EXIF, ImageMagick keeps EXIF and XMP of a PNG as text chunks ("Raw profile type ..."), Lightroom and others
write XMP alone. Metadata are the part of a picture that is broken most often: what cannot be read of them is as if it were not
there, for no pixel depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import re

from PIL import Image

_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*[<"']""")
_EXIF_MARK, _XMP_MARK = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF says or, where that says nothing, its XMP; itself if neither does."""
    for found in (*map(_of_exif, _exif(image.info)), *map(_of_xmp, _xmp(image.info))):
        if found is not None:
            return image.transpose(_TURNS[found]) if found in _TURNS else image
    return image


def _exif(info: dict) -> Iterator[bytes]:
    if isinstance(info.get("exif"), bytes):
        yield info["exif"]
    for name in ("exif", "APP1"):
        data = _raw_profile(info.get(f"Raw profile type {name}"))
        if data and not data.startswith(_XMP_MARK):
            yield data


def _xmp(info: dict) -> Iterator[bytes]:
    for name in ("XML:com.adobe.xmp", "xmp"):
        if isinstance(found := info.get(name), (str, bytes)):
            yield found.encode("utf-8", "replace") if isinstance(found, str) else found
    for name in ("xmp", "APP1"):
        data = _raw_profile(info.get(f"Raw profile type {name}"))
        if data and not data.startswith(_EXIF_MARK):
            yield data


def _raw_profile(text: object) -> bytes | None:
    """The bytes of a profile that ImageMagick wrote as text: its kind, its length, and digits, a line each."""
    if isinstance(text, (str, bytes)):
        lines = (text if isinstance(text, str) else text.decode("latin-1")).strip("\n").split("\n", 2)
        with contextlib.suppress(ValueError):
            return bytes.fromhex(lines[2]) if len(lines) == 3 else None
    return None


def _of_exif(data: bytes) -> int | None:
    """Its orientation, 1 to 8; None if it has none, or nothing that can be read."""
    exif = Image.Exif()
    try:
        exif.load(data)
        found = exif.get(_TAG)
        return int(found) if found in range(1, 9) else None
    except Exception:  # noqa: BLE001  whatever Pillow's parser of TIFF makes of a damaged head
        return None


def _of_xmp(data: bytes) -> int | None:
    found = _XMP.search(data)
    return int(found[1]) if found else None
