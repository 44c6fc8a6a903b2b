"""The language model: rotary distances, scan and remat, documents that do not see each other, the cache."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.models.llm import LLM, SIZES, LLMConfig
from mof_jax.nn.module import Skeleton
from mof_jax.nn.rotary import rotary_angles, rotate

CONFIG = LLMConfig(vocab_size=24, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=24, qkv_bias=True, qk_norm=True)
ROWS, CONTEXT = 2, 10
TOKENS = np.random.default_rng(0).integers(0, 24, (ROWS, CONTEXT))
SEGMENTS = np.array([[1] * 4 + [2] * 6, [1] * 7 + [2] * 2 + [0]], np.int32)
POSITIONS = np.concatenate([[list(range(4)) + list(range(6))], [list(range(7)) + [0, 1, 0]]]).astype(np.int32)


@functools.cache
def skeleton(config=CONFIG):
    return Skeleton.of(lambda rngs: LLM(config, rngs))


def logits(params, tokens, positions=POSITIONS, segments=SEGMENTS, config=CONFIG, **options):
    model = skeleton(config).merge(params)
    return model.logits(model(model.embed(tokens), positions, segments, **options))


def test_rotary_products_depend_on_distance_alone():
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 8)).astype(np.float32)
    turned = lambda x, at: rotate(x, rotary_angles(jnp.array([[at]]), 8, 100.0))
    product = lambda i, j: float((turned(q, i) * turned(k, j)).sum())
    np.testing.assert_allclose([product(9, 4), product(105, 100)], product(5, 0), rtol=1e-4)
    assert abs(product(5, 0) - product(4, 0)) > 1e-3
    np.testing.assert_array_equal(turned(q, 0), q)
    quarter = rotate(jnp.array([[[[1.0, 0.0]]]]), jnp.array([[[np.pi / 2]]]))  # channels i and i + dim/2 are a plane
    np.testing.assert_allclose(quarter[0, 0, 0], [0, 1], atol=1e-6)


def test_scanned_unrolled_and_rematerialised_are_one_function():
    params = weights(skeleton())

    def run(**options):
        config = dataclasses.replace(CONFIG, **options)
        loss = lambda p: (logits(p, TOKENS, config=config) ** 2).sum()
        return quick_jit(jax.value_and_grad(loss))(params)

    with jax.default_matmul_precision("highest"):
        want, gradients = run()
        for options in (dict(unroll=2), dict(remat="full"), dict(remat="dots")):
            got, others = run(**options)
            np.testing.assert_allclose(got, want, rtol=1e-6)
            for path, g in gradients.items():
                assert np.abs(np.asarray(others[path]) - g).max() <= 1e-5 * np.abs(np.asarray(g)).max() + 1e-12, path


def test_documents_of_a_row_do_not_see_each_other():
    params = weights(skeleton())
    run = quick_jit(lambda tokens: logits(params, tokens))
    base = np.asarray(run(TOKENS))
    for at in (1, 6):
        changed = TOKENS.copy()
        changed[0, at] = (changed[0, at] + 1) % 24
        moved = np.abs(np.asarray(run(changed)) - base).max(-1) > 0
        own = (SEGMENTS[0] == SEGMENTS[0, at]) & (np.arange(CONTEXT) >= at)
        np.testing.assert_array_equal(moved[0], own)
        assert not moved[1].any()


def test_a_packed_document_is_what_it_is_alone():
    params = weights(skeleton())
    packed = logits(params, TOKENS)[0, 4:]
    alone = logits(params, TOKENS[:1, 4:], POSITIONS[:1, 4:], None)[0]
    np.testing.assert_allclose(packed, alone, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("window", [0, 3])
def test_reading_with_a_cache_is_the_full_forward_pass(window):
    """Ragged prompts in one call, then token by token; what lies behind a row's end does not matter."""
    config = dataclasses.replace(CONFIG, window=window)
    params = weights(skeleton(config))
    model = skeleton(config).merge(params)
    lengths = np.array([3, 6])
    positions = np.broadcast_to(np.arange(CONTEXT), TOKENS.shape)
    full = np.asarray(logits(params, TOKENS, positions, None, config=config))
    extend = quick_jit(lambda tokens, cache, lengths: model.extend(model.embed(tokens), cache, lengths))
    prompt = np.where(np.arange(6) < lengths[:, None], TOKENS[:, :6], 17)
    hidden, cache = extend(prompt, model.empty_cache(ROWS, 12), jnp.zeros(2, jnp.int32))
    got = np.asarray(model.logits(hidden))
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(got[row, :length], full[row, :length], rtol=1e-4, atol=1e-5)
    for _ in range(4):
        hidden, cache = extend(TOKENS[np.arange(2), lengths][:, None], cache, jnp.asarray(lengths))
        np.testing.assert_allclose(model.logits(hidden)[:, 0], full[np.arange(2), lengths], rtol=1e-4, atol=1e-5)
        lengths = lengths + 1


