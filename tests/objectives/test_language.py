"""The language loss against the plain formula, and that its logits never exist all at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from small_models import quick_jit

from mof_jax.mesh import BATCH_AXES, MeshConfig, make_mesh, on_mesh
from mof_jax.objectives.language import cross_entropy, token_log_probs

ROWS, TOKENS, WIDTH, VOCAB = 8, 13, 6, 20


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((ROWS, TOKENS, WIDTH)).astype(np.float32)
    head = rng.standard_normal((WIDTH, VOCAB)).astype(np.float32)
    labels = rng.integers(0, VOCAB, (ROWS, TOKENS))
    weight = (rng.random((ROWS, TOKENS)) * (rng.random((ROWS, TOKENS)) < 0.7)).astype(np.float32)
    return hidden, head, labels, weight


def plain(hidden, head, labels, weight, z_loss):
    logits = hidden @ head
    normaliser = jax.nn.logsumexp(logits, -1)
    nll = normaliser - jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    return (weight * (nll + z_loss * normaliser**2)).sum()


@pytest.mark.parametrize("chunk", [1, 4, 13, 64])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_value_and_gradients(inputs, chunk, z_loss):
    hidden, head, labels, weight = inputs
    with jax.default_matmul_precision("highest"):
        want, wanted = jax.value_and_grad(plain, (0, 1))(hidden, head, labels, weight, z_loss)
        run = lambda h, w: cross_entropy(h, w, labels, weight, block_size=chunk, z_loss=z_loss).sum
        got, gradients = quick_jit(jax.value_and_grad(run, (0, 1)))(hidden, head)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for g, w in zip(gradients, wanted):
        assert np.abs(np.asarray(g) - w).max() <= 1e-5 * np.abs(w).max()


def test_weight_and_accuracy(inputs):
    hidden, head, labels, weight = inputs
    loss = cross_entropy(hidden, head, labels, weight, block_size=5)
    assert float(loss.weight) == pytest.approx(weight.sum())
    right = (hidden @ head).argmax(-1) == labels
    np.testing.assert_allclose(loss.metrics["accuracy"].sum, (weight * right).sum(), rtol=1e-5)
    uniform = cross_entropy(hidden, head * 0, labels, weight)
    np.testing.assert_allclose(uniform.sum / uniform.weight, np.log(VOCAB), rtol=1e-6)


def test_log_probs_are_the_log_softmax(inputs):
    hidden, head, labels, _ = inputs
    want = np.take_along_axis(np.asarray(jax.nn.log_softmax(hidden @ head)), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_log_probs(hidden, head, labels, block_size=5), want, rtol=1e-4, atol=1e-5)


def test_a_sharded_batch_and_vocabulary_give_the_same(inputs):
    hidden, head, labels, weight = inputs
    mesh = make_mesh(MeshConfig(2, 2, 2))
    rows, columns = NamedSharding(mesh, P(BATCH_AXES)), NamedSharding(mesh, P("fsdp", "tensor"))
    run = jax.value_and_grad(lambda h, w: cross_entropy(h, w, labels, weight, block_size=4, z_loss=0.1).sum, (0, 1))
    with jax.default_matmul_precision("highest"):
        want, wanted = quick_jit(run)(hidden, head)
        step = quick_jit(on_mesh(mesh, run), in_shardings=(rows, columns), out_shardings=(None, (rows, columns)))
        got, gradients = step(hidden, head)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for g, w in zip(gradients, wanted):
        assert np.abs(np.asarray(g) - w).max() <= 1e-5 * np.abs(np.asarray(w)).max()


def test_a_padded_part_changes_nothing(inputs):
    """20 words in 3 parts of 7: one column is padding."""
    hidden, head, labels, weight = inputs
    run = jax.value_and_grad(lambda h, w, chunk: cross_entropy(h, w, labels, weight, block_size=chunk).sum, (0, 1))
    with jax.default_matmul_precision("highest"):
        want, wanted = run(hidden, head, TOKENS)
        got, gradients = run(hidden, head, 5)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for g, w in zip(gradients, wanted):
        assert np.abs(np.asarray(g) - w).max() <= 1e-5 * np.abs(np.asarray(w)).max()


def test_bfloat16_gradients_do_not_lose_by_the_parts(inputs):
    """Against the gradients of the same rounded inputs in float32: as near with many parts as with one."""
    hidden, head, labels, weight = inputs
    hidden, head = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(head, jnp.bfloat16)
    wanted = jax.grad(plain, (0, 1))(hidden.astype(jnp.float32), head.astype(jnp.float32), labels, weight, 0.0)

    def error(chunk: int) -> list[float]:
        found = jax.grad(lambda h, w: cross_entropy(h, w, labels, weight, block_size=chunk).sum, (0, 1))(hidden, head)
        return [float(jnp.linalg.norm(g.astype(jnp.float32) - w) / jnp.linalg.norm(w)) for g, w in zip(found, wanted)]

    for one, many in zip(error(TOKENS), error(1)):
        assert one < 2**-8 and many < 1.1 * one, (one, many)


def test_memory_is_a_part_not_the_logits():
    """Batch × tokens × vocabulary in float32 would be 256 MiB; the part of 64 tokens' worth is 8."""
    rows, tokens, width, vocab = 8, 2048, 16, 4096
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    labels = jax.ShapeDtypeStruct((rows, tokens), jnp.int32)
    run = jax.grad(lambda h, w, y, q: cross_entropy(h, w, y, q, block_size=64).sum, (0, 1))
    args = shape(rows, tokens, width), shape(width, vocab), labels, shape(rows, tokens)
    memory = jax.jit(run).lower(*args).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 48 * 2**20, memory.temp_size_in_bytes / 2**20
