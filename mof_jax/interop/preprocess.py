"""How pictures are prepared: the processor files of other libraries ↔ our `Preprocess` and normalisation.

An imported model keeps the pixels of its library (`Preprocess.pixels`), level for level: of `transformers` those that the
Pillow processors of its fifth version make of an opened picture, of OpenCLIP those of its evaluation transform. The fourth
version dropped transparency, where the fifth lays it on white. Their processors on torchvision tensors resample with other
rounding (mostly within 2 of 255 levels, at most 7 seen) and put a frame of an odd width half a pixel to the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, NamedTuple

from mof_jax.data.preprocess import Preprocess
from mof_jax.errors import UserError

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Processing(NamedTuple):
    """Fields of our config sections: what becomes of a picture (see `Preprocess`), and its normalisation."""

    image_size: int
    resize: str
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...] = ()
    resize_side: int | None = None
    pixels: str = "transformers"
    fill: int = 255

    @classmethod
    def of(cls, p: Preprocess, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Processing:
        """What a checkpoint says."""
        return cls(p.image_size, p.resize, p.resample, mean, std, (), p.resize_side, p.pixels, p.fill)

    def section(self) -> dict[str, Any]:
        """What a config says in `data`: all but the normalisation, which is the model's."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Preprocess)}


def read_hf(theirs: Mapping[str, Any], where: str) -> Processing:
    """`preprocessor_config.json` (or `processor_config.json` of the fifth version) of `transformers`.

    Raises:
      UserError: steps that have no counterpart here.
    """
    values = theirs.get("image_processor") or theirs
    size, crop = _square(values.get("size"), where), _square(values.get("crop_size"), where)
    if not values.get("do_resize", True) or not values.get("do_rescale", True) or not values.get("do_normalize", True):
        raise UserError(f"{where}: do_resize, do_rescale and do_normalize must be on; a model here always has them")
    if abs(values.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise UserError(f"{where}: rescale_factor {values['rescale_factor']}; pixels are divided by 255 here")
    resample = values.get("resample", 3)
    if resample not in _RESAMPLE:
        raise UserError(f"{where}: resample {resample!r}; known here: 2 (bilinear), 3 (bicubic)")
    if size is None:
        raise UserError(f"{where}: names no size")
    side, shortest = size
    cropped = values.get("do_center_crop", shortest and crop is not None)
    if cropped and crop is None:
        raise UserError(f"{where}: do_center_crop without crop_size")
    if shortest and not cropped:
        raise UserError(f"{where}: pictures keep their shape (shortest_edge without a crop); towers here take squares")
    kept = crop[0] if cropped else side
    triple = lambda key: tuple(float(x) for x in values.get(key) or (0.5, 0.5, 0.5))
    return Processing(kept, "crop" if shortest else "squash", _RESAMPLE[resample], triple("image_mean"), triple("image_std"),
                      resize_side=None if kept == side else side)


def write_hf(p: Processing, kind: str) -> dict[str, Any]:
    """`preprocessor_config.json` of an image processor class, e.g. `CLIPImageProcessor`.

    Raises:
      UserError: `longest`, which pads, has no counterpart there.
    """
    if p.resize == "longest":
        raise UserError("preprocessing resize='longest' (padding) cannot be said in preprocessor_config.json")
    squash, side = p.resize == "squash", p.resize_side or p.image_size
    cropped = not squash or side != p.image_size
    square = lambda side: {"height": side, "width": side}
    return dict(
        image_processor_type=kind, do_convert_rgb=True, do_resize=True, size=square(side) if squash else {"shortest_edge": side},
        resample=next(number for number, name in _RESAMPLE.items() if name == p.resample), do_center_crop=cropped,
        **({"crop_size": square(p.image_size)} if cropped else {}), do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=list(p.mean), image_std=list(p.std))


def read_open_clip(theirs: Mapping[str, Any], image_size: int, where: str) -> Processing:
    """The `preprocess_cfg` of an `open_clip_config.json`; what it leaves out is the library's default."""
    triple = lambda key, default: tuple(float(x) for x in theirs.get(key) or default)
    mode, resample = theirs.get("resize_mode", "shortest"), theirs.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash", "longest") or resample not in _RESAMPLE.values():
        raise UserError(f"{where}: resize_mode {mode!r}, interpolation {resample!r}: not known here")
    return Processing(image_size, "crop" if mode == "shortest" else mode, resample,
                      triple("mean", (0.48145466, 0.4578275, 0.40821073)), triple("std", (0.26862954, 0.26130258, 0.27577711)),
                      pixels="open_clip", fill=theirs.get("fill_color", 0))


def write_open_clip(p: Processing) -> dict[str, Any]:
    """The `preprocess_cfg` of an `open_clip_config.json`.

    Raises:
      UserError: a crop from a larger picture has no counterpart there.
    """
    if p.resize_side not in (None, p.image_size):
        raise UserError(f"preprocessing resize_side={p.resize_side} cannot be said in open_clip_config.json")
    mode = "shortest" if p.resize == "crop" else p.resize
    frame = {"fill_color": p.fill} if mode == "longest" else {}
    return dict(mean=list(p.mean), std=list(p.std), interpolation=p.resample, resize_mode=mode, **frame)


def _square(size: Any, where: str) -> tuple[int, bool] | None:
    """(side, whether it is the shortest edge) of a `size` or `crop_size`."""
    if size is None:
        return None
    if isinstance(size, int):
        return size, True
    if isinstance(size, Mapping) and "shortest_edge" in size and "longest_edge" not in size:
        return int(size["shortest_edge"]), True
    if isinstance(size, Mapping) and size.get("height") and size.get("height") == size.get("width"):
        return int(size["height"]), False
    raise UserError(f"{where}: size {size!r} is not a square")
