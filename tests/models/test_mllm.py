"""The multimodal model on a packed row: no leak between documents, mixtures, gradients that stop at frozen encoders."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from small_models import loss_of, quick_jit, weights

from mof_jax.models.connectors.projector import MlpConnector
from mof_jax.models.fusion import FUSIONS
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.next_token import NextToken
from mof_jax.tasks.mllm import MllmTask

VIT = ViTConfig(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=8, pool="none")
CONTEXT = 16


@functools.cache
def task(fusion="interleaved", ratio=0.5, encoders=("clip", "ssl")):
    towers = tuple(EncoderConfig(name, VIT) for name in encoders)
    k = 4 * (len(encoders) if fusion == "interleaved" else 1)
    model = MllmConfig(towers, LLMConfig(vocab_size=24, width=16, depth=2, heads=4, mlp_dim=24),
                       FUSIONS[fusion](*[ratio] * (fusion == "additive")), MlpConnector())
    assert model.tokens_per_image == k
    return MllmTask(model, NextToken(block_size=5), context=CONTEXT, rows=1, images=2)


def batch(k=8, seed=0):
    """Two rows; the first holds two documents with a picture each, or as much of them as fits."""
    rng = np.random.default_rng(seed)
    index = np.full((2, CONTEXT), -1, np.int32)
    segments = np.ones((2, CONTEXT), np.int32)
    segments[0, 10:] = 2
    index[0, 0:k] = np.arange(k)
    index[0, 11:15] = k + np.arange(4)  # a part of the second picture is enough to see it
    positions = np.stack([np.r_[np.arange(10), np.arange(6)], np.arange(CONTEXT)]).astype(np.int32)
    weight = ((index < 0) & (positions > 0)).astype(np.float32)
    return {"tokens": rng.integers(0, 24, (2, CONTEXT)).astype(np.int32), "segment_ids": segments, "positions": positions,
            "loss_weight": weight, "image_index": index, "images": rng.integers(0, 256, (4, 8, 8, 3), np.uint8)}


@functools.cache
def model_params(fusion="interleaved"):
    skeleton = Skeleton.of(task(fusion).build)
    return skeleton, weights(skeleton)


def test_no_token_or_pixel_reaches_another_document():
    skeleton, params = model_params()
    run = quick_jit(lambda b: task().hidden(skeleton.merge(params), b, {}))
    base = batch()
    want = np.asarray(run(base))

    def moved(**changes):
        return np.abs(np.asarray(run(base | changes)) - want).max(-1) > 0

    word = base["tokens"].copy()
    word[0, 8] = (word[0, 8] + 1) % 24
    np.testing.assert_array_equal(np.flatnonzero(moved(tokens=word)[0]), [8, 9])
    for picture, places in ((0, range(0, 10)), (1, range(11, 16))):
        pixels = base["images"].copy()
        pixels[picture] = 255 - pixels[picture]
        changed = moved(images=pixels)
        np.testing.assert_array_equal(np.flatnonzero(changed[0]), list(places))
        assert not changed[1].any()


def test_gradients_reach_both_adapters():
    skeleton, params = model_params()
    frozen = {p: x for p, x in params.items() if p.startswith("encoders/")}
    trained = {p: x for p, x in params.items() if p not in frozen}
    assert frozen

    def loss(trained):
        out = loss_of(task(), skeleton.merge({**frozen, **trained}), batch())
        return out.sum / out.weight

    gradients = quick_jit(jax.grad(loss))(trained)
    for name in ("clip", "ssl"):
        assert np.abs(np.asarray(gradients[f"adapters/{name}/fc1/kernel"])).max() > 0


@pytest.mark.parametrize("ratio, encoder", [(0.0, "clip"), (1.0, "ssl")])
def test_additive_ends_are_the_single_encoders_bit_for_bit(ratio, encoder):
    """One adapter, the same weights under either name."""
    skeleton = Skeleton.of(task("additive").build)
    params = weights(skeleton)
    single = Skeleton.of(task("single", encoders=(encoder,)).build)
    alone = single.merge({p: params[p.replace(f"adapters/{encoder}", "adapters/shared")] for p in single.shapes})
    mixed = Skeleton.of(task("additive", ratio).build).merge(params)
    images = batch(4)["images"]
    np.testing.assert_array_equal(mixed.image_tokens(images), alone.image_tokens(images))


def test_interleaved_tokens_alternate():
    skeleton, params = model_params()
    model = skeleton.merge(params)
    features = {name: model.features(name, batch()["images"]) for name in ("clip", "ssl")}
    mixed = np.asarray(model.mix(features))
    np.testing.assert_array_equal(mixed[:, 0::2], model.adapters["clip"](features["clip"]))
    np.testing.assert_array_equal(mixed[:, 1::2], model.adapters["ssl"](features["ssl"]))


def test_a_feature_layer_below_the_last_is_not_built_and_its_weights_are_cut():
    encoder = EncoderConfig("clip", VIT, layer=-2)
    assert encoder.tower.depth == 1 and not encoder.tower.final_norm
    config = MllmConfig((encoder,), LLMConfig(vocab_size=8, width=16, depth=1, heads=2))
    cut = MllmTask(config, NextToken(), context=8, rows=1, images=1)
    stacked = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(cut.adapt("encoders/clip/blocks/layers/norm1/scale", stacked), stacked[:1])
