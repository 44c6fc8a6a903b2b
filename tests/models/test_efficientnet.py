"""EfficientNet-Lite: published sizes, its convolution on every platform, statistics that nothing trains."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings
from mof_jax.models.efficientnet import EfficientNet, EfficientNetConfig, convolved, rounded, shifted
from mof_jax.models.text import TextConfig
from mof_jax.models.tower import TowerConfig, patch_features
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton
from mof_jax.tasks.contrastive import ContrastiveConfig, ContrastiveTask
from mof_jax.train.optim import OptimizerConfig, decide

SMALL = EfficientNetConfig(width_factor=0.1, depth_factor=0.3, image_size=40)
TWO = TwoTowerConfig(
    SMALL, TextConfig(width=8, depth=1, heads=2, mlp_dim=8, vocab_size=20, context_length=4, eos_id=19), embed_dim=12)


# The README of the TPU repository: parameters with the classifier of 1000, and multiply-adds.
@pytest.mark.parametrize("variant, millions, multiply_adds", [
    ("lite0", 4.7, 407e6), ("lite1", 5.4, 631e6), ("lite2", 6.1, 899e6), ("lite3", 8.2, 1.44e9), ("lite4", 13.0, 2.64e9)])
def test_published_sizes(variant, millions, multiply_adds):
    config = EfficientNetConfig(variant=variant)
    shapes = Skeleton.of(lambda rngs: EfficientNet(config, rngs)).shapes
    trained = sum(math.prod(x.shape) for path, x in shapes.items() if not path.endswith(("norm/mean", "norm/var")))
    assert round((trained + 1281 * 1000) / 1e6, 1) == pytest.approx(millions, abs=0.051)
    assert config.flops / 2 == pytest.approx(multiply_adds, rel=0.06), "theirs counts the norms and the classifier too"


@pytest.mark.parametrize("size", [(7, 7), (8, 5), (1, 2)])
@pytest.mark.parametrize("side, stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_the_sum_of_shifted_pictures_is_the_depthwise_convolution(size, side, stride):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, *size, 6)).astype(np.float32), rng.standard_normal((side, side, 1, 6)).astype(np.float32)
    got, want = shifted(x, kernel, stride=stride), convolved(x, kernel, stride=stride, groups=6)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_channels_are_rounded_and_never_by_more_than_a_tenth():
    assert [rounded(c) for c in (1, 16, 17.6, 11.2, 19.2, 320)] == [8, 16, 16, 16, 24, 320]


@pytest.mark.parametrize("size", [40, 33])
def test_features_of_any_size_and_dtype(size):
    skeleton = Skeleton.of(lambda rngs: EfficientNet(SMALL, rngs))
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    params = {path: jnp.abs(x) + 0.5 if path.endswith("var") else x for path, x in weights(skeleton).items()}

    def run(params):
        model = skeleton.merge(params)
        out = model(images)
        return out, model(images, dtype=jnp.bfloat16).pooled, patch_features(model, images)

    out, low, patches = quick_jit(run)(params)
    assert out.tokens.shape == (2, 4, 1280) and patches.shape == out.tokens.shape
    np.testing.assert_allclose(out.pooled, out.tokens.mean(1), atol=1e-5)
    assert low.dtype == jnp.bfloat16 and np.linalg.norm(low - out.pooled) < 0.05 * np.linalg.norm(out.pooled)


def test_statistics_are_frozen_in_a_two_tower_model_and_nothing_is_split_by_default():
    task = ContrastiveTask(TWO, ContrastiveConfig())
    skeleton = Skeleton.of(task.build)
    decisions = decide(OptimizerConfig(), skeleton, task.rules)
    frozen = {path for path, d in decisions.items() if not d.trained}
    assert frozen == {path for path in skeleton.shapes if path.endswith(("norm/mean", "norm/var"))} and len(frozen) > 10
    shardings = param_shardings(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), skeleton)
    split = {path for path, s in shardings.items() if path.startswith("image/") and not s.is_fully_replicated}
    assert split == {f"image/{x}" for x in ("head/kernel", "head/norm/bias", "head/norm/mean", "head/norm/scale", "head/norm/var",
                                            "project/kernel")}


def test_a_section_says_its_kind():
    build = lambda **encoder: configs.build(TowerConfig, dict(encoder=encoder), "config.model").encoder
    assert build(kind="efficientnet", variant="lite0") == EfficientNetConfig(variant="lite0")
    vit = dict(width=8, depth=1, heads=1, patch_size=8)
    assert build(**vit) == build(kind="vit", **vit) == ViTConfig(**vit)
    for wrong, message in [
        (dict(kind="resnet"), "config.model.encoder.kind: 'resnet' is not one of 'vit', 'efficientnet'"),
        (dict(kind="efficientnet", varient="lite0"), "config.model.encoder.varient: unknown key .did you mean 'variant'"),
        (dict(kind="efficientnet", variant="lite9"), "unknown EfficientNet size 'lite9'"),
        (dict(kind="efficientnet"), "width_factor must be positive"),
        (dict(variant="lite0"), "unknown ViT size"),
    ]:
        with pytest.raises(UserError, match=message):
            build(**wrong)
    assert configs.build(TowerConfig, configs.to_dict(TowerConfig(SMALL))) == TowerConfig(SMALL)
