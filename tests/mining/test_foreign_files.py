"""Files of embeddings and of unfinished runs that are damaged, or were never ours: one line, whatever is in them."""

import functools
import io
import json
import time

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from mof_jax.errors import UserError
from mof_jax.mining import report
from mof_jax.mining.embed import _about, _Shard, _stands
from mof_jax.mining.embeddings import Embeddings, map_npy
from mof_jax.mining.state import Pairs, State

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
MANIFEST = {"kind": "mof_jax embeddings", "dtype": "float32", "count": 6, "shard": 4, "complete": True, "row_shape": [2],
            "fingerprint": "f", "source": "s", "model": "m", "which": "image"}
ANYTHING = [None, True, False, 0, -1, 1.5, "", [], {}, {"a": 1}, 10**400, 1e300, float("nan"), float("inf"), "\ud83d"]


@pytest.fixture
def folder(tmp_path):
    for i, rows in enumerate((ROWS[:4], ROWS[4:])):
        np.save(tmp_path / f"features-0000{i}-of-00002.npy", rows)
        ids = {"ids": [f"r{n}" for n in range(4 * i, 4 * i + len(rows))]}
        (tmp_path / f"records-0000{i}-of-00002.json").write_text(json.dumps(ids))
    np.save(tmp_path / "valid.npy", np.ones(6, bool))
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path


def test_the_folder_as_it_is(folder):
    found = Embeddings.open(str(folder))
    np.testing.assert_array_equal(found.rows(0, 6), ROWS)
    assert found.ids == [f"r{n}" for n in range(6)]


@pytest.mark.parametrize("key, good", [("kind", []), ("dtype", []), ("count", []), ("shard", []), ("complete", [True]),
                                       ("row_shape", []), ("fingerprint", [""])])
def test_every_value_of_a_manifest_is_looked_at(folder, key, good):
    for value in ANYTHING:
        (folder / "manifest.json").write_text(json.dumps({**MANIFEST, key: value}))
        if any(value is g or (type(value) is str and value == g) for g in good):
            Embeddings.open(str(folder))
            continue
        with pytest.raises(UserError, match="manifest.json: not a manifest of embeddings|embedding is unfinished") as caught:
            Embeddings.open(str(folder))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("values", [{"count": 10**14, "shard": 1}, {"count": 2**47, "shard": 2**10}])
def test_no_list_of_files_without_end(folder, values):
    (folder / "manifest.json").write_text(json.dumps({**MANIFEST, **values}))
    began = time.monotonic()
    with pytest.raises(UserError, match="are more than 1,000,000 files"):
        Embeddings.open(str(folder))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("text", ["[]", "3", "{broken", "[" * 100_000, '{"ids": [' + "9" * 5000 + "]}", '{"ids": 3}', "{}",
                                  '{"ids": [1, 2]}', '{"ids": ["a", "a\\ud83d", "b", "c"]}', "\xff"])
def test_ids_are_texts(folder, text):
    (folder / "records-00000-of-00002.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match="records-00000-of-00002.json: ") as caught:
        _ = Embeddings.open(str(folder)).ids
    assert str(caught.value).isprintable()


def head(text: str) -> bytes:
    body = text.encode().ljust(118)[:117] + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body


@pytest.mark.parametrize("data", [
    b"", b"\x93NUMPY", head("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2"), head("{'a': ("), head("1e999"),
    head("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 2), }"),
    head("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }"),
    head("{'descr': '<f4', 'fortran_order': False, 'shape': (%s2), }" % ("1, " * 12)),
    head("{'descr': '|O', 'fortran_order': False, 'shape': (1, 2), }"),
    head("{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999999999, 2), }"),
])
def test_heads_of_arrays(tmp_path, data):
    (tmp_path / "x.npy").write_bytes(data)
    for read in (map_npy, Embeddings.open):
        with pytest.raises(UserError, match="x.npy: ") as caught:
            read(str(tmp_path / "x.npy"))
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("change", [{"ids": ["a"]}, {"ids": 3}, {"ids": [1, 2]}, {"bad": None}, {"bad": [[5, "x"]]},
                                    {"bad": [[0]]}, {"bad": [[0, 1]]},
                                    {"crc32": "1"}, {"crc32": -1}, {"row_shape": 2}, {"row_shape": [-1]}])
def test_what_a_shard_says_of_itself(tmp_path, change):
    good = {"ids": ["a", "b"], "bad": [[1, "x"]], "crc32": 7, "row_shape": [2]}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(good))
    assert _about(str(path), 2) == good
    path.write_text(json.dumps(good | change))
    with pytest.raises(UserError, match="r.json: damaged .*delete it, and run the same `mof data embed` again"):
        _about(str(path), 2)


