"""Decoding hostile and odd pictures, resizing, augmenting."""

import io
import json
import math
import struct
import zlib

from data_samples import damage
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest

from mof_jax.config import build
from mof_jax.data.image import augment, images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.keyed import Draws
from mof_jax.errors import BadExample, UserError


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


RED = Image.new("RGB", (8, 6), (200, 30, 40))
JPEG = saved(Image.effect_noise((64, 48), 50).convert("RGB"), "JPEG")


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "not a PNG, JPEG, WebP or GIF"),
        (b"hello there", "not a PNG, JPEG, WebP or GIF"),
        (saved(RED, "BMP"), "not a PNG, JPEG, WebP or GIF"),
        (saved(RED, "PPM"), "not a PNG, JPEG, WebP or GIF"),
        (JPEG[: len(JPEG) // 2], "broken JPEG"),
        (saved(Image.effect_noise((64, 48), 50), "PNG")[:900], "broken PNG"),
        (saved(RED, "WEBP")[:30], "not a PNG|broken WEBP"),
        (bomb(), "pixels|bomb"),
        (bomb(9_000), "9000x9000 exceeds"),
    ],
)
def test_bad_bytes_are_one_line(data, reason):
    with pytest.raises(BadExample, match=reason) as caught:
        images.decode(data, source="shard.tar", record="000017")
    assert str(caught.value).startswith("shard.tar: record 000017: ") and "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF"]),
    cut=st.integers(0, 300),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=5),
)
def test_damaged_pictures_never_escape(kind, cut, flips):
    data = damage(saved(Image.effect_noise((24, 16), 60).convert("RGB"), kind), cut, flips)
    try:
        assert images.decode(data, at_least=4, max_pixels=10**6).mode == "RGB"
    except BadExample as error:
        assert "\n" not in str(error)


def test_formats_and_modes_become_rgb():
    for kind in ("PNG", "JPEG", "WEBP"):
        out = np.asarray(images.decode(saved(RED, kind)), int)
        assert out.shape == (6, 8, 3) and np.abs(out - (200, 30, 40)).max() < 12
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.all(np.asarray(images.decode(saved(clear, "PNG"))) == 255)  # transparent is white
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert abs(int(np.asarray(images.decode(saved(half, "PNG")))[0, 0, 0]) - 127) <= 1
    palette = RED.quantize(4)
    assert np.abs(np.asarray(images.decode(saved(palette, "PNG")), int) - (200, 30, 40)).max() < 4
    see_through = Image.new("P", (4, 4), 0)
    see_through.putpalette([0, 0, 0, 255, 0, 0])
    assert np.all(np.asarray(images.decode(saved(see_through, "PNG", transparency=0))) == 255)
    cmyk = saved(RED.convert("CMYK"), "JPEG")
    assert np.abs(np.asarray(images.decode(cmyk), int) - (200, 30, 40)).max() < 12
    deep = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert np.all(np.asarray(images.decode(saved(deep, "PNG"))) == 128)


