"""Ranks, neighbours and ridge against brute force, on one device and on eight."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from mof_jax.evals.embed.fewshot import draw_shots, ridge_predict
from mof_jax.evals.metrics.ranking import nearest, positive_ranks
from mof_jax.mesh import MeshConfig, make_mesh


@pytest.fixture(scope="module", params=[1, 8])
def mesh(request):
    return make_mesh(MeshConfig(), jax.devices()[: request.param])


def brute_ranks(queries, keys, query_ids, key_ids):
    ranks = []
    for q, i in zip(queries, query_ids):
        scores = keys @ q
        right = key_ids == i
        ranks.append(sum((scores >= scores[right].max()) & ~right))
    return ranks


@pytest.mark.parametrize("count", [1, 7, 64, 601])
def test_ranks_equal_brute_force(mesh, count):
    rng = np.random.default_rng(count)
    queries, keys = rng.standard_normal((count, 12)).astype(np.float32), rng.standard_normal((97, 12)).astype(np.float32)
    key_ids = rng.integers(0, 30, 97).astype(np.int32)  # several right keys a query
    query_ids = key_ids[rng.integers(0, 97, count)]
    assert positive_ranks(mesh, queries, keys, query_ids, key_ids).tolist() == brute_ranks(queries, keys, query_ids, key_ids)


@pytest.mark.parametrize("count", [1, 61])
def test_ranks_over_hops_equal_brute_force(mesh, count):
    """From queries to items, from items to words, from words to keys, several ways each."""
    rng = np.random.default_rng(count)
    unit = lambda rows: rng.standard_normal((rows, 12)).astype(np.float32)
    queries, keys, ids = unit(count), unit(40), np.arange(count, dtype=np.int32)
    items = (np.concatenate([ids, rng.integers(0, count, 9)]).astype(np.int32), rng.integers(0, 7, count + 9).astype(np.int32))
    words = (np.arange(20, dtype=np.int32) % 7, rng.integers(0, 11, 20).astype(np.int32))
    key_ids = rng.integers(0, 13, 40).astype(np.int32)  # words 11 and 12 belong to no item
    found = positive_ranks(mesh, queries, keys, ids, key_ids, (items, words))
    for q, rank in zip(ids, found):
        met = set(words[1][np.isin(words[0], items[1][items[0] == q])].tolist())
        right, scores = np.isin(key_ids, list(met)), keys @ queries[q]
        assert rank == (~right & (scores >= scores[right].max(initial=-np.inf))).sum()


def test_scores_that_are_no_numbers_count_against_the_query(mesh):
    ids = np.arange(5, dtype=np.int32)
    assert (positive_ranks(mesh, np.full((5, 3), np.nan, np.float32), np.ones((5, 3), np.float32), ids, ids) == 4).all()


def test_a_collapsed_model_scores_nothing(mesh):
    same = np.ones((40, 8), np.float32)
    ranks = positive_ranks(mesh, same, same, np.arange(40, dtype=np.int32), np.arange(40, dtype=np.int32))
    assert (ranks == 39).all()  # ties count against the query


def test_nearest_equals_a_sort(mesh):
    rng = np.random.default_rng(0)
    queries, keys = rng.standard_normal((301, 8)).astype(np.float32), rng.standard_normal((50, 8)).astype(np.float32)
    scores, index = nearest(mesh, queries, keys, 4)
    full = queries @ keys.T
    assert (index == np.argsort(-full, axis=1, kind="stable")[:, :4]).all()
    np.testing.assert_allclose(scores, np.sort(full, axis=1)[:, ::-1][:, :4], rtol=1e-5, atol=1e-6)


def test_ridge_is_the_primal_solution():
    rng = np.random.default_rng(1)
    x, y, z = rng.standard_normal((30, 5)), rng.integers(0, 3, 30), rng.standard_normal((20, 5))
    strength = 0.3
    targets = 2.0 * np.eye(3)[y] - 1
    centred = x - x.mean(0)
    weights = np.linalg.solve(centred.T @ centred + strength * np.eye(5), centred.T @ (targets - targets.mean(0)))
    expected = ((z - x.mean(0)) @ weights + targets.mean(0)).argmax(1)
    ours = ridge_predict(x.astype(np.float32), y, z.astype(np.float32), 3, (strength,))
    assert (np.asarray(ours) == expected).all()


def test_ridge_chooses_the_strength_with_the_least_leave_one_out_error():
    """Targets that are linear in x want little ridge; pure noise wants a lot."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int)
    z = rng.standard_normal((200, 4)).astype(np.float32)
    for strengths in ((1e-3, 1e6), (1e6, 1e-3)):
        assert (np.asarray(ridge_predict(x, y, z, 2, strengths)) == (z[:, 0] > 0)).mean() > 0.85


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 4), st.integers(0, 5))
def test_shots_are_drawn_per_class(labels, shots, seed):
    labels = np.array(labels)
    drawn = draw_shots(labels, shots, seed)
    assert len(set(drawn.tolist())) == len(drawn)
    for label in np.unique(labels):
        expected = shots if (labels == label).sum() >= shots else 0
        assert (labels[drawn] == label).sum() == expected
