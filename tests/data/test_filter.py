"""Score filters: thresholds in closed form, manifests, sidecars."""

import json

import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data import filter as filters
from mof_jax.data.filter import FilterConfig, ScoreRule
from mof_jax.data.sources.jsonl import TableSource
from mof_jax.errors import UserError


@pytest.mark.parametrize("fraction, cut", [(0.15, 85), (0.5, 50), (0.001, 100), (0.999, 1), (1.0, 1)])
def test_threshold_is_element_floor_n_f_of_the_descending_scores(fraction, cut):
    scores = np.random.default_rng(0).permutation(np.arange(1, 101)).astype(float)  # 1..100
    assert filters.threshold(scores, ScoreRule(fraction=fraction)) == cut
    kept = filters.select({"s": scores}, FilterConfig({"s": ScoreRule(fraction=fraction)}))
    assert kept.sum() == min(int(100 * fraction) + 1, 100)


def test_ties_are_kept_and_missing_scores_are_not():
    scores = np.array([1.0, 1.0, 0.5, np.nan, 1.0, 0.1])
    assert filters.select({"s": scores}, FilterConfig({"s": ScoreRule(fraction=0.2)})).tolist() == [1, 1, 0, 0, 1, 0]
    assert filters.select({"s": scores}, FilterConfig({"s": ScoreRule(minimum=0.5)})).tolist() == [1, 1, 1, 0, 1, 0]


def test_and_or():
    scores = {"a": np.array([0, 0, 1, 1.0]), "b": np.array([0, 1, 0, 1.0])}
    rules = {"a": {"minimum": 0.5}, "b": {"minimum": 0.5}}
    select = lambda how: filters.select(scores, build(FilterConfig, {"rules": rules, "combine": how})).tolist()
    assert select("and") == [0, 0, 0, 1] and select("or") == [0, 1, 1, 1]


def test_manifest_is_written_reused_and_renewed(table, tmp_path):
    path = tmp_path / "kept.json"
    source = TableSource(str(table))
    config = build(FilterConfig, {"rules": {"dfn": {"fraction": 0.3}}, "manifest": str(path)})
    kept = filters.apply(source, config)
    assert [kept[i].id for i in range(len(kept))] == ["r6", "r7", "r8", "r9"] == [kept.id(i) for i in range(4)]
    found = json.loads(path.read_text())
    assert found["of"] == 10 and found["kept"] == 4 and found["thresholds"] == {"dfn": 0.6}
    np.save(path.with_suffix(".npy"), np.array([1, 2, 3, 4]))  # reused: this list is what comes back
    assert filters.apply(source, config).indices.tolist() == [1, 2, 3, 4]
    other = build(FilterConfig, {"rules": {"dfn": {"fraction": 0.1}}, "manifest": str(path)})
    assert len(filters.apply(source, other)) == 2  # another rule: computed again
    np.save(path.with_suffix(".npy"), np.array([[None]]), allow_pickle=True)
    with pytest.raises(UserError, match="kept.json: not a filter manifest"):
        filters.apply(source, other)


@pytest.mark.parametrize("ending", ["jsonl", "npy"])
def test_sidecar_round_trip_in_any_order(table, tmp_path, ending):
    path = str(tmp_path / f"scores.{ending}")
    ids = [f"r{i}" for i in range(12)][::-1]  # more records than the source, in another order
    filters.write_scores(path, ids, {"dfn": np.arange(12) / 12, "other": np.zeros(12)})
    found = filters.read_scores(path, TableSource(str(table)))
    assert np.allclose(found["dfn"], [(11 - i) / 12 for i in range(10)])
    config = build(FilterConfig, {"rules": {"dfn": {"minimum": 0.7}}, "sidecar": path})
    assert [r for r in filters.apply(TableSource(str(table)), config).indices] == [0, 1, 2]


def test_sidecar_mistakes_are_named(table, tmp_path):
    source, path = TableSource(str(table)), tmp_path / "s.jsonl"
    filters.write_scores(str(path), ["r0", "zz"], {"dfn": [0.1, 0.2]})
    with pytest.raises(UserError, match="s.jsonl: no score for record 'r1'.*another source"):
        filters.read_scores(str(path), source)
    path.write_text('{"id": "r0", "scores": {"dfn": 1}}\n{"id": "r1"}\n')
    with pytest.raises(UserError, match="s.jsonl line 2"):
        filters.read_scores(str(path), source)
    filters.write_scores(str(path), [f"r{i}" for i in range(10)], {"clip": range(10)})
    with pytest.raises(UserError, match=r"no score 'dfn' \(has clip\)"):
        filters.apply(source, build(FilterConfig, {"rules": {"dfn": {"minimum": 0}}, "sidecar": str(path)}))
    with pytest.raises(UserError, match="not unique"):
        filters.write_scores(str(path), ["a", "a"], {"x": [1, 2]})
    with pytest.raises(UserError, match="keeps none of 10"):
        filters.apply(source, build(FilterConfig, {"rules": {"dfn": {"minimum": 7}}}))
    np.save(tmp_path / "p.npy", np.array([{"evil": 1}], object), allow_pickle=True)
    (tmp_path / "p.json").write_text('{"ids": ["a"], "names": ["s"]}')
    with pytest.raises(UserError, match="p.npy: not a score table"):
        filters.read_scores(str(tmp_path / "p.npy"), source)


@pytest.mark.parametrize(
    "bad",
    [
        {"rules": {}},
        {"rules": {"a": {}}},
        {"rules": {"a": {"fraction": 1.5}}},
        {"rules": {"a": {"fraction": 0.1, "minimum": 1}}},
    ],
)
def test_config_is_checked(bad):
    with pytest.raises(UserError):
        build(FilterConfig, bad)
