"""Paths as users and tables write them: patterns, links, absolute, Windows', addresses, and files that appear whole."""

import errno
import logging
import os

from data_samples import picture
import fsspec
import pytest

from mof_jax import storage
from mof_jax.data.sources.imagefolder import ImageFolder, read_image
from mof_jax.errors import BadExample, UserError


@pytest.fixture(params=["local", "memory"])
def root(request, tmp_path):
    """A folder, local or in a store, and a function that puts files there."""
    base = str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"

    def put(*names):
        for name in names:
            path = storage.join(base, name)
            if request.param == "local":
                os.makedirs(os.path.dirname(path), exist_ok=True)
            with fsspec.open(path, "wb") as f:
                f.write(b"x")

    return base, put


def last(paths):
    return [path.rsplit("/", 1)[-1] for path in paths]


@pytest.mark.parametrize("pattern, expected", [
    ("{00000..00002}.tar", ["00000.tar", "00001.tar", "00002.tar"]),
    ("{8..11}", ["8", "9", "10", "11"]),
    ("{08..11}", ["08", "09", "10", "11"]),
    ("{b,a}.tar", ["b.tar", "a.tar"]),
    ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
    ("{x}", ["{x}"]),
    ("{}", ["{}"]),
    ("{a,}b", ["ab", "b"]),
    ("a{3..3}b", ["a3b"]),
])
def test_braces_spell_names_out(root, pattern, expected):
    assert last(storage.glob(storage.join(root[0], pattern))) == expected


@pytest.mark.parametrize("pattern", ["{0..999999999999}", "{0..999}{0..999}", "{5..1}", "x{0..99999}-{a,b}"])
def test_braces_are_bounded(pattern):
    with pytest.raises(UserError, match=r"the braces stand for [\d,]+ names; 1 to 100,000 are read"):
        storage.glob(pattern)


def test_braces_and_stars_together(root):
    base, put = root
    put("0/b.tar", "0/a.tar", "1/c.tar", "2/d.tar")
    assert last(storage.glob(storage.join(base, "{1,0}", "*.tar"))) == ["c.tar", "a.tar", "b.tar"]


@pytest.mark.parametrize("name", ["a[1].tar", "a*.tar", "a?.tar", "{0..1}.tar", "{a,b}.tar", "x@2.tar", "a b.tar", "a\nb.tar",
                                  "#%20~.tar"])
def test_what_is_there_under_the_very_name_is_that(root, name):
    base, put = root
    if base.startswith("memory") and name in ("a?.tar", "#%20~.tar", "a*.tar", "a\nb.tar"):
        pytest.skip("no names of objects")
    put(name, "a1.tar", "ab.tar", "0.tar", "a.tar")
    path = storage.join(base, name)
    assert storage.glob(path) == [path] == storage.files(path, ".tar") and storage.read(path) == b"x"


@pytest.mark.parametrize("folder", ["a[1]", "{0..1}", "a b", "x@2"])
def test_a_folder_of_any_name_is_looked_into(root, folder):
    base, put = root
    put(f"{folder}/2.tar", f"{folder}/1.tar", f"{folder}/1.txt", "a1/no.tar", "0/no.tar")
    for path in (storage.join(base, folder), storage.join(base, folder) + "/"):
        assert last(storage.files(path, ".tar")) == ["1.tar", "2.tar"] == last(storage.inside(path, ".tar"))


