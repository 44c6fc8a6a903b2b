"""EfficientNet-Lite: published sizes, its convolution on every platform, statistics that nothing trains."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings
from mof_jax.models.efficientnet import EfficientNet, EfficientNetConfig, convolved, rounded
from mof_jax.models.mllm import EncoderConfig
from mof_jax.models.text import TextConfig
from mof_jax.models.tower import TowerConfig, patch_features
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.layers import shifted
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask
from mof_jax.train.optim import OptimizerConfig, decide

SMALL = EfficientNetConfig(width_factor=0.1, depth_factor=0.3, image_size=40)
TWO = TwoTowerConfig(
    SMALL, TextConfig(width=8, depth=1, heads=2, mlp_dim=8, vocab_size=20, context_length=4, eos_id=19), embed_dim=12)


def test_lite0_has_the_parameters_of_the_released_file():
    """4.65 M with the classifier of 1,000 (`tests/parity/test_real.py` compares the numbers themselves)."""
    shapes = Skeleton.of(lambda rngs: EfficientNet(EfficientNetConfig(variant="lite0"), rngs)).shapes
    trained = sum(math.prod(x.shape) for path, x in shapes.items() if not path.endswith(("norm/mean", "norm/var")))
    assert trained + 1281 * 1000 == 4_652_008


def test_flops_are_those_that_the_compiler_counts():
    """Which counts norms and activations, too; nothing is scanned here, so its count is whole."""
    config = EfficientNetConfig(variant="lite0", image_size=64)
    skeleton = Skeleton.of(lambda rngs: EfficientNet(config, rngs))
    forward = lambda params, x: skeleton.merge(params)(x).pooled
    lowered = jax.jit(forward).lower(skeleton.shapes, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8))
    assert config.flops < lowered.cost_analysis()["flops"] < 1.2 * config.flops


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
    task = ContrastiveTask(TWO, Softmax())
    skeleton = Skeleton.of(task.build)
    decisions = decide(OptimizerConfig(), skeleton)
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
        (dict(kind="resnet"), "config.model.encoder.kind: unknown image tower kind 'resnet'"),
        (dict(kind="efficientnet", varient="lite0"), "config.model.encoder.varient: unknown key .did you mean 'variant'"),
        (dict(kind="efficientnet", variant="lite9"), "unknown EfficientNet size 'lite9'"),
        (dict(kind="efficientnet"), "width_factor must be positive"),
        (dict(variant="lite0"), "unknown ViT size"),
    ]:
        with pytest.raises(UserError, match=message):
            build(**wrong)
    assert configs.build(TowerConfig, configs.to_dict(TowerConfig(SMALL))) == TowerConfig(SMALL)


def test_a_section_of_one_kind_alone_says_so():
    """As written out in a `config.json`, or meant for another."""
    encoder = lambda **vit: configs.build(EncoderConfig, dict(name="a", vit=vit), "config.model.encoders.0")
    assert encoder(kind="vit", variant="Ti/16") == encoder(variant="Ti/16")
    with pytest.raises(UserError, match=r"config.model.encoders.0.vit.kind: 'efficientnet'; this section takes 'vit' alone"):
        encoder(kind="efficientnet", variant="lite0")
