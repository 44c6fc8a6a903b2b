"""Ours against the installed `open_clip` and `timm`: towers with fresh random weights, losses and their gradients."""

from parity_cases import check, our_loss, our_positions, ours
import parity_open_clip
import pytest

pytestmark = pytest.mark.open_clip


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", parity_open_clip.MODELS)
def test_forward_equals_open_clip(kind, seed):
    sample = parity_open_clip.sample(kind, seed)
    check(ours(kind, sample), sample.outputs)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", parity_open_clip.LOSSES)
def test_loss_and_gradients_equal_open_clip(kind, seed):
    sample = parity_open_clip.loss_sample(kind, seed)
    check(our_loss(kind, sample.inputs), sample.outputs)


@pytest.mark.parametrize("seed", [1, 2])
def test_resampled_positions_equal_timm(seed):
    sample = parity_open_clip.positions_sample(seed)
    check(our_positions(sample.inputs["pos"]), sample.outputs, 2e-5)
