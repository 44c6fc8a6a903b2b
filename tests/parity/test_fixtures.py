"""Ours against outputs that torch libraries wrote to disk (scripts/make_parity_fixtures.py): no torch needed."""

import numpy as np
from parity_cases import FIXTURES, Sample, check, our_loss, our_positions, ours
import pytest

from mof_jax.errors import UserError

MODELS = ["clip", "siglip", "vit", "dinov2", "dinov2_registers", "dinov2_swiglu", "llama", "mistral", "qwen2",
          "qwen3", "bert", "efficientnet", "open_clip", "timm_gap"]


@pytest.mark.parametrize("kind", MODELS)
def test_forward_equals_the_recorded_one(kind):
    sample = Sample.load(FIXTURES / f"{kind}.npz")
    check(ours(kind, sample), sample.outputs)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_loss_and_gradients_equal_the_recorded_ones(kind):
    sample = Sample.load(FIXTURES / f"loss_{kind}.npz")
    check(our_loss(kind, sample.inputs), sample.outputs)


def test_bf16_towers_stay_within_two_percent_of_f32():
    """bf16 keeps 8 bits: each rounding errs by up to 0.4 %, and two layers leave a unit embedding within 2 %."""
    sample = Sample.load(FIXTURES / "siglip.npz")
    got = ours("siglip", sample, "bfloat16")
    for name in ("image", "text"):
        error = np.linalg.norm(got[name] - sample.outputs[name], axis=-1)
        assert 1e-4 < error.max() < 0.02, "the lower bound says that bf16 was used at all"


def test_resampled_positions_equal_the_recorded_ones():
    sample = Sample.load(FIXTURES / "positions.npz")
    check(our_positions(sample.inputs["pos"]), sample.outputs, 2e-5)


def test_every_weight_matters():
    """A fixture that some weight does not influence would let a wrong mapping of that weight pass."""
    sample = Sample.load(FIXTURES / "siglip.npz")
    for name in ("vision_model.head.probe", "text_model.head.bias", "vision_model.encoder.layers.1.mlp.fc2.bias"):
        broken = sample._replace(weights=sample.weights | {name: sample.weights[name] * 1.1})
        with pytest.raises(AssertionError):
            check(ours("siglip", broken), sample.outputs)
    llm = Sample.load(FIXTURES / "qwen2.npz")
    for name in ("model.layers.1.self_attn.v_proj.bias", "model.layers.0.input_layernorm.weight", "model.norm.weight"):
        broken = llm._replace(weights=llm.weights | {name: llm.weights[name] * 1.1})
        with pytest.raises(AssertionError):
            check(ours("qwen2", broken), llm.outputs)
    with pytest.raises(UserError, match="nothing reads extra"):
        ours("siglip", sample._replace(weights=sample.weights | {"extra": np.zeros(1)}))
