"""Attention against the textbook in numpy."""

import jax
import numpy as np
import pytest

from mof_jax.nn.attention import attention

B, Q, K, H, D = 2, 5, 5, 3, 4


def textbook(q, k, v, allowed):
    """One query at a time, in float64; `allowed` is bool [batch, queries, keys]."""
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(q.shape[:3]):
        scores = k[b, :, h].astype(np.float64) @ q[b, i, h] / np.sqrt(D)
        weights = np.where(allowed[b, i], np.exp(scores - scores.max()), 0.0)
        out[b, i, h] = weights @ v[b, :, h] / weights.sum()
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
    got = attention(*qkv, mask=None if masked is None else keys, causal=causal)
    np.testing.assert_allclose(got, textbook(*qkv, allowed), rtol=1e-5, atol=1e-6)


def test_causal_queries_are_the_last_ones(qkv):
    """With fewer queries than keys (a decoder with a cache), query i stands at position keys - queries + i."""
    q, k, v = qkv
    np.testing.assert_allclose(attention(q[:, -2:], k, v, causal=True), attention(q, k, v, causal=True)[:, -2:], rtol=1e-5)


def test_a_query_without_keys_gets_the_mean_and_finite_gradients(qkv):
    nothing = np.zeros((B, 1, K), bool)
    loss = lambda q, k, v: (attention(q, k, v, mask=nothing) ** 2).sum()
    np.testing.assert_allclose(
        attention(*qkv, mask=nothing), np.broadcast_to(qkv[2].mean(1, keepdims=True), qkv[2].shape), rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.grad(loss, (0, 1, 2))(*qkv))
