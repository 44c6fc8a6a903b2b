"""Connectors: pinned parameter counts, pooling against a loop, FLOPs against XLA."""

from __future__ import annotations

from flax import nnx
import jax
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.models.connectors.attention import AttentionConnector
from mof_jax.models.connectors.c_abstractor import CAbstractor, RegNetBlock
from mof_jax.models.connectors.connector import Connector, connector_flops
from mof_jax.models.connectors.grid import adaptive_average_pool
from mof_jax.models.connectors.projector import AverageConnector, LinearConnector, MlpConnector
from mof_jax.nn.module import Skeleton


def skeleton(config, grid, inputs, outputs):
    return Skeleton.of(lambda rngs: config.build(rngs, grid, inputs, outputs))


def count(config, grid, inputs, outputs, prefix=""):
    return sum(x.size for path, x in skeleton(config, grid, inputs, outputs).shapes.items() if path.startswith(prefix))


ABSTRACTOR = CAbstractor(tokens=144)


@pytest.mark.parametrize("grid, inputs, outputs, total", [
    (27, 1280, 4096, 39_447_360),  # ViT-H/14 at 378 px
    (27, 1280, 3072, 31_056_704),
    (16, 1024, 4096, 37_070_336),  # CLIP-L/14 at 224 px
])
def test_c_abstractor_has_honeybees_parameters(grid, inputs, outputs, total):
    assert count(ABSTRACTOR, grid, inputs, outputs) == total


def test_c_abstractor_parts_have_honeybees_parameters():
    blocks = lambda inputs: sum(count(ABSTRACTOR, 16, inputs, 2048, part) for part in ("before", "after"))
    assert blocks(1024) == 15_828_480 and blocks(1280) == 17_534_528
    readout = lambda outputs: count(ABSTRACTOR, 16, 1024, outputs, "fc")
    assert (readout(2048), readout(3072), readout(4096)) == (6_295_552, 12_589_056, 20_979_712)
    assert count(ABSTRACTOR, 27, 1280, 2048, "pos_embed") == 933_120


@pytest.mark.parametrize("size, side", [(16, 8), (24, 12), (24, 8), (16, 12), (27, 12), (48, 12)])
def test_adaptive_pooling_equals_a_loop(size, side):
    x = np.random.default_rng(0).standard_normal((1, size, size, 2)).astype(np.float32)
    want = np.empty((1, side, side, 2))
    for i in range(side):
        for j in range(side):
            rows, columns = (slice(int(np.floor(k * size / side)), int(np.ceil((k + 1) * size / side))) for k in (i, j))
            want[:, i, j] = x[:, rows, columns].mean((1, 2))
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(adaptive_average_pool(x, side), want, atol=1e-6)


SMALL = {
    "linear": LinearConnector(),
    "mlp": MlpConnector(),
    "average": AverageConnector(tokens=4),
    "attention": AttentionConnector(tokens=5, heads=2),
    "resampler": AttentionConnector(tokens=5, heads=2, width=64, depth=2),
    "c_abstractor": CAbstractor(tokens=4, width=32, depth=1),
}


LARGE = {
    "average": AverageConnector(tokens=16),
    "attention": AttentionConnector(tokens=16, heads=4),
    "resampler": AttentionConnector(tokens=16, width=128, depth=2, heads=4),
}


@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_gradients(name):
    """k tokens of the language model's width; every parameter matters."""
    config = SMALL[name]
    model = skeleton(config, 3, 32, 24)
    x = np.random.default_rng(1).standard_normal((2, 9, 32)).astype(np.float32)
    out, grads = quick_jit(jax.value_and_grad(lambda p: ((y := model.merge(p)(x)) ** 2).sum(), has_aux=False))(weights(model))
    assert np.isfinite(out)
    assert model.merge(weights(model))(x).shape == (2, config.output_tokens(3), 24)
    assert all(np.abs(np.asarray(g)).max() > 0 for path, g in grads.items() if not path.endswith("k/bias")), name


def test_pooling_keeps_the_layout():
    """A bright corner of the grid stays in that corner of the pooled tokens."""
    config = AverageConnector(tokens=4)
    x = np.zeros((1, 16, 2), np.float32)
    x[0, [2, 3, 6, 7]] = 1.0  # top right of 4 × 4
    model = config.build(nnx.Rngs(0), 4, 2, 3)
    tokens = np.asarray(model(x))[0]
    assert np.abs(tokens[1]).max() > 0 and np.abs(tokens[[0, 2, 3]]).max() == 0


def test_the_depthwise_convolution_mixes_no_channels():
    assert RegNetBlock(nnx.Rngs(0), 8, 8).depthwise.shape == (3, 3, 1, 8)
    assert RegNetBlock(nnx.Rngs(0), 12, 8).squeeze.kernel.shape == (8, 3), "a quarter of the block's input width"


@pytest.mark.parametrize("name", ["linear", "mlp", "average", "attention", "resampler"])
def test_flops_are_xlas(name):
    """On features below which nothing trains: no gradient in them. Norms, softmax and activations are a few per cent."""
    config = LARGE.get(name, SMALL[name])
    model = skeleton(config, 6, 128, 128)
    x = np.ones((2, 36, 128), np.float32)
    lowered = jax.jit(jax.value_and_grad(lambda p: (model.merge(p)(x) ** 2).sum())).lower(dict(model.shapes))
    built = nnx.eval_shape(lambda: config.build(nnx.Rngs(0), 6, 128, 128))
    assert 0.97 <= lowered.cost_analysis()["flops"] / (2 * connector_flops(built, True, False)) < 1.08


@pytest.mark.parametrize("values, line", [
    (dict(kind="average"), "config.connector.tokens: missing"),
    (dict(kind="c_abstractor", tokens=10), "config.connector: tokens: 10 is not a square number"),
    (dict(kind="mlp", tokens=16), "config.connector.tokens: unknown key"),
    (dict(kind="attention", tokens=4, heads=0), "config.connector.heads: 0 is not"),
    (dict(kind="perceiver"), "config.connector.kind: unknown connector kind 'perceiver'"),
])
def test_mistakes(values, line):
    with pytest.raises(UserError, match=line):
        configs.build(Connector, values, "config.connector")


def test_a_section_without_a_kind_is_the_usual_one():
    assert configs.build(Connector, {}, "config.connector") == MlpConnector()
