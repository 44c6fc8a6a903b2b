"""Processor files of other libraries, as they lie on the hub."""

from __future__ import annotations

import foreign
import pytest

from mof_jax.data.image.preprocess import Preprocess
from mof_jax.errors import UserError
from mof_jax.interop.preprocess import Processing, read_hf, read_open_clip, write_hf, write_open_clip

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

SIGLIP = dict(do_resize=True, size={"height": 384, "width": 384}, resample=3, do_rescale=True, rescale_factor=1 / 255,
              do_normalize=True, image_mean=[0.5] * 3, image_std=[0.5] * 3, image_processor_type="SiglipImageProcessor")
DINOV2 = dict(do_resize=True, size={"shortest_edge": 256}, resample=3, do_center_crop=True,
              crop_size={"height": 224, "width": 224}, do_rescale=True, do_normalize=True, image_mean=[0.485, 0.456, 0.406],
              image_std=[0.229, 0.224, 0.225], image_processor_type="BitImageProcessor")


@pytest.mark.parametrize("theirs, wanted", [
    (foreign.PROCESSOR, Processing(foreign.IMAGE, "crop", "bicubic", *CLIP)),
    (SIGLIP, Processing(384, "squash", "bicubic", *HALF)),
    (SIGLIP | {"resample": 2}, Processing(384, "squash", "bilinear", *HALF)),
    ({"image_processor": SIGLIP, "processor_class": "SiglipProcessor"}, Processing(384, "squash", "bicubic", *HALF)),
    # The first files of CLIP.
    (dict(size=224, crop_size=224, do_center_crop=True, resample=3, image_mean=list(CLIP[0]), image_std=list(CLIP[1])),
     Processing(224, "crop", "bicubic", *CLIP)),
])
def test_known_files(theirs, wanted):
    assert read_hf(theirs, "p") == wanted
    assert read_hf(write_hf(wanted, "CLIPImageProcessor"), "p") == wanted


SQUASHED = SIGLIP | {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}


@pytest.mark.parametrize("theirs, wanted", [
    (DINOV2, Processing(224, "crop", "bicubic", *IMAGENET, resize_side=256)),
    (DINOV2 | {"size": {"shortest_edge": 200}}, Processing(224, "crop", "bicubic", *IMAGENET, resize_side=200)),
    (SQUASHED, Processing(224, "squash", "bicubic", *HALF, resize_side=256)),
])
def test_a_crop_of_another_size_than_the_resized_picture(theirs, wanted):
    assert read_hf(theirs, "p") == wanted
    back = write_hf(wanted, theirs["image_processor_type"])
    assert back == back | theirs
    assert read_hf(back, "p") == wanted
    assert Preprocess(**wanted.section()).resize_side == wanted.resize_side


@pytest.mark.parametrize("change, message", [
    ({"do_normalize": False}, "do_normalize False is not built here, True or None is"),
    ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ({"resample": 1}, "resample 1"),
    ({"size": {"shortest_edge": 384}, "do_center_crop": False}, "keep their shape"),
    ({"size": {"height": 384, "width": 224}}, "is not a square"),
    ({"size": {"longest_edge": 384, "shortest_edge": 384}}, "is not a square"),
    ({"image_mean": 0.5}, "image_mean 0.5: three numbers are read here"),
    ({"image_mean": [0.5, float("nan"), 0.5]}, "image_mean .0.5, nan, 0.5.: three numbers"),
    ({"image_std": [0.5, 0, 0.5]}, "image_std .* what pixels are divided by is positive"),
    ({"do_pad": True}, "do_pad True is built here as LlavaImageProcessor does it"),
    ({"do_center_crop": "yes"}, "do_center_crop 'yes' is neither true nor false"),
    ({"crop_pct": 0.9}, "crop_pct .0.9. is not known here"),
    ({"size": {"height": 384, "width": 384, "depth": 3}}, "size .* is not a square"),
    ({"size": {"height": True, "width": True}}, "size .* is not a square"),
    ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map .* is not built here"),
    ({"image_processor_type": ["CLIPImageProcessor"]}, "image_processor_type .* is no name of a class"),
    ({"image_processor": [1]}, "image_processor is no section, but a list"),
    ({"resample": None, "image_processor_type": "OwlImageProcessor"},
     "leaves resample to OwlImageProcessor, whose defaults are not known here"),
])
def test_what_has_no_counterpart(change, message):
    with pytest.raises(UserError, match=message):
        read_hf(SIGLIP | change, "preprocessor_config.json")


