"""A source is a kind: its section has the keys of its reader and no others."""

from __future__ import annotations

import dataclasses

import pytest

from mof_jax import cli
from mof_jax.config import build, to_dict
from mof_jax.data.load import DataConfig
from mof_jax.data.sources import SOURCES
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError

KINDS = {"emoji5", "arrayrecord", "tfds", "webdataset", "jsonl", "folder", "synthetic", "obelics", "mmc4", "llava", "pages",
         "glossary", "scenes", "patterns", "things"}
# As config.json of a run of an older version holds it: every key of every kind.
WRITTEN_ONCE = {
    "kind": "scenes", "path": "", "name": "", "weight": 0.7, "split": "test", "locales": ["en"], "image_field": "",
    "text_fields": {}, "image_root": "", "size": 90, "pixels": 48, "skip": 3, "questions": ["count"], "stated": 0.5,
    "cache_dir": "", "captions": {"probabilities": {}, "dropout": 0.1, "tags": 0, "sentences": 0, "templates": []},
    "filter": None,
}


def test_every_kind_is_found():
    assert set(SOURCES) == KINDS
    assert {kind for kind, cls in SOURCES.items() if cls.embedded} == {"emoji5", "synthetic", "pages", "glossary", "scenes",
                                                                       "patterns", "things"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_section_comes_back_as_it_was_written_out(kind):
    cls = SOURCES[kind]
    made = cls(weight=0.5, **({} if cls.embedded else {"path": "x/y"}))
    written = to_dict(made)
    assert next(iter(written)) == "kind" and written["kind"] == kind
    assert build(SourceConfig, written, "source") == made
    assert made.label == (kind if cls.embedded else f"{kind}:y") and dataclasses.replace(made, name="n").label == "n"


def test_a_section_that_an_older_version_wrote_is_read():
    made = build(SourceConfig, WRITTEN_ONCE, "source")
    assert made == SOURCES["scenes"](size=90, split="test", pixels=48, questions=("count",), weight=0.7, skip=3,
                                     captions=made.captions) and made.captions.dropout == 0.1
    assert build(SourceConfig, WRITTEN_ONCE | {"kind": "jsonl", "path": "t.csv"}, "source").path == "t.csv"
    before_skip = {k: v for k, v in WRITTEN_ONCE.items() if k not in ("skip", "questions", "stated")}
    assert build(SourceConfig, before_skip | {"kind": "emoji5"}, "source").split == "test"


@pytest.mark.parametrize("section, says", [
    ({"kind": "emoji5", "size": 50}, r"^config.sources.0.size: unknown key"),
    ({"kind": "scenes", "stated": 0.5}, r"^config.sources.0.stated: unknown key"),
    ({"kind": "jsonl", "path": "x", "image_fields": "a"}, r"^config.sources.0.image_fields: unknown key.*'image_field'"),
    ({"knd": "scenes"}, r"^config.sources.0.knd: unknown key.*'kind'"),
    ({"kind": "scene"}, r"^config.sources.0.kind: unknown source kind 'scene'.*'scenes'"),
    ({"kind": "tfds"}, r"^config.sources.0: a source of kind 'tfds' needs a path"),
    ({"kind": 3}, r"^config.sources.0.kind: unknown source kind 3"),
    ("scenes", r"^config.sources.0: expected a section"),
])
def test_a_key_of_another_kind_is_refused_by_name(section, says):
    with pytest.raises(UserError, match=says):
        build(DataConfig, {"sources": [section]})


def test_a_section_without_a_kind_is_the_embedded_pictures():
    assert build(DataConfig, {"sources": [{"split": "twemoji"}]}).sources == (SOURCES["emoji5"]("twemoji"),)
    assert DataConfig().sources == (SOURCES["emoji5"](),)


def test_mof_list_sources(capsys):
    assert cli.main(["list", "sources"]) in (0, None)
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in KINDS)
