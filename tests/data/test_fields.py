"""Rows of columns: a value of the wrong type, or text that is none, is one bad record that names its column."""

from __future__ import annotations

import json

from data_samples import lengths, picture
import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data.load import DataConfig, Loader
from mof_jax.data.mixture import Located
from mof_jax.data.sources import fields
from mof_jax.data.sources.jsonl import TableSource
from mof_jax.errors import BadExample, UserError
from mof_jax.parsing import Malformed

HALF = "half a surrogate pair (\\ud83d) at 6 is no character"


@pytest.fixture
def source(tmp_path):
    """Opens rows (objects, or lines as they stand) as a JSONL beside a picture, behind one good row."""
    (tmp_path / "0.png").write_bytes(picture(0, 4, 4))

    def opened(*rows, **options) -> TableSource:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in ({"image": "0.png", "caption": "good"}, *rows)]
        (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
        return TableSource(str(tmp_path / "a.jsonl"), **options)

    return opened


@pytest.mark.parametrize("row, reason", [
    ('{"image": "0.png", "caption": "a cat \\ud83d"}', f"column 'caption': {HALF}"),
    ('{"image": "0.png", "captions": ["fine", "a cat \\ud83d"]}', f"column 'captions': {HALF}"),
    ('{"image": "0.png", "texts": {"de": "a cat \\ud83d"}}', f"column 'texts.de': {HALF}"),
    ('{"image": "0.png", "caption": "a\\u0000b"}', "column 'caption': a NUL at 1 is no text"),
    ('{"image": "\\ud800.png", "caption": "a"}', "column 'image': half a surrogate pair (\\ud800) at 0"),
    ('{"image": "0.png", "id": "\\ud800"}', "column 'id' is text"),
    ({"image": "0.png", "caption": 5}, "column 'caption': a number (5), not text"),
    ({"image": "0.png", "caption": float("nan")}, "column 'caption': a number (nan), not text"),
    ({"image": "0.png", "caption": True}, "column 'caption': true or false (True), not text"),
    ({"image": "0.png", "caption": {"a": 1}}, "column 'caption': an object"),
    ({"image": "0.png", "tags": ["a", 3]}, "column 'tags': entry 1 is a number (3), not text"),
    ({"image": "0.png", "tags": [["a"]]}, "column 'tags': entry 0 is a list"),
    ({"image": "0.png", "texts": ["a"]}, "column 'texts' is a list where an object of texts by kind is expected"),
    ('{"image": "0.png", "texts": {"\\ud83d": "a"}}', "half a surrogate pair (\\ud83d) at 0"),
    ({"image": "0.png", "texts": {"alt": 3}}, "column 'texts.alt': a number (3), not text"),
    ({"image": {"path": "0.png"}, "caption": "a"}, "column 'image' is an object where the path of a picture is expected"),
    ({"image": [], "caption": "a"}, "column 'image' is a list where"),
    ({"image": {}, "caption": "a"}, "column 'image' is an object where"),
    ({"image": 0, "caption": "a"}, "column 'image' is a number where"),
    ({"image": False, "caption": "a"}, "column 'image' is true or false where"),
    ({"image": "0.png", "id": [1]}, "column 'id' is a list ([1]), no name of a record"),
    ({"image": "0.png", "id": {}}, "column 'id' is an object ({}), no name of a record"),
    ({"image": "0.png", "id": False}, "column 'id' is true or false (False), no name of a record"),
    ('{"image": "0.png", "caption": "a", "caption": "b"}', "key 'caption' stands twice in one object"),
    ('{"image": "0.png", "caption": %s}' % ("9" * 5000), "a number has too many digits"),
    ('{"image": "0.png", "caption": %s}' % ("[" * 100_000), "nested too deeply"),
    ({}, "neither a picture nor a text; it has no column"),
    ({"image": None, "caption": " "}, "neither a picture nor a text; it has 'image', 'caption'"),
    ('{"Caption": "a", "CAPTION": "b"}', "two columns are called 'caption' but for capitals"),
])
def test_a_row_that_is_wrong_is_one_bad_record(source, row, reason):
    found = source(row)
    with pytest.raises(BadExample) as stop:
        found[1]
    assert stop.value.record == "line 2" and reason in stop.value.reason and str(stop.value).isprintable()
    assert found[0].texts == {"caption": ("good",)}


@pytest.mark.parametrize("row, id, texts", [
    ({"id": 0, "image": "0.png", "caption": "a"}, "0", {"caption": ("a",)}),
    ({"id": 10**30, "image": "0.png", "caption": None}, str(10**30), {"caption": ()}),
    ({"id": "", "key": "k", "image": "0.png", "caption": ["a", None, "b"]}, "k", {"caption": ("a", "b")}),
    ({"Image": "0.png", "Caption": "a"}, "0.png", {"caption": ("a",)}),
    ({"image": "0.png", "text": '["a", "b"]'}, "0.png", {"text": ('["a", "b"]',)}),
    ({"image": "0.png", "texts": {"alt": "a", "x": []}}, "0.png", {"alt": ("a",), "x": ()}),
    ({"image": None, "text": "words"}, "2", {"text": ("words",)}),
])
def test_what_is_read(source, row, id, texts):
    record = source(row)[1]
    assert (record.id, dict(record.texts)) == (id, texts)


@pytest.mark.parametrize("rows, line", [
    ([{"note": "x"}], "no column of pictures or texts; it has 'note'; name columns with image_field, text_fields"),
    ([{"image": "0.png", "conversations": [{"from": "human", "value": "x"}]}], "line 1: holds a conversation, .*kind 'llava'"),
    ([{"image": "0.png", "messages": [{"role": "user", "content": "x"}]}], "line 1: holds a conversation under 'messages'"),
    ([{"texts": ["a", None], "images": [None, "0.png"]}], "line 1: holds a page, .*kind 'obelics'"),
    ([{"text_list": ["a"], "image_info": []}], "line 1: holds a page, .*kind 'mmc4'"),
    ([{"img": "0.png", "note": "x"}], r"column 'img' holds pictures \('0.png'\) and is none of image, file_name"),
    ([{"url": "http://x/0.jpg", "caption": "a"}], r"column 'url' holds addresses, and nothing is fetched"),
    (["[", '{"image": "0.png"},', "]"], "one list over several lines; write one JSON object a line"),
])
def test_rows_that_are_none_of_a_table(tmp_path, rows, line):
    (tmp_path / "a.jsonl").write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    with pytest.raises(UserError, match=f"a.jsonl:? ?{line}"):
        TableSource(str(tmp_path / "a.jsonl"))


def test_addresses_of_pages_are_no_pictures(tmp_path):
    (tmp_path / "c4.jsonl").write_text('{"url": "http://x/a.jpg", "text": "one"}\n{"url": "http://x/b", "text": "two"}\n')
    assert TableSource(str(tmp_path / "c4.jsonl"))[0].texts == {"text": ("one",)}


def test_a_column_that_few_rows_have_may_be_named(source):
    rows = [{"image": "0.png", "caption": "x"}] * 500
    rows[77] = {"image": "0.png", "recap": "rare"}
    assert source(*rows, text_fields={"alt": "recap"})[78].texts == {"alt": ("rare",)}


@pytest.mark.parametrize("value, group", [(3, 3), ("3", 3), ("3.0", 3), (3.0, 3), (2**40, 2**40), (None, -1), (-7, -1),
                                          (True, -1), (2.5, -1), ("red", -1), (float("inf"), -1), ([1], -1)])
def test_groups(value, group):
    assert fields.group({"group": value}) == group
    assert fields.group({}) == -1


def test_scores_keep_what_is_known_to_be_missing():
    found = fields.scores({"scores": {"a": 1, "b": None, "c": float("nan"), "d": "0.3", "e": True, "f": float("inf"), "g": [1]}})
    assert list(found) == ["a", "b", "c"] and found["a"] == 1 and np.isnan([found["b"], found["c"]]).all()


@pytest.mark.parametrize("value, strings", [(b"a", ("a",)), (np.array(["a", "b"]), ("a", "b")), (np.array([b"a"]), ("a",)),
                                            (None, ()), ([], ()), (("a",), ("a",))])
def test_strings(value, strings):
    assert fields.strings(value) == strings


@pytest.mark.parametrize("value", [b"\xff", np.array([1, 2]), np.float32(3), {"a": 1}, 0, False, "\ud800", "\0"])
def test_what_is_no_text(value):
    with pytest.raises(Malformed):
        fields.strings(value)


def test_half_a_surrogate_does_not_end_a_run_that_skips(source):
    found = source('{"image": "0.png", "caption": "a \\ud83d cat"}', {"image": "0.png", "caption": "fine"})
    config = build(DataConfig, {"sources": [{"kind": "jsonl", "path": found.path}], "image_size": 4, "on_error": "skip"})
    rows = Loader(config, lengths, seed=0).rows(Located(*(np.array(column) for column in ([0, 0, 0], [0, 1, 2], [0, 0, 0]))))
    assert len(rows.replaced) == 1 and rows.replaced[0][0] == "jsonl:a.jsonl:line 2" and "surrogate" in rows.replaced[0][1]
    assert rows.arrays["text"].shape == (3, 1, 2)
