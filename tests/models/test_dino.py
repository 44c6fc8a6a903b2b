"""Student and teacher: one shape, one beginning, one head."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.models.dino import Dino, DinoConfig, Network
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton, flatten

ENCODER = ViTConfig(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=16)
SMALL = DinoConfig(ENCODER, hidden=12, bottleneck=6, prototypes=10)
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@functools.cache
def network(dtype="float32"):
    skeleton = Skeleton.of(lambda rngs: Network(dataclasses.replace(SMALL, dtype=dtype), rngs))
    return skeleton, weights(skeleton)


def test_the_teacher_starts_as_the_student():
    params = flatten(quick_jit(lambda key: Dino(SMALL, nnx.Rngs(key)))(jax.random.key(0)))
    students = {path: x for path, x in params.items() if path.startswith("student/")}
    teachers = {path for path in params if path.startswith("teacher/")}
    assert teachers == {path.replace("student", "teacher", 1) for path in students}
    assert set(params) == teachers | set(students)
    for path, x in students.items():
        twin = params[path.replace("student", "teacher", 1)]
        np.testing.assert_array_equal(twin, x)
        assert twin.unsafe_buffer_pointer() != x.unsafe_buffer_pointer(), "buffers of their own, for donation"


def test_the_head_by_hand():
    skeleton, params = network()
    with jax.default_matmul_precision("highest"):
        x = jnp.asarray(np.random.default_rng(1).standard_normal((5, 16)), jnp.float32)
        got = quick_jit(lambda p: skeleton.merge(p).head(x))(params)
        gelu = lambda y: 0.5 * y * (1 + jax.lax.erf(y / np.sqrt(2)))
        y = gelu(x @ params["head/fc1/kernel"] + params["head/fc1/bias"])
        y = gelu(y @ params["head/fc2/kernel"] + params["head/fc2/bias"])
        y = np.asarray(y @ params["head/fc3/kernel"] + params["head/fc3/bias"])
    columns = np.asarray(params["head/prototypes"])
    want = y @ columns / np.linalg.norm(y, axis=1)[:, None] / np.linalg.norm(columns, axis=0)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got.shape == (5, 10) and np.abs(got).max() <= 1.0 + 1e-6


def test_prototypes_can_be_held():
    skeleton, params = network()
    x = jnp.asarray(np.random.default_rng(1).standard_normal((5, 16)), jnp.float32)
    loss = lambda p, frozen: jnp.square(skeleton.merge(p).head(x, frozen)).sum()
    free, held = (quick_jit(jax.grad(loss))(params, jnp.bool_(frozen)) for frozen in (False, True))
    assert not held["head/prototypes"].any() and free["head/prototypes"].any()
    np.testing.assert_allclose(held["head/fc1/kernel"], free["head/fc1/kernel"], rtol=1e-6)


def test_small_crops_pass_through_the_same_tower():
    """Four of the sixteen positions' worth: the grid of position embeddings is resampled."""
    skeleton, params = network()
    scores = quick_jit(lambda p, x: skeleton.merge(p)(x))
    assert scores(params, IMAGES[:, :8, :8]).shape == scores(params, IMAGES).shape == (3, 10)


def test_scores_of_a_bf16_tower_are_float32():
    skeleton, params = network("bfloat16")
    scores = quick_jit(lambda p: skeleton.merge(p)(IMAGES))(params)
    exact = quick_jit(lambda p: network()[0].merge(p)(IMAGES))(params)
    assert scores.dtype == jnp.float32 and 0 < np.abs(scores - exact).max() < 0.1


@pytest.mark.parametrize("change, says", [
    (dict(encoder=dataclasses.replace(ENCODER, pool="none")), "needs a pooled feature"),
    (dict(dtype="half"), "not float32 or bfloat16"),
])
def test_a_config_that_cannot_be_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SMALL, **change)
