"""A small world of questions about pictures, with exact answers: emoji5's sprites on coloured grounds.

    count      How many apples are there?               one … four
    colour     What is the colour of the background?    one of eight
    position   Where is the apple, seen from the dog?   left, right, above, below
    name       What is in the picture?                  one of twenty-four
    presence   Is there an apple or a dog?              the one of the two that is there

Scene `i` of a split asks question `i mod 5` and is a pure function of (split, i). What a question says never tells
its answer: given the words, every answer is equally often right, so a model that reads only them stays at chance, one
over the number of choices, in training and in test.

The split: thing number t does not stand on ground number t mod 8 in training; in `test` and `twemoji` the thing that is
asked about always does, drawn by the artists of training or by one who is never trained on. Every ground loses equally
many things and every thing one ground, so that keeping them back unbalances no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import io
from typing import ClassVar

from jaxtyping import Bool, Float32, Int32, UInt8
import numpy as np
from PIL import Image, ImageDraw

from mof_jax.data import keyed
from mof_jax.data.image import images
from mof_jax.data.packing.documents import Chat
from mof_jax.data.record import Computed
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import embedded, pack
from mof_jax.errors import UserError, lookup, nearest
from mof_jax.ranges import Count

SPLITS = ("train", "test", "twemoji")
KINDS = ("count", "colour", "position", "name", "presence")
COUNTS = ("one", "two", "three", "four")
SIDES = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
# name -> (emoji5's label, plural)
THINGS = {
    "apple": ("red apple", "apples"), "banana": ("banana", "bananas"), "dog": ("dog face", "dogs"), "cat": ("cat face", "cats"),
    "car": ("automobile", "cars"), "bus": ("bus", "buses"), "tree": ("deciduous tree", "trees"),
    "sunflower": ("sunflower", "sunflowers"), "fish": ("tropical fish", "fish"), "star": ("star", "stars"),
    "heart": ("red heart", "hearts"), "house": ("house", "houses"), "key": ("key", "keys"), "balloon": ("balloon", "balloons"),
    "umbrella": ("umbrella", "umbrellas"), "boat": ("sailboat", "boats"), "mushroom": ("mushroom", "mushrooms"),
    "pizza": ("pizza", "pizzas"), "rocket": ("rocket", "rockets"), "strawberry": ("strawberry", "strawberries"),
    "pineapple": ("pineapple", "pineapples"), "turtle": ("turtle", "turtles"), "elephant": ("elephant", "elephants"),
    "crab": ("crab", "crabs"),
}
GROUNDS = {
    "red": (214, 60, 60), "orange": (240, 150, 50), "yellow": (245, 220, 90), "green": (90, 175, 95), "blue": (80, 130, 220),
    "purple": (150, 95, 190), "grey": (140, 140, 140), "white": (245, 245, 245),
}
_NAMES, _COLOURS = tuple(THINGS), tuple(GROUNDS)
MOST = 4  # things of a picture
ARTISTS = ("noto", "noto-v1", "fluent", "fluent-flat")

_SCENE, _ANSWER = 21, 22  # what a key is for


@dataclasses.dataclass(frozen=True)
class Thing:
    """One sprite in a scene: what it is, who drew it, its centre and its side as shares of the picture's side."""

    name: str
    artist: str
    x: float
    y: float
    side: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything there is to know of a picture, and a question about it.

    Attributes:
      kind: which question, see `KINDS`.
      ground: colour of the background.
      things: what stands on it, in the order of drawing.
      question, answer, choices: `answer` is one of `choices`, all of which are equally often right for this question.
      caption: a sentence that states the facts, the answer among them.
    """

    kind: str
    ground: str
    things: tuple[Thing, ...]
    question: str
    answer: str
    choices: tuple[str, ...]
    caption: str


# Facts


def may_train(name: str, ground: str) -> bool:
    """Whether training may show this thing on this ground."""
    return _NAMES.index(name) % len(_COLOURS) != _COLOURS.index(ground)


def scene(kind: str, number: int, split: str = "train") -> Scene:
    """Scene `number` of one kind of question; a pure function of its arguments.

    Raises:
      UserError: unknown kind or split.
    """
    make = lookup(_MAKERS, kind, "question of scenes")
    if split not in SPLITS:
        raise UserError(f"scenes: unknown split {split!r}{nearest(split, SPLITS)}")
    return make(_World(kind, number, split))


class _World:
    """The draws of one scene, under the rules of its split."""

    def __init__(self, kind: str, number: int, split: str):
        self.kind, self.number, self.train = kind, number, split == "train"
        self.key = (KINDS.index(kind), SPLITS.index(split))
        self.draws = keyed.Draws(_SCENE, *self.key, number)
        self.artists = embedded.EVAL_VENDORS if split == "twemoji" else ARTISTS

    def turn(self, choices: Sequence[str]) -> str:
        """The choices in turn, every run of them in an order of its own: equally often each."""
        run, place = divmod(self.number, len(choices))
        key = keyed.hash64_array(_ANSWER, *self.key, run)
        return choices[int(keyed.permute(place, len(choices), key)[0])]

    def ground_of(self, name: str) -> str:
        """A ground on which the split shows this thing."""
        return self.draws.choice([c for c in _COLOURS if may_train(name, c) == self.train])

    def other(self, ground: str, *names: str) -> str:
        """Another thing that may stand on this ground in training, too."""
        return self.draws.choice([n for n in _NAMES if n not in names and may_train(n, ground)])

    def put(self, name: str, x: float, y: float, side: float, jitter: float = 0.04) -> Thing:
        """A thing near a place."""
        shift = self.draws.uniform(-jitter, jitter), self.draws.uniform(-jitter, jitter)
        return Thing(name, self.draws.choice(self.artists), x + shift[0], y + shift[1], side)


def _count(world: _World) -> Scene:
    answer = world.turn(COUNTS)
    name = world.draws.choice(_NAMES)
    ground, n = world.ground_of(name), COUNTS.index(answer) + 1
    cells = world.draws.sample([(x, y) for x in range(3) for y in range(3)], n)
    artist = world.draws.choice(world.artists)
    things = [world.put(name, (2 * x + 1) / 6, (2 * y + 1) / 6, world.draws.uniform(0.26, 0.32), 0.015) for x, y in cells]
    things = [dataclasses.replace(thing, artist=artist) for thing in things]
    words = f"{answer} {name if n == 1 else THINGS[name][1]}"
    return Scene("count", ground, tuple(things), f"How many {THINGS[name][1]} are there?", answer, COUNTS,
                 f"{words} on {with_article(ground)} background")


def _single(world: _World, name: str, ground: str) -> tuple[Thing, ...]:
    return (world.put(name, 0.5, 0.5, world.draws.uniform(0.5, 0.75), 0.1),)


def _colour(world: _World) -> Scene:
    ground = world.turn(_COLOURS)
    name = world.draws.choice([n for n in _NAMES if may_train(n, ground) == world.train])
    return Scene("colour", ground, _single(world, name, ground), "What is the colour of the background?", ground, _COLOURS,
                 f"{with_article(name)} on {with_article(ground)} background")


def _name(world: _World) -> Scene:
    name = world.turn(_NAMES)
    ground = world.ground_of(name)
    return Scene("name", ground, _single(world, name, ground), "What is in the picture?", name, _NAMES,
                 f"{with_article(name)} on {with_article(ground)} background")


def _position(world: _World) -> Scene:
    side = world.turn(tuple(SIDES))
    name = world.draws.choice(_NAMES)
    ground = world.ground_of(name)
    other = world.other(ground, name)
    (dx, dy), size = SIDES[side], world.draws.uniform(0.38, 0.46)
    across = world.draws.uniform(-0.2, 0.2)  # both may stand anywhere along the other direction
    x, y = 0.5 + (across if dx == 0 else 0), 0.5 + (across if dy == 0 else 0)
    things = (world.put(name, x + 0.25 * dx, y + 0.25 * dy, size), world.put(other, x - 0.25 * dx, y - 0.25 * dy, size))
    words = {"left": "to the left of", "right": "to the right of"}.get(side, side)
    return Scene("position", ground, things, f"Where is the {name}, seen from the {other}?", side, tuple(SIDES),
                 f"{with_article(name)} {words} {with_article(other)} on {with_article(ground)} background")


def _presence(world: _World) -> Scene:
    place = world.turn(("first", "second"))
    name = world.draws.choice(_NAMES)
    ground = world.ground_of(name)
    # The two are exchangeable: the split shows both of them on this ground, or neither.
    other = world.draws.choice([n for n in _NAMES if n != name and may_train(n, ground) == world.train])
    pair = (name, other) if place == "first" else (other, name)
    question = f"Is there {with_article(pair[0])} or {with_article(pair[1])}?"
    return Scene("presence", ground, _single(world, name, ground), question, name, pair,
                 f"{with_article(name)} on {with_article(ground)} background")


_MAKERS = {"count": _count, "colour": _colour, "position": _position, "name": _name, "presence": _presence}


def with_article(name: str) -> str:
    """`an apple`, `a dog`."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# Drawing: what any world of sprites on grounds can use


