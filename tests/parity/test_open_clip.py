"""Ours against the installed `open_clip` and `timm`: towers with fresh random weights, losses and their gradients."""

import io

import awkward
import numpy as np
import open_clip
from parity_cases import check, our_loss, our_positions, ours
import parity_open_clip
from PIL import Image
import pytest

from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.text import tokenizers
from mof_jax.interop.preprocess import read_open_clip

pytestmark = pytest.mark.open_clip
PICTURES, STRINGS = awkward.pictures(), awkward.strings()


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", parity_open_clip.MODELS)
def test_forward_equals_open_clip(kind, seed):
    sample = parity_open_clip.sample(kind, seed)
    check(ours(kind, sample), sample.outputs)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", parity_open_clip.LOSSES)
def test_loss_and_gradients_equal_open_clip(kind, seed):
    sample = parity_open_clip.loss_sample(kind, seed)
    check(our_loss(kind, sample.inputs), sample.outputs)


@pytest.mark.parametrize("seed", [1, 2])
def test_resampled_positions_equal_timm(seed):
    sample = parity_open_clip.positions_sample(seed)
    check(our_positions(sample.inputs["pos"]), sample.outputs, 2e-5)


def pixels(config, name):
    """(theirs, ours), [25, 25, 3] levels of one picture."""
    config = dict(mean=[0.5] * 3, std=[0.5] * 3) | config
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=25, **config), is_train=False)
    want = transform(Image.open(io.BytesIO(PICTURES[name]))).numpy().transpose(1, 2, 0)
    got = Preprocess(**read_open_clip(config, 25, "open_clip_config.json").section())(PICTURES[name], "test", "picture")
    return np.rint((want * 0.5 + 0.5) * 255).astype(np.uint8), got


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("config", [{}, {"resize_mode": "squash", "interpolation": "bilinear"}], ids=str)
def test_pixels_equal_open_clip(config, name):
    """Every level of every pixel, whatever the file's mode."""
    np.testing.assert_array_equal(*pixels(config, name))


@pytest.mark.parametrize("name", [name for name in PICTURES if name not in ("rgb 300x3", "rgb 1x50", "rgb 50x1")])
@pytest.mark.parametrize("fill", [0, 99])
def test_padded_pixels_equal_open_clip(fill, name):
    """The library refuses strips that become less than a pixel wide. Around a picture that is not of greys, RGB or RGBA it puts
    what number `fill` means there (a palette's colour, an amount of ink), and we that grey: the picture alone is compared."""
    want, got = pixels({"resize_mode": "longest", "fill_color": fill}, name)
    image = Image.open(io.BytesIO(PICTURES[name]))
    if image.mode in ("1", "P", "CMYK"):
        inner = [round(length / (max(image.size) / 25)) for length in image.size[::-1]]
        at = tuple(slice((25 - n) // 2, (25 - n) // 2 + n) for n in inner)
        want, got = want[at], got[at]
    np.testing.assert_array_equal(got, want)


def test_words_equal_open_clip():
    """All of the awkward strings."""
    np.testing.assert_array_equal(tokenizers.make(tokenizers.TokenizerConfig(kind="clip"))(STRINGS), open_clip.tokenize(STRINGS))
