"""The embedded pictures: what is in the pack, that the split holds, and that a damaged pack is refused."""

import collections
import hashlib
import io
import json
import pathlib
import pickle
import shutil
import threading
import time

import numpy as np
from PIL import Image
import pytest

from mof_jax.data.image import contact
from mof_jax.data.record import Source
from mof_jax.data.worlds import embedded, families, pack
from mof_jax.data.worlds.embedded import Emoji5, candidates, concepts
from mof_jax.errors import UserError


@pytest.fixture(scope="module")
def opened():
    return pack.read(str(embedded.ROOT))


def test_counts():
    count = collections.Counter(picture.vendor for picture in pack.read(str(embedded.ROOT)).pictures)
    assert count == {
        "noto": 1653,
        "noto-v1": 1217,
        "fluent": 1595,
        "fluent-flat": 1594,
        "circle-flags": 266,
        "twemoji": 1913,
    }
    assert [len(Emoji5(split)) for split in embedded.SPLITS] == [5753, 1734, 179]
    assert sum(path.stat().st_size for path in embedded.ROOT.iterdir()) <= 10e6


def test_record():
    source = Emoji5()
    assert isinstance(source, Source)
    record = source[0]
    assert record.id == "noto/1f600" and record.texts["alt"] == ("grinning face",)
    assert record.texts["tags"][:2] == ("cheerful", "cheery")
    assert record.attributes["vendor"] == "noto" and record.attributes["flag"] == "no"
    image = Image.open(io.BytesIO(record.image))
    assert image.format == "WEBP" and image.mode == "RGB" and image.size == (64, 64)
    assert np.asarray(image)[0, 0].min() >= 250  # on white
    assert source[-1].id == source[len(source) - 1].id
    with pytest.raises(IndexError):
        source[len(source)]


def test_every_picture_decodes_and_shows_something(opened):
    for picture in opened.pictures[::7]:
        pixels = np.asarray(Image.open(io.BytesIO(opened.image(picture))), np.float32)
        assert pixels.shape == (64, 64, 3)
        assert pixels.std() > 3, picture


def test_candidates_are_pinned():
    twemoji, unseen = candidates("twemoji"), candidates("unseen")
    assert (len(twemoji), twemoji[0], twemoji[-1]) == (1734, "grinning face", "flag: Wales")
    assert (len(unseen), unseen[0], unseen[-1]) == (179, "rolling on the floor laughing", "flag: South Africa")
    assert [sum(c.flag for c in concepts(split)) for split in ("twemoji", "unseen")] == [240, 30]
    assert len(set(twemoji + unseen)) == len(twemoji) + len(unseen)
    for split in ("twemoji", "unseen"):  # candidates, pictures and concepts walk in step
        assert [r.attributes["label"] for r in Emoji5(split)] == candidates(split)


def test_no_family_and_no_picture_on_both_sides(opened):
    sides = {split: [*Emoji5(split)] for split in embedded.SPLITS}
    held = {record.attributes["family"] for record in sides["unseen"]}
    assert not held & {record.attributes["family"] for record in sides["train"] + sides["twemoji"]}
    assert not {r.group for r in sides["unseen"]} & {r.group for r in sides["train"]}
    assert 0.07 < len(held) / len({c.family for c in opened.concepts}) < 0.13
    seen = {hashlib.sha256(record.image).digest() for record in sides["train"]}
    everyone = Emoji5("unseen", vendors=embedded.TRAIN_VENDORS + embedded.EVAL_VENDORS)
    assert not seen & {hashlib.sha256(record.image).digest() for record in everyone}
    assert {r.group for r in sides["twemoji"]} <= {r.group for r in sides["train"]}  # every candidate was trained on


def test_the_split_is_the_rule(opened):
    for concept in opened.concepts:
        assert concept.held_out == families.held_out(concept.family)
    joined = [c for c in opened.concepts if c.family != families.family(c.label)]
    assert len(joined) == 9 and all(c.flag or "cat" in c.label for c in joined)


def test_groups_are_consistent():
    labels = collections.defaultdict(set)
    vendors = collections.defaultdict(list)
    for record in Emoji5():
        labels[record.group].add((record.texts["alt"], record.attributes["concept"], record.attributes["family"]))
        vendors[record.group].append(record.attributes["vendor"])
    assert all(len(names) == 1 for names in labels.values())
    assert all(len(set(names)) == len(names) for names in vendors.values())
    assert "twemoji" not in {name for names in vendors.values() for name in names}


@pytest.mark.parametrize(
    "label, family",
    [
        ("woman cook", "cook"),
        ("cook", "cook"),
        ("people holding hands", "holding hands"),
        ("woman and man holding hands", "holding hands"),
        ("man: red hair", "red hair"),
        ("kiss: woman, man", "kiss"),
        ("family: man, woman, girl, boy", "family"),
        ("woman running: facing right", "running"),
        ("woman’s hat", "hat"),
        ("boy", "person"),
        ("older person", "old"),
        ("mermaid", "merfolk"),
        ("mango", "mango"),
        ("menorah", "menorah"),
        ("flag: Isle of Man", "flag: isle of man"),
    ],
)
def test_family(label, family):
    assert families.family(label) == family


