"""Processor files as the library saved them, read here: the same pixels of odd pictures."""

from __future__ import annotations

import io
import json

import awkward
import numpy as np
from PIL import Image
import pytest
import transformers

from mof_jax.data.image.preprocess import Preprocess
from mof_jax.errors import UserError
from mof_jax.interop.preprocess import CLASSES, read_hf, write_hf
from mof_jax.models.vit import normalise

pytestmark = pytest.mark.parity
PICTURES = awkward.pictures()


def processor(name, **options):
    """The class that resamples with Pillow, as the first versions of all of them did."""
    return (getattr(transformers, f"{name}Pil", None) or getattr(transformers, name))(**options)


def square(side):
    return {"height": side, "width": side}


# As the models on the hub have them, in small. ViT's library class leaves pictures that are not RGB to the user.
PROCESSORS = {
    "clip": processor("CLIPImageProcessor", size={"shortest_edge": 24}, crop_size=square(24)),
    "siglip": processor("SiglipImageProcessor", size=square(32)),
    "vit": processor("ViTImageProcessor", size=square(32), do_convert_rgb=True),
    "dinov2": processor("BitImageProcessor", size={"shortest_edge": 37}, crop_size=square(32)),
    "dinov2, an even margin": processor("BitImageProcessor", size={"shortest_edge": 36}, crop_size=square(32)),
    "a frame": processor("BitImageProcessor", size={"shortest_edge": 27}, crop_size=square(32)),
    "a wide frame": processor("BitImageProcessor", size={"shortest_edge": 20}, crop_size=square(35)),
    "squashed, then cropped": processor("CLIPImageProcessor", size=square(37), crop_size=square(32)),
}


def both(theirs, picture, tmp_path):
    """(theirs, ours, theirs normalised, ours normalised) of one encoded picture, [size, size, 3]."""
    theirs.save_pretrained(tmp_path)
    found = read_hf(json.loads((tmp_path / "preprocessor_config.json").read_text()), "preprocessor_config.json")
    want = theirs(Image.open(io.BytesIO(picture)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    levels = np.rint((want * np.float32(found.std) + np.float32(found.mean)) * 255).astype(np.uint8)
    mine = Preprocess(**found.section())(picture, "test", "picture")
    return levels, mine, want, np.asarray(normalise(mine[None], found.mean, found.std))[0]


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_equal(kind, name, tmp_path):
    """Every level of every pixel; normalised they differ by rounding alone."""
    levels, mine, want, normalised = both(PROCESSORS[kind], PICTURES[name], tmp_path)
    np.testing.assert_array_equal(mine, levels)
    np.testing.assert_allclose(normalised, want, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (2, 5001)])
def test_long_strips_are_off_by_one_level_at_most(shape, tmp_path):
    """Only the middle of a strip is resampled here, where the library makes a picture of 150 million pixels first."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    theirs = processor("CLIPImageProcessor", size={"shortest_edge": 224}, crop_size=square(224))
    levels, mine, _, _ = both(theirs, buffer.getvalue(), tmp_path)
    assert np.abs(mine.astype(int) - levels).max() <= 1


def test_a_model_of_ours_sees_other_pixels_than_the_library():
    """Where we differ on purpose: EXIF orientation is applied, 16-bit grey is scaled, and a JPEG twice as large as needed is
    decoded at a half. Nothing else differs."""
    ours, theirs = Preprocess(24, "crop"), Preprocess(24, "crop", pixels="transformers")
    differ = {name for name, x in PICTURES.items() if not np.array_equal(ours(x, "t", name), theirs(x, "t", name))}
    assert differ == {"16-bit", "16-bit dark", "turned 2", "turned 6", "turned 8", "jpeg", "grey jpeg", "cmyk jpeg"}


# Pictures that are not RGB are left to the user by ViT's and DeiT's.
assert set(CLASSES) == {"CLIP", "Bit", "Llava", "Siglip", "ViT", "DeiT", "Blip"}
SHOWN = ("rgb 91x37", "rgb 480x640")


def equal(theirs, found, what) -> None:
    """Levels, and the normalised values, of two pictures."""
    for name in SHOWN:
        want = theirs(Image.open(io.BytesIO(PICTURES[name])), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        mine = normalise(Preprocess(**found.section())(PICTURES[name], "test", "picture")[None], found.mean, found.std)[0]
        assert want.shape == mine.shape, what
        np.testing.assert_allclose(np.asarray(mine), want, atol=1e-5, err_msg=str(what))


@pytest.mark.parametrize("kind", CLASSES)
def test_a_file_that_names_a_class_alone_means_its_defaults(kind):
    """And each value left out, or null."""
    theirs = processor(f"{kind}ImageProcessor")
    full = json.loads(theirs.to_json_string())
    named = {"image_processor_type": f"{kind}ImageProcessor"}
    equal(theirs, read_hf(named, "p"), kind)
    for key in full:
        equal(theirs, read_hf({k: v for k, v in full.items() if k != key} | named, "p"), key)
        equal(theirs, read_hf(full | {key: None} | named, "p"), key)


@pytest.mark.parametrize("options", [{}, {"size": {"shortest_edge": 40}, "crop_size": {"height": 36, "width": 36}},
                                     {"image_mean": [0.1, 0.2, 0.9], "resample": 2}])
def test_llava_pads_to_a_square_first(options):
    """With the colour of the mean, into the middle, as the library's own class does it; and back into a file."""
    theirs = processor("LlavaImageProcessor", do_pad=True, **options)
    full = json.loads(theirs.to_json_string())
    found = read_hf(full, "p")
    assert found.resize == "square"
    equal(theirs, found, options)
    again = read_hf(write_hf(found, "CLIPImageProcessor"), "p")
    assert again == found


@pytest.mark.parametrize("kind", CLASSES)
def test_each_key_of_a_processor_file_is_read_free_or_refused(kind):
    theirs = processor(f"{kind}ImageProcessor")
    full, read, refused = json.loads(theirs.to_json_string()), 0, 0
    others = dict(resample=[2, 3, 0], size=[40, {"shortest_edge": 40}, {"height": 40, "width": 40}],
                  crop_size=[36, {"height": 36, "width": 36}], image_mean=[[0.1, 0.2, 0.3]], image_std=[[0.5, 0.4, 0.3]],
                  rescale_factor=[0.01])
    for key, value in full.items():
        for other in others.get(key, [not value] if isinstance(value, bool) else []):
            try:
                found = read_hf(full | {key: other}, "p")
            except UserError as error:
                assert key in str(error) or "keep their shape" in str(error), error
                refused += 1
                continue
            options = {k: v for k, v in (full | {key: other}).items() if k != "image_processor_type"}
            equal(type(theirs)(**options), found, (key, other))
            read += 1
    assert read >= 4 and refused >= 3
    with pytest.raises(UserError, match="stranger .1. is not known here"):
        read_hf(full | {"stranger": 1}, "p")