@functools.lru_cache(maxsize=1024)
def sprite(label: str, artist: str) -> Image.Image:
    """A picture of emoji5 with a transparent ground, RGBA 64 x 64: the white that touches its border is taken away.

    Raises:
      UserError: no such concept, or not drawn by this artist.
    """
    opened = pack.read(str(embedded.ROOT))
    for picture in opened.pictures:
        if picture.vendor == artist and opened.concepts[picture.concept].label == label:
            return cut_out(images.decode(opened.image(picture), source="emoji5", record=label))
    raise UserError(f"emoji5 has no picture of {label!r} by {artist!r}")


def cut_out(picture: Image.Image, tolerance: int = 36) -> Image.Image:
    """RGBA: the near-white region that touches the border becomes transparent, its edge softly."""
    mask = Image.new("RGB", (picture.width + 2, picture.height + 2), (255, 255, 255))  # a frame joins the corners
    mask.paste(picture, (1, 1))
    ImageDraw.floodfill(mask, (0, 0), (255, 0, 255), thresh=tolerance)
    pixels = np.asarray(mask)[1:-1, 1:-1]
    opaque = ~np.all(pixels == (255, 0, 255), axis=-1)
    result = picture.convert("RGBA")
    result.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return result


@functools.lru_cache(maxsize=8192)
def _sized(label: str, artist: str, pixels: int) -> tuple[Image.Image, Image.Image]:
    """(RGB, alpha) of a sprite at a size."""
    image = sprite(label, artist).resize((pixels, pixels), Image.Resampling.BILINEAR)
    return image.convert("RGB"), image.getchannel("A")


