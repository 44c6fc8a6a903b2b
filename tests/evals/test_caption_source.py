"""Synthetic captions for a source: what is written, what is kept, what is left out, and nothing half done."""

from __future__ import annotations

import dataclasses
import io
import json

from fake_generator import FakeGenerator, picture, shade_of
import pytest
from rich.console import Console

from mof_jax import cli
from mof_jax.data import tools
from mof_jax.data.sources import SOURCES, open_source
from mof_jax.decode.sample import SampleConfig
from mof_jax.errors import BadExample, UserError
from mof_jax.evals import caption_source
from mof_jax.evals.caption_source import caption

QUIET = Console(quiet=True)


@pytest.fixture
def table(tmp_path):
    """Ten pictures; every record has texts, a score and a group."""
    folder = tmp_path / "table"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.png").write_bytes(picture(10 * i))
    rows = [{"id": f"r{i}", "image": f"{i}.png", "alt": f"alt {i}", "synthetic": "old", "scores": {"dfn": i / 10},
             "group": i // 2} for i in range(10)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def describes(asked):
    return f" shade {shade_of(asked.images[0])} "


def opened(folder):
    return open_source(SOURCES["arrayrecord"](path=str(folder)))


def test_all_else_is_kept(table, tmp_path, monkeypatch):
    monkeypatch.setattr(caption_source, "_BLOCK", 4)
    generator = FakeGenerator(describes)
    done = caption(generator, str(table), "Describe it.", str(tmp_path / "out"), shards=3, max_tokens=9, console=QUIET)
    assert (done.written, done.bad) == (10, []) and [call["count"] for call in generator.calls] == [4, 4, 2]
    assert generator.asked[0].text == "<image>\nDescribe it." and not generator.asked[0].plain
    assert generator.calls[0]["max_tokens"] == 9
    source, target = open_source(tools.guess(str(table))), opened(tmp_path / "out")
    for i in range(10):
        expected = source[i].texts | {"synthetic": (f"shade {10 * i}",)}
        assert dataclasses.replace(source[i], texts=expected) == target[i]
    assert len(list((tmp_path / "out").glob("*.array_record"))) == 3


def test_a_prompt_may_place_the_picture(table, tmp_path):
    generator = FakeGenerator(describes)
    caption(generator, str(table), "This: <image> is what?", str(tmp_path / "out"), console=QUIET)
    assert generator.asked[0].text == "This: <image> is what?"


def test_blocks_draw_differently(table, tmp_path, monkeypatch):
    monkeypatch.setattr(caption_source, "_BLOCK", 4)
    generator = FakeGenerator(describes)
    caption(generator, str(table), "?", str(tmp_path / "out"), sample=SampleConfig(1.0, seed=3), console=QUIET)
    assert len({call["sample"].seed for call in generator.calls}) == 3
    assert {call["sample"].temperature for call in generator.calls} == {1.0}


def test_bad_records_are_left_out_and_reported(table, tmp_path):
    (table / "2.png").write_bytes(b"not a picture")
    (table / "4.png").unlink()
    said = io.StringIO()
    says = lambda asked: "" if shade_of(asked.images[0]) == 70 else describes(asked)
    done = caption(FakeGenerator(says), str(table), "?", str(tmp_path / "out"), console=Console(file=said, width=200))
    assert done.written == 7 and len(done.bad) == 3
    assert {reason.split(":")[0] for _, reason in done.bad} >= {"the model says nothing about this picture",
                                                             "not a PNG, JPEG, WebP or GIF image (13 bytes)"}
    target = opened(tmp_path / "out")
    assert [target[i].id for i in range(7)] == [f"r{i}" for i in (0, 1, 3, 5, 6, 8, 9)]
    assert "7 records in 1 shards, 3 bad left out" in said.getvalue()


def test_strict_leaves_nothing(table, tmp_path):
    (table / "9.png").unlink()
    with pytest.raises(BadExample, match="9.png"):
        caption(FakeGenerator(describes), str(table), "?", str(tmp_path / "out"), on_error="raise", console=QUIET)
    assert not list((tmp_path / "out").iterdir())


def test_a_failing_model_leaves_nothing(table, tmp_path):
    def fails(asked):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        caption(FakeGenerator(fails), str(table), "?", str(tmp_path / "out"), console=QUIET)
    assert not list((tmp_path / "out").iterdir())


def test_refusals(table, tmp_path):
    with pytest.raises(UserError, match="none of 10 records can be captioned; the first: the model says nothing"):
        caption(FakeGenerator(), str(table), "?", str(tmp_path / "out"), console=QUIET)
    scenes = SOURCES["scenes"](size=4, pixels=32)
    with pytest.raises(UserError, match="is a chat, which a caption would not keep whole"):
        caption(FakeGenerator(describes), scenes, "?", str(tmp_path / "out"), console=QUIET)
    caption(FakeGenerator(describes), str(table), "?", str(tmp_path / "out"), console=QUIET)
    with pytest.raises(UserError, match="exists already"):
        caption(FakeGenerator(describes), str(table), "?", str(tmp_path / "out"), console=QUIET)


def test_the_command(table, tmp_path, monkeypatch, capsys):
    generator = FakeGenerator(describes)
    monkeypatch.setattr("mof_jax.restore.restore", lambda path: type("Restored", (), {"generator": generator, "path": path}))
    words = ["data", "caption", str(table), "--checkpoint", "runs/x", "--prompt", "Say it.", "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--max-tokens", "7"]) == 0
    assert generator.calls[0]["max_tokens"] == 7 and opened(tmp_path / "out")[0].texts["synthetic"] == ("shade 0",)
    assert "10 records in 1 shards" in capsys.readouterr().err
    assert cli.main(words) == 1 and "exists already" in capsys.readouterr().err
    assert cli.main([*words, "--max-tokens", "0"]) == 1 and "--max-tokens 0: at least 1" in capsys.readouterr().err
