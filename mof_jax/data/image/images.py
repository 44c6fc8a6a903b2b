"""From encoded bytes to an RGB picture of the size a model wants.

The bytes may come from anywhere on the web: only four formats are opened, the size is checked before a pixel is
decoded, and whatever cannot be read becomes one `BadExample` line. So is the memory of one picture bounded: see `MAX_PIXELS`.
"""

from __future__ import annotations

from collections.abc import Callable
import io
from typing import Literal

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from mof_jax.data.image.orientation import upright
from mof_jax.errors import BadExample
from mof_jax.parsing import reason

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")

# 8000 x 8000. Pillow keeps a pixel of RGB in four bytes, so that a picture as large as this takes 244 MiB; while it is decoded
# (and lies in memory as it is in the file, too, or turned), at most 2.2 times as much, and a WebP 4.2 times, whose library keeps
# frames of its own: about 1 GiB. Each loader thread may hold one.
MAX_PIXELS = 64_000_000
_STRIP = 1 << 20  # pixels that are converted at once where a conversion needs copies

Resize = Literal["squash", "shortest", "crop", "longest", "square"]
Fill = int | tuple[int, int, int]  # a grey level, or red, green and blue
Resample = Literal["bicubic", "bilinear"]
Pixels = Literal["ours", "transformers", "open_clip"]

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def decode(
    data: bytes,
    *,
    source: str = "image",
    record: str | int = 0,
    at_least: int = 0,
    max_pixels: int = MAX_PIXELS,
    pixels: Pixels = "ours",
) -> Image.Image:
    """An encoded picture; the first frame of an animation.

    Args:
      data: PNG, JPEG, WebP or GIF bytes.
      source, record: who to name in an error.
      at_least: if positive, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps
        this many pixels (the scaling is free inside the inverse DCT). For `pixels="ours"` only.
      max_pixels: refuse larger pictures before decoding them.
      pixels: what becomes of odd files. `ours`: RGB, upright (see `orientation.upright`), transparent parts on white, 16-bit
        grey scaled to 8 bits.
        `transformers`: RGB, transparent parts on white, but as it lies in the file (its EXIF orientation is not applied)
        and 16-bit grey clipped at 255, as the processors of that library (5.x) make of an opened picture. `open_clip`: as
        it lies in the file and in the file's own mode; `resize` makes it RGB afterwards, as that library does.

    Raises:
      BadExample: not a picture, truncated, or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers let through whatever a damaged file makes Python raise
        why = str(error) if isinstance(error, Image.DecompressionBombError) else "not a PNG, JPEG, WebP or GIF image"
        raise BadExample(source, record, f"{why} ({len(data)} bytes)") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadExample(source, record, f"image of {width}x{height} exceeds {max_pixels} pixels")
    try:
        if at_least and image.format == "JPEG" and pixels == "ours":
            ratio = max(1.0, min(width, height) / at_least)
            image.draft(image.mode, (int(np.ceil(width / ratio)), int(np.ceil(height / ratio))))
        image.load()
        if pixels == "open_clip":
            return image
        if pixels == "ours":
            image = upright(image)
        return _rgb(image, pixels)
    except MemoryError:
        raise
    except Exception as error:
        raise BadExample(source, record, f"broken {image.format or 'image'}: {reason(error)}") from None


def _rgb(image: Image.Image, pixels: Pixels) -> Image.Image:
    """Any Pillow mode as RGB; alpha composited on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") and pixels == "ours":  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        return _in_strips(image, _scaled)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _in_strips(image, _on_white)
    return image.convert("RGB")


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """`convert`, which treats every pixel alike, a few rows at a time: of the copies that it makes none is of the whole."""
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return convert(image)
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(convert(strip), (0, top))
    return result


def _scaled(image: Image.Image) -> Image.Image:
    grey = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def resize(
    image: Image.Image,
    size: int,
    mode: Resize = "squash",
    resample: Resample = "bicubic",
    fill: Fill = 255,
    resize_side: int | None = None,
    pixels: Pixels = "ours",
) -> Image.Image:
    """`image` as `size` x `size` pixels of RGB, with antialiasing.

    Args:
      mode: `squash` ignores the aspect ratio; `shortest` scales the short side and crops the centre, in one pass; `crop`
        does it in two, on whole pixels, as other libraries do: up to half a pixel aside; `longest` scales the long side
        and pads both ends of the short one with `fill`; `square` pads first (LLaVA-1.5, arXiv 2310.03744), and then scales: the
        edge between picture and frame is soft.
      resize_side: for `crop`, `squash` and `square`, the side that is scaled to before the middle `size` pixels are kept,
        instead of `size`. A smaller one leaves a black frame.
      pixels: where a `crop` with an odd number of pixels to spare begins: `open_clip` rounds half to even (torchvision), the
        others down.
    """
    if image.size == (size, size) and image.mode == "RGB" and resize_side in (None, size):
        return image
    filter_ = RESAMPLE[resample]
    width, height = image.size
    short = min(width, height)
    if mode == "shortest":
        # The centre square straight from the source: cropping first and resizing after, in one pass.
        left, top = (width - short) / 2, (height - short) / 2
        return image.resize((size, size), filter_, box=(left, top, left + short, top + short)).convert("RGB")
    if mode == "square" and max(width, height) ** 2 > MAX_PIXELS:  # a strip, whose square would be huge: its edge is sharp
        mode, resize_side = "longest", None
    if mode == "longest":
        ratio = max(width, height) / size
        inner = (max(1, round(width / ratio)), max(1, round(height / ratio)))
        canvas = Image.new("RGB", (size, size), colour(fill))
        canvas.paste(image.resize(inner, filter_).convert("RGB"), ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return canvas
    if mode == "square" and width != height:
        canvas = Image.new("RGB", (long := max(width, height), long), colour(fill))
        canvas.paste(image.convert("RGB"), ((long - width) // 2, (long - height) // 2))
        image, (width, height) = canvas, canvas.size
    side = resize_side or size
    scaled = (side, side) if mode in ("squash", "square") else (width * side // short, height * side // short)
    left, top = (_middle(length, size, pixels) for length in scaled)
    if scaled[0] * scaled[1] <= MAX_PIXELS:
        image = image.resize(scaled, filter_)
    else:  # A strip of a picture would be huge once its short side is large: only what is kept is computed.
        kept, x, y = [min(size, length) for length in scaled], width / scaled[0], height / scaled[1]
        box = (max(left, 0) * x, max(top, 0) * y, (max(left, 0) + kept[0]) * x, (max(top, 0) + kept[1]) * y)
        image = image.resize(kept, filter_, box=(box[0], box[1], min(box[2], width), min(box[3], height)))
        left, top = min(left, 0), min(top, 0)
    return image.crop((left, top, left + size, top + size)).convert("RGB")


def colour(fill: Fill) -> tuple[int, int, int]:
    """Red, green and blue."""
    return (fill, fill, fill) if isinstance(fill, int) else tuple(fill)


def _middle(length: int, size: int, pixels: Pixels) -> int:
    """Where the middle `size` of `length` pixels begin; negative for a frame around fewer pixels."""
    spare = length - size
    return round(spare / 2) if pixels == "open_clip" and spare > 0 else spare // 2


def from_array(pixels: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    """Pixels to an RGB picture."""
    return Image.fromarray(pixels)


def to_array(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """RGB picture to pixels."""
    return np.asarray(image)


def encode(pixels: UInt8[np.ndarray, "height width 3"], kind: Literal["PNG", "JPEG", "WEBP"] = "PNG") -> bytes:
    """Pixels to encoded bytes (JPEG at quality 90)."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return out.getvalue()
