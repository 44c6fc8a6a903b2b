"""Sampling as a distribution; generation with a cache as the full forward pass; ragged rows, ends, given answers."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.decode.generate import answer_log_probs, generate
from mof_jax.decode.sample import SampleConfig, allowed, next_token
from mof_jax.models.llm import LLM, LLMConfig
from mof_jax.nn.module import Skeleton

CONFIG = LLMConfig(vocab_size=24, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=24)
PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32)


@functools.cache
def model():
    skeleton = Skeleton.of(lambda rngs: LLM(CONFIG, rngs))
    return skeleton.merge(weights(skeleton))


@pytest.mark.parametrize("config, kept", [
    (SampleConfig(1.0), 5), (SampleConfig(1.0, top_p=0.8), 3), (SampleConfig(1.0, top_p=0.7), 2), (SampleConfig(1.0, top_k=2), 2),
    (SampleConfig(1.0, top_p=0.6, top_k=4), 2), (SampleConfig(1.0, top_p=1e-6), 1)])
def test_draws_follow_the_renormalised_nucleus(config, kept):
    """0.7 is reached by two tokens exactly; the chi-square of 20,000 draws stays below its 99.9 % quantile."""
    draws = 20_000
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (draws, 5))
    keys = jax.random.split(jax.random.key(1), draws)
    counts = np.bincount(jax.jit(lambda l, k: next_token(l, config, k))(logits, keys), minlength=5)
    assert (counts[kept:] == 0).all() and (counts[:kept] > 0).all()
    expected = PROBABILITIES[:kept] / PROBABILITIES[:kept].sum() * draws
    quantile = {1: 1e-9, 2: 10.83, 3: 13.82, 5: 18.47}[kept]
    assert ((counts[:kept] - expected) ** 2 / expected).sum() <= quantile


def test_temperature_sharpens():
    logits = jnp.log(PROBABILITIES)[None]
    np.testing.assert_array_equal(next_token(logits, SampleConfig(), None), [0])
    cold = jnp.broadcast_to(logits, (4000, 5))
    drawn = next_token(cold, SampleConfig(0.5), jax.random.split(jax.random.key(0), 4000))
    want = PROBABILITIES[0] ** 2 / (PROBABILITIES**2).sum()
    assert abs((np.asarray(drawn) == 0).mean() - want) < 4 * (want * (1 - want) / 4000) ** 0.5


def test_ties_at_the_edge_of_the_nucleus_stay():
    kept = np.isfinite(allowed(jnp.log(jnp.array([[0.4, 0.2, 0.2, 0.2]])), SampleConfig(1.0, top_p=0.5)))
    np.testing.assert_array_equal(kept, [[True] * 4])


def full_greedy(row, count, eos):
    """Every token from a forward pass over all that came before."""
    m, tokens, out = model(), list(row), []
    for _ in range(count):
        x = jnp.asarray(tokens)[None]
        hidden = m(m.embed(x), jnp.arange(len(tokens))[None])
        token = int(m.logits(hidden[0, -1]).argmax())
        out.append(token)
        if token == eos:
            break
        tokens.append(token)
    return out


def test_greedy_with_the_cache_is_the_full_forward_pass():
    """Ragged rows in one batch, one of which ends before the others."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 24, n) for n in (2, 7, 4, 5)]
    eos = full_greedy(rows[1], 6, -1)[3]  # a token that row 1 says fourth, unless earlier
    want = [full_greedy(row, 6, eos) for row in rows]
    padded = np.full((4, 7), 9)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    m = model()
    run = quick_jit(lambda tokens, lengths: generate(m, m.embed(tokens), lengths, 6, eos_id=eos))
    got = np.asarray(run(padded, np.array([len(r) for r in rows], np.int32)))
    for ours, theirs in zip(got, want):
        np.testing.assert_array_equal(ours, theirs + [eos] * (6 - len(theirs)))
    assert min(len(w) for w in want) < 6 and max(len(w) for w in want) > 1


def test_a_rows_draws_do_not_depend_on_its_neighbours():
    m, sampler = model(), SampleConfig(1.0, seed=3)
    tokens = np.random.default_rng(1).integers(0, 24, (3, 4))
    run = lambda rows: np.asarray(generate(m, m.embed(tokens[:rows]), jnp.full(rows, 4), 5, sampler, eos_id=23))
    np.testing.assert_array_equal(run(3)[:2], run(2))


def test_log_probs_of_answers_are_the_log_softmax():
    rng = np.random.default_rng(2)
    m = model()
    prompts, lengths = rng.integers(0, 24, (2, 5)), np.array([3, 5])
    answers, sizes = rng.integers(0, 24, (2, 3)), np.array([3, 2])
    got = quick_jit(lambda: answer_log_probs(m, m.embed(prompts), lengths, answers, sizes))()
    for b in range(2):
        row = np.concatenate([prompts[b, : lengths[b]], answers[b, : sizes[b]]])
        logits = m.logits(m(m.embed(row[None]), np.arange(len(row))[None]))[0]
        logs = np.asarray(jax.nn.log_softmax(logits))
        want = sum(logs[lengths[b] - 1 + i, answers[b, i]] for i in range(sizes[b]))
        np.testing.assert_allclose(got[b], want, rtol=1e-4)
