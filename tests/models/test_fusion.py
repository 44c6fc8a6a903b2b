"""Mixtures of features, as formulas."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax.models.fusion.additive import Additive
from mof_jax.models.fusion.channel import Channel
from mof_jax.models.fusion.fusion import Patches, match_grid
from mof_jax.models.fusion.interleaved import Interleaved, interleave
from mof_jax.models.fusion.single import Single


def features(seed, patches=4, width=6):
    return np.random.default_rng(seed).standard_normal((2, patches, width)).astype(np.float32)


def test_additive_ends_are_the_encoders_bit_for_bit():
    clip, ssl = features(0), features(1)
    np.testing.assert_array_equal(Additive(0.0).add(clip, ssl), clip)
    np.testing.assert_array_equal(Additive(1.0).add(clip, ssl), ssl)


@pytest.mark.parametrize("normalise", ["none", "l2", "layernorm"])
def test_additive_formula(normalise):
    clip, ssl = features(0) * 3, features(1)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    standard = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    norm = {"none": lambda x: x, "l2": unit, "layernorm": standard}[normalise]
    got = Additive(0.75, normalise).add(clip, ssl)
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


ENCODER, WIDER, FINER = Patches("a", 4, 6, 16), Patches("b", 4, 8, 16), Patches("c", 8, 6, 64)


def test_channels_stand_side_by_side_on_the_first_grid():
    clip, ssl = features(0, 16, 6), features(1, 64, 6)
    seen = {}
    Channel().mix([clip, ssl], [ENCODER, FINER], {"shared": lambda x: seen.setdefault("x", x)})
    np.testing.assert_array_equal(seen["x"], np.concatenate([clip, match_grid(ssl, 4)], -1))
    assert Channel().adapters([ENCODER, WIDER]) == {"shared": (4, 14)} and Channel().tokens([ENCODER, WIDER]) == 16


@pytest.mark.parametrize("fusion, encoders, line", [
    (Additive(), [ENCODER] * 3, "needs 2 encoders"),
    (Additive(), [ENCODER, WIDER], r"of one width, the encoders have \[6, 8\]"),
    (Interleaved(), [ENCODER], "at least two"),
    (Interleaved(), [ENCODER, FINER], r"as many tokens from each encoder; the grids are \[4, 8\]"),
    (Channel(), [ENCODER], "at least two"),
    (Single(), [ENCODER] * 2, "needs 1 encoder,"),
])
def test_mistakes(fusion, encoders, line):
    with pytest.raises(ValueError, match=line):
        fusion.check(encoders)