def whole(image: Image.Image) -> np.ndarray:
    """RGB as it was made before pictures were converted in strips: all at once."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.asarray(image)
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
        return np.asarray(Image.fromarray(grey.astype(np.uint8)).convert("RGB"))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def modes() -> dict[str, bytes]:
    """A noise picture in every mode that the four formats have."""
    noise = np.random.default_rng(0).integers(0, 256, (23, 17, 4), np.uint8)
    rgba = Image.fromarray(noise, "RGBA")
    rgb, grey = rgba.convert("RGB"), rgba.convert("L")
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (23, 17), np.uint16))
    palette = rgb.quantize(200)
    found = {"rgb": (rgb, "PNG"), "rgba": (rgba, "PNG"), "la": (rgba.convert("LA"), "PNG"), "l": (grey, "PNG"),
             "1": (grey.convert("1"), "PNG"), "p": (palette, "PNG"), "i16": (deep, "PNG"), "cmyk": (rgb.convert("CMYK"), "JPEG"),
             "jpeg": (rgb, "JPEG"), "jpeg grey": (grey, "JPEG"), "webp": (rgb, "WEBP"), "webp alpha": (rgba, "WEBP"),
             "gif": (palette, "GIF")}
    data = {name: saved(image, kind) for name, (image, kind) in found.items()}
    data |= {f"{name} clear": saved(image, kind, transparency=value) for name, image, kind, value in (
        ("p", palette, "PNG", 3), ("p bytes", palette, "PNG", bytes(range(200))), ("l", grey, "PNG", 7),
        ("rgb", rgb, "PNG", tuple(noise[0, 0, :3].tolist())), ("gif", palette, "GIF", 5), ("i16", deep, "PNG", 9))}
    return data


@pytest.mark.parametrize("name", modes())
def test_pixels_do_not_depend_on_the_strips_they_are_made_in(name, monkeypatch):
    data = modes()[name]
    expected = whole(Image.open(io.BytesIO(data)))
    for pixels in (1, 17 * 5, 17 * 22 + 3, 1 << 20):
        monkeypatch.setattr(images, "_STRIP", pixels)
        assert np.array_equal(np.asarray(images.decode(data)), expected)


def test_memory_of_an_allowed_picture_is_bounded(monkeypatch):
    """Of the copies that a conversion needs none is of the whole picture."""
    largest = 0

    def watched(image):
        nonlocal largest
        largest = max(largest, image.width * image.height)
        return on_white(image)

    on_white = images._on_white
    monkeypatch.setattr(images, "_on_white", watched)
    assert images.decode(saved(Image.new("LA", (2000, 3000)), "PNG")).size == (2000, 3000) and 0 < largest <= 1 << 20


def test_whatever_a_parser_raises_is_one_line(monkeypatch):
    for error in (AttributeError, RecursionError, AssertionError, ZeroDivisionError, UnicodeDecodeError):
        def load(self, error=error):
            raise error("a\nb") if error is not UnicodeDecodeError else UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
        with pytest.raises(BadExample, match="record 7: broken PNG: ") as caught:
            images.decode(saved(RED, "PNG"), record=7)
        assert len(str(caught.value).splitlines()) == 1
    monkeypatch.undo()


def test_first_frame_and_orientation():
    frames = [Image.new("RGB", (5, 5), c) for c in ("red", "blue")]
    gif = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(images.decode(gif))[0, 0].tolist() == [255, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    for kind in ("JPEG", "PNG"):
        assert images.decode(saved(RED, kind, exif=exif)).size == (6, 8)


def test_a_librarys_pixels_are_as_the_file_has_them():
    """Not turned, 16-bit grey clipped; transparency on white as here, or under OpenCLIP dropped."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, deep = saved(RED, "JPEG", exif=exif), saved(Image.fromarray(np.full((4, 4), 128 << 8, np.uint16)), "PNG")
    clear = saved(Image.new("RGBA", (4, 4), (200, 30, 40, 0)), "PNG")
    first = lambda data, pixels: np.asarray(images.resize(images.decode(data, pixels=pixels), 4, pixels=pixels))[0, 0].tolist()
    assert [first(deep, p) for p in ("ours", "transformers", "open_clip")] == [[128] * 3, [255] * 3, [255] * 3]
    assert [first(clear, p) for p in ("ours", "transformers", "open_clip")] == [[255] * 3, [255] * 3, [200, 30, 40]]
    assert [images.decode(turned, pixels=p).size for p in ("ours", "transformers", "open_clip")] == [(6, 8), (8, 6), (8, 6)]
    big = saved(Image.effect_noise((640, 480), 60).convert("RGB"), "JPEG")
    assert images.decode(big, at_least=60, pixels="transformers").size == (640, 480)


def test_scaled_jpeg_decoding_keeps_the_short_side():
    data = saved(Image.effect_noise((640, 480), 60).convert("RGB"), "JPEG")
    assert images.decode(data).size == (640, 480)
    assert images.decode(data, at_least=60).size == (80, 60)
    assert min(images.decode(data, at_least=100).size) >= 100
    full = np.asarray(images.resize(images.decode(data), 32), int)
    fast = np.asarray(images.resize(images.decode(data, at_least=32), 32), int)
    assert np.abs(full - fast).mean() < 3


def test_resize_modes():
    wide = Image.fromarray(
        np.repeat(np.arange(0, 240, 6, dtype=np.uint8)[None, :, None], 20, 0).repeat(3, 2)
    )  # 40 x 20
    for mode in ("squash", "shortest", "crop", "longest"):
        for resample in ("bicubic", "bilinear"):
            assert images.resize(wide, 10, mode, resample).size == (10, 10)
    padded = np.asarray(images.resize(wide, 20, "longest"))
    assert np.all(padded[:5] == 255) and np.all(padded[-5:] == 255) and np.all(padded[6:14, :10] < 200)
    cropped = np.asarray(images.resize(wide, 20, "shortest"))
    assert np.array_equal(cropped, np.asarray(wide)[:, 10:30])
    # antialiasing: a fine checkerboard becomes grey, not a pattern
    board = Image.fromarray(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8)).convert("RGB")
    assert np.asarray(images.resize(board, 16)).std() < 12


