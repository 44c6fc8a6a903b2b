"""How pictures are prepared: the processor files of other libraries ↔ our `Preprocess` and normalisation.

An imported model keeps the pixels of its library (`Preprocess.pixels`), level for level: of `transformers` those that the
Pillow processors of its fifth version make of an opened picture, of OpenCLIP those of its evaluation transform. The fourth
version dropped transparency, where the fifth lays it on white. Their processors on torchvision tensors resample with other
rounding (mostly within 2 of 255 levels, at most 7 seen) and put a frame of an odd width half a pixel to the other side.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re
from typing import Any, NamedTuple

from mof_jax.data.image.images import Fill
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.errors import UserError
from mof_jax.interop.values import MOST_PIXELS, Values, triple
from mof_jax.parsing import is_count

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
    fill: Fill = 255

    @classmethod
    def of(cls, p: Preprocess, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Processing:
        """What a checkpoint says."""
        return cls(p.image_size, p.resize, p.resample, mean, std, (), p.resize_side, p.pixels, p.fill)

    def section(self) -> dict[str, Any]:
        """What a config says in `data`: all but the normalisation, which is the model's."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(Preprocess)}


_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
def _class(size: dict[str, int], resample: int, colours: str, crop: int | None = None, squared: bool = False) -> dict[str, Any]:
    """Args: squared: whether a size that is a number alone is a square, or a shortest edge."""
    mean, std = {"clip": (_CLIP_MEAN, _CLIP_STD), "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))}[colours]
    return dict(size=size, resample=resample, image_mean=mean, image_std=std, do_center_crop=crop is not None,
                crop_size=None if crop is None else {"height": crop, "width": crop},
                default_to_square=squared)


_SQUARE_224 = {"height": 224, "width": 224}
# What a class of the library takes for a value that a file leaves out or says null of.
CLASSES: dict[str, dict[str, Any]] = {
    "CLIP": _class({"shortest_edge": 224}, 3, "clip", 224), "Bit": _class({"shortest_edge": 224}, 3, "clip", 224),
    "Llava": _class({"shortest_edge": 224}, 3, "clip", 224), "Siglip": _class(_SQUARE_224, 3, "half"),
    "ViT": _class(_SQUARE_224, 2, "half", squared=True), "DeiT": _class({"height": 256, "width": 256}, 3, "half", 224, True),
    "Blip": _class({"height": 384, "width": 384}, 3, "clip", squared=True)}
_STEPS = ("do_resize", "do_rescale", "do_normalize")
# How the library hands arrays around, and what it writes beside; pictures here always become RGB.
_FREE = ("do_convert_rgb", "data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "image_seq_length",
         "processor_class", "_processor_class", "_valid_processor_keys", "transformers_version", "use_fast")
_BESIDE = ("processor_class", "image_token", "patch_size", "vision_feature_select_strategy", "num_additional_image_tokens",
           "chat_template", "image_seq_length")  # of the processor of a whole model: they count its words


def read_hf(theirs: Mapping[str, Any], where: str, family: str | None = None) -> Processing:
    """`preprocessor_config.json` (or `processor_config.json` of the fifth version) of `transformers`.

    Args:
      family: whose class prepares pictures where the file names none, as the library does.

    Raises:
      UserError: steps that have no counterpart here, or a key that is not known.
    """
    values = Values(theirs, where)
    nested = theirs.get("image_processor") is not None
    inner = values.section("image_processor") if nested else values
    if nested:
        values.free(*_BESIDE)
    defaults = _defaults(inner, family)
    value = lambda key: defaults.get(key) if inner.get(key) is None else inner.get(key)
    for key in _STEPS:
        inner.only(key, True, None)  # null is the class's, which is true; a model here always has them
    padded = inner.get("do_pad")
    if padded not in (None, False) and not (padded is True and _class_of(inner) == "Llava"):  # the others pad otherwise
        raise inner.wrong("do_pad", "is built here as LlavaImageProcessor does it")
    inner.only("pad_size", None)
    inner.only("auto_map", None)
    if inner.get("rescale_factor") is not None and abs(inner.number("rescale_factor", 1.0) * 255 - 1) > 1e-6:
        raise inner.wrong("rescale_factor", "is not built here; pixels are divided by 255")
    if not is_count(value("resample")) or value("resample") not in _RESAMPLE:
        raise inner.wrong("resample", "is not known here; 2 (bilinear) and 3 (bicubic) are")
    squared = value("default_to_square")
    side, shortest = _square(inner, "size", value("size"), bool(squared))
    cropped = value("do_center_crop")
    if not isinstance(cropped, (bool, type(None))):
        raise inner.wrong("do_center_crop", "is neither true nor false")
    if shortest and not cropped:
        raise UserError(f"{where}: pictures keep their shape (shortest_edge without a crop); towers here take squares")
    kept = _square(inner, "crop_size", value("crop_size"), True)[0] if cropped else side
    mean, std = (triple(value(key), f"{where}: {key}", least) for key, least in (("image_mean", None), ("image_std", 1e-6)))
    inner.free("crop_size", *_FREE)
    values.close()
    resize, fill = ("square", mean_colour(mean)) if padded else ("crop" if shortest else "squash", 255)
    return Processing(kept, resize, _RESAMPLE[value("resample")], mean, std, resize_side=None if kept == side else side,
                      fill=fill)


def mean_colour(mean: tuple[float, float, float]) -> tuple[int, int, int]:
    """The mean of normalisation as a colour, rounded down: what LLaVA pads pictures with."""
    return tuple(int(x * 255) for x in mean)


def _defaults(values: Values, family: str | None) -> dict[str, Any]:
    """What the class that a file names takes for absent values.

    Raises:
      UserError: the class is not known, and the file leaves something to it.
    """
    names = [values.get(key) for key in ("image_processor_type", "feature_extractor_type")]
    named = next((name for name in names if name is not None), None)
    if named is not None and not isinstance(named, str):
        raise values.wrong("image_processor_type", "is no name of a class")
    if named is None and family is not None:
        return CLASSES[{"siglip": "Siglip", "dinov2": "Bit", "vit": "ViT"}.get(family, "CLIP")]
    if (kind := _class_of(values)) in CLASSES:
        return CLASSES[kind]
    needed = ("size", "resample", "image_mean", "image_std", *(_STEPS if named else ()))
    left = [key for key in needed if values.get(key) is None]
    if values.get("do_center_crop") is None and values.get("crop_size") is not None:
        left.append("do_center_crop")
    if values.get("do_center_crop") and values.get("crop_size") is None:
        left.append("crop_size")
    if left:
        whose = f"to {named}, whose defaults are not known here" if named else "open, and names no image_processor_type"
        raise UserError(f"{values.where}: leaves {', '.join(left)} {whose}; write the values into the file")
    return {"default_to_square": False}


def _class_of(values: Values) -> str | None:
    """The class that a file names, without its ending; None for none."""
    names = [values.get(key) for key in ("image_processor_type", "feature_extractor_type")]
    named = next((name for name in names if name is not None), None)
    found = re.fullmatch(r"(\w+?)(ImageProcessor|FeatureExtractor)(Fast|Pil)?", named) if isinstance(named, str) else None
    return found and found[1]


def write_hf(p: Processing, kind: str) -> dict[str, Any]:
    """`preprocessor_config.json` of an image processor class, e.g. `CLIPImageProcessor`.

    Raises:
      UserError: `longest`, which pads, has no counterpart there.
    """
    if p.resize == "longest" or (p.resize == "square" and p.fill != mean_colour(p.mean)):
        raise UserError(f"preprocessing resize={p.resize!r} (padding) with fill={p.fill} cannot be said in "
                        "preprocessor_config.json")
    pad = {"image_processor_type": "LlavaImageProcessor", "do_pad": True} if p.resize == "square" else {}
    squash, side = p.resize == "squash", p.resize_side or p.image_size
    cropped = not squash or side != p.image_size
    square = lambda side: {"height": side, "width": side}
    return dict(
        image_processor_type=kind, do_convert_rgb=True, do_resize=True, size=square(side) if squash else {"shortest_edge": side},
        resample=next(number for number, name in _RESAMPLE.items() if name == p.resample), do_center_crop=cropped,
        **({"crop_size": square(p.image_size)} if cropped else {}), do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=list(p.mean), image_std=list(p.std)) | pad


def read_open_clip(theirs: Mapping[str, Any], image_size: int, where: str) -> Processing:
    """The `preprocess_cfg` of an `open_clip_config.json`; what it leaves out, or says null of, is the library's default."""
    cfg = Values({key: value for key, value in theirs.items() if value is not None}, where, "preprocess_cfg.")
    cfg.only("mode", "RGB")
    cfg.free("size")  # the library takes the tower's
    resize = cfg.choice("resize_mode", "shortest", {"shortest": "crop", "squash": "squash", "longest": "longest"})
    resample = cfg.choice("interpolation", "bicubic", {name: name for name in _RESAMPLE.values()})
    mean = triple(cfg.get("mean", _CLIP_MEAN), f"{where}: preprocess_cfg.mean")
    std = triple(cfg.get("std", _CLIP_STD), f"{where}: preprocess_cfg.std", 1e-6)
    fill = cfg.count("fill_color", 0, least=0, most=255)
    cfg.close()
    return Processing(image_size, resize, resample, mean, std, pixels="open_clip", fill=fill)


def write_open_clip(p: Processing) -> dict[str, Any]:
    """The `preprocess_cfg` of an `open_clip_config.json`.

    Raises:
      UserError: a crop from a larger picture has no counterpart there.
    """
    if p.resize == "square":
        raise UserError("preprocessing resize='square' (padding) cannot be said in open_clip_config.json")
    if p.resize_side not in (None, p.image_size):
        raise UserError(f"preprocessing resize_side={p.resize_side} cannot be said in open_clip_config.json")
    mode = "shortest" if p.resize == "crop" else p.resize
    frame = {"fill_color": p.fill} if mode == "longest" else {}
    return dict(mean=list(p.mean), std=list(p.std), interpolation=p.resample, resize_mode=mode, **frame)


def _square(values: Values, key: str, size: Any, squared: bool) -> tuple[int, bool]:
    """(side, whether it is the shortest edge) of a `size` or `crop_size`.

    Args:
      squared: whether a number alone is a square, or a shortest edge.
    """
    good = lambda n: is_count(n, MOST_PIXELS + 1) and n > 0
    if good(size):
        return size, not squared
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"} and good(size["shortest_edge"]):
        return size["shortest_edge"], True
    both = isinstance(size, Mapping) and set(size) == {"height", "width"}
    if both and good(size["height"]) and size["height"] == size["width"]:
        return size["height"], False
    raise values.wrong(key, "is not a square")