def test_join_families():
    assert families.join(["b", "a", "c", "d"], [(0, 1), (2, 0)]) == ["a", "a", "a", "d"]


def test_locales():
    assert len(embedded.locales()) == 28
    record = Emoji5(locales=("en", "de"))[0]
    assert record.texts["alt"] == ("grinning face",) and record.texts["alt:de"] == ("grinsendes Gesicht",)
    assert record.texts["tags:de"]
    assert set(Emoji5(locales="ja")[0].texts) == {"alt:ja", "tags:ja"}


def test_vendors_are_kept_apart():
    assert {r.attributes["vendor"] for r in Emoji5(vendors=("fluent",))} == {"fluent"}
    assert len(Emoji5("unseen", vendors=("noto",))) > 100
    for arguments in ({"vendors": ("twemoji",)}, {"split": "twemoji", "vendors": ("noto",)}, {"vendors": ()}):
        with pytest.raises(UserError, match="vendor"):
            Emoji5(**arguments)
    with pytest.raises(UserError, match="did you mean 'train'"):
        Emoji5("tran")
    with pytest.raises(UserError, match="locale 'xx'"):
        len(Emoji5(locales=("xx",)))


def test_opens_quickly_and_only_what_is_asked_for():
    start = time.thread_time()  # other threads of this process have work of their own
    fresh = pack.Pack(embedded.ROOT)
    assert time.thread_time() - start < 0.3
    assert "_locales" not in vars(fresh)


def test_threads_and_pickle():
    source = Emoji5("unseen")
    expected = [record.id for record in source]
    found = []
    threads = [threading.Thread(target=lambda: found.append([r.id for r in source])) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [expected] * 8
    assert [record.id for record in pickle.loads(pickle.dumps(source))] == expected


@pytest.fixture
def copy(tmp_path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(embedded.ROOT, tmp_path / "emoji5"))


def _rewrite(root: pathlib.Path, name: str, content: bytes) -> None:
    """Replaces a file of the pack and makes the manifest agree, as a hostile pack would."""
    (root / name).write_bytes(content)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (root / "manifest.json").write_text(json.dumps(manifest))


def test_damage_is_one_user_error(copy):
    images = (copy / "images.bin").read_bytes()
    for content in (images[:-1], images[:-1] + b"?", b""):
        (copy / "images.bin").write_bytes(content)
        with pytest.raises(UserError, match="images.bin"):
            pack.Pack(copy)
    (copy / "images.bin").unlink()
    with pytest.raises(UserError, match="images.bin"):
        pack.Pack(copy)


ESCAPING = b'{"schema": 1, "files": {"../x.tsv": {}}, "locales": []}'


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"schema": 2}', b'{"schema": 1}', b"\xff\xfe", ESCAPING, b"[" * 100_000,
                b'{"schema": 1, "files": {"a.tsv": {"bytes": true, "sha256": ""}}, "locales": []}',
                b'{"schema": ' + b"1" * 5000 + b"}",
                b'{"schema": 1, "files": [], "locales": []}', b'{"schema": 1, "files": {}, "locales": [["de"]]}']
)
def test_bad_manifest(copy, content):
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(UserError, match="manifest.json"):
        pack.Pack(copy)


@pytest.mark.parametrize("number, size", [(0, -1), (0, 10**12), (0, "9"), (10**6, 9), (-1, 9), (0, 1.5), (0, 9),
                                          (True, 9), (0, True), ([0], 9), ({}, 9), (0, None), (10**400, 9)])
def test_hostile_index(copy, number, size):
    index = json.loads((copy / "index.json").read_text())
    index["pictures"] = {"noto": [[number], [size]]}
    _rewrite(copy, "index.json", json.dumps(index).encode())
    with pytest.raises(UserError):
        pack.Pack(copy)


@pytest.mark.parametrize("place, value", [(0, ["x"]), (1, None), (1, "a\ud83d"), (2, 3), (5, [1]), (5, [None]), (5, 3),
                                          (5, ["a\0"])])
def test_words_of_a_hostile_index(copy, place, value):
    index = json.loads((copy / "index.json").read_text())
    index["concepts"][7][place] = value
    _rewrite(copy, "index.json", json.dumps(index).encode())
    with pytest.raises(UserError, match="index.json: malformed"):
        pack.Pack(copy)


@pytest.mark.parametrize("name", ["index.json", "twemoji.tsv", "locales.json.xz"])
def test_hostile_content(copy, name):
    _rewrite(copy, name, b"\x00 nonsense\n")
    with pytest.raises(UserError, match=name):
        pack.Pack(copy).locale("de")


def test_contact_sheet():
    sheet = contact.contact_sheet(Emoji5(), columns=5, rows=3)
    assert sheet.mode == "RGB" and sheet.width > 5 * 64 and sheet.height > 3 * 64
    assert np.asarray(sheet).std() > 10
    lines = [("grinning face", [Emoji5()[0], None]), ("grinning face with big eyes", [None, Emoji5()[1]])]
    assert contact.comparison_sheet(lines, ["noto", "nobody"]).height > 2 * 64
