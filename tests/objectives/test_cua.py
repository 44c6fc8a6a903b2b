"""Uniformity and alignment (arXiv 2405.18570): closed forms, the printed form beside the code's, gradients, devices."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_cases import mesh_of

from mof_jax import config as configs
from mof_jax import run
from mof_jax.objectives.cua import Alignment, Uniformity
from mof_jax.objectives.loss import Context

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "papers" / "cua.py"
N, DIM = 24, 8


def unit(seed: int, n: int = N, dim: int = DIM) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def value(term, image, text=None, mesh=None):
    features = {"image": jnp.asarray(image)[:, None], "text": jnp.asarray(image if text is None else text)[:, None]}
    loss = term.loss(None, {name: features[name] for name in term.reads}, Context(mesh=mesh))
    assert loss.weight == term.count(features, Context())
    return loss.sum / loss.weight


def dense(x, y, t=2.0, diagonal=False) -> float:
    """As the paper prints it, or the log of the mean over pairs of two points, in double precision."""
    apart = np.square(x.astype(np.float64)[:, None] - y.astype(np.float64)[None]).sum(-1)
    kernel = np.exp(-t * apart)
    return float(np.log(kernel.sum() / len(x)) if diagonal else np.log(kernel[~np.eye(len(x), dtype=bool)].mean()))


@pytest.mark.parametrize("of", [("image", "image"), ("image", "text")])
@pytest.mark.parametrize("diagonal", [False, True])
def test_both_forms_against_the_whole_matrix(of, diagonal):
    x, y = unit(0), unit(1)
    got = value(Uniformity(of=of, t=3.0, diagonal=diagonal, block_size=5), x, y)
    assert float(got) == pytest.approx(dense(x, y if of[1] == "text" else x, 3.0, diagonal), rel=1e-6)


def test_closed_forms():
    same = np.tile(unit(0, 1), (N, 1))
    assert float(value(Uniformity(), same)) == pytest.approx(0.0, abs=1e-5)
    assert float(value(Uniformity(diagonal=True), same)) == pytest.approx(np.log(N), rel=1e-6)
    poles = np.stack([unit(0, 1)[0], -unit(0, 1)[0]])
    assert float(value(Uniformity(), poles)) == pytest.approx(-8.0, rel=1e-6)
    assert float(value(Alignment(), poles, -poles)) == pytest.approx(4.0, rel=1e-6)
    assert float(value(Alignment(), same, same)) == 0.0


def test_the_printed_gradient_is_the_codes_times_a_share():
    """M / (M + N), M the sum over distinct points: what the diagonal adds has no gradient."""
    x = unit(3)
    on_sphere = lambda z: z / jnp.linalg.norm(z, axis=1, keepdims=True)
    code, printed = (jax.grad(lambda z, d=d: value(Uniformity(diagonal=d), on_sphere(z)))(x) for d in (False, True))
    total = np.exp(dense(x, x)) * N * (N - 1)
    np.testing.assert_allclose(printed, np.asarray(code) * total / (total + N), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("term", [Uniformity(of=("image", "text"), block_size=3), Alignment()], ids=lambda term: term.kind)
def test_devices_change_nothing(term):
    x, y, mesh = unit(4), unit(5), mesh_of("4x2")["mesh"]
    both = lambda mesh: jax.jit(jax.value_and_grad(lambda a, b: value(term, a, b, mesh), (0, 1)))(x, y)
    want, got = both(None), both(mesh)
    assert float(got[0]) == pytest.approx(float(want[0]), rel=1e-6)
    for a, b in zip(got[1], want[1]):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(np.abs(b).max()))


@pytest.mark.parametrize("arm, terms", [("clip", {"clip"}), ("cua", {"clip", "images", "texts", "align"}),
                                        ("cuaxu", {"clip", "images", "texts", "align", "across"})])
def test_the_arms_of_the_config(arm, terms):
    resolved = run.resolve(configs.load(f"{CONFIG}:arm={arm}"))
    assert set(resolved.objective) == terms and resolved.model.embed_dim == 32
    assert configs.load_module(str(CONFIG)).claim().arms.keys() == {"clip", "cua", "cuaxu"}
