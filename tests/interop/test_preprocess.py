"""Processor files of other libraries, as they lie on the hub."""

from __future__ import annotations

import foreign
import pytest

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


def test_a_crop_smaller_than_the_resized_picture_is_mentioned():
    found = read_hf(DINOV2, "p")
    assert found._replace(notes=()) == Processing(224, "crop", "bicubic", *IMAGENET)
    assert "1.14 times smaller" in found.notes[0]


@pytest.mark.parametrize("change, message", [
    ({"do_normalize": False}, "do_normalize must be on"),
    ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
    ({"resample": 1}, "resample 1"),
    ({"size": {"shortest_edge": 384}, "do_center_crop": False}, "keep their shape"),
    ({"size": {"height": 384, "width": 224}}, "is not a square"),
    ({"size": {"longest_edge": 384, "shortest_edge": 384}}, "is not a square"),
    ({"size": None}, "names no size"),
])
def test_what_has_no_counterpart(change, message):
    with pytest.raises(UserError, match=message):
        read_hf(SIGLIP | change, "preprocessor_config.json")


def test_padding_cannot_be_said_there():
    with pytest.raises(UserError, match="longest"):
        write_hf(Processing(224, "longest", "bicubic", *CLIP), "CLIPImageProcessor")


def test_open_clips_section():
    assert read_open_clip({}, 224, "o") == Processing(224, "shortest", "bicubic", *CLIP)
    dfn = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", resize_mode="squash")
    assert read_open_clip(dfn, 378, "o") == Processing(378, "squash", "bilinear", *HALF)
    assert write_open_clip(read_open_clip(dfn, 378, "o")) == dfn
    with pytest.raises(UserError, match="interpolation 'nearest'"):
        read_open_clip({"interpolation": "nearest"}, 224, "open_clip_config.json")
