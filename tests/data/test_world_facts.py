"""What the worlds know of their pictures as fields of a batch, held against the pixels."""

from __future__ import annotations

from collections import Counter

from data_samples import lengths
import numpy as np
import pytest

from mof_jax.config import build
from mof_jax.data.config import DataConfig
from mof_jax.data.image import images
from mof_jax.data.keyed import Draws
from mof_jax.data.pairs import PATTERNS
from mof_jax.data.pipeline import Pipeline
from mof_jax.data.sources import SOURCES, open_source
from mof_jax.data.worlds import embedded, scenes, things
from mof_jax.data.worlds.scenes import GROUNDS, THINGS
from mof_jax.data.worlds.things import FACTS, PLACES, Layout, layout
from mof_jax.errors import UserError

NAMES, COLOURS = list(THINGS), list(GROUNDS)


def pixels_of(record):
    return np.asarray(images.decode(record.image)).astype(int)


def differs(record, ground):
    """Where a picture is not its ground."""
    return (pixels_of(record) != GROUNDS[ground]).any(-1)


@pytest.fixture(scope="module")
def world():
    return open_source(SOURCES["things"](size=64, pixels=64))


# Boxes and masks


@pytest.mark.parametrize("split", ["train", "twemoji"])
def test_masks_are_where_the_picture_is_not_its_ground(split):
    """Nothing is seen outside of the masks; inside, all but what has the ground's own colour."""
    source = open_source(SOURCES["things"](size=64, split=split, pixels=64))
    kept, covered = 0, 0
    for index in range(64):
        record = source[index]
        masks, seen = record.arrays["masks"], differs(record, record.attributes["ground"])
        assert masks.shape == (4, 64, 64) and masks.dtype == np.uint8 and masks.max() == 1
        assert masks.sum(0).max() <= 1, "a pixel belongs to one thing"
        assert not (seen & ~masks.any(0)).any()
        kept, covered = kept + (seen & masks.any(0)).sum(), covered + masks.any(0).sum()
    assert kept / covered > 0.97


def test_each_mask_is_its_own_thing(world):
    """Take one thing away: the picture changes nowhere but in its mask."""
    for index in range(16):
        facts, record = layout(index), world[index]
        sprites, masks = things.things(facts, index), record.arrays["masks"]
        for n in range(len(sprites)):
            without = np.asarray(things.picture([*sprites[:n], *sprites[n + 1:]], facts.ground, 64)).astype(int)
            changed = (without != pixels_of(record)).any(-1)
            assert changed.any() and not (changed & (masks[n] == 0)).any()
        assert not masks[len(sprites):].any()


def test_what_hides_another_thing_takes_its_pixels():
    one, other = scenes.Thing("pizza", "noto", 0.5, 0.5, 0.8), scenes.Thing("star", "noto", 0.5, 0.5, 0.4)
    below, above = scenes.masks([one, other], 48)[:2]
    alone = scenes.masks([one], 48)[0]
    assert not (below & above).any() and above.sum() and (below | (above & alone) == alone).all()


def test_boxes_are_tight(world):
    for index in range(32):
        record = world[index]
        boxes, masks = record.arrays["boxes"], record.arrays["masks"]
        assert boxes.shape == (4, 4) and boxes.dtype == np.float32
        for box, mask in zip(boxes, masks):
            left, top, right, bottom = (box * 64).round().astype(int)
            assert mask[top:bottom, left:right].sum() == mask.sum()
            if mask.any():
                inside = mask[top:bottom, left:right]
                assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            else:
                assert (box == 0).all()


def test_scenes_know_theirs_too():
    source = open_source(SOURCES["scenes"](size=25, pixels=48))
    for index in range(25):
        facts, record = source.scene(index), source[index]
        assert not (differs(record, facts.ground) & ~record.arrays["masks"].any(0).astype(bool)).any()
        assert record.arrays["names"].tolist() == [NAMES.index(t.name) for t in facts.things] + [-1] * (4 - len(facts.things))
        assert int(record.arrays["ground"]) == COLOURS.index(facts.ground)
        for box, thing in zip(record.arrays["boxes"], facts.things):
            assert abs((box[0] + box[2]) / 2 - thing.x) < 0.5 * thing.side and box[2] - box[0] <= thing.side + 2 / 48


# Captions and tags


def test_one_to_four_things_equally_often_and_split_as_scenes():
    for split in scenes.SPLITS:
        found = [layout(number, split) for number in range(400)]
        assert set(Counter(len(facts.things) for facts in found).values()) == {100}
        for facts in found:
            assert len(set(facts.things)) == len(facts.things) == len(set(facts.places))
            assert scenes.may_train(facts.things[0], facts.ground) == (split == "train")
            assert all(scenes.may_train(name, facts.ground) for name in facts.things[1:])
    with pytest.raises(UserError, match="things: unknown split 'tests'.*'test'"):
        open_source(SOURCES["things"](split="tests"))


