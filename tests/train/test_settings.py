"""What shapes do not tell about weights that are taken over."""

from __future__ import annotations

import dataclasses

from small_models import two_tower

from mof_jax.models.two_tower import TwoTower
from mof_jax.train.settings import disagreements, settings


def of(config):
    return settings(lambda rngs: TwoTower(config, rngs))


def compare(taken, **image):
    config = two_tower()
    other = dataclasses.replace(config, image=dataclasses.replace(config.image, **image))
    return [(module, field) for module, field, _, _ in disagreements(of(config), of(other), taken)]


IMAGE = [("image/blocks/layers/mlp/up/kernel", "image/blocks/layers/mlp/up/kernel")]
TEXT = [("text/embed", "text/embed"), ("text/blocks/layers/mlp/up/kernel", "text/blocks/layers/mlp/up/kernel")]


def test_modules_and_their_configs():
    assert {"image", "text", "image/blocks/layers", "text/blocks/layers"} <= set(of(two_tower()))


def test_fields_that_change_the_numbers_are_found_once_a_module():
    assert set(compare(IMAGE, activation="quick_gelu")) == {("image/blocks/layers", "activation"), ("image", "activation")}
    assert compare(IMAGE, mean=(0.0, 0.0, 0.0)) == [("image", "mean")]
    assert not compare(IMAGE, dropout=0.5, remat="full", patch_dropout=0.5)


def test_only_what_is_taken_is_compared():
    assert not compare(TEXT, activation="quick_gelu")


def test_under_another_name():
    """`encoders/clip` here is `image` there."""
    config = two_tower()
    theirs = of(dataclasses.replace(config, image=dataclasses.replace(config.image, norm_eps=1e-3)))
    ours = {f"encoders/clip{path.removeprefix('image')}": x for path, x in of(config).items() if path.startswith("image")}
    taken = [("encoders/clip/blocks/layers/norm1/scale", "image/blocks/layers/norm1/scale")]
    assert ("encoders/clip/blocks/layers", "norm_eps") in [found[:2] for found in disagreements(ours, theirs, taken)]
