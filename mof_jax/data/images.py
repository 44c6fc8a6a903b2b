"""From encoded bytes to an RGB picture of the size a model wants.

The bytes may come from anywhere on the web: only four formats are opened, the size is checked before a pixel is
decoded, and whatever cannot be read becomes one `BadExample` line.
"""

from __future__ import annotations

import io
import struct
from typing import Literal
import zlib

from jaxtyping import UInt8
import numpy as np
from PIL import Image, ImageOps

from mof_jax.errors import BadExample

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_PIXELS = 64_000_000  # 8000 x 8000: 192 MB of RGB

Resize = Literal["squash", "shortest", "crop", "longest"]
Resample = Literal["bicubic", "bilinear"]

RESAMPLE = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG or JPEG structure
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode(
    data: bytes, *, source: str = "image", record: str | int = 0, at_least: int = 0, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An encoded picture as RGB, upright, its transparent parts on white; the first frame of an animation.

    Args:
      data: PNG, JPEG, WebP or GIF bytes.
      source, record: who to name in an error.
      at_least: if positive, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps
        this many pixels (the scaling is free inside the inverse DCT).
      max_pixels: refuse larger pictures before decoding them.

    Raises:
      BadExample: not a picture, truncated, or too large.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except _UNREADABLE as error:
        reason = str(error) if isinstance(error, Image.DecompressionBombError) else "not a PNG, JPEG, WebP or GIF image"
        raise BadExample(source, record, f"{reason} ({len(data)} bytes)") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadExample(source, record, f"image of {width}x{height} exceeds {max_pixels} pixels")
    try:
        if at_least and image.format == "JPEG":
            ratio = max(1.0, min(width, height) / at_least)
            image.draft(image.mode, (int(np.ceil(width / ratio)), int(np.ceil(height / ratio))))
        image.load()
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)
        return _rgb(image)
    except _UNREADABLE as error:
        raise BadExample(source, record, f"broken {image.format or 'image'}: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode as RGB; alpha composited on white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        grey = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def resize(
    image: Image.Image,
    size: int,
    mode: Resize = "squash",
    resample: Resample = "bicubic",
    fill: int = 255,
) -> Image.Image:
    """`image` as `size` x `size` pixels, with antialiasing.

    Args:
      mode: `squash` ignores the aspect ratio; `shortest` scales the short side and crops the centre (CLIP), in one pass;
        `crop` does it in two, on whole pixels, as `transformers` does: up to half a pixel aside; `longest` scales the long side and pads both ends with grey level `fill`.
    """
    if image.size == (size, size):
        return image
    filter_ = RESAMPLE[resample]
    width, height = image.size
    if mode == "squash":
        return image.resize((size, size), filter_)
    # A strip of a picture would be huge once its short side is large: it is cropped and scaled in one pass.
    if mode == "shortest" or (mode == "crop" and size**2 * max(width, height) > MAX_PIXELS * min(width, height)):
        # The centre square straight from the source: cropping first and resizing after, in one pass.
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), filter_, box=(left, top, left + side, top + side))
    if mode == "crop":
        short = min(width, height)
        image = image.resize((width * size // short, height * size // short), filter_)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))
    scale = size / max(width, height)
    inner = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new("RGB", (size, size), (fill, fill, fill))
    canvas.paste(image.resize(inner, filter_), ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


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
