"""Self-distillation: balanced targets, pairs of crops, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit

from mof_jax.mesh import MeshConfig, batch_sharding, make_mesh
from mof_jax.models.teacher import Teacher
from mof_jax.objectives.distillation import (
    cross_entropy_of_crops,
    entropy,
    sinkhorn_knopp,
    teacher_temperature,
)

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(-1, 1, (16, 10)).astype(np.float32)


def reference(scores, temperature, iterations):
    """Sinkhorn-Knopp with plain numbers, in double precision."""
    q = np.exp(scores.astype(np.float64) / temperature)
    rows, prototypes = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(0, keepdims=True) * prototypes
        q /= q.sum(1, keepdims=True) * rows
    return q * rows


@pytest.mark.parametrize("temperature, iterations", [(0.05, 1), (0.05, 3), (0.3, 7)])
def test_sinkhorn_is_the_plain_algorithm(temperature, iterations):
    got = sinkhorn_knopp(SCORES, temperature, iterations)
    np.testing.assert_allclose(got, reference(SCORES, temperature, iterations), rtol=2e-5, atol=1e-7)


def test_sinkhorn_uses_every_prototype_equally():
    few, many = sinkhorn_knopp(SCORES, 0.2, 1), sinkhorn_knopp(SCORES, 0.2, 60)
    np.testing.assert_allclose(many.sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(many.sum(0), 1.6, rtol=1e-4)
    np.testing.assert_allclose(few.sum(1), 1.0, rtol=1e-5)
    assert np.abs(np.asarray(few.sum(0)) - 1.6).max() > 0.05
    # One row for all prototypes' favourite would be the collapse: the softmax has it, Sinkhorn does not.
    alike = SCORES * 0.01 + 5 * np.eye(10, dtype=np.float32)[3]
    assert np.asarray(jax.nn.softmax(alike / 0.2))[:, 3].min() > 0.99
    np.testing.assert_allclose(sinkhorn_knopp(alike, 0.2, 60).sum(0), 1.6, rtol=1e-3)


def test_sinkhorn_survives_small_temperatures_and_passes_no_gradient():
    assert np.isfinite(sinkhorn_knopp(100 * SCORES, 0.01)).all()
    assert not jax.grad(lambda s: jnp.square(sinkhorn_knopp(s, 0.1)).sum())(SCORES).any()


def test_sinkhorn_on_eight_devices_is_global():
    """The program of one device over all rows, whatever the mesh; per-shard sums would differ."""
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    sharded = jax.device_put(SCORES, batch_sharding(mesh))
    function = quick_jit(lambda s: sinkhorn_knopp(s, 0.05))
    np.testing.assert_allclose(function(sharded), function(SCORES), rtol=1e-5)
    halves = np.concatenate([sinkhorn_knopp(half, 0.05) for half in np.split(SCORES, 2)])
    assert np.abs(halves - function(SCORES)).max() > 0.01


@pytest.mark.parametrize("views, crops", [(2, 2), (2, 5), (1, 4), (3, 3)])
def test_cross_entropy_is_the_double_loop(views, crops):
    scores = RNG.standard_normal((4, crops, 10)).astype(np.float32)
    targets = RNG.dirichlet(np.ones(10), (4, views)).astype(np.float32)
    logs = np.log(np.exp(scores / 0.5) / np.exp(scores / 0.5).sum(-1, keepdims=True))
    want = np.zeros(4)
    for t in range(views):
        for s in range(crops):
            if s != t:
                want -= (targets[:, t] * logs[:, s]).sum(-1)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(cross_entropy_of_crops(scores, targets, 0.5), want, rtol=1e-5)


def test_no_crop_sees_its_own_target():
    """With a single view, its own scores get no gradient; with two, a crop's gradient ignores its own target."""
    scores = jnp.asarray(RNG.standard_normal((2, 3, 10)), jnp.float32)
    targets = jnp.asarray(RNG.dirichlet(np.ones(10), (2, 2)), jnp.float32)
    gradient = jax.grad(lambda s, t: cross_entropy_of_crops(s, t, 0.1).sum())
    alone = gradient(scores, targets[:, :1])
    assert not alone[:, 0].any() and alone[:, 1:].any()
    other = gradient(scores, targets.at[:, 0].set(jnp.roll(targets[:, 0], 1, -1)))
    np.testing.assert_array_equal(other[:, 0], gradient(scores, targets)[:, 0])
    assert np.abs(other[:, 1] - gradient(scores, targets)[:, 1]).max() > 0.01


def test_entropy():
    np.testing.assert_allclose(entropy(jnp.full((3, 8), 1 / 8)), np.log(8), rtol=1e-6)
    np.testing.assert_allclose(entropy(jnp.eye(4)), 0.0, atol=1e-6)


def test_schedules():
    temperatures = [float(teacher_temperature(jnp.float32(t), 0.04, 0.07, 30)) for t in (0, 10, 30, 500)]
    np.testing.assert_allclose(temperatures, [0.04, 0.05, 0.07, 0.07], rtol=1e-6)
    np.testing.assert_allclose(teacher_temperature(jnp.float32(0), 0.04, 0.07, 0), 0.07, rtol=1e-6)
    momenta = [float(Teacher("teacher/", "", 0.996, 100).at(jnp.float32(t))) for t in (0, 25, 50, 100)]
    np.testing.assert_allclose(momenta, [0.996, 1 - 0.002 * (1 + 0.5**0.5), 0.998, 1.0], rtol=1e-6)
