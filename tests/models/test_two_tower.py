"""The two-tower model: known sizes, the shared space."""

import dataclasses
import math

import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.models.text import TextConfig
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig
from mof_jax.models.vit import ViT, ViTConfig
from mof_jax.nn.module import Skeleton

CLIP = dict(pre_norm=True, patch_bias=False)
CLIP_TEXT = dict(vocab_size=49408, context_length=77, eos_id=49407)
CLIP_B32 = TwoTowerConfig(
    ViTConfig(variant="B/32", **CLIP), TextConfig(width=512, depth=12, heads=8, **CLIP_TEXT), embed_dim=512)
CLIP_L14 = TwoTowerConfig(
    ViTConfig(variant="L/14", **CLIP), TextConfig(variant="B", **CLIP_TEXT), embed_dim=768)
SIGLIP_B16 = TwoTowerConfig(
    ViTConfig(variant="B/16", cls_token=False, pool="map"),
    TextConfig(variant="B", vocab_size=32000, context_length=64, causal=False, pool="last", embed_dim=768, embed_bias=True),
    logit_bias_init=-10.0)

SMALL = TwoTowerConfig(
    ViTConfig(width=16, depth=1, heads=2, mlp_dim=16, patch_size=4, image_size=8),
    TextConfig(width=8, depth=1, heads=2, mlp_dim=8, vocab_size=20, context_length=4, eos_id=19, pad_id=0), embed_dim=12)


def count(build):
    return sum(math.prod(x.shape) for x in Skeleton.of(build).shapes.values())


# The totals that transformers 5.23 counts for its own models of these sizes; DINOv2 less the mask token's 768.
@pytest.mark.parametrize("config, total", [(CLIP_B32, 151_277_313), (CLIP_L14, 427_616_513), (SIGLIP_B16, 203_155_970)],
                         ids=["CLIP B/32", "CLIP L/14", "SigLIP B/16"])
def test_known_models_have_their_known_size(config, total):
    assert count(lambda rngs: TwoTower(config, rngs)) == total


def test_dinov2_has_its_known_size():
    config = ViTConfig(variant="B/14", image_size=518, layer_scale=1.0)
    assert count(lambda rngs: ViT(config, rngs)) == 86_580_480 - 768


def test_embeddings_are_f32_unit_vectors_whatever_the_compute_dtype():
    skeleton = Skeleton.of(lambda rngs: TwoTower(dataclasses.replace(SMALL, dtype="bfloat16"), rngs))
    rng = np.random.default_rng(0)
    images, tokens = rng.integers(0, 256, (3, 8, 8, 3), np.uint8), rng.integers(0, 20, (3, 4))

    def run(params):
        model = skeleton.merge(params)
        return model.embed_image(images), model.embed_text(tokens), model.scale

    image, text, scale = quick_jit(run)(weights(skeleton) | {"logit_scale": np.log(1 / 0.07)})
    for x in (image, text):
        assert x.dtype == np.float32 and x.shape == (3, 12)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(scale, 1 / 0.07, rtol=1e-6)


def test_a_config_that_cannot_be_is_refused():
    replace = dataclasses.replace
    wider = replace(SMALL.text, embed_dim=5)
    for make, message in [
        (lambda: replace(SMALL, text=wider), "set embed_dim"),
        (lambda: replace(SMALL, dtype="float16"), "float16"),
        (lambda: replace(SMALL, logit_scale_init=0.0), "must be positive"),
        (lambda: replace(SMALL, image=replace(SMALL.image, pool="none")), "needs a pooled image feature"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
