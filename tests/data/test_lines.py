"""JSON lines on a disk: any of them by number, and a word when the file is no longer the one that was opened."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
import gc
import json
import os
import pickle

from data_samples import lengths
import pytest

from mof_jax.config import build
from mof_jax.data.files import lines
from mof_jax.data.files.lines import JsonLines
from mof_jax.data.pipeline import DataConfig, Pipeline
from mof_jax.errors import BadExample, UserError


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"n": i, "text": "x" * i}) + "\n" for i in range(100)))
    return str(tmp_path / "a.jsonl")


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_lines_are_found_whatever_ends_them(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(lines, "_CHUNK", chunk)
    (tmp_path / "a.jsonl").write_bytes(b'\r\n{"n": 1}\r\n\r\n\n{"n": "\xe2\x80\xa8"}\n5\n{"n": 3}')
    found = JsonLines(str(tmp_path / "a.jsonl"))
    assert len(found) == 4 and found[0] == (2, {"n": 1}) and found[1] == (5, {"n": "\u2028"}) and found[3] == (7, {"n": 3})
    with pytest.raises(BadExample, match="a.jsonl: record line 6: not a JSON object"):
        found[2]
    assert found.mentions("n") and not found.mentions("m")


def test_several_threads_and_a_pickle(path):
    found = pickle.loads(pickle.dumps(JsonLines(path)))
    with ThreadPoolExecutor(8) as pool:
        assert [row["n"] for _, row in pool.map(found.__getitem__, list(range(100)) * 5)] == list(range(100)) * 5


@pytest.mark.parametrize("size", [500, 0])
def test_a_file_that_shrinks_is_said_in_one_line(path, size):
    found = JsonLines(path)
    os.truncate(path, size)
    for index in (0, 99):
        with pytest.raises(UserError, match="a.jsonl: changed while it was read") as stop:
            found[index]
        assert not isinstance(stop.value, BadExample)  # or `skip` would try other records of the same file


def test_a_file_that_is_written_anew_is_said_in_one_line(path):
    found, kept = JsonLines(path), pickle.dumps(JsonLines(path))
    with open(path, "r+") as f:
        f.write('{"n": 7')
    os.utime(path, ns=(1, 1))
    for look in (lambda: found[3], lambda: pickle.loads(kept)):
        with pytest.raises(UserError, match="changed while it was read"):
            look()


def test_a_file_that_is_renamed_or_deleted_is_read_on(path, tmp_path):
    found = JsonLines(path)
    (tmp_path / "new").write_text("{}\n")
    os.replace(tmp_path / "new", path)
    assert found[5][1]["n"] == 5
    os.unlink(path)
    assert found[99][1]["n"] == 99


def test_an_open_file_is_closed_with_its_reader(path):
    count = lambda: len(os.listdir("/proc/self/fd"))
    gc.collect()
    before = count()
    found = [JsonLines(path) for _ in range(5)]
    assert count() == before + 5
    del found
    gc.collect()
    assert count() == before


@pytest.mark.parametrize("options, on_error", [({"threads": 0}, "raise"), ({"threads": 2}, "raise"), ({"threads": 2}, "skip"),
                                               ({"threads": 1, "workers": 1}, "skip")])
def test_a_run_whose_table_shrinks_ends_in_one_line(path, options, on_error):
    config = build(DataConfig, {"sources": [{"kind": "jsonl", "path": path}], "views": 0, "on_error": on_error, "prefetch": 1,
                                "chunk": 4, **options})
    batches = Pipeline(config, lengths, 4, 0).batches(0)
    next(batches)
    os.truncate(path, 500)
    with pytest.raises(UserError, match="a.jsonl: changed while it was read"):
        for _ in range(50):
            next(batches)
