"""Mixtures of features, as formulas."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax.models.fusion import FusionConfig, add_features, interleave, match_grid


def features(seed, patches=4, width=6):
    return np.random.default_rng(seed).standard_normal((2, patches, width)).astype(np.float32)


def test_additive_ends_are_the_encoders_bit_for_bit():
    clip, ssl = features(0), features(1)
    np.testing.assert_array_equal(add_features(clip, ssl, FusionConfig("additive", 0.0)), clip)
    np.testing.assert_array_equal(add_features(clip, ssl, FusionConfig("additive", 1.0)), ssl)


@pytest.mark.parametrize("normalise", ["none", "l2", "layernorm"])
def test_additive_formula(normalise):
    clip, ssl = features(0) * 3, features(1)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    standard = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    norm = {"none": lambda x: x, "l2": unit, "layernorm": standard}[normalise]
    got = add_features(clip, ssl, FusionConfig("additive", 0.75, normalise))
    np.testing.assert_allclose(got, 0.25 * norm(clip) + 0.75 * norm(ssl), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("patches", [256, 576])
def test_interleaved_places(patches):
    """Even places hold the first encoder's patches, odd ones the second's: 512 tokens at 224 px, 1,152 at 336."""
    clip, ssl = features(0, patches), features(1, patches)
    mixed = np.asarray(interleave([clip, ssl]))
    assert mixed.shape[1] == 2 * patches
    np.testing.assert_array_equal(mixed[:, 0::2], clip)
    np.testing.assert_array_equal(mixed[:, 1::2], ssl)


def test_matching_grids_is_linear_interpolation():
    ramp = np.repeat(np.arange(4, dtype=np.float32), 4).reshape(1, 16, 1)  # grows from row to row
    resized = np.asarray(match_grid(ramp, 8)).reshape(8, 8)
    assert (resized == resized[:, :1]).all()
    np.testing.assert_allclose(resized[1:7, 0], np.arange(6) * 0.5 + 0.25, atol=1e-6)
    np.testing.assert_array_equal(match_grid(ramp, 4), ramp)


@pytest.mark.parametrize("config, encoders, line", [
    (FusionConfig("additive"), 3, "needs 2 encoders"),
    (FusionConfig("interleaved"), 1, "at least two"),
    (FusionConfig("single"), 2, "needs 1 encoder,"),
])
def test_mistakes(config, encoders, line):
    with pytest.raises(ValueError, match=line):
        config.check(encoders)
    with pytest.raises(ValueError, match="only 'additive'"):
        FusionConfig("single", normalise="l2")
