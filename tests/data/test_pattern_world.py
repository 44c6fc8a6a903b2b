"""The world of nine patterns: one fact a pair, exact answers, splits that never meet, an oracle at the towers' size."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from mof_jax.data.image import images
from mof_jax.data.pairs import PATTERNS
from mof_jax.data.sources import SOURCES, open_source
from mof_jax.data.worlds.embedded import EVAL_VENDORS
from mof_jax.data.worlds.pattern_art import Difficulty
from mof_jax.data.worlds.pattern_world import (
    _UNCLEAR,
    FACING,
    GROUNDS,
    SMALL,
    SPLITS,
    THINGS,
    PatternWorld,
    _drawn,
    allowed,
    pair,
    render,
    scene,
)
from mof_jax.errors import UserError


def oracle(image, facts, difficulty=Difficulty()) -> int:
    """The option that is right for an image, by painting the scene with either fact at the image's size and comparing.

    It shows that the fact can be read off at that size, whatever noise the image carries; it is no model.
    """
    errors = [np.square(image.astype(np.float32) - render(facts, i, len(image), difficulty)).mean() for i in (0, 1)]
    return facts.answers[int(np.argmin(errors))]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_two_pictures_differ_and_only_where_the_fact_is(pattern):
    for n in range(40):
        facts = scene(pattern, n, "test")
        first, second = (render(facts, which, 48) for which in (0, 1))
        changed = np.any(first != second, axis=-1).mean()
        assert 0 < changed < 0.6, (facts.id, changed)
        np.testing.assert_array_equal(first, render(facts, 0, 48))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_fact_can_be_read_at_the_towers_size_through_noise(pattern):
    rng = np.random.default_rng(0)
    right = []
    for n in range(60):
        facts = scene(pattern, n, "test")
        for which in (0, 1):
            noisy = render(facts, which, 48) + rng.normal(0, 12, (48, 48, 3))
            right.append(oracle(np.clip(noisy, 0, 255).astype(np.uint8), facts) == facts.answers[which])
    assert np.mean(right) == 1.0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_words_do_not_tell_the_answer(pattern):
    """Options come in either order, and each is right for one of the pictures: a constant answer is right once a pair."""
    first = Counter()
    for n in range(400):
        facts = scene(pattern, n)
        assert sorted(facts.answers) == [0, 1] and len(set(facts.options)) == 2 and len(set(facts.facts)) == 2
        first[facts.answers[0]] += 1
        assert facts.caption(0) != facts.caption(1) and facts.caption(0, False) == facts.caption(1, False)
        assert facts.thing in facts.caption(0, False).replace("mice", "mouse").replace("cacti", "cactus").replace("ies", "y")
    assert 140 < first[0] < 260


def test_a_picture_shows_its_fact_equally_often_whatever_is_asked():
    world, seen = PatternWorld(9 * 2000), defaultdict(Counter)
    for i in range(len(world)):
        facts, which = world.scene(i)
        seen[facts.question, frozenset(facts.options)][facts.options[facts.answers[which]]] += 1
    for asked, counts in seen.items():
        if counts.total() > 60:
            assert max(counts.values()) / counts.total() < 0.5 + 5 * 0.5 / np.sqrt(counts.total()), asked


def test_splits_never_share_a_thing_on_a_ground():
    shown = {split: set() for split in SPLITS}
    for split in SPLITS:
        for pattern in PATTERNS:
            shown[split] |= {(s.thing, s.hue) for s in (scene(pattern, n, split) for n in range(1500))}
    assert shown["test"] == shown["known"] == {(t, i % GROUNDS) for i, t in enumerate(THINGS)}
    assert not shown["train"] & (shown["test"] | shown["dev"]) and not shown["dev"] & shown["test"]
    assert all(sum(allowed(thing, hue, "train") for hue in range(GROUNDS)) == GROUNDS - 2 for thing in THINGS)


def test_everything_is_drawn_by_the_unseen_artist_and_whoever_faces_left_is_drawn_by_two_of_training():
    for label in (*THINGS.values(), *SMALL.values(), "house"):
        assert set(EVAL_VENDORS) <= _drawn()[label] and "noto" in _drawn()[label]
    for label in FACING.values():
        able = [artist for artist in ("noto", "noto-v1", "fluent", "fluent-flat") if artist in _drawn()[label]]
        assert len([artist for artist in able if (label, artist) not in _UNCLEAR]) >= 2


def test_more_stated_facts_add_captions_and_take_none_back():
    few, many = PatternWorld(900, stated=0.25), PatternWorld(900, stated=1.0)
    assert 0.18 < np.mean([few.states(i) for i in range(900)]) < 0.32 and all(many.states(i) for i in range(900))
    for i in range(900):
        assert few.scene(i) == many.scene(i)
        assert few.caption(i) == many.caption(i) if few.states(i) else len(few.caption(i)) < len(many.caption(i))
    assert not any(PatternWorld(90, stated=0.0).states(i) for i in range(90))


def test_as_a_source_and_as_pairs():
    source = open_source(SOURCES["patterns"](size=90, pixels=32, split="dev", stated=1.0))
    record = source[10]
    assert source.id(10) == record.id and images.to_array(images.decode(record.image)).shape == (32, 32, 3)
    assert record.attributes["answer"] in record.attributes["choices"].split("|")
    assert record.messages[1]["content"] == record.attributes["answer"]
    found = pair("text", 3, "test", 32)
    facts = scene("text", 3, "test")
    assert found.options == facts.options and found.pattern == "text" and found.statements[0] == facts.caption(0)
    assert found.options[found.answers[1]] in found.statements[1]
    np.testing.assert_array_equal(images.to_array(images.decode(found.images[1])), render(facts, 1, 32))


def test_knobs_change_what_they_say():
    facts = scene("orientation", 2)
    plain = Difficulty(size=(0.8, 0.8), jitter=0.0, clutter=0, hue=0.0)
    small = Difficulty(size=(0.2, 0.2), jitter=0.0, clutter=0, hue=0.0)
    background = lambda picture: np.all(np.abs(picture.astype(int) - picture[:, :1]) < 8, axis=-1).mean()
    assert background(render(facts, 0, 64, small)) > background(render(facts, 0, 64, plain))
    with pytest.raises(ValueError, match="shares"):
        Difficulty(size=(0.7, 0.5))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: scene("colours", 0), "colour"), (lambda: scene("text", 0, "tests"), "test"),
    (lambda: PatternWorld(9, stated=2.0), "stated"), (lambda: PatternWorld(9, patterns=("text", "txt")), "text"),
])
def test_mistakes_are_one_line(call, message):
    with pytest.raises(UserError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
