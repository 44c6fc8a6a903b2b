"""Score filters: thresholds in closed form, manifests, sidecars."""

import hashlib
import json
import os

import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data import filter as filters
from mof_jax.data.filter import FilterConfig, ScoreRule
from mof_jax.data.record import Record
from mof_jax.data.sources import SOURCES, open_source
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


def scored(path, scores, name="clip") -> TableSource:
    """A JSONL of texts with `scores` as they are written."""
    rows = (json.dumps({"id": f"r{i}", "text": "x", "scores": {name: score}}) for i, score in enumerate(scores))
    path.write_text("\n".join(rows) + "\n")
    return TableSource(str(path))


def rule(**rule) -> FilterConfig:
    return build(FilterConfig, {"rules": {"clip": rule}})


def kept(source, config, cache="") -> list[int]:
    return filters.apply(source, config, cache).indices.tolist()


@pytest.mark.parametrize("skip", [0, 1])
def test_a_decision_is_void_when_the_scores_change(tmp_path, skip):
    path, cache = tmp_path / "a.jsonl", str(tmp_path / "cache")
    opened = lambda scores: (lambda s: filters.Subset(s, np.arange(skip, len(s))) if skip else s)(scored(path, scores))
    rising = [i / 10 for i in range(10)]
    assert kept(opened(rising), rule(minimum=0.5), cache) == list(range(5 - skip, 10 - skip))
    assert kept(opened(rising[::-1]), rule(minimum=0.5), cache) == list(range(0, 5 - skip))
    os.utime(path, ns=(1, 1))  # the same bytes at another time, as on another host: the decision holds
    before = sorted(os.listdir(tmp_path / "cache/filters"))
    assert kept(opened(rising[::-1]), rule(minimum=0.5), cache) == list(range(0, 5 - skip))
    assert sorted(os.listdir(tmp_path / "cache/filters")) == before


@pytest.mark.parametrize("kind, row", [
    ("obelics", lambda i, v: {"id": f"p{i}", "texts": [f"words {i}"], "images": [None], "scores": {"clip": v}}),
    ("mmc4", lambda i, v: {"id": f"p{i}", "text_list": [f"words {i}"], "image_info": [], "scores": {"clip": v}}),
])
def test_so_it_is_for_pages(tmp_path, kind, row):
    for order, expected in ((1, [2, 3]), (-1, [0, 1])):
        values = [0.0, 0.1, 0.6, 0.7][::order]
        (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row(i, v)) for i, v in enumerate(values)))
        source = open_source(SOURCES[kind](path=str(tmp_path / "a.jsonl")))
        assert kept(source, rule(minimum=0.5), str(tmp_path / "cache")) == expected


def test_the_ids_beside_an_array_of_scores_are_part_of_it(table, tmp_path):
    path, cache = str(tmp_path / "s.npy"), str(tmp_path / "cache")
    ids = [f"r{i}" for i in range(10)]
    beside = lambda path: build(FilterConfig, {"rules": {"s": {"minimum": 5}}, "sidecar": path})
    config = beside(path)
    filters.write_scores(path, ids, {"s": np.arange(10)})
    assert kept(TableSource(str(table)), config, cache) == [5, 6, 7, 8, 9]
    (tmp_path / "s.json").write_text(json.dumps({"ids": ids[::-1], "names": ["s"], "": ""}))
    assert kept(TableSource(str(table)), config, cache) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="none.npy: no such file"):
        kept(TableSource(str(table)), beside(str(tmp_path / "none.npy")), cache)


def test_a_decision_of_a_source_with_a_fingerprint_is_the_one_of_before(tmp_path):
    """What earlier versions stored under this name still holds."""
    class Source:
        name, fingerprint = "s", "abc"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return Record(str(index), None, {}, {"clip": float(index)})

    assert kept(Source(), rule(minimum=1), str(tmp_path)) == [1, 2]
    (name,) = [file for file in os.listdir(tmp_path / "filters") if file.endswith(".json")]
    found = json.loads((tmp_path / "filters" / name).read_text())
    assert found["source"] == "abc" and name == hashlib.sha256(f"{found['filter']} abc".encode()).hexdigest()[:12] + ".json"


