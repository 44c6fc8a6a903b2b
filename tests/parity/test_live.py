"""Ours against the installed `transformers`, fresh random weights."""

from parity_cases import check, ours
import parity_transformers
import pytest

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", parity_transformers.MODELS)
def test_forward_equals_transformers(kind, seed):
    sample = parity_transformers.sample(kind, seed)
    check(ours(kind, sample), sample.outputs)
