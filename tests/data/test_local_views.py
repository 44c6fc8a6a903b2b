"""Small crops beside the large ones (multi-crop)."""

import numpy as np
from PIL import Image
import pytest

from mof_jax.config import build
from mof_jax.data import keyed
from mof_jax.data.image import augment, images
from mof_jax.data.pipeline import DataConfig, Pipeline
from mof_jax.data.worlds.embedded import Emoji5
from mof_jax.errors import UserError

CROP = {"crop": {"scale": (0.1, 0.4)}}
BASE = dict(sources=[dict(kind="emoji5", split="unseen")], image_size=16, captions=0, views=2, augment={"flip": 0.5})


def pipeline(local, **change):
    return Pipeline(build(DataConfig, {**BASE, "local": local, **change}), None, 8)


def test_local_crops_come_beside_views_that_do_not_change():
    local = dict(views=3, image_size=8, augment={**CROP, "jitter": {}})
    with_local, without = pipeline(local, augment=CROP).batch(0), pipeline(None, augment=CROP).batch(0)
    assert with_local["local"].shape == (8, 3, 8, 8, 3) and with_local["local"].dtype == np.uint8
    assert "local" not in without and set(with_local) == {"image", "group", "local"}
    np.testing.assert_array_equal(with_local["image"], without["image"])


def test_a_crop_is_keyed_by_its_example():
    """By (seed, source, example, epoch, view), whatever the batch: drawn again by hand."""
    pipe = pipeline(dict(views=2, image_size=8, augment=CROP))
    batch, at = pipe.batch(1), pipe.stream.locate(np.arange(8, 16))
    source, changes = Emoji5("unseen"), build(augment.AugmentConfig, CROP)
    for row in (0, 5):
        picture = images.decode(source[int(at.index[row])].image)
        for view in range(2):
            draws = keyed.Draws(0, 4, 0, int(at.index[row]), int(at.epoch[row]), view)
            want = np.asarray(augment.augment(picture, 8, changes, draws))
            np.testing.assert_array_equal(batch["local"][row, view], want)
    assert len({crop.tobytes() for crop in batch["local"].reshape(16, -1)}) > 12


def test_crops_are_cut_from_the_whole_picture_cached_or_not():
    """Views that need no crop are cached shrunk; not when small crops are to be cut from them."""
    local = dict(views=2, image_size=16, augment=CROP)
    plain, cached = pipeline(local), pipeline(local, cache="decoded")
    for _ in range(2):
        for name, want in plain.batch(0).items():
            np.testing.assert_array_equal(cached.batch(0)[name], want)
    detail = lambda pixels: np.abs(np.diff(np.asarray(Image.fromarray(pixels).convert("L"), float), axis=0)).mean()
    crops = plain.batch(0)["local"].reshape(-1, 16, 16, 3)
    blurred = [np.asarray(Image.fromarray(x).resize((6, 6)).resize((16, 16), Image.Resampling.BICUBIC)) for x in crops]
    assert np.mean([detail(x) for x in crops]) > 1.2 * np.mean([detail(x) for x in blurred])


@pytest.mark.parametrize("change, says", [
    (dict(local=dict(views=0)), "config.local.views: 0 is not at least 1"),
    (dict(local=dict(size=8)), "config.local.size: unknown key"),
    (dict(local=dict(views=1), views=0, captions=1), "local views need views"),
])
def test_mistakes_are_named(change, says):
    with pytest.raises(UserError, match=says):
        build(DataConfig, {**BASE, **change})
