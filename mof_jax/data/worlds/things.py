"""A small world of one to four things, each in a quarter of the picture, with captions long, short and wrong
on purpose.

    short            an apple and a dog
    alt              an apple and a dog on a red background
    long             The background is red. There are two things. The apple is at the top left. The dog is at
                     the bottom right. The apple is to the left of the dog.
    negative         as `alt`, with one fact that is false; `negative:short` and `negative:long` likewise
    tags             the things, and the ground

Picture `i` of a split is a pure function of (split, i). Things and grounds are those of `scenes`, with its
split: thing number t stands on ground number t mod 8 in no training picture; in `test` and `twemoji` the
first thing always does. Boxes, masks, names and tags come as arrays of the record, see `scenes.arrays_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from PIL import Image

from mof_jax.data import keyed
from mof_jax.data.record import Record
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import embedded, scenes
from mof_jax.data.worlds.pattern_world import png
from mof_jax.data.worlds.scenes import COUNTS, GROUNDS, SPLITS, THINGS, Thing, may_train
from mof_jax.errors import UserError, nearest
from mof_jax.ranges import Count

# Quarter number q is column q % 2 of row q // 2.
PLACES = ("top left", "top right", "bottom left", "bottom right")
FACTS = ("thing", "ground", "place")

_NAMES, _GROUNDS = tuple(THINGS), tuple(GROUNDS)
_LAYOUT, _WRONG = 51, 52  # what a key is for


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a picture shows, in words.

    Attributes:
      ground: its colour. things: names, all different. places: the quarter of each.
    """

    ground: str
    things: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def short(self) -> str:
        """The things."""
        words = [scenes.with_article(name) for name in self.things]
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

    @property
    def alt(self) -> str:
        """The things and the ground."""
        return f"{self.short} on {scenes.with_article(self.ground)} background"

    @property
    def long(self) -> str:
        """Everything, a fact a sentence."""
        n = len(self.things)
        count = "is one thing" if n == 1 else f"are {COUNTS[n - 1]} things"
        told = [f"The background is {self.ground}.", f"There {count}."]
        told += [f"The {name} is at the {PLACES[q]}." for name, q in zip(self.things, self.places)]
        return " ".join(told + ([self._relation()] if n > 1 else []))

    def _relation(self) -> str:
        """Where the first thing stands, seen from the second."""
        (one, other), (a, b) = self.things[:2], self.places[:2]
        if a % 2 != b % 2:
            return f"The {one} is to the {'left' if a % 2 < b % 2 else 'right'} of the {other}."
        return f"The {one} is {'above' if a < b else 'below'} the {other}."

    def wrong(self, fact: str, draws: keyed.Draws) -> Layout:
        """The same but for one fact, which is false of this picture: a thing that is not there, another
        ground, or a thing in another quarter (in exchange with the one that stands there, if one does)."""
        which = draws.below(len(self.things))
        if fact == "ground":
            return dataclasses.replace(self, ground=draws.choice([g for g in _GROUNDS if g != self.ground]))
        if fact == "thing":
            other = draws.choice([name for name in _NAMES if name not in self.things])
            return dataclasses.replace(self, things=_with(self.things, which, other))
        old, new = self.places[which], draws.choice([q for q in range(4) if q != self.places[which]])
        places = tuple(old if q == new else q for q in self.places)
        return dataclasses.replace(self, places=_with(places, which, new))


def _with(values: tuple, place: int, value) -> tuple:
    return (*values[:place], value, *values[place + 1:])


def layout(number: int, split: str = "train") -> Layout:
    """What picture `number` of a split shows: one to four things, equally often.

    Raises:
      UserError: unknown split.
    """
    if split not in SPLITS:
        raise UserError(f"things: unknown split {split!r}{nearest(split, SPLITS)}")
    draws, train = keyed.Draws(_LAYOUT, SPLITS.index(split), number), split == "train"
    ground = draws.choice(_GROUNDS)
    first = draws.choice([name for name in _NAMES if may_train(name, ground) == train])
    others = draws.sample([name for name in _NAMES if name != first and may_train(name, ground)], number % 4)
    return Layout(ground, (first, *others), tuple(draws.sample(range(4), 1 + len(others))))


def things(facts: Layout, number: int, split: str = "train") -> tuple[Thing, ...]:
    """The sprites of a picture: who drew them, and where exactly."""
    draws = keyed.Draws(_LAYOUT, SPLITS.index(split), number, 1)
    artists = embedded.EVAL_VENDORS if split == "twemoji" else scenes.ARTISTS
    return tuple(Thing(name, draws.choice(artists), (2 * (q % 2) + 1) / 4 + draws.uniform(-0.03, 0.03),
                       (2 * (q // 2) + 1) / 4 + draws.uniform(-0.03, 0.03), draws.uniform(0.3, 0.42))
                 for name, q in zip(facts.things, facts.places))


@dataclasses.dataclass(frozen=True)
class ThingsConfig(SourceConfig):
    """One to four things on a coloured ground, with captions long, short and wrong on purpose, boxes, masks
    and tags.

    Attributes:
      size: number of pictures. split: `train`, `test` or `twemoji`. pixels: their side.
    """

    kind: ClassVar[str] = "things"
    embedded: ClassVar[bool] = True

    size: Count = 1024
    split: str = "train"
    pixels: Count = 64

    def open(self) -> Things:
        return Things(self.size, self.split, self.pixels, self.label)


class Things:
    """`size` pictures of a split; see the module."""

    def __init__(self, size: int, split: str = "train", pixels: int = 64, name: str = "things"):
        layout(0, split)  # names an unknown split
        self.name, self._size, self._split, self._pixels = name, size, split, pixels

    def __len__(self) -> int:
        return self._size

    def id(self, index: int) -> str:
        """Name of picture `index`."""
        return f"{self._split}/{index:07d}"

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < self._size:
            raise IndexError(index)
        facts = layout(index, self._split)
        sprites = things(facts, index, self._split)
        draws = keyed.Draws(_WRONG, SPLITS.index(self._split), index)
        texts = {"alt": (facts.alt,), "short": (facts.short,), "long": (facts.long,)}
        texts["tags"] = (*facts.things, facts.ground)
        for kind, words, known in (("negative", "alt", FACTS[:2]), ("negative:short", "short", FACTS[:1]),
                                   ("negative:long", "long", FACTS)):
            texts[kind] = (getattr(facts.wrong(draws.choice(known), draws), words),)
        return Record(self.id(index), png(picture(sprites, facts.ground, self._pixels)), texts,
                      attributes={"count": str(len(sprites)), "ground": facts.ground},
                      arrays=scenes.arrays_of(sprites, facts.ground, self._pixels))


def picture(sprites: Sequence[Thing], ground: str, pixels: int) -> Image.Image:
    """Sprites on a ground."""
    canvas = Image.new("RGB", (pixels, pixels), GROUNDS[ground])
    for thing in sprites:
        scenes.draw(THINGS[thing.name][0], thing.artist, canvas, thing.x, thing.y, thing.side)
    return canvas
