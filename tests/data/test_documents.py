"""Records to documents, the readers of pages and conversations, and what ships with the package."""

import json

from data_samples import picture
import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data.keyed import Draws
from mof_jax.data.packing.documents import Chat, KindConfig, Page, compose, words
from mof_jax.data.packing.sequences import Picture, Special, Text
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.text.captions import CaptionConfig
from mof_jax.data.worlds import documents_embedded, embedded
from mof_jax.errors import BadExample, UserError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]


def opened(**values) -> Source:
    return open_source(build(SourceConfig, values))


def made(record, **values):
    return compose(record, build(KindConfig, values), CaptionConfig(), Draws(0), "src").parts


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(picture(i))
    (tmp_path / "link.jpg").symlink_to("/etc/hostname")

    def write(name, *rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines))
        return str(tmp_path / name)

    return write


# Composition


def test_what_a_record_becomes():
    bos, eos = Special("bos"), Special("eos", True)
    record = Record("r", b"png", {"alt": ("a dog",)})
    assert made(record, kind="caption") == (bos, Picture(b"png"), Text("a dog\n"), eos)
    assert made(record, kind="caption", bos=False, eos=False) == (Picture(b"png"), Text("a dog\n"))
    asked = made(record, kind="caption", template="simple")
    assert asked == (bos, Picture(b"png"), Text("Q:  A:", False), Text(" a dog"), eos)
    assert made(record, kind="text") == (bos, Text("a dog"), eos)
    page = Page("p", None, {}, parts=("one", b"png", "two"))
    assert made(page, kind="interleaved") == (bos, Text("one"), Picture(b"png"), Text("two"), eos)
    assert made(Page("p", None, {}, parts=("one ", "two")), kind="text", eos=False) == (bos, Text("one two"))
    turns = ({"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A dog."})
    chat = Chat("c", None, {}, messages=turns, images=(b"png",))
    assert made(chat, kind="chat", template="simple") == (bos, Picture(b"png"), Text("Q: What? A:", False), Text(" A dog."), eos)
    assert all(p.supervised for p in made(chat, kind="chat", template="simple", supervise_prompts=True) if isinstance(p, Text))
    assert words(chat) == ["What?", "A dog."] and words(page) == ["one", "two"] and words(record) == ["a dog"]


@pytest.mark.parametrize("record, kind, says", [
    (Record("r", None, {"alt": ("x",)}), "caption", "no image"),
    (Record("r", b"x", {"alt": (" ",)}), "caption", "empty caption"),
    (Record("r", b"x", {"alt": ("x",)}), "interleaved", "not a page"),
    (Record("r", b"x", {"alt": ("x",)}), "chat", "not a conversation"),
    (Page("r", None, {}, parts=("x", b"y")), "text", "a page with images, in a kind 'text'"),
    (Page("r", None, {}, parts=(" ",)), "text", "an empty page"),
])
def test_records_that_are_no_such_document_are_named(record, kind, says):
    with pytest.raises(BadExample, match=f"src: record r: {says}"):
        made(record, kind=kind, template="simple")


@pytest.mark.parametrize("values, says", [
    ({"weight": 0.0}, "weight: 0.0 is not above 0"),
    ({"kind": "captions"}, "did you mean 'caption'"),
    ({"kind": "chat"}, "a chat needs one"),
    ({"template": "vicuna"}, "did you mean 'vicuna_v1'"),
    ({"sources": []}, "at least one"),
    ({"sources": [{}, {}]}, "names of their own"),
])
def test_config_mistakes_are_named(values, says):
    with pytest.raises(UserError, match=says):
        build(KindConfig, values)


# OBELICS and MMC4


def test_obelics_pages(folder):
    row = {"id": "u", "texts": ["first", None, "then"], "images": [None, "1.jpg", None], "metadata": "x", "general_metadata": "y"}
    source = opened(kind="obelics", path=folder("a.jsonl", row))
    assert source[0].parts == ("first", picture(1), "then") and source[0].id == "u" and isinstance(source, Source)
    assert source[0].image == picture(1) and source[0].texts == {"text": ("first\nthen",)}


def test_mmc4_pages(folder):
    places = ((0, 2), (1, 0), (2, 2))
    infos = [{"image_name": f"{i}.jpg", "matched_text_index": at, "matched_sim": 0.3, "raw_url": "x"} for i, at in places]
    row = {"text_list": ["One.", "Two.", "Three."], "image_info": infos, "url": "u"}
    source = opened(kind="mmc4", path=folder("a.jsonl", row))
    assert source[0].parts == (picture(1), "One.", " Two.", picture(0), picture(2), "Three.")


