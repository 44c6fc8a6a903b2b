"""Processor files as the library saved them, read here: the same pixels of odd pictures."""

from __future__ import annotations

import io
import json

import awkward
import numpy as np
from PIL import Image
import pytest
import transformers

from mof_jax.data.preprocess import Preprocess
from mof_jax.interop.preprocess import read_hf
from mof_jax.models.vit import normalise

pytestmark = pytest.mark.parity
PICTURES = awkward.pictures()


def processor(name):
    """The class that works without torchvision."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def both(theirs, picture, tmp_path):
    """(theirs, ours), normalised pixels of one picture."""
    theirs.save_pretrained(tmp_path)
    found = read_hf(json.loads((tmp_path / "preprocessor_config.json").read_text()), "preprocessor_config.json")
    want = theirs(Image.open(io.BytesIO(picture)).convert("RGB"), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    mine = Preprocess(found.image_size, found.resize, found.resample)(picture, "test", "picture")
    return want, np.asarray(normalise(mine[None], found.mean, found.std))[0]


@pytest.mark.parametrize("name", PICTURES)
def test_squashed_pictures_are_equal(name, tmp_path):
    """SigLIP's: the same resampling by the same code, so the same bytes; normalised they differ by rounding alone."""
    want, got = both(processor("SiglipImageProcessor")(size={"height": 32, "width": 32}), PICTURES[name], tmp_path)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "one row"])
def test_centre_crops_are_equal(name, tmp_path):
    """CLIP's: the short side to 24 pixels, then the middle of whole pixels."""
    theirs = processor("CLIPImageProcessor")(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    want, got = both(theirs, PICTURES[name], tmp_path)
    np.testing.assert_allclose(got, want, atol=1e-5)
