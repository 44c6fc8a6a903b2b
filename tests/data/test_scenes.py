"""The world of questions: exact facts, answers that the words do not tell, a split that never meets."""

from collections import Counter, defaultdict

import numpy as np
from PIL import Image
import pytest

from mof_jax.config import build
from mof_jax.data.image import images
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import scenes
from mof_jax.data.worlds.scenes import COUNTS, KINDS, SIDES, SPLITS, Scenes, may_train, render, scene
from mof_jax.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_equally_often_right_whatever_is_asked(kind, split):
    asked, n = defaultdict(Counter), 2400
    for i in range(n):
        facts = scene(kind, i, split)
        asked[facts.question][facts.choices.index(facts.answer)] += 1
    overall = sum(asked.values(), Counter())
    choices = len(scene(kind, 0, split).choices)
    assert set(overall.values()) == {n // choices}  # exactly
    # The best that a reader of the question alone can do, by chance of this sample: five deviations above 1/choices.
    best = {q: max(counts.values()) / counts.total() for q, counts in asked.items() if counts.total() >= 50}
    for question, share in best.items():
        chance = 1 / choices
        assert share < chance + 5 * np.sqrt(chance * (1 - chance) / asked[question].total()), question


def test_facts_are_what_is_drawn():
    for i in range(300):
        count, side, presence = (scene(kind, i) for kind in ("count", "position", "presence"))
        assert len(count.things) == COUNTS.index(count.answer) + 1 and len({t.name for t in count.things}) == 1
        first, second = side.things
        dx, dy = SIDES[side.answer]
        assert (first.x - second.x) * dx + (first.y - second.y) * dy > 0.3 and first.name != second.name
        assert side.question == f"Where is the {first.name}, seen from the {second.name}?"
        first, second = presence.choices
        assert presence.question == f"Is there {scenes.with_article(first)} or {scenes.with_article(second)}?" and first != second
        assert [t.name for t in presence.things] == [presence.answer]
        assert scene("colour", i).answer == scene("colour", i).ground
        assert scene("name", i).answer == scene("name", i).things[0].name


def test_captions_state_the_facts():
    facts = scene("position", 3)
    first, second = (t.name for t in facts.things)
    assert first in facts.caption and second in facts.caption and facts.ground in facts.caption
    assert all(scene("count", i).caption.startswith(scene("count", i).answer) for i in range(20))
    assert all(scene(k, i).answer in scene(k, i).caption for k in KINDS for i in range(20))


def test_training_and_test_never_meet():
    for kind in KINDS:
        for i in range(400):
            train, test, other = (scene(kind, i, split) for split in SPLITS)
            assert all(may_train(t.name, train.ground) for t in train.things)
            for facts, artists in ((test, scenes.ARTISTS), (other, ("twemoji",))):
                assert not may_train(facts.things[0].name, facts.ground)
                assert {t.artist for t in facts.things} <= set(artists)
            assert {t.artist for t in train.things} <= set(scenes.ARTISTS)
    grounds = Counter(c for c in scenes.GROUNDS for n in scenes.THINGS if not may_train(n, c))
    assert set(grounds.values()) == {3}  # every ground loses as many things


def test_things_overlap_neither_each_other_nor_the_border():
    for kind in KINDS:
        for i in range(200):
            things = scene(kind, i).things
            for n, a in enumerate(things):
                assert min(a.x, a.y, 1 - a.x, 1 - a.y) > a.side / 2 - 0.05
                assert all(max(abs(a.x - b.x), abs(a.y - b.y)) > 0.9 * (a.side + b.side) / 2 for b in things[:n])


def test_the_picture_shows_the_ground_and_something_on_it():
    for name, ground in (("banana", "blue"), ("car", "white")):
        facts = scenes.Scene("name", ground, (scenes.Thing(name, "noto", 0.5, 0.5, 0.6),), "", "", (), "")
        pixels = render(facts, 48)
        assert pixels.shape == (48, 48, 3) and pixels.dtype == np.uint8
        same = np.all(pixels == scenes.GROUNDS[ground], axis=-1)
        assert same[:8].all() and same[-8:].all() and 0.3 < same.mean() < 0.95 and not same[20:28, 20:28].all()


def test_cut_out_takes_the_ground_and_leaves_white_inside():
    picture = Image.new("RGB", (20, 20), (255, 255, 255))
    picture.paste((200, 0, 0), (4, 4, 16, 16))
    picture.paste((255, 255, 255), (8, 8, 12, 12))
    alpha = np.asarray(scenes.cut_out(picture).getchannel("A"))
    assert alpha[0, 0] == 0 and alpha[5, 5] == 255 and alpha[10, 10] == 255


def test_every_thing_is_drawn_by_every_artist():
    for label, _ in scenes.THINGS.values():
        for artist in (*scenes.ARTISTS, "twemoji"):
            opaque = np.asarray(scenes.sprite(label, artist).getchannel("A")) > 0
            assert 0.1 < opaque.mean() < 0.98, (label, artist)
    with pytest.raises(UserError, match="no picture of 'dragon'"):
        scenes.sprite("dragon", "nobody")


def test_as_a_source():
    source = open_source(build(SourceConfig, {"kind": "scenes", "size": 40, "pixels": 32, "split": "test"}))
    record = source[7]
    facts = scene(KINDS[7 % 5], 7 // 5, "test")
    assert record.id == source.id(7) and record.texts == {"alt": (facts.caption,)}
    assert [m["content"] for m in record.messages] == [f"<image>\n{facts.question}", facts.answer]
    assert np.array_equal(np.asarray(images.decode(record.image)), render(facts, 32)) and record.images == (record.image,)
    assert record.attributes["answer"] in record.attributes["choices"].split("|")
    only = Scenes(10, questions=("count",))
    assert {only[i].attributes["kind"] for i in range(10)} == {"count"}
    for outside in (-1, 10):
        with pytest.raises(IndexError):
            only[outside]


@pytest.mark.parametrize("values, says", [
    ({"split": "val"}, "unknown split 'val'"),
    ({"questions": ("color",)}, "unknown question of scenes 'color'.*did you mean 'colour'"),
])
def test_mistakes_are_named(values, says):
    with pytest.raises(UserError, match=says):
        open_source(build(SourceConfig, {"kind": "scenes", **values}))
