"""Every tower, trunk, head and connector that a registry finds: gradients on a mesh are one device's.

A residual stream that is not told where its rows lie gives the right loss and gradients that are wrong by half, on a mesh of all
three axes alone. A new kind is found here without a word; if it has a field that `FORM` does not know, its own default has to
be small enough.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.commands.kinds import ROOMS
from mof_jax.mesh import MeshConfig, batch_sharding, make_mesh, on_mesh, param_shardings
from mof_jax.models.connectors import CONNECTORS
from mof_jax.models.heads import HEADS
from mof_jax.models.image_tower import TOWERS
from mof_jax.models.llm import LLM, LLMConfig
from mof_jax.models.text import TextConfig, TextTower
from mof_jax.nn.module import Skeleton

ROWS, WIDTH = 8, 16
MESHES = {"2x2x2": MeshConfig(2, 2, 2), "4x1x2": MeshConfig(4, 1, 2), "1x4x2": MeshConfig(1, 4, 2)}
# A small form of a kind: the fields that it has of these.
FORM: dict[str, Any] = dict(
    width=WIDTH, depth=2, heads=4, mlp_dim=32, patch_size=8, image_size=32, embed_dim=8, tokens=4, reads="image",
    widths=(16, 8), count=16, width_factor=0.1, depth_factor=0.1, norm="batch")
BUILT_IN = {"text": TextConfig(width=WIDTH, depth=2, heads=4, mlp_dim=32, vocab_size=32, context_length=8, eos_id=31, pad_id=0,
                               embed_dim=8),
            "llm": LLMConfig(width=WIDTH, depth=2, heads=4, mlp_dim=32, vocab_size=32)}


def small(cls: type) -> Any:
    """A kind in its small form."""
    known = {field.name: FORM[field.name] for field in dataclasses.fields(cls) if field.name in FORM}
    return cls(**known)


def parts() -> dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], Any, Callable[[nnx.Module, Any], jax.Array]]]:
    """By name: a module's maker, its batch, and its output of that."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (ROWS, 32, 32, 3), np.uint8)
    features, patches = (rng.standard_normal(shape).astype(np.float32) for shape in ((ROWS, 1, WIDTH), (ROWS, 16, WIDTH)))
    tokens = rng.integers(1, 31, (ROWS, 8)).astype(np.int32)
    positions, segments = np.tile(np.arange(8, dtype=np.int32), (ROWS, 1)), np.ones((ROWS, 8), np.int32)
    found = {f"towers/{kind}": (small(cls).build, images, lambda model, x: model(x).pooled) for kind, cls in TOWERS.items()}
    found |= {f"heads/{kind}": (lambda rngs, cls=cls: small(cls).build(rngs, WIDTH), features, lambda model, x: model(x)[0])
              for kind, cls in HEADS.items()}
    found |= {f"connectors/{kind}": (lambda rngs, cls=cls: small(cls).build(rngs, 4, WIDTH, WIDTH), patches,
                                     lambda model, x: model(x)) for kind, cls in CONNECTORS.items()}
    found["text"] = lambda rngs: TextTower(BUILT_IN["text"], rngs), tokens, lambda model, x: model(x)
    found["llm"] = (lambda rngs: LLM(BUILT_IN["llm"], rngs), (tokens, positions, segments),
                    lambda model, x: model(model.embed(x[0]), x[1], x[2]))
    return found


@pytest.fixture(scope="module", params=sorted(parts()))
def part(request):
    """A skeleton, its weights, a batch, its loss, and the gradients of one device."""
    make, batch, output = parts()[request.param]
    skeleton = Skeleton.of(make)
    params = {path: value * 4 / value.shape[-2] ** 0.5 if path.endswith("kernel") else value  # ReLU6 neither dead nor cut off
              for path, value in weights(skeleton).items()}
    moving = {path: abs(value) + 0.5 for path, value in params.items() if path in skeleton.moving}  # a variance is one

    def loss(trained, x):
        with jax.default_matmul_precision("highest"):
            return jnp.sin(output(skeleton.merge(trained | moving), x).astype(jnp.float32)).sum()

    trained = {path: value for path, value in params.items() if path not in moving}
    value, grads = quick_jit(jax.value_and_grad(loss))(trained, batch)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads.values())
    assert sum(np.abs(np.asarray(g)).max() > 0 for g in grads.values()) >= 0.7 * len(grads), "a test of zeros"
    return skeleton, trained, batch, loss, value, grads


@pytest.mark.parametrize("name", MESHES)
def test_gradients_on_a_mesh_are_one_devices(part, name):
    skeleton, trained, batch, loss, value, grads = part
    mesh = make_mesh(MESHES[name], jax.devices()[:8])
    shardings = param_shardings(mesh, skeleton, MESHES[name].rules)
    placed = {path: jax.device_put(x, shardings[path]) for path, x in trained.items()}
    got_value, got = quick_jit(on_mesh(mesh, jax.value_and_grad(loss)))(placed, jax.device_put(batch, batch_sharding(mesh)))
    assert abs(float(got_value) - float(value)) <= 1e-5 * max(1.0, abs(float(value)))
    largest = {path: float(np.abs(np.asarray(want)).max()) for path, want in grads.items()}
    nothing = 1e-6 * max(largest.values())  # of a shift that a norm takes out again, rounding is all there is
    for path, want in grads.items():
        atol = 1e-5 * largest[path] if largest[path] > nothing else nothing
        np.testing.assert_allclose(np.asarray(got[path]), np.asarray(want), rtol=0, atol=atol, err_msg=path)


def test_every_room_of_models_is_here():
    """Fusions have no parameters."""
    rooms = {room for room, (module, _) in ROOMS.items() if module.startswith("mof_jax.models")}
    assert rooms - {"fusions"} == {name.split("/")[0] for name in parts()} - BUILT_IN.keys()
