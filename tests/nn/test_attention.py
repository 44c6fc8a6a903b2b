"""Attention against the textbook in numpy, and every kernel against the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mof_jax.mesh import MeshConfig, make_mesh
from mof_jax.nn.attention import Mask, _splash_on_mesh, at_default_precision, attention, splash

B, Q, K, H, D = 2, 5, 5, 3, 4


def textbook(q, k, v, allowed):
    """One query at a time, in float64; `allowed` is bool [batch, queries, keys]. Query heads share the keys of their group."""
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b, i, h in np.ndindex(q.shape[:3]):
        scores = k[b, :, h // group].astype(np.float64) @ q[b, i, h] / np.sqrt(q.shape[-1])
        weights = np.where(allowed[b, i], np.exp(scores - scores.max()), 0.0)
        out[b, i, h] = weights @ v[b, :, h // group] / weights.sum()
    return out


@pytest.fixture(scope="module")
def qkv():
    return np.random.default_rng(0).standard_normal((3, B, K, H, D)).astype(np.float32)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [None, "keys", "pairs"])
def test_equals_the_textbook(qkv, causal, masked):
    keys = np.random.default_rng(1).random((B, Q if masked == "pairs" else 1, K)) < 0.6
    keys[:, :, 0] = True  # the first key is open to all, so that no query is left without any
    allowed = np.ones((B, Q, K), bool) if masked is None else np.broadcast_to(keys, (B, Q, K))
    if causal:
        allowed = allowed & np.tri(Q, K, dtype=bool)
    got = attention(*qkv, Mask(causal, dense=None if masked is None else keys))
    np.testing.assert_allclose(got, textbook(*qkv, allowed), rtol=1e-5, atol=1e-6)


def test_causal_queries_are_the_last_ones(qkv):
    """With fewer queries than keys (a decoder with a cache), query i stands at position keys - queries + i."""
    q, k, v = qkv
    causal = Mask(True)
    np.testing.assert_allclose(attention(q[:, -2:], k, v, causal), attention(q, k, v, causal)[:, -2:], rtol=1e-5)


def test_a_query_without_keys_gets_the_mean_and_finite_gradients(qkv):
    nothing = Mask(dense=np.zeros((B, 1, K), bool))
    loss = lambda q, k, v: (attention(q, k, v, nothing) ** 2).sum()
    np.testing.assert_allclose(
        attention(*qkv, nothing), np.broadcast_to(qkv[2].mean(1, keepdims=True), qkv[2].shape), rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.grad(loss, (0, 1, 2))(*qkv))


SEGMENTS = np.array([[1, 1, 2, 2, 2], [1, 2, 2, 3, 0]], np.int32)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_queries_packed_documents_and_prefixes(kv_heads):
    rng = np.random.default_rng(2)
    q = rng.standard_normal((B, Q, 4, D)).astype(np.float32)
    k, v = rng.standard_normal((2, B, K, kv_heads, D)).astype(np.float32)
    prefix = np.array([[True, True, True, False, False], [False] * 5])
    same = SEGMENTS[:, :, None] == SEGMENTS[:, None]
    causal = np.broadcast_to(np.tri(Q, K, dtype=bool), same.shape)
    got = attention(q, k, v, Mask.packed(SEGMENTS))
    np.testing.assert_allclose(got, textbook(q, k, v, same & causal), rtol=1e-5, atol=1e-6)
    got = attention(q, k, v, Mask(True, SEGMENTS, SEGMENTS, prefix))
    np.testing.assert_allclose(got, textbook(q, k, v, same & (causal | prefix[:, None])), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 4, 5, 9])
def test_a_window_hides_what_is_further_back(qkv, window):
    """The query itself is one of them; beside documents, and where the queries are the last ones of the keys."""
    near = np.tri(Q, K, dtype=bool) & ~np.tri(Q, K, -window, dtype=bool)
    same = SEGMENTS[:, :, None] == SEGMENTS[:, None]
    np.testing.assert_allclose(attention(*qkv, Mask(True, window=window)),
                               textbook(*qkv, np.broadcast_to(near, same.shape)), rtol=1e-5, atol=1e-6)
    got = attention(*qkv, Mask(True, SEGMENTS, SEGMENTS, window=window))
    np.testing.assert_allclose(got, textbook(*qkv, near & same), rtol=1e-5, atol=1e-6)
    q, k, v = qkv
    np.testing.assert_allclose(attention(q[:, -2:], k, v, Mask(True, window=window)),
                               attention(q, k, v, Mask(True, window=window))[:, -2:], rtol=1e-5, atol=1e-6)


def test_splash_has_windows_too():
    rng = np.random.default_rng(3)
    q, k, v = rng.standard_normal((3, 1, 150, 1, 64)).astype(np.float32)
    ids = np.sort(rng.integers(0, 3, (1, 150)), axis=1).astype(np.int32)
    mask = Mask(True, ids, ids, window=20)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(splash(q, k, v, mask, interpret=True), attention(q, k, v, mask), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(attention(q, k, v, mask, kernel="splash"), attention(q, k, v, mask))


@pytest.mark.parametrize("causal, packed, length, dim, kv_heads", [
    (True, True, 150, 64, 2), (False, False, 130, 72, 4), (True, False, 128, 128, 4), (False, True, 70, 80, 1)])
def test_splash_equals_the_reference(causal, packed, length, dim, kv_heads):
    """Lengths that are no multiple of a block, heads of 64, 72, 80 and 128, shared keys; values and all three gradients."""
    rng = np.random.default_rng(3)
    q = rng.standard_normal((2, length, 4, dim)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, length, kv_heads, dim)).astype(np.float32)
    ids = np.sort(rng.integers(0, 4, (2, length)), axis=1).astype(np.int32)
    mask = Mask(causal, ids, ids) if packed else Mask(causal)
    target = rng.standard_normal(q.shape).astype(np.float32)

    def run(fn):
        return jax.value_and_grad(lambda *x: (fn(*x, mask) * target).sum(), (0, 1, 2))(q, k, v)

    with jax.default_matmul_precision("highest"):
        want, got = run(attention), run(lambda *x: splash(*x, interpret=True))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for g, w in zip(got[1], want[1]):
        assert np.abs(np.asarray(g) - w).max() <= 1e-5 * np.abs(w).max()


def test_the_splash_kernel_is_the_reference_away_from_tpus(qkv):
    mask = Mask.packed(SEGMENTS)
    np.testing.assert_array_equal(jax.jit(lambda *x: attention(*x, mask, kernel="splash"))(*qkv),
                                  jax.jit(lambda *x: attention(*x, mask))(*qkv))
    prefix = Mask(True, prefix=jnp.ones((B, K), bool))  # a rule that splash does not know
    np.testing.assert_array_equal(attention(*qkv, prefix, kernel="splash"), attention(*qkv, prefix))


def test_the_kernel_can_be_kept_from_a_precision():
    """Forward and backward: what is traced under `highest` is what is traced without it, and gives the same."""
    rng = np.random.default_rng(5)
    qkv = rng.standard_normal((3, 2, 20, 2, 64)).astype(np.float32)
    ids = np.sort(rng.integers(0, 3, (2, 20)), axis=1).astype(np.int32)
    step = lambda fn: jax.value_and_grad(lambda *x: (fn(*x, Mask.packed(ids)) ** 2).sum(), (0, 1, 2))
    kernel = functools.partial(splash, interpret=True)
    want = step(kernel)(*qkv)
    with jax.default_matmul_precision("highest"):
        exact, plain = step(kernel), step(at_default_precision(kernel))
        assert "HIGHEST" in str(jax.make_jaxpr(exact)(*qkv)) and "HIGHEST" not in str(jax.make_jaxpr(plain)(*qkv))
        got = plain(*qkv)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("rows, heads, kv_heads", [(4, 4, 2), (4, 4, 1), (3, 3, 3)])
def test_splash_on_a_mesh_equals_the_reference(rows, heads, kv_heads):
    """Rows over data × fsdp and heads over tensor; shared heads, or rows and heads, that the mesh does not divide."""
    rng = np.random.default_rng(4)
    q = rng.standard_normal((rows, 20, heads, 64)).astype(np.float32)
    k, v = rng.standard_normal((2, rows, 20, kv_heads, 64)).astype(np.float32)
    mask = Mask.packed(np.sort(rng.integers(0, 3, (rows, 20)), axis=1).astype(np.int32))
    run = lambda fn: jax.jit(jax.value_and_grad(lambda *x: (fn(*x, mask) ** 2).sum(), (0, 1, 2)))(q, k, v)
    with jax.default_matmul_precision("highest"):
        want = run(attention)
        with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
            got = run(functools.partial(_splash_on_mesh, interpret=True))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5)
    for g, w in zip(got[1], want[1]):
        assert np.abs(np.asarray(g) - w).max() <= 1e-5 * np.abs(w).max()
