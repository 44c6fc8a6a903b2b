"""How pictures are prepared: the processor files of other libraries ↔ our `Preprocess` and normalisation.

What differs, and cannot be said in their files: transparent pictures lie on white here (theirs drop the transparency), and
a crop from a larger picture (DINOv2's 224 of 256) becomes one of the whole centre square. Large JPEGs are decoded at a half, a
quarter or an eighth of their size where that is no smaller than what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mof_jax.errors import UserError

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Processing(NamedTuple):
    """Fields of our config sections: what becomes of a picture, and its normalisation."""

    image_size: int
    resize: str
    resample: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...] = ()


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
    side, squash, notes = size[0], not size[1], ()
    if size[1] and values.get("do_center_crop", crop is not None):
        if crop is None:
            raise UserError(f"{where}: do_center_crop without crop_size")
        if crop[0] != side:
            notes = (f"its pictures are resized to {side} and the middle {crop[0]} are kept; here the whole centre square is "
                     f"resized to {crop[0]}, so objects look {side / crop[0]:.2f} times smaller",)
        side = crop[0]
    elif size[1]:
        raise UserError(f"{where}: pictures keep their shape (shortest_edge without a crop); towers here take squares")
    triple = lambda key: tuple(float(x) for x in values.get(key) or (0.5, 0.5, 0.5))
    mode = "squash" if squash else "crop"
    return Processing(side, mode, _RESAMPLE[resample], triple("image_mean"), triple("image_std"), notes)


def write_hf(p: Processing, kind: str) -> dict[str, Any]:
    """`preprocessor_config.json` of an image processor class, e.g. `CLIPImageProcessor`.

    Raises:
      UserError: `longest`, which pads, has no counterpart there.
    """
    if p.resize == "longest":
        raise UserError("preprocessing resize='longest' (padding) cannot be said in preprocessor_config.json")
    squash = p.resize == "squash"
    square = {"height": p.image_size, "width": p.image_size}
    return dict(
        image_processor_type=kind, do_convert_rgb=True, do_resize=True,
        size=square if squash else {"shortest_edge": p.image_size},
        resample=next(number for number, name in _RESAMPLE.items() if name == p.resample), do_center_crop=not squash,
        **({} if squash else {"crop_size": square}), do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=list(p.mean), image_std=list(p.std))


def read_open_clip(theirs: Mapping[str, Any], image_size: int, where: str) -> Processing:
    """The `preprocess_cfg` of an `open_clip_config.json`; what it leaves out is the library's default."""
    triple = lambda key, default: tuple(float(x) for x in theirs.get(key) or default)
    mode, resample = theirs.get("resize_mode", "shortest"), theirs.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash", "longest") or resample not in _RESAMPLE.values():
        raise UserError(f"{where}: resize_mode {mode!r}, interpolation {resample!r}: not known here")
    return Processing(image_size, mode, resample, triple("mean", (0.48145466, 0.4578275, 0.40821073)),
                      triple("std", (0.26862954, 0.26130258, 0.27577711)))


def write_open_clip(p: Processing) -> dict[str, Any]:
    """The `preprocess_cfg` of an `open_clip_config.json`."""
    return dict(mean=list(p.mean), std=list(p.std), interpolation=p.resample, resize_mode=p.resize)


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