def test_a_pattern_of_folders(tmp_path):
    for name in ("a/1.tar", "b/2.tar", "b/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert last(storage.files(str(tmp_path / "{a,b}"), ".tar")) == ["1.tar", "2.tar"]
    assert storage.files(str(tmp_path / "none"), ".tar") == [] and storage.files(str(tmp_path / "none*"), ".tar") == []


@pytest.mark.parametrize("folder", ["a[1]", "{0..1}", "a*", "x?"])
def test_a_pattern_in_a_folder_of_any_name(tmp_path, folder):
    for name in (f"{folder}/0.tar", f"{folder}/1.tar", "a1/2.tar", "0/3.tar", "ab/4.tar", "xy/5.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for pattern in ("{0..1}.tar", "*.tar", "[01].tar", "{0,1}.ta?"):
        found = storage.glob(str(tmp_path / folder / pattern))
        assert found == [str(tmp_path / folder / "0.tar"), str(tmp_path / folder / "1.tar")]


def test_home_is_expanded_unless_something_has_that_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert storage.expand("~/x") == str(tmp_path / "x") and storage.expand("a/~/x") == "a/~/x"
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "x").write_text("")
    assert storage.expand("~/x") == "~/x"


# pictures that a table names


@pytest.fixture
def pictures(tmp_path):
    """A folder of pictures that holds links out of it and into it, beside one that nobody may read."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "img", outside):
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(folder.name.encode())
    (inside / "file.png").symlink_to(outside / "0.png")
    (inside / "linked").symlink_to(outside)
    (inside / "again").symlink_to(inside / "img")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "b\\s.png").write_bytes(b"s")
    os.mkfifo(inside / "pipe.png")
    return inside


@pytest.mark.parametrize("path", ["img/0.png", "./img/0.png", "img//0.png", "img\\0.png", ".\\img\\0.png", "IN/img/0.png",
                                  "again/0.png", "img/../img/0.png", "../in/img/0.png"])
def test_whatever_leads_to_a_picture_of_the_folder_is_read(pictures, path):
    assert read_image(str(pictures), path.replace("IN", str(pictures)), "t", "1") == b"img"


def test_a_backslash_in_a_name_that_is_there(pictures):
    assert read_image(str(pictures), "b\\s.png", "t", "1") == b"s"


@pytest.mark.parametrize("path, says", [
    ("../out/0.png", "leads outside the image folder"),
    ("OUT/0.png", "leads outside the image folder"),
    ("..\\out\\0.png", "leads outside the image folder"),
    ("file.png", "is, or goes through, a link that leads outside"),
    ("linked/0.png", "is, or goes through, a link that leads outside"),
    ("C:\\data\\0.png", "has backslashes, and no such file is there with /"),
    ("img\\9.png", "has backslashes, and no such file is there with /"),
    ("\\\\host\\img\\0.png", "has backslashes"),
    ("http://x/0.png", "is an address, and none is fetched"),
    ("s3://b/0.png", "is an address"),
    ("data:image/png;base64,AAAA", "is an address"),
    ("~/0.png", "image '~/0.png': no such file"),
    ("img/9.png", "image 'img/9.png': no such file"),
    ("img", "is not a file"),
    ("pipe.png", "is not a file"),
    ("loop", "Too many levels of symbolic links"),
    ("x" * 300, "File name too long"),
    ("", "is empty"),
    (".", "is empty"),
    ("a\ud800.png", "half a surrogate pair"),
    ("a\udcff.png", "half a surrogate pair"),
    ("a\0.png", "a NUL at 1 is no text"),
    ({"bytes": None}, "the image is an object, not a path"),
    (3, "the image is a number, not a path"),
])
def test_every_refusal_has_its_reason(pictures, path, says):
    path = path.replace("OUT", str(pictures.parent / "out")) if isinstance(path, str) else path
    with pytest.raises(BadExample, match=says) as caught:
        read_image(str(pictures), path, "table", "line 1")
    assert caught.value.record == "line 1" and str(caught.value).isprintable()


def test_pictures_in_a_store(tmp_path):
    root = f"memory://{tmp_path.name}"
    with fsspec.open(f"{root}/a/0.png", "wb") as f:
        f.write(b"x")
    assert read_image(root, "a/0.png", "t", "1") == b"x" == read_image(root, "a\\0.png", "t", "1")
    for path in ("/a/0.png", "../0.png", "a/../../b"):
        with pytest.raises(BadExample, match="leads outside the image folder memory:"):
            read_image(root, path, "t", "1")


# folders of pictures


@pytest.fixture
def folder(tmp_path):
    for name in ("a/0.png", "a/1.JPG", "b/2.png"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(picture())
    return tmp_path / "f"


def test_a_plain_folder_is_what_it_was(folder, caplog):
    (folder / "notes.txt").write_text("of no picture")
    with caplog.at_level(logging.WARNING):
        source = ImageFolder(str(folder), "f")
    assert [(r.id, r.texts, r.scores, r.group, r.attributes["label"]) for r in map(source.__getitem__, range(3))] == [
        ("a/0.png", {}, {}, -1, "a"), ("a/1.JPG", {}, {}, -1, "a"), ("b/2.png", {}, {}, -1, "b")] and not caplog.messages
    files = {f"{name}": len(picture()) for name in ("a/0.png", "a/1.JPG", "b/2.png")}
    from hashlib import sha256

    assert source.fingerprint == sha256(repr(files).encode()).hexdigest()[:12]


def test_texts_beside_pictures_are_read(folder, caplog):
    before = ImageFolder(str(folder), "f").fingerprint
    (folder / "a" / "0.txt").write_text("a cat")
    (folder / "a" / "1.TXT").write_bytes(b"\xef\xbb\xbfa dog")
    (folder / "b" / "2.txt").write_bytes("café".encode("latin-1"))
    (folder / "a" / "0.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        source = ImageFolder(str(folder), "f")
    assert [source[n].texts for n in (0, 1)] == [{"alt": ("a cat",)}, {"alt": ("a dog",)}] and source.fingerprint != before
    assert caplog.messages == [f"{folder}: 1 .json files beside pictures are not read; write a table of what is needed of them"]
    with pytest.raises(BadExample, match="record b/2.png: its .txt member: byte 0xe9 at 3 is not UTF-8"):
        source[2]


@pytest.mark.parametrize("place", ["metadata.jsonl", "a/metadata.csv", "a/metadata.parquet"])
def test_a_table_in_the_folder_is_said(folder, place, caplog):
    (folder / place).write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(ImageFolder(str(folder), "f")) == 3
    assert caplog.messages[0].startswith(f"{folder}: the table {place} is not read, only pictures are; give its folder")


def test_links_are_left_out_and_said(folder, tmp_path, caplog):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "3.png").write_bytes(picture())
    (folder / "linked").symlink_to(tmp_path / "else")
    (folder / "b" / "loop").symlink_to(folder)
    (folder / "b" / "9.png").symlink_to(tmp_path / "else" / "3.png")
    with caplog.at_level(logging.WARNING):
        source = ImageFolder(str(folder), "f")
    assert len(source) == 4 and caplog.messages == [
        f"{folder}: folders that are links are not entered ('linked' and 1 more); give each as a source of its own"]
    with pytest.raises(BadExample, match="b/9.png: the picture is, or goes through, a link that leads outside the image folder"):
        source[3]
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "x").symlink_to(folder)
    with pytest.raises(UserError, match=r"no picture in this folder .*; folders that are links are not entered \('x'\)"):
        ImageFolder(str(tmp_path / "only"), "o")
    assert len(ImageFolder(str(tmp_path / "only" / "x"), "x")) == 4  # the folder that is given may be a link


def test_names_that_are_no_text_have_ids_that_are(folder):
    with open(os.fsencode(str(folder)) + b"/caf\xe9.png", "wb") as f:
        f.write(picture())
    source = ImageFolder(str(folder), "f")
    assert [source.id(n) for n in range(len(source))][-1] == "caf\\xe9.png" == source[3].id and source[3].image == picture()


# files that appear whole


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_a_file_is_as_readable_as_the_umask_says(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        storage.write_atomic(str(tmp_path / "x"), [b"a"])
        storage.write_atomic(str(tmp_path / "x"), [b"b"])
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("code, says", [
    (errno.ENOSPC, "x: no space left on the disk$"), (errno.EDQUOT, "x: no space left on the disk$"),
    (errno.EROFS, "x: Read-only file system$"), (errno.EIO, "x: Input/output error$")])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, code, says):
    def full(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=says):
        storage.write_atomic(str(tmp_path / "x"), [b"a"])
    assert os.listdir(tmp_path) == []


def test_what_interrupts_a_writer_is_not_hidden(tmp_path):
    def broken():
        yield b"a"
        raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        storage.write_atomic(str(tmp_path / "x"), broken())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("action", [storage.read, storage.size, storage.fingerprint, lambda p: storage.write_atomic(p, [b""]),
                                    storage.open_stream, lambda p: ImageFolder(p, "x"), lambda p: storage.make_folder(f"{p}/\0")])
@pytest.mark.parametrize("path", ["\0", "\ud800", "x"])
def test_impossible_paths_are_one_line(tmp_path, action, path):
    with pytest.raises(UserError) as caught:
        action(f"{tmp_path}/none/{path}")
    assert str(caught.value).isprintable() and os.listdir(tmp_path) == []


@pytest.mark.parametrize("action", [storage.exists, storage.size, storage.read, storage.find])
def test_a_store_that_does_not_answer_is_one_line(action):
    with pytest.raises(storage.Unavailable, match=r"^ftp://127.0.0.1:1/x: cannot be reached: "):
        action("ftp://127.0.0.1:1/x")


def test_a_folder_that_may_not_be_read_is_said(folder, monkeypatch):
    look = os.scandir

    def scandir(path):
        if os.path.basename(path) == "a":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return look(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UserError, match="f/a: Permission denied$"):
        ImageFolder(str(folder), "f")
