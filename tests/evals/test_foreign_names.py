"""Names, patterns and answers that become files or text: nothing leads out of the work dir, and nothing is lost at the end."""

import json

import pyarrow as pa
from pyarrow import parquet
import pytest

from mof_jax.errors import UserError
from mof_jax.evals import EVALUATORS, build
from mof_jax.evals.answer.answers_file import read_answers, write_answers
from mof_jax.evals.answer.vqa import VqaFiles
from mof_jax.evals.mmvp.mmvp_files import read_mmvp

SOURCE = {"kind": "emoji5"}


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "a\\b", "..", ".", ".hidden", "", " ", "a\nb", "a\0b", "\x1b[2J",
                                  "\ud83d", "x" * 201, "\u202e"])
def test_names_of_evaluators_stay_in_the_work_dir(name):
    for kind in ("gallery", "retrieval"):
        with pytest.raises(UserError, match="config.evals.0.name: .* cannot be the name of a file") as caught:
            build({"kind": kind, "source": SOURCE, "name": name}, "config.evals.0")
        assert str(caught.value).isprintable()
    pope = {"kind": "pope", "splits": {"a": "a.json"}, "images": "i", "name": name}
    with pytest.raises(UserError, match="cannot be the name of a file"):
        build(pope, "config.evals.0", ("generate",))


@pytest.mark.parametrize("name", ["retrieval", "a b", "v1.0", "漢字", "x" * 200, "a,b=c"])
def test_other_names_are_names(name):
    assert build({"kind": "gallery", "source": SOURCE, "name": name}, "config.evals.0").name == name


def test_default_names_are_names():
    assert all(cls.requires and cls.__dataclass_fields__["name"].default.isidentifier() for cls in EVALUATORS.values())


@pytest.mark.parametrize("image, name", [("COCO_val2014_{image_id:012d}.jpg", "COCO_val2014_000000000007.jpg"),
                                         ("{image_id}.jpg", "7.jpg"), ("a/{image_id:03d}/{image_id}.png", "a/007/7.png"),
                                         ("{image_id:064d}", "7".zfill(64))])
def test_patterns_of_pictures(image, name):
    assert VqaFiles("q", "a", "i", image).image.format(image_id=7) == name


@pytest.mark.parametrize("image", [
    "{image_id!r:>999999999}", "{image_id:0999d}", "{image_id:065d}", "{image_id:0999999999999d}", "{image_id[0]}",
    "{image_id.real}", "{image_id.__class__}", "{}", "{0}", "{image_id:{image_id}}", "{{image_id}}", "{image_id", "a.jpg", "",
    "{other}", "{image_id:>9}", "{image_id:012d}{x}"])
def test_no_other_pattern_is_taken(image):
    says = "not a pattern of {image_id}; write {image_id}, or {image_id:012d} for 12 digits"
    with pytest.raises(ValueError, match=says) as caught:
        VqaFiles("q", "a", "i", image)
    assert len(str(caught.value)) < 300


def test_answers_are_written_whatever_is_in_them(tmp_path):
    rows = [{"id": "1", "answer": "été 漢", "right": True}, {"id": "2", "answer": "a \ud83d", "right": False},
            {"id": "3", "answer": "a\0\u2028b", "right": True}]
    write_answers(str(tmp_path), "pope", rows)
    path = tmp_path / "answers" / "pope.jsonl"
    text = path.read_bytes().decode()
    assert "été 漢" in text and [json.loads(line) for line in text.strip("\n").split("\n")] == rows
    assert read_answers(str(path)) == {"1": True, "2": False, "3": True}
    assert [p.name for p in path.parent.iterdir()] == ["pope.jsonl"]


@pytest.mark.parametrize("line, says", [
    ("[1]", "line 2: holds a list"), ("{", "line 2: not JSON"), ('{"id": "2"}', "line 2: a line has no 'right'"),
    ('{"id": ["2"], "right": true}', "line 2: the id .* is no text"), ('{"id": 2, "right": true}', "line 2: the id 2 is no text"),
    ('{"id": "1", "right": true}', "line 2: the id '1' stands there twice"), ("[" * 100_000, "line 2: .*nested too deeply")])
def test_files_that_are_no_answers(tmp_path, line, says):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1", "right": true}\n' + line + '\n{"id": "9", "right": true}\n')
    with pytest.raises(UserError, match=f"a.jsonl {says}"):
        read_answers(str(path))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\xff" * 400 + b"PAR1", b"{}"])
def test_what_arrow_says_is_one_line(tmp_path, data):
    (tmp_path / "m.parquet").write_bytes(data)
    with pytest.raises(UserError, match="m.parquet: not parquet .*; download it again") as caught:
        read_mmvp(str(tmp_path / "m.parquet"))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_texts_of_parquet_that_are_no_utf8(tmp_path):
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\x04\0\0\0"), pa.py_buffer(b"caf\xe9"))
    text = pa.array(["x"])
    columns = {"Index": text, "Question": bad, "Options": text, "Correct Answer": text, "image": text}
    parquet.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="m.parquet: holds what cannot be read .*utf-8.*; download it again"):
        read_mmvp(str(tmp_path / "m.parquet"))
