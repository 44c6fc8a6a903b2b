"""The packing benchmark, on rows of a hundred positions."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax import cli
from mof_jax.bench import packing
from mof_jax.config import build
from mof_jax.data.packing.packer import Shape
from mof_jax.data.packing.sequence_pipeline import SampleReader, SequenceConfig
from mof_jax.data.text.tokenizers import TokenizerConfig, train

CONTEXT, ROWS, IMAGES = 128, 4, 18


@pytest.fixture(scope="module")
def made():
    """(tokenizer, packed batches, padded batches) of the same reader."""
    words = train(["a page of things. red apple: a fruit"] * 3,
                  config=TokenizerConfig(kind="bpe", vocab_size=300, lowercase=False))
    config = build(SequenceConfig, {"kinds": packing.KINDS, "context_length": CONTEXT, "images_per_stream": IMAGES,
                                    "max_images": packing.PICTURES, "tokens_per_image": packing.TOKENS,
                                    "image_size": packing.SIDE, "on_long": "truncate"})
    reader, shape = SampleReader(config, words, seed=0), Shape(ROWS, CONTEXT, IMAGES, packing.TOKENS, packing.SIDE, words.pad_id)
    return words, packing.make_batches(reader, shape, 30), packing.make_batches(reader, shape, 30, padded=True)


def test_padded_rows_hold_one_document_and_count_for_what_is_in_it(made):
    words, packed, padded = made
    assert all((b["segment_ids"] == 1).all() for b in padded)
    assert np.mean([(b["segment_ids"].max(1) > 1).mean() for b in packed]) > 0.3
    for b in packed:
        assert packing.used(b, words) == pytest.approx(b["fill_tokens"][0] * ROWS * CONTEXT)
    for b in padded:
        last = [max(np.flatnonzero(row)) for row in b["loss_weight"]]
        assert packing.used(b, words) == sum(last) + ROWS, "documents end with a learned token, and padding follows"


def test_both_read_the_same_mixture(made):
    """By supervised and image tokens, over a hundred documents."""
    shares = [np.sum([b["kind_tokens"] for b in batches], axis=(0, 1)) for batches in made[1:]]
    for tokens in shares:
        np.testing.assert_allclose(tokens / tokens.sum(), (0.45, 0.45, 0.1), atol=0.04)


def test_the_rows_of_the_table_agree():
    packed, padded, own = packing.run(width=16, depth=1, context=CONTEXT, rows=ROWS, images=IMAGES, batches=2, repeats=1)
    assert [r["name"] for r in (packed, padded, own)] == ["packed", "padded", "padded, own buffer"]
    assert packed["ratio"] == 1 and packed["fill_rows"] > 2 * padded["fill_rows"] > 0
    assert packed["pictures"] == padded["pictures"] == IMAGES > own["pictures"] and own["fill_pictures"] > padded["fill_pictures"]
    assert padded["fill_rows"] == own["fill_rows"], "the same documents"
    for r in (packed, padded, own):
        assert r["ratio"] == pytest.approx(packed["tokens_per_s"] / r["tokens_per_s"])


def test_the_command_is_there(capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "packing", "--help"])
    assert "example:\n  mof bench packing" in capsys.readouterr().out