def test_a_window_ends_what_a_layer_sees():
    """Two layers of a window of three see four tokens back, and no further; documents begin anew."""
    config = dataclasses.replace(CONFIG, window=3)
    params, positions = weights(skeleton(config)), np.broadcast_to(np.arange(CONTEXT), TOKENS.shape)
    run = quick_jit(lambda tokens: logits(params, tokens, positions, None, config=config))
    changed = TOKENS.copy()
    changed[:, 0] = (changed[:, 0] + 1) % 24
    moved = np.abs(np.asarray(run(changed)) - np.asarray(run(TOKENS))).max(-1)
    assert (moved[:, :5] > 1e-4).all() and (moved[:, 5:] == 0).all()
    wide = dataclasses.replace(CONFIG, window=CONTEXT)
    whole = quick_jit(lambda: logits(params, TOKENS))()
    np.testing.assert_array_equal(quick_jit(lambda: logits(params, TOKENS, config=wide))(), whole)
    with pytest.raises(ValueError, match="window -1"):
        dataclasses.replace(CONFIG, window=-1)


def test_a_windows_flops_are_those_of_what_is_seen():
    """Pairs of a token and one that it looks back at, up to the half pair that a triangle's edge counts for."""
    for window, tokens in ((0, 64), (64, 64), (99, 64), (16, 64)):
        pairs = sum(min(i + 0.5, window or tokens) for i in range(tokens))
        got = dataclasses.replace(CONFIG, window=window).attention_flops(tokens)
        assert got == pytest.approx(4 * pairs * CONFIG.heads * CONFIG.head_dim * CONFIG.depth, rel=1e-2)


def test_tied_head_is_the_embedding():
    config = dataclasses.replace(CONFIG, tied=True)
    params = weights(skeleton(config))
    assert "output" not in params
    np.testing.assert_array_equal(skeleton(config).merge(params).head, params["embedding"].T)


@pytest.mark.parametrize("name, billions", [
    ("mm1-9m", 0.00944), ("mm1-85m", 0.08493), ("mm1-302m", 0.30199), ("mm1-1.2b", 1.208), ("mm1-3b", 2.914),
    ("mm1-7b", 6.442), ("mm1-13b", 12.58), ("mm1-30b", 29.595), ("llama2-7b", 6.476), ("qwen2-7b", 6.525)])
def test_sizes_are_their_names(name, billions):
    """Weights of the layers: 12·depth·width² for MM1's study, the published non-embedding counts for the others."""
    block = LLMConfig(name, vocab_size=8).block
    assert block.kernel_parameters * LLMConfig(name, vocab_size=8).depth / 1e9 == pytest.approx(billions, rel=0.012)


def test_every_size_builds():
    for name in SIZES:
        config = LLMConfig(name, vocab_size=SIZES[name].get("vocab_size", 100))
        shapes = Skeleton.of(lambda rngs: LLM(config, rngs)).shapes
        layers = sum(x.size for path, x in shapes.items() if path.endswith("kernel"))
        assert layers == config.depth * config.block.kernel_parameters


def test_flops_formula_is_what_xla_counts():
    """XLA computes both halves of causal attention; that is put right here."""
    config = LLMConfig(vocab_size=256, width=128, depth=2, heads=4, kv_heads=2, mlp_dim=384, unroll=2)
    shapes = dict(skeleton(config).shapes)
    tokens, positions = np.ones((2, 32), np.int32), np.zeros((2, 32), np.int32)
    loss = lambda p: (logits(p, tokens, positions, None, config) ** 2).sum()
    counted = jax.jit(jax.value_and_grad(loss)).lower(shapes).cost_analysis()["flops"]
    want = 3 * 2 * (config.flops(32) + config.depth * 2.0 * 32**2 * 128)
    assert 1.0 <= counted / want < 1.06, counted / want


def test_mistakes():
    with pytest.raises(ValueError, match="not a multiple of kv_heads"):
        LLMConfig(width=16, depth=1, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="odd"):
        LLMConfig(width=12, depth=1, heads=4)
