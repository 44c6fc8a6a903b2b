"""Which members of a tar are one sample, and what becomes of all others."""

import json
import logging
import os
import pickle
import tarfile

from data_samples import add, picture
import pytest

from mof_jax.data.sources import SOURCES, open_source, samples
from mof_jax.data.sources.webdataset import WebDatasetSource
from mof_jax.errors import BadExample, UserError


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Opens a tar of members; a list of names is filled with pictures and texts that say the name."""
    monkeypatch.setenv("MOF_CACHE", str(tmp_path / "cache"))

    def make(members, name="a.tar", **options):
        if not isinstance(members, dict):
            texts = {"json": b"{}", "txt": None, "cls": None}
            members = {m: texts.get(m.rpartition(".")[2].lower(), picture()) or m.encode() for m in members}
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in members.items():
                add(tar, member, data)
        return WebDatasetSource(str(tmp_path / name), **options)

    return make


def seen(source):
    """(id, text of the `.txt`) of every record, with the reason for one that is bad."""
    found = []
    for n in range(len(source)):
        try:
            record = source[n]
            assert record.id == source.id(n) and record.image == picture()
            found.append((record.id, *record.texts.get("alt", ())))
        except BadExample as error:
            found.append((error.record, error.reason))
    return found


@pytest.mark.parametrize("members, expected", [
    (["0.jpg", "0.txt", "1.JPEG", "1.TXT"], [("0", "0.txt"), ("1", "1.TXT")]),
    (["b/0.jpg", "a/0.txt", "a/0.png", "b/0.txt"], [("b/0", "b/0.txt"), ("a/0", "a/0.txt")]),
    (["./0.jpg", "v1.0/0.jpg", "v1.0/0.txt"], [("./0",), ("v1.0/0", "v1.0/0.txt")]),
    # points in keys
    (["0.png", "0.txt", "photo.v2.png", "photo.v2.txt", "IMG_3.5.PNG", "IMG_3.5.txt"],
     [("0", "0.txt"), ("photo.v2", "photo.v2.txt"), ("IMG_3.5", "IMG_3.5.txt")]),
    (["v1.0_0001.jpg", "v1.0_0001.txt", "v1.0_0002.jpg", "v1.0_0002.json", "v1.0_0003.jpg"],
     [("v1.0_0001", "v1.0_0001.txt"), ("v1.0_0002",), ("v1.0_0003",)]),
    (["photo.jpg", "photo.txt", "photo.v2.jpg", "photo.v2.txt"], [("photo", "photo.txt"), ("photo.v2", "photo.v2.txt")]),
    (["a.b.c.d.webp", "a.b.c.d.cls"], [("a.b.c.d",)]),
    (["x.1.jpg", "x.1.txt", "x.2.txt"], [("x.1", "x.1.txt"), ("x.2", "no image member, only .txt")]),
    # endings with points
    (["0.input.jpg", "0.caption.txt", "1.caption.txt", "1.input.jpg"], [("0", "0.caption.txt"), ("1", "1.caption.txt")]),
    (["0.input.jpg", "0.txt", "0.json"], [("0", "0.txt")]),
    (["0.jpg", "0.caption.txt"], [("0", "0.caption.txt")]),
    (["0.jpg", "0.txt", "0.seg.png", "0.other.txt"], [("0", "0.txt")]),
    # several of a kind
    (["0.jpg", "0.png", "0.txt", "1.jpg"], [("0", "2 pictures (.jpg, .png); say which with image_field='jpg'"), ("1",)]),
    (["0.left.jpg", "0.right.jpg", "0.txt"],
     [("0", "2 pictures (.left.jpg, .right.jpg); say which with image_field='left.jpg'")]),
    (["0.a.txt", "0.b.txt", "0.x.jpg"], [("0", "2 texts (.a.txt, .b.txt); say which with text_fields={'alt': 'a.txt'}")]),
])
def test_keys_and_endings(make, members, expected):
    assert seen(make(members)) == expected
    assert seen(make(members)) == expected  # from the cache


@pytest.mark.parametrize("members, options, expected", [
    (["0.jpg", "0.png", "0.txt"], {"image_field": "png"}, [("0", "0.txt")]),
    (["0.left.jpg", "0.right.jpg", "0.txt"], {"image_field": ".Right.jpg"}, [("0", "0.txt")]),
    (["0.left.jpg", "0.a.txt", "0.b.txt"], {"image_field": "left.jpg", "text_fields": {"alt": "b.txt"}}, [("0", "0.b.txt")]),
    (["0.jpg", "0.txt", "0.b.txt"], {"text_fields": {"alt": "b.txt"}}, [("0", "0.b.txt")]),
    (["0.jpg", "0.cls"], {"text_fields": {"alt": "cls"}}, [("0", "0.cls")]),
])
def test_a_member_is_chosen(make, members, options, expected):
    assert seen(make(members, **options)) == expected


def test_an_ending_chooses_the_right_bytes(make):
    members = {"0.left.jpg": picture(1), "0.right.jpg": picture(2), "0.txt": b"t"}
    assert [make(members, image_field=f"{side}.jpg")[0].image for side in ("left", "right")] == [picture(1), picture(2)]


def test_labels_are_kept(make):
    source = make({"0.jpg": picture(), "0.cls": b"17\n", "1.jpg": picture(), "1.cls": "été".encode(), "2.jpg": picture(),
                   "2.cls": b"\xff", "3.jpg": picture()})
    assert [source[n].attributes for n in (0, 1, 3)] == [{"label": "17"}, {"label": "été"}, {}]
    with pytest.raises(BadExample, match="record 2: its .cls member: byte 0xff at 0 is not UTF-8"):
        source[2]


def test_what_is_not_read_is_counted_and_said_once(make, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(make(["0.jpg", "0.txt", "._0.jpg", "__MACOSX/._1.jpg"])) == 1 and not caplog.messages
        source = make(["0.jpg", "0.seg.png", "1.npy", "2.npy", "README"], "b.tar")
        assert len(source) == 1 and source[0].id == "0"
    assert caplog.messages == ["b.tar: 4 members are not read: .npy 2, no ending, .seg.png"]
    with pytest.raises(UserError, match=r"no samples in 1 tar files; their members end in \.bmp 2, \.tiff$"):
        make(["0.bmp", "1.bmp", "2.tiff"], "c.tar")


def test_what_is_odd_about_a_tar_is_said_each_time(make, tmp_path, caplog):
    make(["0.jpg", "0.txt"])
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(data + data)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(WebDatasetSource(str(tmp_path / "b.tar"))) == 1
    assert len(caplog.messages) == 2 and all("b.tar: bytes behind the mark" in message for message in caplog.messages)


def test_a_json_whose_keys_are_unknown_is_said_once(make, caplog):
    row = b'{"prompt": "a cat", "url": "x"}'
    members = {f"{n}.{e}": picture() if e == "jpg" else row for n in range(3) for e in ("jpg", "json")}
    with caplog.at_level(logging.WARNING):
        source = make(members)
        assert [source[n].texts for n in range(3)] == [{}] * 3
    assert len(caplog.messages) == 1 and "record 0 has no text; its .json has 'prompt', 'url'; text_fields" in caplog.messages[0]
    assert make(members, text_fields={"alt": "prompt"})[1].texts == {"alt": ("a cat",)}


@pytest.mark.parametrize("ending, data, says", [
    ("txt", "café".encode("latin-1"), "its .txt member: byte 0xe9 at 3 is not UTF-8"),
    ("txt", "a cat".encode("utf-16"), "its .txt member: is UTF-16, not UTF-8"),
    ("txt", "a cat".encode("utf-16-le"), "its .txt member: a NUL at 1 is no text"),
    ("json", '{"text": "café"}'.encode("latin-1"), "its .json member byte 0xe9"),
    ("json", b'{"text": "a \\ud83d cat"}', "half a surrogate pair"),
    ("json", b'{"texts": {"alt": ["a\\u0000b"]}}', "a NUL at 1 is no text"),
    ("json", b"[" * 100_000, "its .json member is not JSON that is read here: nested too deeply"),
    ("json", b'{"a": 1, "a": 2}', "key 'a' stands twice"),
    ("json", b'["a cat"]', "its .json member holds a list, not an object"),
    ("json", b"9" * 5000, "a number has too many digits"),
])
def test_texts_are_read_strictly(make, ending, data, says):
    source = make({"0.jpg": picture(), f"0.{ending}": data, "1.jpg": picture(), "1.txt": b"\xef\xbb\xbfa cat"})
    with pytest.raises(BadExample, match=says) as caught:
        source[0]
    assert caught.value.record == "0" and len(str(caught.value).splitlines()) == 1
    assert source[1].texts == {"alt": ("a cat",)}  # without the mark before it


def test_keys_that_two_tars_share_are_told_apart(make, tmp_path):
    for name in ("0.tar", "1.tar"):
        make({"a.jpg": picture(), "b.jpg": picture(), "b.txt": name.encode()}, name)
    make({"c.jpg": picture()}, "2.tar")
    source = WebDatasetSource(str(tmp_path))
    assert [source.id(n) for n in range(5)] == ["0/a", "0/b", "1/a", "1/b", "2/c"]
    assert [source[n].texts["alt"] for n in (1, 3)] == [("0.tar",), ("1.tar",)] and source[3].id == "1/b"
    alone = WebDatasetSource(str(tmp_path / "{0,2}.tar"))
    assert [alone.id(n) for n in range(3)] == ["a", "b", "c"]
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        os.rename(tmp_path / f"{'01'['xy'.index(folder)]}.tar", tmp_path / folder / "0.tar")
    assert [WebDatasetSource(str(tmp_path / "*" / "0.tar")).id(n) for n in range(4)] == ["x/0/a", "x/0/b", "y/0/a", "y/0/b"]


def test_tars_with_colons_between_them(make, tmp_path):
    for name in ("0.tar", "1.tar", "2.tar"):
        make([f"{name[0]}.jpg"], name)
    several = f"{tmp_path}/{{1..2}}.tar::{tmp_path}/0.tar"
    source = WebDatasetSource(several)
    assert [source.id(n) for n in range(len(source))] == ["1", "2", "0"]
    with pytest.raises(UserError, match=f"names {tmp_path}/1.tar twice"):
        WebDatasetSource(f"{several}::{tmp_path}/1.tar")
    with pytest.raises(UserError, match="9.tar: no such file"):
        WebDatasetSource(f"{tmp_path}/0.tar::{tmp_path}/9.tar")


def cached(tmp_path):
    (file,) = (tmp_path / "cache" / "tar-index").iterdir()
    return file


@pytest.mark.parametrize("change", [
    lambda b: b"", lambda b: b"{}", lambda b: b[:-9], lambda b: b.replace(b'"0"', b'"7"'), lambda b: b"\xff" * 70 + b"\n{}",
])
def test_a_damaged_index_is_made_again(make, tmp_path, change):
    assert len(make(["0.jpg", "0.txt", "1.jpg"])) == 2
    file = cached(tmp_path)
    whole = file.read_bytes()
    assert change(whole) != whole
    file.write_bytes(change(whole))
    assert seen(WebDatasetSource(str(tmp_path / "a.tar"))) == [("0", "0.txt"), ("1",)]
    assert file.read_bytes() == whole


@pytest.mark.parametrize("key, value", [
    ("version", 1), ("keys", 3), ("keys", ["0"]), ("keys", ["0", 1]), ("keys", ["0", "\ud800"]), ("spans", {}),
    ("spans", [0] * 15),
    ("spans", [1.5] * 16), ("spans", [True] * 16), ("spans", [10**30] * 16), ("spans", [-5] * 16), ("spans", [0, -1] * 8),
    ("spans", [10**6, 5] * 8), ("problems", []), ("problems", {"x": "y"}), ("problems", {"9": "y"}), ("problems", {"0": 1}),
    ("unread", 1), ("unread", {"npy": -1}), ("unread", {"npy": 1e300}), ("notes", None), ("notes", [1]),
])
def test_an_index_that_does_not_fit_its_tar_is_made_again(make, tmp_path, key, value):
    """Even one with a right checksum: nothing in it is believed that was not looked at."""
    from hashlib import sha256

    assert len(make(["0.jpg", "0.txt", "1.jpg"])) == 2
    file = cached(tmp_path)
    whole = file.read_bytes()
    body = json.dumps({**json.loads(whole.partition(b"\n")[2]), key: value}).encode()
    file.write_bytes(sha256(body).hexdigest().encode() + b"\n" + body)
    assert seen(WebDatasetSource(str(tmp_path / "a.tar"))) == [("0", "0.txt"), ("1",)]
    assert file.read_bytes() == whole


def test_an_exchanged_tar_of_the_same_length_is_noticed(make, tmp_path):
    source = pickle.loads(pickle.dumps(make({"0.jpg": picture(), "0.txt": b"one"})))
    assert source[0].texts == {"alt": ("one",)}
    make({"0.jpg": picture(), "0.txt": b"two"}, "new.tar")
    assert os.path.getsize(tmp_path / "new.tar") == os.path.getsize(tmp_path / "a.tar")
    os.replace(tmp_path / "new.tar", tmp_path / "a.tar")
    with pytest.raises(UserError, match="a.tar: has changed since it was opened; start again"):
        source[0]
    assert WebDatasetSource(str(tmp_path / "a.tar"))[0].texts == {"alt": ("two",)}


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOF_CACHE", str(tmp_path / "file"))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.jpg", picture())
    with pytest.raises(UserError, match="file/tar-index: Not a directory$"):
        WebDatasetSource(str(tmp_path / "a.tar"))


def test_a_source_of_tars_by_a_config(make, tmp_path, monkeypatch):
    make({"0.left.jpg": picture(1), "0.right.jpg": picture(2)}, "00.tar")
    make({"1.left.jpg": picture(3), "1.right.jpg": picture(4)}, "01.tar")
    monkeypatch.setenv("HOME", str(tmp_path))
    source = open_source(SOURCES["webdataset"](path="~/{00..01}.tar", image_field="right.jpg"))
    assert [source[n].image for n in range(len(source))] == [picture(2), picture(4)] and source.name == "webdataset:{00..01}.tar"


def test_endings_are_listed_shortly():
    assert samples.listed({f"e{n}": n + 1 for n in range(8)}).endswith(".e2 3 and 2 more")


def test_a_large_member_is_no_text(make, monkeypatch):
    monkeypatch.setattr("mof_jax.data.sources.webdataset.MAX_TEXT", 10)
    with pytest.raises(BadExample, match="its member for txt is too large"):
        make({"0.jpg": picture(), "0.txt": b"x" * 11})[0]