def test_captions_say_what_boxes_show(world):
    for index in range(64):
        facts, record = layout(index), world[index]
        boxes = record.arrays["boxes"]
        across, down = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        for n, (name, quarter) in enumerate(zip(facts.things, facts.places)):
            assert PLACES[quarter] == f"{'top' if down[n] < 0.5 else 'bottom'} {'left' if across[n] < 0.5 else 'right'}"
            assert f"The {name} is at the {PLACES[quarter]}." in record.texts["long"][0]
            assert name in record.texts["short"][0] and name in record.texts["alt"][0]
        relation = record.texts["long"][0].split(". ")[-1]
        if "left of" in relation:
            assert across[0] < across[1]
        if "right of" in relation:
            assert across[0] > across[1]
        if " above " in relation:
            assert down[0] < down[1]
        if " below " in relation:
            assert down[0] > down[1]
        assert record.texts["tags"] == (*facts.things, facts.ground)
        tags = record.arrays["tags"].tolist()
        assert tags == [NAMES.index(name) for name in facts.things] + [24 + COLOURS.index(facts.ground)]


def test_captions_are_sentences():
    facts = Layout("red", ("apple", "dog", "key"), (0, 3, 1))
    assert facts.alt == "an apple, a dog and a key on a red background"
    assert facts.long == ("The background is red. There are three things. The apple is at the top left. The dog is at the bottom "
                          "right. The key is at the top right. The apple is to the left of the dog.")
    assert Layout("orange", ("umbrella",), (2,)).alt == "an umbrella on an orange background"
    assert Layout("red", ("apple", "dog"), (3, 1)).long.endswith("The apple is below the dog.")


@pytest.mark.parametrize("fact", FACTS)
def test_a_wrong_caption_is_wrong_in_one_fact(fact):
    for number in range(200):
        true = layout(number)
        false = true.wrong(fact, Draws(number))
        if fact == "ground":
            assert false.ground != true.ground and (false.things, false.places) == (true.things, true.places)
        elif fact == "thing":
            assert len(set(false.things) - set(true.things)) == 1 and (false.ground, false.places) == (true.ground, true.places)
        else:
            assert (false.ground, false.things) == (true.ground, true.things) and len(set(false.places)) == len(true.places)
            moved = [a for a, b in zip(true.places, false.places) if a != b]
            assert len(moved) == 1 or (len(moved) == 2 and set(false.places) == set(true.places))
        assert false.long != true.long


def test_wrong_captions_of_a_record(world):
    for index in range(64):
        facts, texts = layout(index), world[index].texts
        for kind, right in (("negative", facts.alt), ("negative:short", facts.short), ("negative:long", facts.long)):
            assert texts[kind][0] != right and len(texts[kind]) == 1


# As fields


def test_everything_at_once_in_a_batch():
    fields = dict(
        masks=dict(kind="signal", size=(4, 32, 32), dtype="uint8"), boxes=dict(kind="signal", size=(4, 4)),
        tags=dict(kind="label", count=5, classes=32), ground=dict(kind="label", classes=8),
        left=dict(kind="views", part="left"), right=dict(kind="views", part="right"),
        sides=dict(kind="captions", kinds=("long", "short", "negative:long", "negative:short")))
    config = build(DataConfig, dict(sources=[dict(kind="things", size=40, pixels=32)], image_size=32, fields=fields, threads=0))
    pipe = Pipeline(config, lengths, 12)
    batch, world = pipe.batch(0), open_source(config.sources[0])
    for row, name in enumerate(pipe.ids(0)):
        record = world[int(name.rsplit("/", 1)[1])]
        np.testing.assert_array_equal(batch["masks"][row], record.arrays["masks"])
        np.testing.assert_array_equal(batch["boxes"][row], record.arrays["boxes"])
        assert [tag for tag in batch["tags"][row].tolist() if tag >= 0] == record.arrays["tags"].tolist()
        assert batch["ground"][row] == COLOURS.index(record.attributes["ground"])
        whole = images.decode(record.image)
        for part, box in (("left", (0, 0, 16, 32)), ("right", (16, 0, 32, 32))):
            np.testing.assert_array_equal(batch[part][row, 0], np.asarray(images.resize(whole.crop(box), 32)))
        np.testing.assert_array_equal(batch["sides"][row], lengths([record.texts[kind][0] for kind in fields["sides"]["kinds"]]))


def test_keywords_of_the_embedded_pictures_are_labels():
    config = build(DataConfig, dict(views=0, fields=dict(
        tags=dict(kind="label", count=24, classes=len(embedded.tags())), concept=dict(kind="label"))))
    pipe = Pipeline(config, lengths, 16)
    batch, source = pipe.batch(0), embedded.Emoji5("train")
    at = pipe.stream.locate(np.arange(16))
    for row, index in enumerate(at.index.tolist()):
        record = source[index]
        assert [embedded.tags()[tag] for tag in batch["tags"][row] if tag >= 0] == list(record.texts["tags"])
        assert batch["concept"][row] == record.group
    assert len(embedded.tags()) == len(set(embedded.tags())) and list(embedded.tags()) == sorted(embedded.tags())


def test_patterns_have_a_number_and_on_demand_a_caption_of_the_other_picture():
    plain, with_negatives = (open_source(SOURCES["patterns"](size=45, pixels=32, stated=1.0, negatives=n)) for n in (False, True))
    for index in range(45):
        record, facts = with_negatives[index], plain.scene(index)[0]
        which = plain.scene(index)[1]
        assert plain[index].texts.keys() == {"alt"} and plain[index].image == record.image
        assert record.texts["negative"] == (facts.caption(1 - which),) and record.texts["negative"] != record.texts["alt"]
        assert list(PATTERNS)[int(record.arrays["pattern"])] == facts.pattern and int(record.arrays["which"]) == which