def test_a_crop_on_whole_pixels_and_of_a_strip():
    """The middle of the scaled picture; a strip whose scaled picture would not fit into memory is cut first."""
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 67, 3), np.uint8))
    scaled = np.asarray(wide.resize((44, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(images.resize(wide, 20, "crop")), scaled[:, 12:32])
    for size in ((300_000, 1), (1, 300_000)):
        strip = Image.new("RGB", size, (10, 20, 30))
        assert np.all(np.asarray(images.resize(strip, 224, "crop", resize_side=300)) == (10, 20, 30))
        framed = np.asarray(images.resize(strip, 224, "crop", resize_side=220))
        assert np.all(framed[2:-2, 2:-2] == (10, 20, 30)) and framed[0, 0].tolist() == [0, 0, 0]


def test_a_crop_from_a_larger_picture_and_a_frame_around_a_smaller_one():
    wide = Image.fromarray(np.random.default_rng(0).integers(1, 256, (30, 67, 3), np.uint8))
    scaled = np.asarray(wide.resize((55, 25), Image.Resampling.BICUBIC))
    crop = lambda size, **options: np.asarray(images.resize(wide, size, "crop", resize_side=25, **options))
    np.testing.assert_array_equal(crop(20), scaled[2:22, 17:37])
    np.testing.assert_array_equal(crop(20, pixels="open_clip"), scaled[2:22, 18:38])  # 2.5 to 2, 17.5 to 18: half to even
    framed = crop(28)
    np.testing.assert_array_equal(framed[2:27], scaled[:, 13:41])
    assert not framed[:2].any() and not framed[27:].any()
    squashed = np.asarray(wide.resize((25, 25), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.asarray(images.resize(wide, 21, "squash", resize_side=25)), squashed[2:23, 2:23])
    for wrong in (dict(resize="longest", resize_side=25), dict(resize="crop", resize_side=0)):
        with pytest.raises(UserError, match="resize_side"):
            build(Preprocess, dict(image_size=20, **wrong), "preprocess")
    assert Preprocess(224, "crop", resize_side=256).at(112) == Preprocess(112, "crop", resize_side=128)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


def run(config, key=1, image=NOISE, size=32):
    draws = Draws(key)
    out = np.asarray(augment.augment(image, size, config, draws))
    return augment.colour(out[None], config, [draws])[0]


def test_no_augmentation_is_plain_resize_and_flip_is_off():
    config = build(augment.AugmentConfig, {})
    assert config.flip == 0
    assert np.array_equal(run(config), np.asarray(images.resize(NOISE, 32)))
    flipped = run(build(augment.AugmentConfig, {"flip": 1.0}))
    assert np.array_equal(flipped, np.asarray(images.resize(NOISE, 32))[:, ::-1])


@pytest.mark.parametrize("entry", ["crop", "affine", "jitter", "blur", "rand"])
def test_each_entry_changes_the_picture_by_key_only(entry):
    config = build(augment.AugmentConfig, {entry: {"probability": 1.0} if entry == "blur" else {}})
    assert np.array_equal(run(config, 1), run(config, 1))
    assert any(not np.array_equal(run(config, 1), run(config, k)) for k in range(2, 6))
    for k in range(20):
        assert run(config, k).shape == (32, 32, 3)
        assert run(config, k, NOISE.resize((90, 30))).dtype == np.uint8


def test_affine_at_zero_strength_is_the_identity():
    still = build(augment.AugmentConfig, {"affine": {"zoom": 0.0, "shift": 0.0}})
    assert np.array_equal(run(still), np.asarray(images.resize(NOISE, 32)))
    smooth = Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)).convert("RGB")
    turned = run(build(augment.AugmentConfig, {"affine": {"zoom": 0.0, "shift": 0.0, "rotate": 1e-6}}), image=smooth)
    plain = np.asarray(images.resize(smooth, 32), int)
    assert np.abs(turned.astype(int) - plain)[2:-2, 2:-2].max() <= 2


def test_rotation_by_a_right_angle():
    smooth = Image.fromarray((np.add.outer(np.arange(64) * 3, np.arange(64)) % 256).astype(np.uint8)).convert("RGB")
    plain = np.asarray(images.resize(smooth, 32), int)
    for sign in (1, -1):
        turned = augment._affine(smooth, 32, (32, 32), (64, 64), sign * math.pi / 2, 0, "bicubic")
        difference = np.abs(np.asarray(turned, int) - np.rot90(plain, sign))[1:-1, 1:-1]
        assert difference.mean() < 4


def test_affine_moves_by_the_stated_amount():
    dot = np.full((64, 64, 3), 255, np.uint8)
    dot[30:34, 30:34] = 0
    config = build(augment.AugmentConfig, {"affine": {"zoom": 0.0, "shift": 0.25}})
    offsets = []
    for key in range(60):
        dark = 255 - run(config, key, Image.fromarray(dot))[..., 0].astype(float)
        offsets.append((dark.sum(0) @ np.arange(32) / dark.sum() - 15.5) / 32)
    assert 0.18 < np.max(np.abs(offsets)) <= 0.27


def test_outside_is_filled():
    black = Image.new("RGB", (64, 64))
    for rotate in (0.0, 30.0):
        config = build(augment.AugmentConfig, {"affine": {"zoom": 0.5, "shift": 0.3, "rotate": rotate}, "fill": 255})
        seen = [run(config, key, black) for key in range(20)]
        assert any(s.max() == 255 for s in seen) and all(s.min() == 0 for s in seen)


def test_colour_closed_forms():
    plain = np.asarray(images.resize(NOISE, 32), float)
    grey = run(build(augment.AugmentConfig, {"grayscale": 1.0})).astype(float)
    assert np.abs(grey - (plain @ [0.299, 0.587, 0.114])[..., None]).max() < 1.01
    flat = Image.new("RGB", (32, 32), (100, 100, 100))
    only = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
    for name in ("contrast", "saturation", "hue"):  # none of them moves a flat grey picture
        config = build(augment.AugmentConfig, {"jitter": only | {name: 0.4}})
        assert np.abs(run(config, 3, flat).astype(int) - 100).max() <= 1
    bright = build(augment.AugmentConfig, {"jitter": only | {"brightness": 0.4}})
    values = [int(run(bright, k, flat)[0, 0, 0]) for k in range(60)]
    assert 60 <= min(values) < 72 and 128 < max(values) <= 140


def test_oversample_covers_the_smallest_crop():
    assert augment.AugmentConfig().oversample == 1.0
    config = build(augment.AugmentConfig, {"crop": {"scale": (0.25, 1.0), "ratio": (1.0, 1.0)}})
    assert config.oversample == pytest.approx(2.0)


@pytest.mark.parametrize("shape", [(10, 30), (30, 10), (11, 30)])
def test_a_picture_is_padded_to_a_square_before_it_is_scaled(shape):
    """With a colour, into the middle (the odd pixel below or to the right), then as the square that it has become."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    square = np.empty((30, 30, 3), np.uint8)
    square[:] = (10, 20, 30)
    y, x = (30 - shape[0]) // 2, (30 - shape[1]) // 2
    square[y : y + shape[0], x : x + shape[1]] = pixels
    for size, side in ((12, None), (8, 12)):
        found = images.resize(Image.fromarray(pixels), size, "square", fill=(10, 20, 30), resize_side=side)
        want = images.resize(Image.fromarray(square), size, "crop", resize_side=side)
        np.testing.assert_array_equal(images.to_array(found), images.to_array(want))
    np.testing.assert_array_equal(images.to_array(images.resize(Image.fromarray(pixels), 12, "longest", fill=7)),
                                  images.to_array(images.resize(Image.fromarray(pixels), 12, "longest", fill=(7, 7, 7))))


def test_a_strip_is_padded_without_its_square():
    """One of 1 x 40,000 pixels would be 1.6 billion of them."""
    found = images.to_array(images.resize(Image.new("RGB", (40_000, 2), (255, 0, 0)), 8, "square", fill=(1, 2, 3)))
    assert (found[0] == (1, 2, 3)).all() and (found[-1] == (1, 2, 3)).all() and found.shape == (8, 8, 3)


def test_a_colour_in_a_config_and_back_from_json():
    from mof_jax import config as configs
    from mof_jax.data.load import DataConfig

    data = configs.build(DataConfig, {"resize": "square", "augment": {"fill": [122, 116, 104]}})
    assert data.preprocess.fill == (122, 116, 104)
    assert Preprocess(**json.loads(json.dumps(configs.to_dict(data.preprocess)))) == data.preprocess
    with pytest.raises(UserError, match="fill"):
        configs.build(DataConfig, {"augment": {"fill": [122, 116, 300]}})