def test_null_and_nan_are_no_score(tmp_path):
    source = scored(tmp_path / "a.jsonl", [float("nan"), 0.3, None, 0.1])
    assert kept(source, rule(minimum=0.0)) == [1, 3]
    assert kept(source, rule(fraction=0.4)) == [1]
    with pytest.raises(UserError, match="score 'clip' is null or NaN in each of 2 records"):
        kept(scored(tmp_path / "b.jsonl", [None, float("nan")]), rule(minimum=0))
    (tmp_path / "s.jsonl").write_text('{"id": "r0", "scores": {"clip": NaN}}\n{"id": "r1", "scores": {"clip": 1}}\n'
                                      '{"id": "r2", "scores": {"clip": null}}\n\n{"id": "r3", "scores": {}}\n')
    assert kept(source, build(FilterConfig, {"rules": {"clip": {"minimum": 0.5}}, "sidecar": str(tmp_path / "s.jsonl")})) == [1]


@pytest.mark.parametrize("value, says", [
    ("0.31", "score 'clip' is text ('0.31'), not a number"), (True, "score 'clip' is true or false (True), not a number"),
    ([0.3], "score 'clip' is a list ([0.3]), not a number"), ({}, "score 'clip' is an object ({}), not a number"),
    (float("inf"), "score 'clip' is infinite, or beyond what float64 holds"), (10**400, "score 'clip' is infinite, or beyond"),
])
def test_scores_that_are_no_numbers_are_said_as_what_they_are(tmp_path, value, says):
    source = scored(tmp_path / "a.jsonl", [0.5, value])
    assert source[1].scores == {}  # without a filter nobody asks
    with pytest.raises(UserError) as stop:
        kept(source, rule(minimum=0))
    assert f"a.jsonl: record r1: {says}" in str(stop.value)
    (tmp_path / "s.jsonl").write_text(json.dumps({"id": "r0", "scores": {"clip": value}}) + "\n")
    with pytest.raises(UserError) as stop:
        filters.read_scores(str(tmp_path / "s.jsonl"), source)
    assert f"s.jsonl line 1: {says}" in str(stop.value)


def test_a_score_that_is_not_there_lists_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"record r0: no score 'clip' \(has dfn\)"):
        kept(scored(tmp_path / "a.jsonl", [0.5], name="dfn"), rule(minimum=0))
    (tmp_path / "b.jsonl").write_text('{"id": "r0", "text": "x", "scores": [0.5]}\n')
    with pytest.raises(UserError, match="column 'scores' is a list where an object of scores by name is expected"):
        kept(TableSource(str(tmp_path / "b.jsonl")), rule(minimum=0))


def test_ids_that_are_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 0, "text": "x"}\n{"id": 1, "text": "y"}\n')
    (tmp_path / "s.jsonl").write_text('{"id": 1, "scores": {"clip": 1}}\r\n\r\n{"id": 0, "scores": {"clip": 0}}\n')
    found = filters.read_scores(str(tmp_path / "s.jsonl"), TableSource(str(tmp_path / "a.jsonl")))
    assert found["clip"].tolist() == [0, 1]


@pytest.mark.parametrize("text, says", [
    ('{"id": ["r0"], "scores": {}}', r"line 1: id \['r0'\] is neither text nor a whole number"),
    ('{"id": true, "scores": {}}', "line 1: id True is neither"),
    ('{"id": "\\ud800", "scores": {}}', "line 1: id .* is neither"),
    ('{"id": "r0", "scores": {"a": 1}}\n{"id": "r0", "scores": {"a": 2}}', "id 'r0' occurs twice, at rows 1 and 2"),
    ('{"id": "r0", "scores": [1]}', 'line 1: expected {"id": ..., "scores": {...}}'),
    ("[1]", 'line 1: expected {"id"'), ("[" * 100_000, "line 1: not JSON that is read here: nested too deeply"),
    ('{"id": "r0", "scores": {"a": %s}}' % ("9" * 5000), "line 1: not JSON that is read here: a number has too many digits"),
    ("\n\n", "no scores in this file"),
])
def test_a_sidecar_that_is_wrong_is_one_line(table, tmp_path, text, says):
    (tmp_path / "s.jsonl").write_text(text)
    with pytest.raises(UserError, match=f"s.jsonl:? {says}"):
        filters.read_scores(str(tmp_path / "s.jsonl"), TableSource(str(table)))


