"""Records, indexes, conversations and pages whose values are of any type: each is the right value or one line."""

import json
import struct
import time

from data_samples import picture
import pytest

from mof_jax.data.record import Record
from mof_jax.data.sources import SOURCES, arrayrecord, open_source
from mof_jax.errors import BadExample, UserError

ANYTHING = [None, True, False, 0, -1, 1.5, "", "x", [], [1], {}, {"a": 1}, [[]], 10**400, "\ud83d", "a\0b",
            float("nan"), float("inf")]

HEADER = {"id": "k", "texts": {"alt": ["a", "b"]}, "scores": {"dfn": 0.5}, "group": 3, "attributes": {"label": "x"}, "image": 2}


def bytes_of(header, image=b"xy") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return b"MOF1" + struct.pack("<I", len(text)) + text + image


def test_a_record_is_what_was_written():
    record = arrayrecord.parse(bytes_of(HEADER), "s", 0)
    assert record == Record("k", b"xy", {"alt": ("a", "b")}, {"dfn": 0.5}, 3, {"label": "x"})
    assert arrayrecord.parse(arrayrecord.encode(record), "s", 0) == record
    nan = arrayrecord.parse(bytes_of({**HEADER, "scores": {"dfn": float("nan"), "n": 2}, "image": None}, b""), "s", 0)
    assert nan.image is None and nan.scores["dfn"] != nan.scores["dfn"] and nan.scores["n"] == 2.0


@pytest.mark.parametrize("key, good", [
    ("id", ("", "x")), ("texts", ({},)), ("scores", ({}, {"a": 1})), ("group", (0, -1)), ("attributes", ({}, {"a": 1})),
    ("image", ()), ("texts.alt", ([],)), ("scores.dfn", (0, -1, 1.5, float("inf"))),
    ("attributes.label", (None, True, False, 0, -1, 1.5, "", "x", float("inf"), 10**400)),
])
def test_every_value_of_a_record_is_looked_at(key, good):
    outer, _, inner = key.partition(".")
    for value in [v for v in ANYTHING if v == v]:
        header = {**HEADER, outer: {inner: value}} if inner else {**HEADER, outer: value}
        try:
            record = arrayrecord.parse(bytes_of(header, b"" if outer == "image" else b"xy"), "shard", 7)
        except BadExample as error:
            assert not any(type(value) is type(g) and value == g for g in good) or value == []
            assert str(error).startswith("shard: record ") and str(error).isprintable()
        else:
            assert arrayrecord.parse(arrayrecord.encode(record), "s", 0) == record
            assert any(type(value) is type(g) and value == g for g in good) or (outer == "image" and value in (None, 0)), value


@pytest.mark.parametrize("header, says", [
    (b"[" * 100_000, "nested too deeply"), (b"9" * 5000, "too many digits"), (b"\xff", "byte 0xff at 0 is not UTF-8"),
    (b"[]", "holds a list, not an object"), (b'{"id": 1, "id": 2}', "key 'id' stands twice"),
    ({"id": "k"}, "has no 'attributes'"),
    ({**HEADER, "attributes": 1.5}, "'attributes' is a number, not an object"),
    ({**HEADER, "texts": {"alt": ["\udfff"]}}, "half a surrogate pair"),
    ({**HEADER, "texts": {"\udfff": ["a"]}}, "half a surrogate pair"),
    ({**HEADER, "scores": {"a": 10**400}}, "a score is beyond float64"),
    ({**HEADER, "image": True}, "'image' is True, not a number of bytes"),
    ({**HEADER, "group": 1 << 63}, "'group' is 9223372036854775808"),
])
def test_a_broken_header_says_what_is_wrong(header, says):
    with pytest.raises(BadExample, match=f"s: record 0: broken record header: .*{says}"):
        arrayrecord.parse(bytes_of(header), "s", 0)


@pytest.mark.parametrize("field", [{"id": "a\ud83d"}, {"texts": {"alt": ("\ud83d",)}}, {"attributes": {"x": "\ud83d"}}])
def test_what_cannot_be_written_is_named(field):
    with pytest.raises(BadExample, match="record .*: cannot be written: surrogates not allowed") as caught:
        arrayrecord.encode(Record(**{"id": "r", "image": None, "texts": {}, **field}))
    assert str(caught.value).isprintable()


@pytest.fixture
def shard(tmp_path):
    with arrayrecord.writer(str(tmp_path), "x", 1) as write:
        write(0, Record("a", picture(), {}))
        write(0, Record("b", picture(), {}))
    return tmp_path


@pytest.mark.parametrize("count", ["Infinity", "-Infinity", "NaN", "1e300", "-1", "1.5", "true", "null", '"2"', "[2]",
                                   "1" + "0" * 30, "9" * 5000, "[" * 100_000])
def test_counts_of_an_index_are_counts(shard, count):
    (shard / "index.json").write_text('{"shards": {"x-00000-of-00001.array_record": ' + count + "}}")
    with pytest.raises(UserError, match="index.json: not an index of shards .*; delete it to count the records again"):
        open_source(SOURCES["arrayrecord"](str(shard)))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"shards": []}', '{"shards": 3}', "\xff"])
def test_an_index_is_an_index(shard, text):
    (shard / "index.json").write_text(text, "latin-1")
    with pytest.raises(UserError, match="not an index of shards"):
        open_source(SOURCES["arrayrecord"](str(shard)))