def draw(label: str, artist: str, canvas: Image.Image, x: float, y: float, side: float) -> None:
    """Pastes a sprite with its centre at (x, y) and a side of `side`, all as shares of the canvas' width."""
    pixels = max(1, round(side * canvas.width))
    image, alpha = _sized(label, artist, pixels)
    canvas.paste(image, (round(x * canvas.width - pixels / 2), round(y * canvas.width - pixels / 2)), alpha)


def shape_of(label: str, artist: str, pixels: int, x: float, y: float, side: float) -> Bool[np.ndarray, "pixels pixels"]:
    """Where `draw` leaves something of a sprite on a canvas of `pixels` x `pixels`."""
    canvas = Image.new("L", (pixels, pixels))
    own = max(1, round(side * pixels))
    canvas.paste(_sized(label, artist, own)[1], (round(x * pixels - own / 2), round(y * pixels - own / 2)))
    return np.asarray(canvas) > 0


def masks(things: Sequence[Thing], pixels: int, room: int = MOST) -> UInt8[np.ndarray, "room pixels pixels"]:
    """Where each thing is to be seen, 1 or 0: what is drawn later hides what is below. Zeros behind the last thing."""
    found = np.zeros((room, pixels, pixels), np.uint8)
    for number, thing in enumerate(things):
        shape = shape_of(THINGS[thing.name][0], thing.artist, pixels, thing.x, thing.y, thing.side)
        found[:number, shape] = 0
        found[number] = shape
    return found


def boxes(seen: UInt8[np.ndarray, "room pixels pixels"]) -> Float32[np.ndarray, "room 4"]:
    """The smallest box round each mask: left, top, right, bottom as shares of the side; zeros for an empty mask."""
    found = np.zeros((len(seen), 4), np.float32)
    for number, mask in enumerate(seen):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            found[number] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return found / seen.shape[-1]


