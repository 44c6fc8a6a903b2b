"""The masked autoencoder: what is seen, what is painted, and against what."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.models.mae import Mae, MaeConfig
from mof_jax.models.vit import ViTConfig, sincos_positions
from mof_jax.nn import dropout as drop
from mof_jax.nn.module import Skeleton

ENCODER = ViTConfig(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=16, registers=1)
SMALL = MaeConfig(ENCODER, mask_ratio=0.75, decoder_width=8, decoder_depth=2, decoder_heads=2)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
SEEN, MASKED = map(np.asarray, drop.split_patches(drop.example_keys(jax.random.key(1), 3), 16, 4))


@functools.cache
def model(config=SMALL):
    skeleton = Skeleton.of(lambda rngs: Mae(config, rngs))
    return skeleton, weights(skeleton)


@functools.cache
def forward():
    skeleton, _ = model()

    def run(params, images, seen, masked):
        mae = skeleton.merge(params)
        return mae.encoder(images, keep=seen).tokens, mae.reconstruct(images, seen, masked), mae.targets(images, masked)

    return quick_jit(run)


def test_the_two_halves_of_a_mask():
    assert SEEN.shape == (3, 4) and MASKED.shape == (3, 12)
    for row in range(3):
        assert sorted([*SEEN[row], *MASKED[row]]) == list(range(16))
        assert (np.diff(SEEN[row]) > 0).all() and (np.diff(MASKED[row]) > 0).all()
    assert len({row.tobytes() for row in SEEN}) == 3


def test_the_encoder_sees_visible_patches_only():
    """Any change of a masked pixel leaves every token and every painted pixel alone, and changes the target."""
    _, params = model()
    tokens, painted, targets = forward()(params, IMAGES, SEEN, MASKED)
    assert tokens.shape == (3, 1 + 1 + 4, 16) and painted.shape == targets.shape == (3, 12, 48)
    changed = IMAGES.copy()
    for row in range(3):
        for patch in MASKED[row]:
            y, x = 4 * (patch // 4), 4 * (patch % 4)
            changed[row, y, x] ^= 255
    again = forward()(params, changed, SEEN, MASKED)
    np.testing.assert_array_equal(again[0], tokens)
    np.testing.assert_array_equal(again[1], painted)
    assert (np.abs(again[2] - targets).max(-1) > 1e-3).all()
    visible = IMAGES.copy()
    visible[0, 4 * (SEEN[0, 0] // 4), 4 * (SEEN[0, 0] % 4)] ^= 255
    seen = forward()(params, visible, SEEN, MASKED)
    assert np.abs(seen[1] - painted)[0].max() > 1e-4
    np.testing.assert_array_equal(seen[2], targets)


def test_targets_are_patches_in_row_major_order():
    """Against slices of the picture, normalised patch by patch in double precision."""
    _, params = model()
    targets = forward()(params, IMAGES, SEEN, MASKED)[2]
    pixels = (IMAGES / 255.0 - np.array(ENCODER.mean)) / np.array(ENCODER.std)
    for row in range(3):
        for i, patch in enumerate(MASKED[row]):
            y, x = 4 * (patch // 4), 4 * (patch % 4)
            want = pixels[row, y:y + 4, x:x + 4].reshape(-1)
            want = (want - want.mean()) / np.sqrt(want.var() + 1e-6)
            np.testing.assert_allclose(targets[row, i], want, atol=2e-5)
    raw_skeleton, _ = model(dataclasses.replace(SMALL, norm_targets=False))
    raw = raw_skeleton.merge(params).targets(IMAGES, MASKED)
    y, x = 4 * (MASKED[1, 2] // 4), 4 * (MASKED[1, 2] % 4)
    np.testing.assert_allclose(raw[1, 2], pixels[1, y:y + 4, x:x + 4].reshape(-1), atol=1e-5)


def test_a_flat_patch_has_a_finite_target():
    flat = np.full((3, 16, 16, 3), 255, np.uint8)
    flat_target = forward()(model()[1], flat, SEEN, MASKED)[2]
    assert np.isfinite(flat_target).all()


def test_the_decoder_knows_where_patches_are():
    """The order in which patches are named changes nothing: a row's masked patches permuted come out permuted."""
    _, params = model()
    whole = forward()(params, IMAGES, SEEN, MASKED)
    turned = forward()(params, IMAGES, SEEN[:, ::-1].copy(), MASKED[:, ::-1].copy())
    np.testing.assert_allclose(turned[1][:, ::-1], whole[1], atol=1e-5)
    np.testing.assert_array_equal(turned[2][:, ::-1], whole[2])
    # And two masked patches of one row are not painted alike: only their positions differ.
    assert np.abs(np.diff(np.asarray(whole[1]), axis=1)).max(axis=(0, 2)).min() > 1e-3


def test_sine_cosine_positions():
    pos = sincos_positions(4, 16, prefix=1)
    assert pos.shape == (17, 16) and not pos[0].any()
    grid = pos[1:].reshape(4, 4, 2, 2, 4)  # row, column, axis, sine or cosine, frequency
    for i in range(4):
        angles = i * 10000.0 ** (-np.arange(4) / 4)
        for other in range(4):
            np.testing.assert_allclose(grid[i, other, 0], [np.sin(angles), np.cos(angles)], atol=1e-6)
            np.testing.assert_allclose(grid[other, i, 1], [np.sin(angles), np.cos(angles)], atol=1e-6)
    skeleton = Skeleton.of(lambda rngs: Mae(dataclasses.replace(SMALL, encoder=dataclasses.replace(
        ENCODER, pos_init="sincos")), rngs))
    built = skeleton.build(nnx.Rngs(0))
    np.testing.assert_array_equal(built.encoder.pos_embed[...], pos)


def test_bf16_stays_close_and_targets_stay_exact():
    skeleton, params = model(dataclasses.replace(SMALL, dtype="bfloat16"))
    run = quick_jit(lambda p: (skeleton.merge(p).reconstruct(IMAGES, SEEN, MASKED), skeleton.merge(p).targets(IMAGES, MASKED)))
    painted, targets = run(params)
    exact = forward()(params, IMAGES, SEEN, MASKED)
    assert painted.dtype == jnp.bfloat16 and targets.dtype == jnp.float32
    assert 0 < np.abs(painted.astype(np.float32) - exact[1]).max() < 0.1
    np.testing.assert_allclose(targets, exact[2], atol=1e-6)


@pytest.mark.parametrize("change, says", [
    (dict(mask_ratio=0.99), "leaves 0 of 16 patches"),
    (dict(mask_ratio=0.0), "leaves 16 of 16 patches"),
    (dict(decoder_width=6), "divisible by 4"),
    (dict(decoder_width=12, decoder_heads=8), "not divisible by 8 heads"),
    (dict(encoder=dataclasses.replace(ENCODER, pool="map")), "neither a pooling head nor a projection"),
    (dict(encoder=dataclasses.replace(ENCODER, patch_dropout=0.5)), "mask_ratio decides"),
    (dict(dtype="float16"), "not float32 or bfloat16"),
])
def test_a_config_that_cannot_be_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, **change)
