"""`mof data inspect` and `mof data convert`."""

from data_samples import picture
import pytest
from rich.console import Console

from mof_jax.data import tools
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import BadExample, UserError

QUIET = Console(quiet=True)


def same(source, target):
    assert len(source) == len(target)
    for i in range(len(source)):
        a, b = source[i], target[i]
        assert (a.id, a.image, dict(a.texts), dict(a.scores), a.group) == (
            b.id,
            b.image,
            dict(b.texts),
            dict(b.scores),
            b.group,
        )


@pytest.mark.parametrize("kind", ["jsonl", "webdataset", "synthetic", "tfds", "emoji5", "arrayrecord"])
def test_convert_round_trip(kind, table, tars, tfds_folder, tmp_path):
    paths = {"jsonl": str(table), "webdataset": str(tars), "tfds": tfds_folder}
    path = paths.get(kind, "emoji5/unseen" if kind == "emoji5" else kind)
    if kind == "arrayrecord":
        tools.convert(str(table), str(tmp_path / "first"), console=QUIET)
        path = str(tmp_path / "first")
    config = tools.guess(path, **({"size": 8, "pixels": 16} if kind == "synthetic" else {}))
    assert config.kind == kind
    done = tools.convert(config, str(tmp_path / "out"), shards=3, console=QUIET)
    assert done.bad == [] and done.written == len(open_source(config))
    same(open_source(config), open_source(SourceConfig(kind="arrayrecord", path=str(tmp_path / "out"))))
    with pytest.raises(UserError, match="exists already"):
        tools.convert(config, str(tmp_path / "out"), shards=3, console=QUIET)


def test_convert_leaves_bad_records_out_and_reports_them(table, tmp_path, capsys):
    (table / "2.jpg").write_bytes(picture(2)[:100])
    (table / "4.jpg").unlink()
    console = Console(width=200)
    done = tools.convert(str(table), str(tmp_path / "out"), shards=2, console=console)
    assert done.written == 8 and [name for name, _ in done.bad][0] == "r2" and "line 5" in done.bad[1][0]
    assert "8 records in 2 shards, 2 bad left out" in capsys.readouterr().out
    target = open_source(tools.guess(str(tmp_path / "out")))
    assert [target[i].id for i in range(8)] == [f"r{i}" for i in (0, 1, 3, 5, 6, 7, 8, 9)]
    with pytest.raises(BadExample, match="r2"):
        tools.convert(str(table), str(tmp_path / "strict"), on_error="raise", console=QUIET)
    assert not list((tmp_path / "strict").iterdir())


def test_convert_refuses_a_source_of_junk(table, tmp_path):
    for i in range(10):
        (table / f"{i}.jpg").write_text("junk")
    with pytest.raises(UserError, match="none of 10 records can be read"):
        tools.convert(str(table), str(tmp_path / "out"), console=QUIET)
    assert not list((tmp_path / "out").iterdir())


def test_inspect(table, capsys):
    (table / "1.jpg").write_text("junk")
    found = tools.inspect(str(table), examples=2, console=Console(width=200))
    assert found["records"] == 10 and found["formats"] == {"jpeg": 9} and sum(found["bad"].values()) == 1
    assert found["texts"] == {"alt": 9, "synthetic": 9, "tags": 9} and found["scores"] == {"dfn": 9, "clip": 9}
    assert found["sizes"] == {"smallest": (30, 20), "largest": (30, 20)} and found["groups"] == 9
    assert len(found["examples"]) == 2
    assert "alt 0" in capsys.readouterr().out


def test_guess_says_what_it_looked_for(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        tools.guess(str(tmp_path / "none"))
    with pytest.raises(UserError, match="expected .jsonl, .csv"):
        tools.guess(str(tmp_path))
    assert tools.guess("emoji5/unseen").split == "unseen"


def test_a_folder_of_pictures_is_a_source(tmp_path):
    root = tmp_path / "pictures"
    for place in ("b/2.JPG", "a/1.png", "3.jpeg", "a/.hidden.png", "notes.txt"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(picture(len(place)))
    (root / "a/outside.png").symlink_to(tmp_path / "secret.png")
    config = tools.guess(str(root))
    source = open_source(config)
    assert config.kind == "folder" and [source.id(i) for i in range(4)] == ["3.jpeg", "a/1.png", "a/outside.png", "b/2.JPG"]
    assert source[3].image == picture(7) and source[3].attributes == {"label": "b"} and source[0].attributes == {"label": ""}
    with pytest.raises(BadExample, match="a/outside.png.*leads outside"):
        source[2]
    before = source.fingerprint
    (root / "b/2.JPG").write_bytes(b"another")
    assert open_source(config).fingerprint != before == source.fingerprint
    found = open_source(tools.guess(f"file://{root}"))
    assert [found.id(i) for i in range(4)] == [source.id(i) for i in range(4)] and found[1].image == source[1].image
    (tmp_path / "empty").mkdir()
    for folder, message in (("none", "no such folder"), ("empty", "no picture in this folder")):
        with pytest.raises(UserError, match=message):
            open_source(SourceConfig(kind="folder", path=str(tmp_path / folder)))
