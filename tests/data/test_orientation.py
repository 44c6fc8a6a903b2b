"""Which way up a picture is, whatever program wrote that down, and however broken the rest of it is."""

import io

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin
import pytest

from mof_jax.data.image import images
from mof_jax.data.image.orientation import upright

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of broken metadata

PIXELS = np.random.default_rng(0).integers(0, 255, (6, 9, 3), np.uint8)
XMP = ('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {}'
       '/></rdf:RDF></x:xmpmeta>')


def saved(kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}), **options)
    return out.getvalue()


def tagged(value, **others) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    for tag, other in others.items():
        exif[int(tag[1:])] = other
    return exif


def raw(name: str, data: bytes, compressed=False) -> PngImagePlugin.PngInfo:
    """A chunk as ImageMagick writes it."""
    digits = data.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    info = PngImagePlugin.PngInfo()
    info.add_text(f"Raw profile type {name}", f"\n{name}\n{len(data):8d}\n{lines}\n", zip=compressed)
    return info


def xmp_chunk(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", text)
    return info


@pytest.mark.parametrize("value", range(9))
def test_all_orientations_are_those_of_pillow(value):
    data = saved(exif=tagged(value))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(images.decode(data)), np.asarray(expected))
    assert images.decode(data).size == ((6, 9) if value > 4 else (9, 6))


@pytest.mark.parametrize("data", [
    saved(pnginfo=raw("exif", tagged(6).tobytes())),
    saved(pnginfo=raw("exif", tagged(6).tobytes(), compressed=True)),
    saved(pnginfo=raw("APP1", tagged(6).tobytes())),
    saved(pnginfo=raw("APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP.format('tiff:Orientation="6"').encode())),
    saved(pnginfo=raw("xmp", XMP.format('tiff:Orientation="6"').encode())),
    saved(pnginfo=xmp_chunk(XMP.format('tiff:Orientation="6"'))),
    saved(pnginfo=xmp_chunk(XMP.format("tiff:Orientation = '6'"))),
    saved(pnginfo=xmp_chunk(XMP.format("><tiff:Orientation>6</tiff:Orientation><x"))),
    saved("JPEG", xmp=XMP.format('tiff:Orientation="6"').encode()),
    saved("WEBP", xmp=XMP.format('tiff:Orientation="6"').encode()),
    saved("WEBP", exif=tagged(6)),
    saved("JPEG", exif=tagged(6), xmp=XMP.format('tiff:Orientation="3"').encode()),
], ids=range(12))
def test_wherever_it_is_written(data):
    image = images.decode(data)
    assert image.size == (6, 9)
    turned = np.rot90(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), -1)
    assert np.array_equal(np.asarray(image), turned)
    assert images.decode(data, pixels="transformers").size == (9, 6)


def test_exif_says_more_than_xmp():
    data = saved("JPEG", exif=tagged(1), xmp=XMP.format('tiff:Orientation="6"').encode())
    assert images.decode(data).size == (9, 6)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("tag, other", [
    ("t271", 1.5), ("t271", (1, 2)), ("t271", 7), ("t270", b"\xff\xfe"), ("t306", 3.0), ("t34665", 99), ("t40092", 1.5)])
def test_other_tags_of_any_type_do_not_matter(kind, tag, other):
    """The camera's name as a fraction, say, which Pillow reads and cannot write again."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    directory = ImageFileDirectory_v2()
    directory[0x0112] = 6
    number = int(tag[1:])
    if isinstance(other, float):
        directory.tagtype[number] = 12
    directory[number] = other
    head = b"Exif\0\0II*\0\x08\0\0\0" + directory.tobytes(8)
    assert images.decode(saved(kind, exif=head)).size == (6, 9)


@pytest.mark.parametrize("exif", [
    b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"\0" * 40, b"rubbish" * 9,
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\xff\xff\xff\xff\x1a\0\0\0",
    tagged(9).tobytes(), tagged(0).tobytes(),
])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_broken_head_is_no_head(kind, exif):
    if exif:
        assert images.decode(saved(kind, exif=exif)).size == (9, 6)
    assert images.decode(saved(pnginfo=raw("exif", exif))).size == (9, 6)


@pytest.mark.parametrize("text", ["", "exif", "\nexif\n9\nzz", "\nexif\n8\nabc", "\n" * 9])
def test_a_broken_profile_is_no_profile(text):
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", text)
    assert images.decode(saved(pnginfo=info)).size == (9, 6)


def test_a_parser_that_fails_in_any_way_is_not_heard(monkeypatch):
    for error in (AttributeError, RecursionError, AssertionError, ZeroDivisionError):
        def load(self, data, error=error):
            raise error("of the parser")

        monkeypatch.setattr(Image.Exif, "load", load)
        image = Image.fromarray(PIXELS)
        image.info["exif"] = b"x"
        assert upright(image) is image
