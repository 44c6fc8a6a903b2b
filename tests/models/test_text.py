"""The text tower: pooling, padding, causality."""

import dataclasses
import functools
import types

import numpy as np
import pytest
from small_models import quick_jit, weights

from mof_jax.data.text import tokenizers
from mof_jax.errors import UserError
from mof_jax.models.text import TextConfig, TextTower
from mof_jax.nn.module import Skeleton

PAD, EOS, CONTEXT = 0, 19, 6
SMALL = TextConfig(width=16, depth=2, heads=2, mlp_dim=16, vocab_size=20, context_length=CONTEXT, eos_id=EOS, pad_id=PAD)
TOKENS = np.array([[3, 4, EOS, PAD, PAD, PAD], [7, 8, 9, 10, EOS, PAD], [5, EOS, EOS, EOS, EOS, EOS]], np.int32)


@functools.cache
def tower(**changes):
    """tokens -> features of a tower; the same weights whatever the pooling."""
    config = dataclasses.replace(SMALL, **changes)
    skeleton = Skeleton.of(lambda rngs: TextTower(config, rngs))
    params = weights(skeleton)
    return quick_jit(lambda tokens: skeleton.merge(params)(tokens))


def changed(row, column):
    tokens = TOKENS.copy()
    tokens[row, column] = 11
    return tokens


def test_causal_eos_pooling_reads_up_to_the_first_end():
    run = tower()
    base = run(TOKENS)
    for row, column, reads in [(0, 1, True), (0, 3, False), (1, 3, True), (1, 5, False), (2, 0, True), (2, 4, False)]:
        moved = np.abs(run(changed(row, column))[row] - base[row]).max()
        assert (moved > 1e-4) == reads and (reads or moved == 0), (row, column, moved)


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_padding_is_invisible_behind_its_mask(pool):
    """Longer padding changes nothing; without the mask it does."""
    shorter = TOKENS[:2, :5]
    for masked in (True, False):
        run = tower(causal=False, pool=pool, mask_padding=masked)
        difference = np.abs(run(shorter)[0] - run(TOKENS[:2])[0]).max()
        assert (difference < 1e-6) == masked, difference


def test_last_and_first():
    bidirectional = dict(causal=False)
    last, first = tower(pool="last", **bidirectional), tower(pool="first", **bidirectional)
    assert np.abs(last(TOKENS) - first(TOKENS)).max() > 1e-3
    # Causally, the first token knows nothing of the others, and the last everything.
    np.testing.assert_array_equal(tower(pool="first")(TOKENS)[0], tower(pool="first")(changed(0, 1))[0])
    assert np.abs(tower(pool="last")(TOKENS)[0] - tower(pool="last")(changed(0, 1))[0]).max() > 1e-4


def test_gap_is_the_mean_of_the_real_tokens():
    """Against the causal tower's other poolings: a text of one token is its own mean, first and last."""
    single = np.array([[7, PAD, PAD]], np.int32)
    np.testing.assert_allclose(tower(pool="gap")(single), tower(pool="first")(single), atol=1e-6)
    empty = np.full((1, 3), PAD, np.int32)
    np.testing.assert_array_equal(tower(pool="gap")(empty), 0)


@pytest.mark.parametrize("tokens, end, places", [
    (TOKENS, EOS, [2, 4, 1]),  # with an end of text that is the last id both rules are the same
    (np.array([[3, 4, 15, PAD, PAD, PAD], [7, 15, 9, 10, 15, PAD], [15, 1, 2, 3, 4, 5]], np.int32), 15, [2, 1, 0])])
def test_the_largest_id_is_pooled_where_the_source_looks_for_it(tokens, end, places):
    """Wherever it stands, the first of several: no text of the second case has the last id, and place 0 is not the answer."""
    x = np.random.default_rng(0).standard_normal((*tokens.shape, 4)).astype(np.float32)
    for rule in (dict(pool="argmax"), dict(pool="eos", eos_id=end)):
        tower = types.SimpleNamespace(config=types.SimpleNamespace(**rule))
        np.testing.assert_array_equal(TextTower._pooled(tower, x, tokens, tokens != PAD), x[np.arange(3), places])


def test_a_tokenizer_that_does_not_end_texts_as_the_tower_expects_is_refused():
    texts = ["one two three", "two"]
    ends = tokenizers.train(texts, kind="wordlevel", context_length=CONTEXT)
    open_ended = tokenizers.train(texts, config=tokenizers.TokenizerConfig(kind="wordlevel", context_length=CONTEXT, eos=False))
    fresh = dataclasses.replace(SMALL, vocab_size=0, eos_id=-1, pad_id=-1)
    assert fresh.with_tokenizer(ends).eos_id == ends.end_id == 3 and open_ended.end_id is None
    for pool in ("eos", "argmax"):
        with pytest.raises(UserError, match=f"'{pool}' needs a tokenizer that ends texts with an end-of-text token"):
            dataclasses.replace(fresh, pool=pool).with_tokenizer(open_ended)
    with pytest.raises(UserError, match="config.model.text.eos_id: 7 is pooled, and the tokenizer ends texts with 3"):
        dataclasses.replace(fresh, eos_id=7).with_tokenizer(ends)
    for pool in ("last", "gap"):
        assert dataclasses.replace(fresh, pool=pool).with_tokenizer(open_ended).vocab_size == open_ended.vocab_size


def test_a_size_by_name():
    assert TextConfig(variant="B").width == 768 and TextConfig(variant="B", depth=3).depth == 3
    with pytest.raises(ValueError, match="width must be positive"):
        TextConfig()