def test_ids_that_are_no_texts_are_written_as_ones(tmp_path):
    _Shard(ROWS[:3], ["a\ud83d", "b\0", "é"], [(0, "no \udcff")], "s").write(str(tmp_path), "f.npy", "r.json", "float32")
    about = _about(str(tmp_path / "r.json"), 3)
    assert about["ids"] == ["a\\ud83d", "b\\x00", "é"] and about["bad"] == [[0, "no \\udcff"]]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "{}", json.dumps({**MANIFEST, "complete": "yes"})])
def test_a_manifest_that_is_gone_on_with(tmp_path, text):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    assert _stands(str(tmp_path), dict(MANIFEST))
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="manifest.json: not a manifest of embeddings"):
        _stands(str(tmp_path), dict(MANIFEST))


# unfinished runs


def rows_of(**columns) -> bytes:
    out = io.BytesIO()
    np.savez(out, **columns)
    return out.getvalue()


@pytest.mark.parametrize("data", [
    b"", b"PK\x03\x04rubbish", rows_of(i=[1], j=[2]), rows_of(i=[1], j=[2, 3], cosines=[[0.5]]),
    rows_of(i=[1], j=[2], cosines=[0.5]), rows_of(i=[1.5], j=[2], cosines=[[0.5]]), rows_of(i=["a"], j=[2], cosines=[[0.5]]),
    rows_of(i=np.array([object()]), j=[2], cosines=[[0.5]]),
    rows_of(i=[1], j=[2], cosines=[[0.5]])[:-60], b"".join([rows_of(i=[1], j=[2], cosines=[[0.5]])[:40], b"\xff" * 40]),
])
def test_rows_of_an_unfinished_run(tmp_path, data):
    state = State(str(tmp_path / "s"), "print")
    state.save(0, Pairs(np.array([1]), np.array([2]), np.array([[0.5]])))
    assert state.load(0).cosines.tolist() == [[0.5]]
    (tmp_path / "s" / "row-00000.npz").write_bytes(data)
    with pytest.raises(UserError, match="row-00000.npz: damaged .*; delete it, and it is computed again"):
        state.load(0)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff"])
def test_the_plan_of_an_unfinished_run(tmp_path, text):
    State(str(tmp_path / "s"), "print")
    State(str(tmp_path / "s"), "print")
    (tmp_path / "s" / "plan.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match="plan.json: .*; delete .* to start anew"):
        State(str(tmp_path / "s"), "print")


# mined pairs

SETTINGS = {
    "rules": {"a": "above 0.5"}, "thresholds": {"a": ["above", 0.5]}, "centred": False, "usable": 4,
    "statistics": {"pairs": 1, "share_of_pairs": 0.1, "images": 2, "share_of_images": 0.5, "cosines": {"a": {"0.5": 0.5}},
                   "same_label": 1, "labels": {"x": {"pairs": 1, "share": 0.5, "images": 2, "records": 2}}}}


@pytest.mark.parametrize("about", [None, b"", b"[]", b"{}", b'{"rules": 3}', b'{"rules": {}}', b'{"rules": {"b": 1}}',
                                   b"[" * 100_000, b"\xff"])
def test_settings_of_mined_pairs(tmp_path, about):
    table = pa.table({"i": [1], "j": [2], "cos_a": [0.5]})
    path = str(tmp_path / "p.parquet")
    parquet.write_table(table.replace_schema_metadata({b"mof_jax": json.dumps(SETTINGS).encode()}), path)
    assert report.read(path)[1] == ("a",)
    parquet.write_table(table.replace_schema_metadata(None if about is None else {b"mof_jax": about}), path)
    with pytest.raises(UserError, match="p.parquet: not a file of mined pairs") as caught:
        report.read(path)
    assert str(caught.value).isprintable()


def _places(value, path=()):
    """Every place in the settings."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(inner, (*path, key))


@pytest.mark.parametrize("path", list(_places(SETTINGS)), ids=str)
def test_every_value_of_the_settings_of_mined_pairs_is_looked_at(tmp_path, path):
    """What is printed of them is printed, or the file is refused in a line; at no place is any value taken on trust."""
    table = pa.table({"i": [1], "j": [2], "cos_a": [0.5]})
    file, refused = str(tmp_path / "p.parquet"), 0
    for value in ANYTHING:
        about = json.loads(json.dumps(SETTINGS))
        parent = functools.reduce(lambda at, key: at[key], path[:-1], about)
        parent[path[-1]] = value
        parquet.write_table(table.replace_schema_metadata({b"mof_jax": json.dumps(about).encode()}), file)
        try:
            pairs, _, info = report.read(file)
        except UserError as error:
            refused += 1
            assert "p.parquet: not a file of mined pairs" in str(error) and str(error).isprintable()
        else:
            assert report.summary(info).row_count >= 4 and report.blindness(pairs, info["thresholds"]).tolist() == [0.5]
    assert refused >= len(ANYTHING) - 6