@pytest.mark.parametrize("count", ["99999999", "0", "100001", "9" * 5000, "00000000"])
def test_numbers_of_shards_are_bounded(tmp_path, count):
    began = time.monotonic()
    with pytest.raises(UserError, match="names no shards; write name@N, N from 1 to 100,000"):
        arrayrecord.find_shards(str(tmp_path / f"x@{count}"))
    with pytest.raises(UserError, match="x-00000-of-99999.array_record: missing shard"):
        arrayrecord.find_shards(str(tmp_path / "x@99999"))
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["x@2", "a[1]", "{0..1}"])
def test_folders_of_odd_names_hold_shards(tmp_path, name):
    with arrayrecord.writer(str(tmp_path / name), "x", 2) as write:
        for i in range(4):
            write(i // 2, Record(str(i), None, {"alt": ("a",)}))
    for path in (tmp_path / name, tmp_path / name / "x@2", tmp_path / name / "x-{00000..00001}-of-00002.array_record"):
        source = open_source(SOURCES["arrayrecord"](str(path)))
        assert [source[i].id for i in range(4)] == ["0", "1", "2", "3"]


# conversations and pages

TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
PAGE = {"texts": ["a"], "images": [None]}


@pytest.fixture
def opened(tmp_path):
    def opened(kind, *rows):
        path = tmp_path / ("a.json" if kind == "llava" else "a.jsonl")
        path.write_text(json.dumps(rows) if kind == "llava" else "\n".join(map(json.dumps, rows)))
        return open_source(SOURCES[kind](str(path)))

    (tmp_path / "1.jpg").write_bytes(picture())
    return opened


@pytest.mark.parametrize("kind, row, default", [("llava", {"conversations": TURNS}, "entry 0"), ("obelics", PAGE, "1"),
                                                ("mmc4", {"text_list": ["a"], "image_info": []}, "1")])
def test_ids_of_any_type(opened, kind, row, default):
    for value, expected in [(0, "0"), (7, "7"), ("x", "x"), (1.5, "1.5"), (None, default), ("", default)]:
        assert opened(kind, {**row, "id": value})[0].id == expected
    for value in (True, False, [], [1], {}, {"a": 1}, float("nan"), float("inf"), 10**400, "\ud83d", "a\0b"):
        with pytest.raises(BadExample, match="its id") as caught:
            opened(kind, {**row, "id": value})[0]
        assert str(caught.value).isprintable()
    assert opened(kind, {**row, "key": 0, "uid": "y"})[0].id == "0"


@pytest.mark.parametrize("role", [["human"], {"a": 1}, None, True, 0, 1.5, "", "robot", "\ud83d"])
def test_roles_of_any_type(opened, role):
    with pytest.raises(BadExample, match=r"turn 1: unknown role .* \(known: human, user, gpt, assistant, system\)") as caught:
        opened("llava", {"id": "x", "conversations": [TURNS[0], {"from": role, "value": "a"}]})[0]
    assert caught.value.record == "x" and str(caught.value).isprintable()


@pytest.mark.parametrize("value, says", [("\ud83d", "turn 0: half a surrogate pair"), ("a\0b", "turn 0: a NUL"),
                                         (None, "needs 'from' and a text"), (["a"], "needs 'from' and a text")])
def test_words_of_a_turn_are_words(opened, value, says):
    with pytest.raises(BadExample, match=says):
        opened("llava", {"conversations": [{"from": "human", "value": value}]})[0]


@pytest.mark.parametrize("image", [{}, False, True, 0, 1.5, [None], [["1.jpg"]], {"bytes": None}])
def test_pictures_of_a_conversation_are_names(opened, image):
    with pytest.raises(BadExample, match="image is neither a file name nor a list of them"):
        opened("llava", {"image": image, "conversations": TURNS})[0]
    for none in (None, "", []):
        assert opened("llava", {"image": none, "conversations": TURNS})[0].images == ()


@pytest.mark.parametrize("text, image", [(None, {}), (None, []), (None, False), (None, 0), (None, 1.5), ({}, None), ([], None),
                                         (False, None), (0, None), (0, False), ("a", ""), (None, None)])
def test_places_of_a_page_are_text_or_picture(opened, text, image):
    with pytest.raises(BadExample, match="line 1: place 1: needs a text or an image name, and null for the other"):
        opened("obelics", {"texts": ["a", text], "images": [None, image]})[0]


def test_pages_keep_what_they_are(opened):
    page = opened("obelics", {"texts": ["a", None, ""], "images": [None, "1.jpg", None], "id": 0})[0]
    assert page.parts == ("a", picture(), "") and page.id == "0"
    for words in ("a \ud83d", "a\0"):
        for kind, row in (("obelics", {"texts": [words], "images": [None]}), ("mmc4", {"text_list": [words], "image_info": []})):
            with pytest.raises(BadExample, match="line 1: (half a surrogate|a NUL)"):
                opened(kind, row)[0]


@pytest.mark.parametrize("head, says", [
    (b"PAR1", "a parquet file"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b\x08", "a gzip file"),
    (b"(\xb5/\xfd", "a zstandard file")])
@pytest.mark.parametrize("kind, name", [
    ("llava", "a.json"), ("llava", "a.jsonl"), ("obelics", "a.parquet"), ("mmc4", "a.jsonl.zip")])
def test_a_file_of_another_format_is_called_so(tmp_path, head, says, kind, name):
    (tmp_path / name).write_bytes(head + b"\n" * 90)
    with pytest.raises(UserError, match=f"{name}: is {says}, not .* as JSON.*; write its rows as JSON lines"):
        open_source(SOURCES[kind](str(tmp_path / name)))


@pytest.mark.parametrize("text, says", [("[" * 100_000, "nested too deeply"), ("[" + "9" * 5000 + "]", "too many digits"),
                                        ('[{"id": 1, "id": 2}]', "key 'id' stands twice")])
def test_lists_that_no_parser_takes(tmp_path, text, says):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=f"a.json: .*{says}"):
        open_source(SOURCES["llava"](str(tmp_path / "a.json")))