@pytest.mark.parametrize("kind, row, says", [
    ("obelics", {"texts": ["a"], "images": []}, "lists 'texts' and 'images' of one length"),
    ("obelics", {"texts": ["a"], "images": ["1.jpg"]}, "place 0: needs a text or an image name"),
    ("obelics", {"texts": [None], "images": [None]}, "place 0: needs a text or an image name"),
    ("obelics", {"texts": [3], "images": [None]}, "place 0"),
    ("obelics", {"texts": [], "images": []}, "a page without texts and images"),
    ("obelics", {"texts": [None], "images": ["../1.jpg"]}, "image path '../1.jpg' leads outside"),
    ("obelics", {"texts": [None], "images": ["link.jpg"]}, "leads outside"),
    ("obelics", {"texts": [None], "images": ["9.jpg"]}, "image '9.jpg': no such file"),
    ("obelics", {"texts": [None], "images": ["a\0b.jpg"]}, "a NUL at 1 is no text"),
    ("obelics", "{broken", "not JSON"),
    ("mmc4", {"text_list": ["a"]}, "needs a list of strings 'text_list' and a list 'image_info'"),
    ("mmc4", {"text_list": ["a"], "image_info": [{"image_name": "1.jpg"}]}, "image_info 0: needs image_name and matched"),
    ("mmc4", {"text_list": ["a"], "image_info": [{"image_name": "1.jpg", "matched_text_index": 1}]}, "matched_text_index 1 of 1"),
    ("mmc4", {"text_list": ["a"], "image_info": [{"image_name": "/etc/passwd", "matched_text_index": 0}]}, "leads outside"),
])
def test_bad_pages_name_file_and_line(folder, kind, row, says):
    good = {"texts": ["a"], "images": [None], "text_list": ["a"], "image_info": []}
    source = opened(kind=kind, path=folder("bad.jsonl", good, row))
    assert source[0].parts == ("a",)
    with pytest.raises(BadExample, match=f"bad.jsonl: record line 2: .*{says}"):
        source[1]


# LLaVA


@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
def test_llava_conversations(folder, name):
    rows = [{"id": "a", "image": "1.jpg", "conversations": TURNS},
            {"id": "b", "image": ["1.jpg", "2.jpg"], "conversations": TURNS},
            {"id": "c", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]
    path = folder(name, *rows) if name.endswith("l") else folder(name, rows)
    source = opened(kind="llava", path=path)
    assert [source[i].id for i in range(len(source))] == ["a", "b", "c"]
    assert source[0].messages[0] == {"role": "user", "content": "<image>\nWhat?"} and source[0].images == (picture(1),)
    assert source[1].images == (picture(1), picture(2)) and source[2].images == () and source[2].image is None
    with pytest.raises(BadExample, match="src: record b: 1 <image> placeholders for 2 images"):
        made(source[1], kind="chat", template="vicuna_v1")
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            source[outside]


@pytest.mark.parametrize("row, says", [
    ({"id": "x", "image": "../1.jpg", "conversations": TURNS}, "record x: image path '../1.jpg' leads outside"),
    ({"id": "x", "image": "9.jpg", "conversations": TURNS}, "record x: image '9.jpg': no such file"),
    ({"id": "x", "image": 3, "conversations": TURNS}, "record x: image is neither a file name nor a list"),
    ({"id": "x"}, "record x: no list of turns under 'conversations'"),
    ({"id": "x", "conversations": [{"from": "robot", "value": "a"}]}, "record x: turn 0: unknown role 'robot'"),
    ({"id": "x", "conversations": [{"role": "user", "content": "a"}]}, "record x: turn 0: needs 'from' and a text 'value'"),
    ([1], "record entry 1: not a JSON object"),
])
def test_bad_conversations_name_file_and_record(folder, row, says):
    source = opened(kind="llava", path=folder("bad.json", [{"id": "ok", "conversations": TURNS}, row]))
    with pytest.raises(BadExample, match=f"bad.json: {says}"):
        source[1]


def test_files_that_are_no_data(folder, tmp_path):
    for kind, path, says in (
        ("llava", folder("a.json", {"conversations": []}), "a.json: not a list of conversations"),
        ("llava", folder("b.json", "{"), "b.json: not JSON"),
        ("llava", folder("c.json", []), "c.json: the file has no conversations"),
        ("llava", str(tmp_path / "none.json"), "no such file"),
        ("obelics", folder("d.jsonl"), "d.jsonl: the file has no lines"),
        ("mmc4", str(tmp_path / "none.jsonl"), "no such file"),
    ):
        with pytest.raises(UserError, match=says):
            opened(kind=kind, path=path)
    with pytest.raises(UserError, match="needs a path"):
        opened(kind="llava")


# What ships with the package


def test_embedded_pages_show_and_explain_what_their_split_may_show():
    held = {c.hex for c in embedded.concepts("unseen")}
    for split in ("train", "unseen"):
        source = opened(kind="pages", size=300, split=split)
        for i in range(300):
            page = source[i]
            shown = set(page.attributes["concepts"].split())
            assert 2 <= len(shown) <= 6 and (shown <= held if split == "unseen" else not shown & held)
            assert sum(isinstance(p, bytes) for p in page.parts) == len(shown) and isinstance(page.parts[-1], str)
        assert source[7] == opened(kind="pages", size=10, split=split)[7] != source[8]
    assert " [de: " in opened(kind="pages", size=9, locales=("en", "de"))[3].texts["text"][0]


def test_the_glossary_explains_words_and_no_held_out_name():
    source = opened(kind="glossary", size=400)
    pages = [source[i] for i in range(400)]
    assert all(len(page.parts) == 1 and page.image is None for page in pages)
    explained = [line.split(":")[0].lower() for page in pages for line in page.parts[0].splitlines() if ": " in line]
    held = {label.lower() for label in embedded.candidates("unseen")}
    assert len(set(explained)) > 200 and not held & set(explained)
    assert " (de)." in opened(kind="glossary", size=9, locales=("en", "de"))[0].parts[0]
    with pytest.raises(UserError, match="unknown locale"):
        opened(kind="glossary", size=9, locales=("en", "xx"))


def test_the_glosses_are_small_and_carry_their_licence():
    assert documents_embedded.GLOSSES.stat().st_size < 300_000 and len(documents_embedded.glosses()) > 2000
    assert "Princeton University" in (documents_embedded.GLOSSES.parent / "LICENSE").read_text()
    assert np.all([term == term.lower() and gloss for term, gloss in documents_embedded.glosses().items()])
