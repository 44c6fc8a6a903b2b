"""`mof data inspect` and `mof data convert`."""

import json

from data_samples import picture
import pytest
from rich.console import Console

from mof_jax import cli
from mof_jax.data import tools
from mof_jax.data.record import Record
from mof_jax.data.sources import SOURCES, open_source
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
    same(open_source(config), open_source(SOURCES["arrayrecord"](path=str(tmp_path / "out"))))
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
            open_source(SOURCES["folder"](path=str(tmp_path / folder)))


def jsonl(path, *rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


CHAT = {"image": "0.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]}
PAGE = {"texts": ["a", None], "images": [None, "0.jpg"]}
MMC4 = {"text_list": ["a"], "image_info": [{"image_name": "0.jpg", "matched_text_index": 0}]}


TEXT = {"image": "0.jpg", "alt": "a"}


@pytest.mark.parametrize("row, kind", [(CHAT, "llava"), (PAGE, "obelics"), (MMC4, "mmc4"), (TEXT, "jsonl")])
def test_json_lines_are_told_by_their_first_row(table, tmp_path, row, kind):
    path = jsonl(table / "a.jsonl", "", row)
    assert tools.guess(path).kind == kind and tools.guess(path, "obelics").kind == "obelics"
    if kind != "jsonl":
        with pytest.raises(UserError, match=r"a.jsonl: record .* is a (chat|page), whose texts and pictures .* shards would not"):
            tools.convert(path, str(tmp_path / "out"), console=QUIET)
        assert not list((tmp_path / "out").iterdir())


def test_convert_writes_nothing_empty(table, tmp_path):
    path = jsonl(table / "a.jsonl", {"image": "0.jpg", "alt": "a"}, {"image": None, "alt": " "}, {"image": None, "alt": "words"})
    done = tools.convert(path, str(tmp_path / "out"), console=QUIET)
    assert done.written == 2 and done.bad == [("line 2", "neither a picture nor a text; it has 'image', 'alt'")]

    class Nothing:
        name = "n"

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return Record("1", picture(1), {}) if index else Record("0", None, {"alt": ("", " ")})

    assert tools.convert(Nothing(), str(tmp_path / "other"), console=QUIET).bad == [("0", "neither a picture nor a text")]


def test_convert_of_half_a_surrogate(table, tmp_path):
    path = jsonl(table / "a.jsonl", '{"image": "0.jpg", "alt": "a \\ud83d cat"}', {"image": "1.jpg", "alt": "fine"})
    done = tools.convert(path, str(tmp_path / "out"), console=QUIET)
    assert done.written == 1 and done.bad == [("line 1", "column 'alt': half a surrogate pair (\\ud83d) at 2 is no character")]


def test_inspect_of_a_source_that_cannot_be_read_is_an_error(table, capsys):
    path = jsonl(table / "a.jsonl", {"image": "none.jpg"}, {"image": "gone.jpg"})
    with pytest.raises(UserError, match="none of 2 records can be read; the first: .*line 1: image 'none.jpg': no such file"):
        tools.inspect(path)
    assert cli.main(["data", "inspect", path]) == 1 == cli.main(["data", "convert", path, str(table / "out")])
    assert "none of 2 records can be read" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["[/b] sale [red] shoes", ":apple:", "\x1b[31mred"])
def test_names_and_captions_are_shown_as_they_are(table, words, capsys):
    path = jsonl(table / "a[v1] [.jsonl", {"id": words, "image": "0.jpg", "alt": words}, {"id": words, "image": "[/tmp].jpg"},
                 {"id": "x", "image": "0.jpg", "caption": [words, 5]})
    tools.inspect(path, console=Console(width=300))
    tools.convert(path, str(table / "out"), console=Console(width=300))
    out = capsys.readouterr().out
    assert out.count(words.replace("\x1b", "\\x1b")) == 2 and "a[v1] [.jsonl" in out and "[/tmp].jpg" in out
    assert "\x1b[31m" not in out


def test_captions_that_a_folder_of_pictures_would_leave_out(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/0.jpg").write_bytes(picture(0))
    assert tools.guess(str(tmp_path)).kind == "folder"
    jsonl(tmp_path / "train/metadata.jsonl", {"file_name": "0.jpg", "text": "a caption"})
    with pytest.raises(UserError, match=r"train/metadata.jsonl below it has captions; give .*train/metadata.jsonl"):
        tools.guess(str(tmp_path))
    assert tools.guess(str(tmp_path), "folder").kind == "folder" and tools.guess(str(tmp_path / "train")).kind == "jsonl"


def test_what_save_to_disk_wrote_is_said(tmp_path):
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="written by save_to_disk of Hugging Face datasets"):
        tools.guess(str(tmp_path))


def test_columns_from_the_command_line(table, capsys):
    (table / "b.csv").write_text("photo|words\n0.jpg|a cat\n")
    assert cli.main(["data", "inspect", str(table / "b.csv"), "--image-field", "photo", "--text-fields", "alt=words"]) == 0
    assert "alt: a cat" in capsys.readouterr().out
    for flags, says in ((("--text-fields", "words"), "--text-fields 'words': expected KIND=NAME"), (("--kind", "jsnl"), "jsnl")):
        assert cli.main(["data", "inspect", str(table / "b.csv"), *flags]) == 1
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("name, text", [("b.csv", "filepath,comment,Title\n0.jpg,a cat,t\n"),
                                        ("b.jsonl", '{"filepath": "0.jpg", "comment": "a cat", "Title": "t"}\n')])
def test_columns_that_nothing_is_taken_from_are_named(table, tmp_path, name, text, capsys):
    (table / name).write_text(text)
    assert tools.inspect(str(table / name), console=QUIET)["not read"] == "comment"
    tools.convert(str(table / name), str(tmp_path / "out"), console=Console(width=200))
    assert f"{name}: columns that are not kept: comment" in capsys.readouterr().out
    chosen = tools.guess(str(table / name), text_fields={"alt": "comment"})
    assert tools.inspect(chosen, console=QUIET)["not read"] == "Title"
    assert tools.inspect(str(table), console=QUIET)["not read"] == ""


@pytest.mark.parametrize("name", ["imgs@2x", "imgs@2", "@home"])
def test_an_at_sign_in_a_folder_of_pictures(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.jpg").write_bytes(picture(0))
    assert tools.guess(str(tmp_path / name)).kind == "folder"
    assert tools.guess(str(tmp_path / "shards@2")).kind == "arrayrecord"
