"""A scanned stack is the plain network: same values and gradients however it is laid out or rematerialised."""

import dataclasses
import functools

from flax import nnx
import jax
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.nn import dropout as drop
from mof_jax.nn.layers import Block, BlockConfig
from mof_jax.nn.module import Skeleton, flatten, param
from mof_jax.nn.stack import Stack

DEPTH = 3
CONFIG = BlockConfig(width=16, heads=2, mlp_dim=24, dropout=0.3, layer_scale=0.5)
X = np.random.default_rng(0).standard_normal((4, 5, 16)).astype(np.float32)
KEYS = drop.example_keys(jax.random.key(3), 4)


def build(rngs, **options):
    return Stack(lambda r: Block(CONFIG, r), DEPTH, rngs, **options)


@functools.cache
def params():
    return weights(Skeleton.of(build))


@functools.cache
def run(unroll=1, remat="none"):
    """Value and gradients, with dropout on."""
    skeleton = Skeleton.of(lambda rngs: build(rngs, unroll=unroll, remat=remat))
    loss = lambda p, x: (skeleton.merge(p)(x, None, keys=KEYS) ** 2).mean()
    return quick_jit(jax.value_and_grad(loss, (0, 1)))(params(), X)


@pytest.mark.parametrize("options", [{"unroll": DEPTH}, {"unroll": 2}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_layout_and_remat_change_nothing(options):
    want, got = run(), run(**options)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    for w, g in zip(jax.tree.leaves(want[1]), jax.tree.leaves(got[1]), strict=True):
        np.testing.assert_allclose(g, w, atol=2e-6 * np.abs(w).max())


def test_is_its_layers_in_turn():
    """The stack against one block at a time, with the keys each is promised."""
    block = Skeleton.of(lambda rngs: Block(CONFIG, rngs))
    layer = quick_jit(lambda p, x, keys: block.merge(p)(x, keys=keys))
    x = X
    for i in range(DEPTH):
        x = layer({path: params()[f"layers/{path}"][i] for path in block.shapes}, x, drop.fold(KEYS, i))
    skeleton = Skeleton.of(build)
    got = quick_jit(lambda p, x: skeleton.merge(p)(x, None, keys=KEYS))(params(), X)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_layers_start_different():
    values = flatten(quick_jit(lambda: build(nnx.Rngs(0)))())
    for path in ("layers/attn/qkv", "layers/attn/out", "layers/mlp/up/kernel", "layers/mlp/down/kernel"):
        a, b, c = np.asarray(values[path])
        assert not np.allclose(a, b) and not np.allclose(b, c), path
    for i, j in ((0, 1), (1, 2)):
        assert not np.allclose(values["layers/attn/qkv"][0][:, i], values["layers/attn/qkv"][0][:, j])


def test_skeleton_round_trip():
    """flatten and merge are each other's inverse, and the skeleton knows axes and matrices without any array."""
    skeleton = Skeleton.of(build)
    assert {p: x.shape for p, x in skeleton.shapes.items()} == {p: x.shape for p, x in params().items()}
    back = flatten(skeleton.merge(params()))
    assert list(back) == list(skeleton.shapes)
    for path, x in params().items():
        np.testing.assert_array_equal(back[path], x)
    assert skeleton.axes["layers/attn/qkv"] == ("embed", None, "heads", None)
    assert skeleton.matrices["layers/attn/out"].inputs == (-3, -2)
    assert "layers/norm1/scale" not in skeleton.matrices
    with pytest.raises(KeyError):
        skeleton.merge({p: x for p, x in params().items() if p != "layers/attn/qkv"})


def test_param_needs_a_name_for_each_dimension():
    with pytest.raises(ValueError, match="2 axis names"):
        param(nnx.Rngs(0), nnx.initializers.zeros, (3,), ("embed", "mlp"))


def test_width_must_divide_by_heads():
    with pytest.raises(ValueError, match="not divisible by 3 heads"):
        dataclasses.replace(CONFIG, heads=3)
