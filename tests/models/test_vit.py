"""The image tower: pixels, patches, positions, pooling."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.models.mllm import EncoderConfig
from mof_jax.models.vit import ViT, ViTConfig, normalise, patchify, resample_pos_embed
from mof_jax.nn import dropout as drop
from mof_jax.nn.module import Skeleton

SMALL = ViTConfig(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=16)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@functools.cache
def run(config, dtype="float32", keyed=False):
    """(output, parameters) of a tower."""
    keys = drop.example_keys(jax.random.key(1), 3) if keyed else None
    skeleton = Skeleton.of(lambda rngs: ViT(config, rngs))
    params = weights(skeleton)
    return quick_jit(lambda p: skeleton.merge(p)(IMAGES, dtype=jnp.dtype(dtype), keys=keys))(params), params


def test_patchify_and_a_kernel_are_a_convolution():
    rng = np.random.default_rng(0)
    images, kernel = rng.standard_normal((2, 8, 12, 3)), rng.standard_normal((4, 4, 3, 5))
    images, kernel = images.astype(np.float32), kernel.astype(np.float32)
    want = jax.lax.conv_general_dilated(
        images, kernel, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest")
    got = jnp.matmul(patchify(images, 4), kernel.reshape(-1, 5), precision="highest")
    np.testing.assert_allclose(got, want.reshape(2, 6, 5), atol=1e-5)


def test_normalise_equals_numpy_and_leaves_floats_alone():
    want = (IMAGES / 255.0 - np.array(SMALL.mean)) / np.array(SMALL.std)
    np.testing.assert_allclose(normalise(IMAGES, SMALL.mean, SMALL.std), want, atol=2e-6)
    ready = jnp.asarray(want, jnp.float32)
    assert normalise(ready, SMALL.mean, SMALL.std) is ready


def test_resampled_positions():
    pos = np.random.default_rng(0).standard_normal((1 + 9, 4)).astype(np.float32)
    np.testing.assert_allclose(resample_pos_embed(pos, (3, 3), prefix=1), pos, atol=1e-6)
    constant = np.concatenate([pos[:1], np.full((9, 4), 2.5, np.float32)])
    finer = np.asarray(resample_pos_embed(constant, (6, 5), prefix=1))
    assert finer.shape == (31, 4)
    np.testing.assert_array_equal(finer[0], pos[0])
    np.testing.assert_allclose(finer[1:], 2.5, atol=1e-5)
    with pytest.raises(ValueError, match="not a square grid"):
        resample_pos_embed(pos, (6, 6))


def test_registers_change_tokens_but_not_shapes_of_the_outputs():
    plain, _ = run(SMALL)
    with_registers, params = run(dataclasses.replace(SMALL, registers=3))
    assert plain.tokens.shape == (3, 17, 16) and with_registers.tokens.shape == (3, 20, 16)
    assert plain.pooled.shape == with_registers.pooled.shape == (3, 16)
    assert params["registers"].shape == (3, 16)


def test_pooling():
    cls, _ = run(SMALL)
    np.testing.assert_array_equal(cls.pooled, cls.tokens[:, 0])
    gap, _ = run(dataclasses.replace(SMALL, pool="gap", registers=2))
    np.testing.assert_allclose(gap.pooled, gap.tokens[:, 3:].mean(1), atol=1e-6)  # neither cls nor registers
    none, _ = run(dataclasses.replace(SMALL, pool="none"))
    assert none.pooled is None
    projected, params = run(dataclasses.replace(SMALL, embed_dim=6, embed_bias=True))
    want = projected.tokens[:, 0] @ params["project/kernel"] + params["project/bias"]
    np.testing.assert_allclose(projected.pooled, want, atol=1e-5)


def test_a_norm_behind_the_mean_of_the_patches():
    after, params = run(dataclasses.replace(SMALL, pool="gap", norm_after_pool=True))
    mean = np.asarray(after.tokens[:, 1:].mean(1))
    centred = mean - mean.mean(-1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + SMALL.norm_eps) * params["final_norm/scale"]
    np.testing.assert_allclose(after.pooled, want + params["final_norm/bias"], atol=1e-4)
    before, _ = run(dataclasses.replace(SMALL, pool="gap"))
    assert np.abs(before.pooled - after.pooled).max() > 1e-3
    tower = EncoderConfig("a", dataclasses.replace(SMALL, pool="gap", norm_after_pool=True)).tower
    assert not tower.final_norm and not tower.norm_after_pool, "tokens do not pass through it"


def test_map_pooling_reads_every_token_and_no_order():
    config = dataclasses.replace(SMALL, pool="map", cls_token=False)
    out, params = run(config)
    assert out.pooled.shape == (3, 16)
    skeleton = Skeleton.of(lambda rngs: ViT(config, rngs))
    head = quick_jit(lambda tokens: skeleton.merge(params).pool(tokens))
    np.testing.assert_allclose(head(out.tokens), out.pooled, atol=1e-6)
    np.testing.assert_allclose(head(out.tokens[:, ::-1]), out.pooled, atol=1e-5)
    moved = np.array([head(out.tokens.at[:, i].add(3 * np.eye(16)[i])) for i in (0, 7, 15)])
    assert (np.abs(moved - out.pooled).max(axis=(1, 2)) > 1e-3).all()


def test_patch_dropout_shortens_the_sequence_in_training_only():
    config = dataclasses.replace(SMALL, patch_dropout=0.75, registers=1)
    assert run(config, keyed=True)[0].tokens.shape == (3, 1 + 1 + 4, 16)
    assert run(config)[0].tokens.shape == (3, 1 + 1 + 16, 16)


def test_patches_carry_their_positions_through_patch_dropout():
    """A dropped sequence is a subset of the whole one: with silent blocks in between, token for token."""
    config = dataclasses.replace(SMALL, depth=1, layer_scale=1.0, patch_dropout=0.5, final_norm=False)
    skeleton = Skeleton.of(lambda rngs: ViT(config, rngs))
    silent = {p: x * 0 if "/scale1" in p or "/scale2" in p else x for p, x in weights(skeleton).items()}
    keys = drop.example_keys(jax.random.key(1), 3)
    forward = lambda p, keys: np.asarray(skeleton.merge(p)(IMAGES, keys=keys).tokens)
    whole, kept = forward(silent, None), forward(silent, keys)
    for row in range(3):
        where = [int(np.abs(whole[row] - token).max(-1).argmin()) for token in kept[row]]
        assert where == sorted(set(where)) and where[0] == 0
        np.testing.assert_allclose(kept[row], whole[row][where], atol=1e-6)


def test_bf16_computes_in_bf16_and_stays_close():
    exact, params = run(SMALL)
    rounded, _ = run(SMALL, dtype="bfloat16")
    assert rounded.tokens.dtype == jnp.bfloat16 and {x.dtype for x in params.values()} == {jnp.dtype("float32")}
    error = np.abs(rounded.tokens.astype(jnp.float32) - exact.tokens).max()
    assert 1e-4 < error < 0.1  # normalised tokens are of order 1 to 3; bf16 keeps 8 bits


def test_a_config_that_cannot_be_is_refused():
    assert ViTConfig(variant="L/14").heads == 16 and ViTConfig(variant="B/16", depth=2).depth == 2
    for change, message in [
        (dict(image_size=18), "not divisible by patch_size"),
        (dict(cls_token=False), "needs cls_token"),
        (dict(depth=0), "depth must be positive"),
        (dict(norm_after_pool=True), "norm_after_pool: only for pool='gap' with final_norm"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **change)


def test_kept_patches_are_all_that_is_seen():
    """The tower on some patches is the tower on a picture whose other patches do not exist: their pixels change nothing."""
    skeleton = Skeleton.of(lambda rngs: ViT(SMALL, rngs))
    params, keep = weights(skeleton), np.array([[1, 6, 11]] * 3)
    forward = quick_jit(lambda p, images, keep: skeleton.merge(p)(images, keep=keep).tokens)
    tokens = forward(params, IMAGES, keep)
    assert tokens.shape == (3, 1 + 3, 16)
    hidden = IMAGES.copy()
    hidden[:, 12:], hidden[:, :4, :4] = 0, 7  # patches 12 to 15, and 0
    np.testing.assert_array_equal(forward(params, hidden, keep), tokens)
    hidden[:, 8:12, 12:] = 7  # patch 11
    assert np.abs(forward(params, hidden, keep) - tokens).max() > 1e-3
    every = np.tile(np.arange(16), (3, 1))
    np.testing.assert_allclose(forward(params, IMAGES, every), run(SMALL)[0].tokens, atol=1e-6)


def test_a_picture_of_another_size_meets_resampled_positions():
    """As a tower of that size would see it with the resampled table."""
    skeleton = Skeleton.of(lambda rngs: ViT(SMALL, rngs))
    params, small = weights(skeleton), dataclasses.replace(SMALL, image_size=8)
    crop = IMAGES[:, :8, 4:12]
    got = quick_jit(lambda p: skeleton.merge(p)(crop).tokens)(params)
    resampled = params | {"pos_embed": resample_pos_embed(params["pos_embed"], (2, 2), prefix=1)}
    native = Skeleton.of(lambda rngs: ViT(small, rngs))
    np.testing.assert_allclose(got, quick_jit(lambda p: native.merge(p)(crop).tokens)(resampled), atol=1e-5)
    wide = quick_jit(lambda p: skeleton.merge(p)(IMAGES[:, :8]).tokens)(params)
    assert wide.shape == (3, 1 + 8, 16)
    with pytest.raises(ValueError, match="10x16 pixels are not divisible by patch_size 4"):
        skeleton.merge(params)(IMAGES[:, :10])


def test_positions_without_antialiasing_are_a_cubic_through_the_points():
    """With the weights that `torch` has at a quarter between two points (a = -0.75)."""
    weights = np.array([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    side = 8
    impulses = np.eye(side * side, dtype=np.float32).reshape(-1, side * side)
    got = np.asarray(resample_pos_embed(jnp.asarray(impulses), (2 * side, side), antialias=False))
    got = got.reshape(2 * side, side, side, side)
    row = got[5, 3, :, 3]  # centre at 2.25
    np.testing.assert_allclose(row[1:5], weights, atol=1e-6)
    np.testing.assert_allclose(row[[0, 5, 6, 7]], 0, atol=1e-6)
    np.testing.assert_allclose(got.sum((2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(resample_pos_embed(jnp.asarray(impulses), (side, side), antialias=False), impulses, atol=1e-6)