def names(things: Sequence[Thing], room: int = MOST) -> Int32[np.ndarray, "room"]:
    """Which thing each is, as a number in the order of `THINGS`; -1 behind the last."""
    return np.array([*(_NAMES.index(thing.name) for thing in things), *[-1] * (room - len(things))], np.int32)


def _ground(things: Sequence[Thing], ground: str, pixels: int) -> Int32[np.ndarray, ""]:
    return np.array(_COLOURS.index(ground), np.int32)


def _tags(things: Sequence[Thing], ground: str, pixels: int) -> Int32[np.ndarray, "tags"]:
    return np.array([*names(things, len(things)), len(_NAMES) + _COLOURS.index(ground)], np.int32)


_ARRAYS = {
    "masks": lambda things, ground, pixels: masks(things, pixels),
    "boxes": lambda things, ground, pixels: boxes(masks(things, pixels)),
    "names": lambda things, ground, pixels: names(things),
    "ground": _ground,
    "tags": _tags,
}


def arrays_of(things: Sequence[Thing], ground: str, pixels: int) -> Computed:
    """What is known of a picture as arrays, at most `MOST` things: `masks` uint8 [4, pixels, pixels], `boxes` float32 [4, 4],
    `names` int32 [4], `ground` int32 [] in the order of `GROUNDS`, `tags` int32 [things + 1]: the names, and the ground behind
    all names. They are those of the whole picture: a crop of it has others.
    """
    return Computed(_ARRAYS, things, ground, pixels)


def render(facts: Scene, pixels: int) -> UInt8[np.ndarray, "pixels pixels 3"]:
    """The picture of a scene."""
    return np.asarray(_canvas(facts, pixels))


def _canvas(facts: Scene, pixels: int) -> Image.Image:
    canvas = Image.new("RGB", (pixels, pixels), GROUNDS[facts.ground])
    for thing in facts.things:
        draw(THINGS[thing.name][0], thing.artist, canvas, thing.x, thing.y, thing.side)
    return canvas


@dataclasses.dataclass(frozen=True)
class ScenesConfig(SourceConfig):
    """Questions about sprites on coloured grounds, with exact answers.

    Attributes:
      size: number of scenes. split: `train`, `test` or `twemoji`. pixels: side of the pictures.
      questions: which kinds, in turn; all by default.
    """

    kind: ClassVar[str] = "scenes"
    embedded: ClassVar[bool] = True

    size: Count = 1024
    split: str = "train"
    pixels: Count = 64
    questions: tuple[str, ...] = ()

    def open(self) -> Scenes:
        return Scenes(self.size, self.split, self.pixels, self.questions, self.label)


class Scenes:
    """`size` scenes as conversations of one question; the caption is text `alt`.

    Args:
      split: see above.
      pixels: side of the pictures.
      questions: which kinds, in turn; all by default.
    """

    def __init__(self, size: int, split: str = "train", pixels: int = 64, questions: Sequence[str] = (), name: str = "scenes"):
        self.kinds = tuple(questions) or KINDS
        for kind in self.kinds:
            lookup(_MAKERS, kind, "question of scenes")
        scene(self.kinds[0], 0, split)  # names an unknown split
        self.name, self._size, self._split, self._pixels = name, size, split, pixels

    def __len__(self) -> int:
        return self._size

    def id(self, index: int) -> str:
        """Name of scene `index`."""
        return f"{self.kinds[index % len(self.kinds)]}/{index // len(self.kinds):07d}"

    def scene(self, index: int) -> Scene:
        """The facts of scene `index`."""
        return scene(self.kinds[index % len(self.kinds)], index // len(self.kinds), self._split)

    def __getitem__(self, index: int) -> Chat:
        if not 0 <= index < self._size:
            raise IndexError(index)
        facts, out = self.scene(index), io.BytesIO()
        _canvas(facts, self._pixels).save(out, "PNG", compress_level=1)
        messages = ({"role": "user", "content": f"<image>\n{facts.question}"}, {"role": "assistant", "content": facts.answer})
        attributes = {"kind": facts.kind, "question": facts.question, "answer": facts.answer, "choices": "|".join(facts.choices)}
        return Chat(id=self.id(index), image=out.getvalue(), texts={"alt": (facts.caption,)}, attributes=attributes,
                    arrays=arrays_of(facts.things, facts.ground, self._pixels), messages=messages, images=(out.getvalue(),))
