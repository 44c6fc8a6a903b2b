"""Dropout is keyed per example: its masks do not depend on which rows travel together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mof_jax.nn import dropout as drop

KEYS = drop.example_keys(jax.random.key(0), 8)


def patch_dropout(x, keys, rate):
    """As the towers do it: FLIP's (arXiv 2212.00794) random subset of patches, as many for every example, in their order."""
    keep = drop.kept_patches(keys, x.shape[1], rate)
    return x if keep is None else drop.take_patches(x, keep)


def test_statistics():
    x = jnp.ones((8, 50, 40))
    y = np.asarray(drop.dropout(x, KEYS, 0.25))
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / 0.75], rtol=1e-6)
    share = (y == 0).mean(axis=(1, 2))
    # A binomial share of 2000 draws has standard deviation 0.0097; five of them bound all eight rows.
    assert (np.abs(share - 0.25) < 0.05).all()
    assert len({row.tobytes() for row in y}) == 8, "rows have masks of their own"


@pytest.mark.parametrize("rows", [[0, 1], [5], [7, 2, 3]])
def test_a_row_keeps_its_mask_in_any_company(rows):
    rows = np.array(rows)
    x = np.random.default_rng(0).standard_normal((8, 12, 6)).astype(np.float32)
    for function, rate in ((drop.dropout, 0.5), (patch_dropout, 0.5)):
        np.testing.assert_array_equal(function(x[rows], KEYS[rows], rate), np.asarray(function(x, KEYS, rate))[rows])


@pytest.mark.parametrize("rate, kept", [(0.5, 6), (0.3, 8), (0.99, 1)])
def test_patch_dropout_keeps_that_many_in_their_order(rate, kept):
    x = jnp.broadcast_to(jnp.arange(12.0)[None, :, None], (8, 12, 2))
    y = np.asarray(patch_dropout(x, KEYS, rate))
    assert y.shape == (8, kept, 2)
    assert (np.diff(y[:, :, 0], axis=1) > 0).all(), "strictly rising: in order, none twice"
    assert kept == 1 or len({row.tobytes() for row in y}) > 1, "rows keep patches of their own"


def test_patch_dropout_is_fair():
    keys = drop.example_keys(jax.random.key(1), 2000)
    x = jnp.broadcast_to(jnp.arange(8.0)[None, :, None], (2000, 8, 1))
    counts = np.bincount(np.asarray(patch_dropout(x, keys, 0.5), int).ravel(), minlength=8)
    np.testing.assert_allclose(counts / 2000, 0.5, atol=5 * np.sqrt(0.25 / 2000))


def test_no_keys_is_evaluation():
    x = jnp.ones((8, 4, 2))
    assert drop.dropout(x, None, 0.5) is x and patch_dropout(x, None, 0.5) is x
    assert drop.dropout(x, KEYS, 0.0) is x and patch_dropout(x, KEYS, 0.0) is x
    assert drop.fold(None, 3) is None


def test_folded_keys_differ():
    data = lambda keys: {bytes(np.asarray(k)) for k in jax.random.key_data(keys)}
    streams = [data(KEYS), data(drop.fold(KEYS, 0)), data(drop.fold(KEYS, 1)), data(drop.fold(drop.fold(KEYS, 0), 0))]
    assert len(set.union(*streams)) == 4 * 8