@pytest.mark.parametrize("array, names, says", [
    (b"", {"ids": ["r0"], "names": ["a"]}, "s.npy: not a score table: not a .npy file"),
    (b"\x93NUMPY\x01\x00\x0e\x00{'descr': '<f4", {"ids": ["r0"], "names": ["a"]}, "s.npy: not a score table"),
    (np.zeros((1, 1)), {"ids": [["r0"]], "names": ["a"]}, "s.json: not the ids of a score table: id .* is neither"),
    (np.zeros((1, 1)), {"ids": "r0", "names": ["a"]}, "s.json: .*needs lists 'ids' and 'names'"),
    (np.zeros((1, 2)), {"ids": ["r0"], "names": ["a", "a"]}, "s.json: .*'names' are no texts of their own"),
    (np.zeros((1, 1)), {"ids": ["r0"], "names": [{}]}, "s.json: .*'names' are no texts of their own"),
    (np.zeros(3), {"ids": ["r0"], "names": ["a"]}, r"s.npy: scores of shape \(3,\) for 1 ids and 1 names"),
    (np.full((1, 1), np.inf), {"ids": ["r0"], "names": ["a"]}, "s.npy: score 'a' of 'r0' is infinite"),
    (np.zeros((1, 1)), [], "s.json: .*holds a list, not an object"),
])
def test_an_array_that_is_wrong_is_one_line(table, tmp_path, array, names, says):
    if isinstance(array, bytes):
        (tmp_path / "s.npy").write_bytes(array)
    else:
        np.save(tmp_path / "s.npy", array)
    (tmp_path / "s.json").write_text(json.dumps(names))
    with pytest.raises(UserError, match=says):
        filters.read_scores(str(tmp_path / "s.npy"), TableSource(str(table)))


@pytest.mark.parametrize("indices, says", [
    ([0, 99], "lists records that are not among the 10 of the source"), ([-1, 3], "not among"), ([3, 3], "or not in order"),
    ([4, 2], "or not in order"), ([1], "lists 1 records but says 2"), ([0.5, 1.5], "its list is float64"),
    ([[1, 2]], r"of shape \(1, 2\)"),
])
def test_a_stored_list_is_not_believed(table, tmp_path, indices, says):
    path = tmp_path / "kept.json"
    config = build(FilterConfig, {"rules": {"dfn": {"minimum": 0.8}}, "manifest": str(path)})
    assert kept(TableSource(str(table)), config) == [8, 9]
    np.save(tmp_path / "kept.npy", np.array(indices))
    with pytest.raises(UserError, match=f"kept.json: not a filter manifest: .*{says}.*delete it to compute it again"):
        kept(TableSource(str(table)), config)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "{", '{"kept": %s}' % ("9" * 5000)])
def test_a_manifest_that_is_none_is_one_line(table, tmp_path, text):
    (tmp_path / "kept.json").write_text(text)
    config = build(FilterConfig, {"rules": {"dfn": {"minimum": 0.8}}, "manifest": str(tmp_path / "kept.json")})
    with pytest.raises(UserError, match="kept.json: not a filter manifest"):
        kept(TableSource(str(table)), config)


def test_a_cache_that_cannot_be_made_is_one_line(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/cache/filters: "):
        kept(TableSource(str(table)), build(FilterConfig, {"rules": {"dfn": {"minimum": 0.8}}}), str(tmp_path / "file/cache"))


def test_names_that_repeat_are_found(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x"}\n{broken\n{"id": "a", "text": "y"}\n')
    with pytest.raises(UserError, match="records 0 and 2 are both called 'a': ids are not unique"):
        filters.names(TableSource(str(tmp_path / "a.jsonl")))
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x"}\n{broken\n{"id": "b", "text": "y"}\n')
    assert filters.names(TableSource(str(tmp_path / "a.jsonl"))) == ["a", None, "b"]


def test_where_scores_go_is_checked_before_the_work(tmp_path):
    for path, says in (("s.csv", "a score sidecar ends in .jsonl or .npy"), ("none/s.jsonl", "no such folder")):
        with pytest.raises(UserError, match=says):
            filters.check_sidecar(str(tmp_path / path))
    filters.check_sidecar(str(tmp_path / "s.npy"))
