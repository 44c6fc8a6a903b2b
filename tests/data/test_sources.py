"""Every reader: what it yields, and what it says about bad input."""

import io
import json
import tarfile

from array_record.python import array_record_module
from data_samples import add, damage, picture
import fsspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import SOURCES, arrayrecord, open_source
from mof_jax.data.sources.arrayrecord import ArrayRecordSource
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.sources.jsonl import TableSource
from mof_jax.data.sources.webdataset import WebDatasetSource
from mof_jax.errors import BadExample, UserError


def opened(**values) -> Source:
    return open_source(build(SourceConfig, values))


# JSONL, CSV, TSV


def test_jsonl_records(table):
    source = opened(kind="jsonl", path=str(table / "metadata.jsonl"))
    assert isinstance(source, Source) and len(source) == 10
    record = source[3]
    assert record.id == "r3" and record.image == picture(3) and record.group == 1
    assert record.texts["alt"] == ("alt 3",) and record.texts["tags"] == ("t3", "all")
    assert record.scores == {"dfn": 0.3, "clip": 0.6}
    named = opened(kind="jsonl", path=str(table), text_fields={"caption": "alt"})
    assert named[3].texts == {"caption": ("alt 3",)}
    for outside in (-1, 10):
        with pytest.raises(IndexError):
            source[outside]


def test_open_clip_style_tsv_and_csv(table):
    (table / "x.tsv").write_text("filepath\ttitle\n1.jpg\ta \tpicture\n2.jpg\tanother\n")
    assert TableSource(str(table / "x.tsv"))[1].texts == {"title": ("another",)}
    (table / "x.csv").write_text('image,alt\n1.jpg,"two\nlines, quoted"\n')
    assert TableSource(str(table / "x.csv"))[0].texts == {"alt": ("two\nlines, quoted",)}


def test_absurd_numbers_are_ignored(table):
    (table / "x.jsonl").write_text(
        '{"image": "1.jpg", "group": Infinity, "scores": {"a": 1%s, "b": 2, "c": "3"}}' % ("0" * 400)
    )
    record = TableSource(str(table / "x.jsonl"))[0]
    assert record.group == -1 and record.scores == {"b": 2.0}


def test_blank_lines_and_carriage_returns(table):
    (table / "x.jsonl").write_bytes(b'\r\n{"image": "1.jpg"}\r\n\r\n\n{"image": "2.jpg"}')
    source = TableSource(str(table / "x.jsonl"))
    assert [source[i].id for i in range(len(source))] == ["1.jpg", "2.jpg"]


def test_table_in_an_object_store():
    with fsspec.open("memory://set/metadata.jsonl", "wt") as f:
        f.write('{"image": "p/1.jpg", "alt": "one"}\n')
    with fsspec.open("memory://set/p/1.jpg", "wb") as f:
        f.write(picture(1))
    assert opened(kind="jsonl", path="memory://set")[0].image == picture(1)


