"""Numbers beside the data, by id: files that users would write, and what is said of broken ones."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow
from pyarrow import parquet
import pytest

from mof_jax.data.files import sidecar
from mof_jax.data.files.sidecar import Sidecar
from mof_jax.errors import UserError

IDS = [f"r{i:03d}" for i in range(50)] + ["ein Ä", "7"]
LABELS = np.arange(52, dtype=np.int32)[::-1].copy()
LISTS = [list(range(i % 4)) for i in range(52)]


def written(folder, form: str):
    """`LABELS` by `IDS` in one of the forms."""
    path = folder / f"x.{form.split('+')[0]}"
    if form.startswith("npy"):
        np.save(path, LABELS)
        lines = {"npy+txt": "\n".join(IDS) + "\n", "npy+crlf": "\r\n".join(IDS), "npy+json": json.dumps({"ids": IDS})}[form]
        (folder / ("x.json" if form.endswith("json") else "x.txt")).write_bytes(lines.encode())
    elif form == "parquet":
        parquet.write_table(pyarrow.table({"label": LABELS, "id": IDS}), path, row_group_size=20)
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"id": i, "label": int(n)}) + "\n" for i, n in zip(IDS, LABELS)))
    else:
        separator = "\t" if form == "tsv" else ","
        path.write_text(f"key{separator}label\n" + "".join(f"{i}{separator}{n}\n" for i, n in zip(IDS, LABELS)))
    return str(path)


@pytest.mark.parametrize("form", ["npy+txt", "npy+crlf", "npy+json", "parquet", "jsonl", "csv", "tsv"])
def test_every_form_gives_each_record_its_own(tmp_path, form):
    found = Sidecar(written(tmp_path, form))
    assert len(found) == 52 and [int(found.values[found.row(name)]) for name in IDS] == LABELS.tolist()
    assert found.rows([*IDS[::7], "nobody"]).tolist() == [*(IDS.index(name) for name in IDS[::7]), -1]
    assert found.row("nobody") == -1 and found.row("") == -1
    again = pickle.loads(pickle.dumps(found))
    assert again.row("7") == found.row("7") and again.content() == found.content()


def test_content_follows_what_is_inside_not_the_place(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, two = written(tmp_path / "a", "npy+txt"), written(tmp_path / "b", "npy+txt")
    before = Sidecar(one).content()
    assert Sidecar(two).content() == before
    np.save(two, LABELS + 1)
    assert Sidecar(two).content() != before


def test_lists_and_gaps_are_padded(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"id": IDS, "tags": LISTS, "other": LABELS}), path)
    found = Sidecar(str(path), "tags")
    assert found.values.shape == (52, 3) and found.values[[0, 2]].tolist() == [[-1, -1, -1], [0, 1, -1]]
    (tmp_path / "x.csv").write_text("id,v\na,0.5 -1 2\nb,\nc,-1 -1 3\n")
    found = Sidecar(str(tmp_path / "x.csv"))
    np.testing.assert_array_equal(found.values, [[0.5, -1, 2], [np.nan] * 3, [-1, -1, 3]], "a -1 that was written is one")
    (tmp_path / "y.csv").write_text("id,v\na,4\nb,\nc,-1\n")
    assert Sidecar(str(tmp_path / "y.csv")).values.tolist() == [4, -1, -1]


def test_names_of_columns_as_score_tables_have_them(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    (tmp_path / "x.json").write_text(json.dumps({"ids": ["a", "b", "c"], "names": ["dfn", "clip"]}))
    assert Sidecar(str(tmp_path / "x.npy"), "clip").values.tolist() == [1, 3, 5]
    with pytest.raises(UserError, match=r"x.npy: no column 'clpi'.*'clip'.*it has 'dfn', 'clip'"):
        Sidecar(str(tmp_path / "x.npy"), "clpi")


def test_a_large_table_of_hashes_is_kept_and_made_again_when_ids_change(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecar, "_KEPT", 10)
    path = written(tmp_path, "npy+txt")
    Sidecar(path)
    assert len(list((tmp_path / "cache" / "sidecars").iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(sidecar, "_hash_lines", None)  # the second time it must not be needed
        again = Sidecar(path)
    assert [int(again.values[again.row(name)]) for name in IDS] == LABELS.tolist()
    assert isinstance(again._hashes.base.base, np.memmap)
    (tmp_path / "x.txt").write_text("\n".join([*IDS[:-1], "another"]))
    assert Sidecar(path).row("another") == 51


@pytest.mark.parametrize("ids, says", [
    ("a\nb\na\n", r"x.txt: id 'a' occurs twice, at rows 1 and 3$"),
    ("a\nb\n", r"x.npy: 3 rows, and 2 ids in .*x.txt$"),
    ("a\nb\nc\nd", r"x.npy: 3 rows, and 4 ids"),
    ("a\n\nc\n", r"x.txt line 2: empty"),
    (None, r"x.npy: its ids are missing; write them to .*x.txt"),
])
def test_ids_that_do_not_fit_are_one_line(tmp_path, ids, says):
    np.save(tmp_path / "x.npy", np.arange(3))
    if ids is not None:
        (tmp_path / "x.txt").write_text(ids)
    with pytest.raises(UserError, match=says):
        Sidecar(str(tmp_path / "x.npy"))


def test_two_files_of_ids_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(1))
    (tmp_path / "x.txt").write_text("a")
    (tmp_path / "x.json").write_text('["a"]')
    with pytest.raises(UserError, match="ids in both"):
        Sidecar(str(tmp_path / "x.npy"))


@pytest.mark.parametrize("name, text, says", [
    ("x.csv", "id,label\na,1\nb,zwei\n", r"x.csv line 3: 'zwei' is no number"),
    ("x.csv", "id,label\na,1\na,2\n", r"x.csv: id 'a' occurs twice, at rows 1 and 2"),
    ("x.csv", "id,label,more\na,1,2\n", r"several columns besides 'id'; choose with column: 'label', 'more'"),
    ("x.csv", "name,label\na,1\n", r"x.csv"),
    ("x.jsonl", '{"id": "a", "label": true}\n', r"x.jsonl line 1: True is .*not a number"),
    ("x.jsonl", '{"id": "a", "label": 1}\n{"label": 2}\n', r"x.jsonl line 2: no 'id'"),
    ("x.jsonl", '{"id": ["a"], "label": 1}\n', r"x.jsonl line 1: id .* is neither text nor a whole number"),
    ("x.parquet", "no parquet", r"x.parquet: not a parquet file"),
    ("x.npy", "no array", r"x.npy: not a .npy file"),
    ("x.pkl", "", r"x.pkl: a sidecar ends in .npy"),
])
def test_a_broken_table_names_its_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        Sidecar(str(tmp_path / name))
    assert len(str(caught.value).splitlines()) == 1


def test_a_map_is_not_made_of_a_file_that_is_cut(tmp_path):
    path = written(tmp_path, "npy+txt")
    data = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(data[:-3])
    with pytest.raises(UserError, match=r"x.npy: [\d,]+ bytes where an array of shape \(52,\) takes"):
        Sidecar(path)
    np.save(tmp_path / "x.npy", np.array([{}] * 52), allow_pickle=True)
    with pytest.raises(UserError, match="pickled arrays are never loaded"):
        Sidecar(path)
