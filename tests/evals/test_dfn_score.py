"""Scores of a pool: mistakes are found before the first picture is embedded, and nothing that failed ends as done."""

from __future__ import annotations

import io
import json

from fake_model import FakeModel
import numpy as np
from PIL import Image
import pytest

from mof_jax import cli
from mof_jax.data import filter as filters
from mof_jax.data.sources.jsonl import TableSource
from mof_jax.errors import UserError
from mof_jax.evals import dfn_score as scores


class FakeEmbedder(FakeModel):
    """Pictures of one colour and texts `0` to `9` as unit vectors: the cosine is 1 where they agree, else 0."""

    def __init__(self):
        self.calls = 0

    def embed_images(self, record, name, count):
        self.calls += 1
        shades = [int(np.asarray(Image.open(io.BytesIO(record(n).image)))[0, 0, 0]) // 20 for n in range(count)]
        return np.eye(10, dtype=np.float32)[shades]

    def texts(self, texts):
        return np.eye(10, dtype=np.float32)[[int(text) for text in texts]]


@pytest.fixture
def pool(tmp_path):
    """Opens rows beside pictures `0.png` to `4.png`."""
    for i in range(5):
        Image.new("RGB", (4, 4), (20 * i,) * 3).save(tmp_path / f"{i}.png")

    def opened(*rows) -> TableSource:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / "pool.jsonl").write_text("\n".join(lines) + "\n")
        return TableSource(str(tmp_path / "pool.jsonl"))

    return opened


@pytest.mark.parametrize("kind", ["alt", "caption", "text"])
def test_the_kind_is_what_the_source_has(pool, kind):
    found = scores.score(FakeEmbedder(), pool({"image": "1.png", kind: "1"}, {"image": "2.png", kind: "3"}))
    assert found.ids == ["1.png", "2.png"] and found.cosines.tolist() == [1, 0] and found.bad == []


def test_what_cannot_be_scored_is_lowest_or_left_out(pool, tmp_path):
    source = pool({"image": "1.png", "text": "1"}, {"image": "none.png", "text": "1"}, "{broken", {"image": "2.png", "text": " "},
                  {"id": 0, "image": "2.png", "text": "2"})
    found = scores.score(FakeEmbedder(), source)
    assert found.ids == ["1.png", "none.png", "2.png", "0"] and found.cosines.tolist() == [1, -1, -1, 1]
    assert [record.rpartition("/")[2] for record, _ in found.bad] == ["pool.jsonl line 2", "line 3", "2.png"]
    filters.write_scores(str(tmp_path / "s.jsonl"), found.ids, {"dfn": found.cosines})
    back = filters.read_scores(str(tmp_path / "s.jsonl"), source)["dfn"]
    assert np.array_equal(back, [1, np.nan, np.nan, -1, 1], equal_nan=True)  # unreadable: not kept, whatever its score


@pytest.mark.parametrize("rows, kind, says", [
    ([{"id": "a", "image": "1.png", "text": "1"}, {"id": "a", "image": "2.png", "text": "2"}], "", "0 and 1 are both called 'a'"),
    ([{"image": "1.png", "text": "1"}], "alt", "no text of kind 'alt'; the source has text; choose with --text"),
    ([{"image": "1.png", "text": "1", "title": "2"}], "", "several kinds of text; the source has text, title; choose with"),
    ([{"image": "1.png"}], "", "the source has none; name the column of the texts with text_fields"),
    ([{"image": "none.png", "text": "1"}], "", "none of 1 records that were looked at can be read"),
])
def test_mistakes_are_found_before_the_work(pool, rows, kind, says):
    embedder = FakeEmbedder()
    with pytest.raises(UserError, match=says):
        scores.score(embedder, pool(*rows), kind)
    assert embedder.calls == 0


def test_no_record_that_can_be_scored_is_an_error(pool):
    with pytest.raises(UserError, match=r"none of 2 records can be scored; the first: 2: no image"):
        scores.score(FakeEmbedder(), pool({"id": 2, "text": "1"}, {"id": 3, "text": "2"}))


def test_the_command_writes_nothing_that_failed(pool, tmp_path, monkeypatch, capsys):
    class Restored:
        embedder = FakeEmbedder()

    monkeypatch.setattr("mof_jax.restore.restore", lambda path: Restored)
    pool({"image": "1.png", "caption": "1"}, {"image": "2.png", "caption": "3"})
    command = lambda out, *more: cli.main(["data", "score", str(tmp_path / "pool.jsonl"), "--checkpoint", "x", "--out",
                                           str(tmp_path / out), *more])
    assert command("s.jsonl") == 0
    assert [json.loads(line)["scores"]["dfn"] for line in (tmp_path / "s.jsonl").read_text().splitlines()] == [1, 0]
    for out, more, says in (("t.jsonl", ["--text", "alt"], "has caption; choose with --text"),
                            ("t.csv", [], "ends in .jsonl or .npy"), ("none/t.jsonl", [], "no such folder")):
        capsys.readouterr()
        assert command(out, *more) == 1 and says in capsys.readouterr().err and not (tmp_path / "t.jsonl").exists()
