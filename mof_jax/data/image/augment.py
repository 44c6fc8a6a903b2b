"""Random changes of a picture, one config entry each, keyed by the caller's draws.

Geometry is resolved first, into one box or one affine map of the *source* picture, so that a crop costs one
antialiased resize. Colour comes last and for many pictures at once: brightness, contrast, saturation, hue and grey are
all linear in RGB, so they are one 3 x 3 matrix and an offset per picture. Nothing is on by default; a flip in
particular changes what a picture says (left and right, letters).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Annotated

from jaxtyping import Float, UInt8
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from mof_jax.data.image import images
from mof_jax.data.keyed import Draws
from mof_jax.ranges import Grey, NotNegative, Positive, Range, Share, Whole

_GREY = np.array([0.299, 0.587, 0.114])
_IDENTITY, _TO_GREY = np.eye(3), np.outer(np.ones(3), _GREY)
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_INVERSE = np.linalg.inv(_YIQ)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Random resized crop: area as a share of the picture, aspect ratio of the box."""

    scale: tuple[Positive, Share] = (0.9, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)

    def __post_init__(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("crop needs 0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]")


@dataclasses.dataclass(frozen=True)
class Affine:
    """Small moves: zoom factor up to e^±zoom, shift up to ±shift of the side, rotation up to ±rotate degrees."""

    zoom: NotNegative = 0.1
    shift: NotNegative = 0.05
    rotate: NotNegative = 0.0


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Colour jitter: factors in 1 ± value; hue in turns of the colour circle."""

    brightness: NotNegative = 0.2
    contrast: NotNegative = 0.2
    saturation: NotNegative = 0.2
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    probability: Share = 1.0


@dataclasses.dataclass(frozen=True)
class Blur:
    """Gaussian blur with a radius drawn from `sigma` (pixels of the output)."""

    probability: Share = 0.5
    sigma: tuple[Positive, Positive] = (0.1, 1.0)

    def __post_init__(self):
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma {self.sigma}: the smallest comes first")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """`operations` draws from a list of simple changes (arXiv 1909.13719); `magnitude` runs from 0 to 10."""

    operations: Whole = 2
    magnitude: Annotated[float, Range(0, 10)] = 5.0


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """What may happen to a picture. `None` and 0 mean never.

    Attributes:
      crop, affine: geometry. With `affine` the picture is squashed to the output's shape; both may be set.
      flip: chance of a mirror image.
      blur, rand, jitter, grayscale: texture and colour, in that order, on the resized picture.
      fill: grey level, or red, green and blue, outside the picture.
    """

    crop: Crop | None = None
    affine: Affine | None = None
    flip: Share = 0.0
    jitter: Jitter | None = None
    grayscale: Share = 0.0
    blur: Blur | None = None
    rand: RandAugment | None = None
    fill: Grey | tuple[Grey, Grey, Grey] = 255

    @property
    def whole(self) -> bool:
        """Whether every view shows the whole picture, resized."""
        return self.crop is None and self.affine is None

    @property
    def oversample(self) -> float:
        """How many times the output's side the source's short side should have, so that no crop is upsampled."""
        zoom = math.exp(self.affine.zoom) if self.affine else 1.0
        if self.crop is None:
            return zoom
        return zoom * math.sqrt(max(self.crop.ratio[1], 1 / self.crop.ratio[0]) / self.crop.scale[0])


def augment(
    image: Image.Image,
    size: int,
    config: AugmentConfig,
    draws: Draws,
    mode: images.Resize = "squash",
    resample: images.Resample = "bicubic",
) -> Image.Image:
    """A random `size` x `size` version of `image`, all but its colour; without any entry, `images.resize`."""
    if config.whole:
        image = images.resize(image, size, mode, resample, config.fill)
    else:
        image = _geometry(image, size, config, draws, resample)
    if config.flip and draws.uniform() < config.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.blur and draws.uniform() < config.blur.probability:
        image = image.filter(ImageFilter.GaussianBlur(draws.uniform(*config.blur.sigma)))
    for _ in range(config.rand.operations if config.rand else 0):
        image = _rand_operation(image, config, draws)
    return image


def colour(
    pixels: UInt8[np.ndarray, "n height width 3"], config: AugmentConfig, draws: Sequence[Draws]
) -> UInt8[np.ndarray, "n height width 3"]:
    """Jitter and greyscale for n pictures at once, each by its own draws: one matrix product."""
    if config.jitter is None and not config.grayscale:
        return pixels
    matrices = [_colour_matrix(config, d) for d in draws]
    linear = np.array([m[0] for m in matrices], np.float32)
    flat = pixels.reshape(len(pixels), -1, 3).astype(np.float32)
    # Contrast pulls towards the picture's mean grey: out = linear x + pull * mean(grey).
    pull = np.array([m[1] for m in matrices], np.float32) * (flat.mean(axis=1) @ _GREY.astype(np.float32))
    out = flat @ linear.transpose(0, 2, 1)
    out += pull[:, None, None] + 0.5
    return np.clip(out, 0, 255, out=out).astype(np.uint8).reshape(pixels.shape)


def _geometry(image: Image.Image, size: int, config: AugmentConfig, draws: Draws, resample: images.Resample):
    left, top, width, height = 0.0, 0.0, *map(float, image.size)
    if config.crop:
        left, top, width, height = _crop_box(*image.size, config.crop, draws)
    if config.affine is None:
        box = (left, top, left + width, top + height)
        return image.resize((size, size), images.RESAMPLE[resample], box=box)
    move = config.affine
    zoom = math.exp(draws.uniform(-move.zoom, move.zoom))
    x = left + width * (0.5 + draws.uniform(-move.shift, move.shift))
    y = top + height * (0.5 + draws.uniform(-move.shift, move.shift))
    angle = math.radians(draws.uniform(-move.rotate, move.rotate)) if move.rotate else 0.0
    return _affine(image, size, (x, y), (width / zoom, height / zoom), angle, config.fill, resample)


def _crop_box(width: int, height: int, crop: Crop, draws: Draws) -> tuple[float, float, float, float]:
    """(left, top, width, height) of a random box; after ten misses the largest centred box of a legal ratio."""
    low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
    for _ in range(10):
        area = width * height * draws.uniform(*crop.scale)
        ratio = math.exp(draws.uniform(low, high))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            return draws.uniform(0, width - w), draws.uniform(0, height - h), w, h
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    w = min(width, height * ratio)
    h = w / ratio
    return (width - w) / 2, (height - h) / 2, w, h


def _affine(image, size, centre, extent, angle, fill, resample):
    """The box of `extent` around `centre`, turned by `angle` (radians), as size x size pixels."""
    left, top = centre[0] - extent[0] / 2, centre[1] - extent[1] / 2
    right, bottom = left + extent[0], top + extent[1]
    inside = left >= 0 and top >= 0 and right <= image.width and bottom <= image.height
    if not angle and inside:
        return image.resize((size, size), images.RESAMPLE[resample], box=(left, top, right, bottom))
    if not angle:  # resize the part that exists, leave the rest to the canvas
        return _paste_box(image, size, (left, top, right, bottom), fill, resample)
    # `transform` has no antialiasing: shrink to about the output's resolution first, then turn.
    shrink = max(1.0, min(extent) / size)
    small = image.resize(
        (max(1, round(image.width / shrink)), max(1, round(image.height / shrink))), images.RESAMPLE[resample]
    )
    sx, sy = small.width / image.width, small.height / image.height
    c, s = math.cos(angle), math.sin(angle)
    ax, ay = extent[0] * sx / size, extent[1] * sy / size
    x0, y0 = centre[0] * sx, centre[1] * sy
    half = size / 2
    data = (c * ax, -s * ax, x0 - half * (c - s) * ax, s * ay, c * ay, y0 - half * (s + c) * ay)
    return small.transform(
        (size, size), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR, fillcolor=images.colour(fill)
    )


def _paste_box(image, size, box, fill, resample):
    left, top, right, bottom = box
    sx, sy = size / (right - left), size / (bottom - top)
    # Whole output pixels, so that the pasted part needs no blending at its border.
    x0, x1 = round((max(left, 0) - left) * sx), round((min(right, image.width) - left) * sx)
    y0, y1 = round((max(top, 0) - top) * sy), round((min(bottom, image.height) - top) * sy)
    canvas = Image.new("RGB", (size, size), images.colour(fill))
    if x1 > x0 and y1 > y0:
        visible = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
        canvas.paste(image.resize((x1 - x0, y1 - y0), images.RESAMPLE[resample], box=visible), (x0, y0))
    return canvas


def _colour_matrix(config: AugmentConfig, draws: Draws) -> tuple[Float[np.ndarray, "3 3"], float]:
    """One picture's colour change: a matrix on (r, g, b), and what share of the mean grey is added to it."""
    linear, pull = _IDENTITY, 0.0
    jitter = config.jitter
    if jitter is not None and draws.uniform() < jitter.probability:
        if jitter.hue:
            turn = 2 * math.pi * draws.uniform(-jitter.hue, jitter.hue)
            c, s = math.cos(turn), math.sin(turn)
            linear = _YIQ_INVERSE @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _YIQ
        if jitter.saturation:
            factor = draws.uniform(1 - jitter.saturation, 1 + jitter.saturation)
            linear = (factor * _IDENTITY + (1 - factor) * _TO_GREY) @ linear
        contrast = draws.uniform(1 - jitter.contrast, 1 + jitter.contrast)
        bright = draws.uniform(1 - jitter.brightness, 1 + jitter.brightness)
        linear, pull = contrast * bright * linear, (1 - contrast) * bright
    if config.grayscale and draws.uniform() < config.grayscale:
        linear = _TO_GREY @ linear
    return linear, pull


def _rand_operation(image: Image.Image, config: AugmentConfig, draws: Draws) -> Image.Image:
    strength = config.rand.magnitude / 10
    signed = strength if draws.below(2) else -strength
    fill, size, centre = config.fill, image.width, (image.width / 2, image.height / 2)
    match draws.below(10):
        case 0:
            return ImageOps.autocontrast(image)
        case 1:
            return ImageOps.equalize(image)
        case 2:
            return ImageOps.posterize(image, max(1, 8 - round(4 * strength)))
        case 3:
            return ImageOps.solarize(image, round(256 * (1 - strength)))
        case 4:
            return _affine(image, size, centre, image.size, math.radians(30 * signed), fill, "bilinear")
        case 5:
            shifted = (centre[0] + 0.3 * signed * size, centre[1])
            return _affine(image, size, shifted, image.size, 0.0, fill, "bilinear")
        case 6:
            shifted = (centre[0], centre[1] + 0.3 * signed * size)
            return _affine(image, size, shifted, image.size, 0.0, fill, "bilinear")
        case 7:
            return ImageEnhance.Contrast(image).enhance(1 + 0.9 * signed)
        case 8:
            return ImageEnhance.Color(image).enhance(1 + 0.9 * signed)
        case _:
            return ImageEnhance.Brightness(image).enhance(1 + 0.9 * signed)