def test_padding_cannot_be_said_there():
    with pytest.raises(UserError, match="longest"):
        write_hf(Processing(224, "longest", "bicubic", *CLIP), "CLIPImageProcessor")


def test_open_clips_section():
    of = lambda *fields, fill=0: Processing(*fields, pixels="open_clip", fill=fill)
    assert read_open_clip({}, 224, "o") == of(224, "crop", "bicubic", *CLIP)
    assert write_open_clip(read_open_clip({}, 224, "o"))["resize_mode"] == "shortest", "what `crop` is called there"
    dfn = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", resize_mode="squash")
    assert read_open_clip(dfn, 378, "o") == of(378, "squash", "bilinear", *HALF)
    assert write_open_clip(read_open_clip(dfn, 378, "o")) == dfn
    framed = dfn | {"resize_mode": "longest", "fill_color": 7}
    assert read_open_clip(framed, 378, "o") == of(378, "longest", "bilinear", *HALF, fill=7)
    assert write_open_clip(read_open_clip(framed, 378, "o")) == framed
    with pytest.raises(UserError, match="resize_side=256"):
        write_open_clip(Processing(224, "crop", "bicubic", *CLIP, resize_side=256))
    with pytest.raises(UserError, match="interpolation 'nearest'"):
        read_open_clip({"interpolation": "nearest"}, 224, "open_clip_config.json")


HALF_BILINEAR = Processing(224, "squash", "bilinear", *HALF)


@pytest.mark.parametrize("theirs, family, wanted", [
    ({"image_processor_type": "CLIPImageProcessor"}, None, Processing(224, "crop", "bicubic", *CLIP)),
    ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 64, "crop_size": 48}, None,
     Processing(48, "crop", "bicubic", *CLIP, resize_side=64)),
    ({"image_processor_type": "BitImageProcessorFast", "size": {"shortest_edge": 256}}, None,
     Processing(224, "crop", "bicubic", *CLIP, resize_side=256)),
    ({"image_processor_type": "SiglipImageProcessor"}, None, Processing(224, "squash", "bicubic", *HALF)),
    ({"image_processor_type": "ViTImageProcessor"}, None, HALF_BILINEAR),
    ({"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "image_mean": None, "resample": None}, None,
     HALF_BILINEAR._replace(image_size=32)),
    ({"image_processor_type": "DeiTImageProcessor"}, None, Processing(224, "squash", "bicubic", *HALF, resize_side=256)),
    ({"image_processor_type": "BlipImageProcessor", "size": 48}, None, Processing(48, "squash", "bicubic", *CLIP)),
    ({"image_processor_type": "LlavaImageProcessor", "do_pad": True}, None,
     Processing(224, "square", "bicubic", *CLIP, fill=(122, 116, 104))),
    ({"image_processor_type": "LlavaImageProcessor", "do_pad": False}, None, Processing(224, "crop", "bicubic", *CLIP)),
    ({}, "siglip", Processing(224, "squash", "bicubic", *HALF)), ({}, "vit", HALF_BILINEAR),
    ({}, "dinov2", Processing(224, "crop", "bicubic", *CLIP)), ({}, "clip", Processing(224, "crop", "bicubic", *CLIP)),
    ({"image_processor_type": "SiglipImageProcessor"}, "clip", Processing(224, "squash", "bicubic", *HALF)),
])
def test_what_a_file_leaves_out_is_its_classs_default(theirs, family, wanted):
    """tests/parity compares them with the library."""
    assert read_hf(theirs, "p", family) == wanted


@pytest.mark.parametrize("change, message", [
    ({"mean": 0.5}, "preprocess_cfg.mean 0.5: three numbers are read here"), ({"std": [1, 1]}, "preprocess_cfg.std"),
    ({"std": [0.0, 1, 1]}, "is positive"), ({"mode": "L"}, "preprocess_cfg.mode 'L' is not built here, 'RGB' is"),
    ({"fill_color": -1}, "preprocess_cfg.fill_color -1"), ({"resize_mode": "stretch"}, "preprocess_cfg.resize_mode 'stretch'"),
    ({"interpolation": "random"}, "preprocess_cfg.interpolation 'random'"),
    ({"crop_pct": 0.9}, "preprocess_cfg.crop_pct .0.9. is not known here"),
])
def test_what_open_clips_section_may_not_say(change, message):
    with pytest.raises(UserError, match=message):
        read_open_clip(change, 224, "open_clip_config.json")
    nothing = {"mean": None, "std": None, "interpolation": None, "size": 3}
    assert read_open_clip(nothing, 224, "o") == read_open_clip({}, 224, "o"), "null is the default, the size the tower's"