@pytest.mark.parametrize(
    "row, says",
    [
        ('{"image": "../secret.jpg"}', "line 1: image path '../secret.jpg' leads outside"),
        ('{"image": "/etc/passwd"}', "leads outside"),
        ('{"image": "https://x/y.jpg"}', "is an address, and none is fetched"),
        ('{"image": "a/../../b.jpg"}', "leads outside"),
        ('{"image": "link.jpg"}', "leads outside"),
        ('{"image": "none.jpg"}', "line 1: image 'none.jpg': no such file"),
        ("{broken", "record line 1: not JSON"),
        ("[1, 2]", "record line 1: not a JSON object"),
        ("[" * 100_000, "record line 1: not JSON"),
    ],
)
def test_bad_rows_name_file_and_line(table, tmp_path, row, says):
    (tmp_path / "secret.jpg").write_bytes(picture())
    (table / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (table / "bad.jsonl").write_text(row)
    with pytest.raises(BadExample, match=says) as caught:
        TableSource(str(table / "bad.jsonl"))[0]
    assert "bad.jsonl" in str(caught.value)


def test_empty_and_missing_tables(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    for path, says in (
        ("empty.jsonl", "no rows"),
        ("none.jsonl", "no such file"),
        (".", "no table"),
        ("zz", "no such"),
    ):
        with pytest.raises(UserError, match=says):
            opened(kind="jsonl", path=str(tmp_path / path))


# WebDataset


def test_webdataset_records_and_index_cache(tars, monkeypatch):
    source = opened(kind="webdataset", path=str(tars))
    assert len(source) == 6 and source.id(4) == "000010001" == source[4].id
    assert source[4].image == picture(11)
    assert source[4].texts == {"alt": ("caption 000010001",), "synthetic": ("made 000010001",)}
    monkeypatch.setattr("mof_jax.data.sources.webdataset.scan", None)  # the second time it must not be needed
    assert opened(kind="webdataset", path=str(tars / "*.tar"))[5].id == "000010002"
    only = opened(kind="webdataset", path=str(tars / "00000.tar"), text_fields={"a": "txt", "b": "synthetic"})
    assert only[0].texts == {"a": ("caption 000000000",), "b": ("made 000000000",)}


def test_webdataset_in_an_object_store(tars):
    with fsspec.open("memory://tars/0.tar", "wb") as f:
        f.write((tars / "00000.tar").read_bytes())
    source = opened(kind="webdataset", path="memory://tars/0.tar")
    assert [source[i].image for i in range(3)] == [picture(i) for i in range(3)]


def test_webdataset_members_far_apart(tmp_path):
    with tarfile.open(tmp_path / "far.tar", "w") as tar:
        add(tar, "a.jpg", picture(1))
        add(tar, "b.jpg", bytes(100_000))
        add(tar, "a.txt", b"late")
    record = opened(kind="webdataset", path=str(tmp_path / "far.tar"))[0]
    assert record.image == picture(1) and record.texts == {"alt": ("late",)}


def link(tar, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo("00.jpg")
    member.type, member.linkname = kind, "/etc/passwd"
    tar.addfile(member)


def sparse(tar):
    member = tarfile.TarInfo("00.jpg")
    member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**12)}
    data = b"1\n0\n10\n".ljust(512, b"\0") + b"0123456789"
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    "fill, says",
    [
        (lambda t: add(t, "../00.jpg", b"x"), "'../00.jpg' leads outside the archive"),
        (lambda t: add(t, "/tmp/00.jpg", b"x"), "leads outside the archive"),
        (lambda t: add(t, "a/../../00.jpg", b"x"), "leads outside the archive"),
        (link, "'00.jpg' is a link"),
        (lambda t: link(t, tarfile.LNKTYPE), "is a link"),
        (lambda t: link(t, tarfile.CHRTYPE), "not a plain file"),
        (sparse, "is sparse"),
        (lambda t: (add(t, "0.jpg", b"x"), add(t, "0.jpg", b"y")), "two members for image of key '0'"),
        (lambda t: None, "no samples"),
    ],
)
def test_hostile_tars_are_refused(tmp_path, fill, says):
    with tarfile.open(tmp_path / "bad.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        fill(tar)
    with pytest.raises(UserError, match=says) as caught:
        opened(kind="webdataset", path=str(tmp_path / "bad.tar"))
    assert "bad.tar" in str(caught.value)


def test_broken_tars_and_samples(tmp_path, tars):
    whole = (tars / "00000.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:1000])
    (tmp_path / "text.tar").write_text("no tar " * 200)
    with tarfile.open(tmp_path / "gz.tar", "w:gz") as tar:
        add(tar, "0.jpg", picture())
    for file, says in (("cut", "truncated"), ("text", "not an uncompressed tar"), ("gz", "not an uncompressed tar")):
        with pytest.raises(UserError, match=f"{file}.tar: .*{says}|{file}.tar: {says}"):
            opened(kind="webdataset", path=str(tmp_path / f"{file}.tar"))
    with pytest.raises(UserError, match="none.tar: no such file"):
        opened(kind="webdataset", path=str(tmp_path / "none.tar"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no .tar files"):
        opened(kind="webdataset", path=str(tmp_path / "empty"))
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        add(tar, "a.txt", b"no picture")
        add(tar, "b.jpg", picture())
        add(tar, "b.json", b"{broken")
        add(tar, "c.JPG", picture())
    odd = WebDatasetSource(str(tmp_path / "odd.tar"))
    with pytest.raises(BadExample, match="odd.tar: record a: no image member"):
        odd[0]
    with pytest.raises(BadExample, match="odd.tar: record b: its .json member is not JSON"):
        odd[1]
    assert odd[2].image == picture() and odd[2].texts == {}
    (tmp_path / "odd.tar").write_bytes(b"")
    with pytest.raises(UserError, match="odd.tar: has changed since it was opened; start again"):
        odd[2]


# ArrayRecord


def shards(folder, n=7, count=3):
    with arrayrecord.writer(str(folder), "set", count) as write:
        for i in range(n):
            image = None if i == 2 else picture(i)
            record = Record(f"k{i}", image, {"alt": (f"a {i}", "ü")}, {"dfn": i / 2}, i, {"label": "x"})
            write(i * count // n, record)
    return folder


def test_arrayrecord_round_trip_by_every_kind_of_path(tmp_path):
    folder = shards(tmp_path / "ar")
    first = folder / "set-00000-of-00003.array_record"
    for path, n in ((folder, 7), (folder / "*.array_record", 7), (folder / "set@3", 7), (first, 3)):
        source = opened(kind="arrayrecord", path=str(path))
        assert len(source) == n
        assert source[1] == Record("k1", picture(1), {"alt": ("a 1", "ü")}, {"dfn": 0.5}, 1, {"label": "x"})
        assert source[2].image is None and [source[i].id for i in range(n)] == [f"k{i}" for i in range(n)]
    with pytest.raises(IndexError):
        source[n]


def test_arrayrecord_in_an_object_store_fetches_only_what_it_reads(tmp_path):
    folder = shards(tmp_path / "ar")
    for file in folder.iterdir():
        with fsspec.open(f"memory://ar/{file.name}", "wb") as f:
            f.write(file.read_bytes())
    source = opened(kind="arrayrecord", path="memory://ar", cache_dir=str(tmp_path / "copies"))
    assert len(source) == 7 and not (tmp_path / "copies").exists()
    assert source[6].id == "k6" and len(list((tmp_path / "copies").iterdir())) == 1


def test_arrayrecord_bad_paths_are_named(tmp_path):
    folder = shards(tmp_path / "ar")
    (tmp_path / "text.array_record").write_text("hello " * 100)
    cut = (folder / "set-00000-of-00003.array_record").read_bytes()
    (tmp_path / "cut.array_record").write_bytes(cut[: len(cut) // 2])
    (tmp_path / "empty").mkdir()
    for path, says in (
        ("none.array_record", "none.array_record: no such file"),
        ("ar/set@4", "set-00000-of-00004.array_record: missing shard"),
        ("text.array_record", "text.array_record: not an ArrayRecord file"),
        ("cut.array_record", "cut.array_record: not an ArrayRecord file, truncated"),
        ("empty", "no .array_record shards here"),
        ("none/*.array_record", "matches no file"),
    ):
        with pytest.raises(UserError, match=says):
            opened(kind="arrayrecord", path=str(tmp_path / path))
    with pytest.raises(UserError, match="nostore://.*Protocol not known"):
        opened(kind="arrayrecord", path="nostore://bucket/x.array_record")
    (folder / "set-00001-of-00003.array_record").unlink()
    with pytest.raises(UserError, match="set-00001-of-00003.array_record: missing shard"):
        opened(kind="arrayrecord", path=str(folder / "set@3"))


def test_arrayrecord_corrupt_records_are_bad_examples(tmp_path):
    noise = [np.random.default_rng(i).bytes(3000) for i in range(4)]
    with arrayrecord.writer(str(tmp_path / "ar"), "set", 1) as write:
        for i in range(4):
            write(0, Record(f"k{i}", noise[i], {}))
    path = tmp_path / "ar" / "set-00000-of-00001.array_record"
    data = bytearray(path.read_bytes())
    data[bytes(data).find(noise[2][500:600])] ^= 1
    path.write_bytes(data)
    source = ArrayRecordSource(str(path))
    with pytest.raises(BadExample, match="set-00000-of-00001.array_record: record 2: cannot be read: Corrupted"):
        source[2]
    assert source[1].image == noise[1] and source[3].image == noise[3]
    w = array_record_module.ArrayRecordWriter(str(tmp_path / "foreign.array_record"), "group_size:1")
    for record in (b"somebody else's", b"MOF1\x05\0\0\0{brok", arrayrecord.encode(Record("a", b"12345", {}))[:-2]):
        w.write(record)
    w.close()
    foreign = ArrayRecordSource(str(tmp_path / "foreign.array_record"))
    for i, says in enumerate(
        ("record 0: not a mof_jax record", "record 1: broken record header", "3 image bytes where 5")
    ):
        with pytest.raises(BadExample, match=says):
            foreign[i]


def test_arrayrecord_index_must_agree(tmp_path):
    folder = shards(tmp_path / "ar")
    index = json.loads((folder / "index.json").read_text())
    index["shards"]["set-00000-of-00003.array_record"] = 5
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="3 records where index.json says 5"):
        opened(kind="arrayrecord", path=str(folder))[0]


def test_writer_leaves_nothing_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with arrayrecord.writer(str(tmp_path / "ar"), "set", 2) as write:
            write(0, Record("a", b"x", {}))
            raise ZeroDivisionError
    assert not list((tmp_path / "ar").iterdir())


# TFDS


def test_tfds_records_stay_encoded(tfds_folder):
    source = opened(kind="tfds", path=tfds_folder)
    assert len(source) == 6 and len(opened(kind="tfds", path=tfds_folder, split="test")) == 2
    records = [source[i] for i in range(6)]
    by_text = {r.texts["caption"]: r for r in records}
    assert len({r.id for r in records}) == 6
    assert by_text[("text 3",)].image == picture(3) and by_text[("text 3",)].texts["label"] == ("dog",)
    named = opened(kind="tfds", path=tfds_folder, text_fields={"alt": "caption"})
    assert set(named[0].texts) == {"alt"}
    assert len(opened(kind="tfds", path=tfds_folder, split="train[:50%]")) == 3


@pytest.mark.parametrize(
    "values, says",
    [
        ({"split": "nope"}, "split 'nope'"),
        ({"text_fields": {"alt": "words"}}, "no feature 'words' .has .*caption"),
        ({"image_field": "pic"}, "no feature 'pic'"),
    ],
)
def test_tfds_mistakes_are_named(tfds_folder, values, says):
    with pytest.raises(UserError, match=says):
        opened(kind="tfds", path=tfds_folder, **values)


def test_tfds_missing_folder(tmp_path):
    with pytest.raises(UserError, match="TFDS cannot open"):
        opened(kind="tfds", path=str(tmp_path))


def test_synthetic_is_keyed_by_index():
    a, b = opened(kind="synthetic", size=9), opened(kind="synthetic", size=9)
    assert all(a[i] == b[i] for i in range(9)) and a[0].image != a[1].image
    with pytest.raises(IndexError):
        a[9]


# Fuzz: whatever the bytes, one of our errors or a record


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4))
def test_damaged_records_never_escape(cut, flips):
    data = arrayrecord.encode(Record("k", b"12345", {"alt": ("a", "b")}, {"s": 0.5}, 3, {"x": "y"}))
    try:
        assert isinstance(arrayrecord.parse(damage(data, cut, flips), "file", 0), Record)
    except BadExample as error:
        assert str(error).startswith("file: record ")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 20_000), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=4))
def test_damaged_tars_never_escape(tars, tmp_path, cut, flips):
    path = tmp_path / f"{cut}.tar"
    path.write_bytes(damage((tars / "00000.tar").read_bytes(), cut, flips))
    try:
        source = opened(kind="webdataset", path=str(path))
    except UserError as error:
        assert str(path) in str(error)
        return
    for i in range(len(source)):
        try:
            assert isinstance(source[i], Record)
        except BadExample as error:
            assert path.name in str(error)


def test_skip_leaves_out_the_beginning():
    """What is trained on and what is measured on have nothing in common, and together they are the whole."""
    whole = open_source(SOURCES["scenes"](size=12))
    first, rest = open_source(SOURCES["scenes"](size=9)), open_source(SOURCES["scenes"](size=12, skip=9))
    ids = lambda source: [source[i].id for i in range(len(source))]
    assert ids(first) + ids(rest) == ids(whole) and [rest.id(i) for i in range(3)] == ids(rest)
    with pytest.raises(IndexError):
        rest[3]
    with pytest.raises(UserError, match="skip leaves out 12 of 12 records"):
        open_source(SOURCES["scenes"](size=12, skip=12))
    with pytest.raises(ValueError, match="skip must not be negative"):
        SOURCES["scenes"](skip=-1)
