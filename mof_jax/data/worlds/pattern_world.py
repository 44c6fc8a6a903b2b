"""A world for MMVP's nine visual patterns (arXiv 2401.06209, §3): pairs of pictures that differ in one fact.

    pattern        asked                                        facts
    orientation    Which way does the horse face?               left, right
    presence       Is there a key?                              yes, no
    state          How is the door?                             open / closed, on / off, full / empty, raised / lowered
    quantity       How many cats are there?                     two … five, by one apart
    position       Where is the cat, seen from the house?       left / right, above / below
    colour         What colour is the ball?                     two of six, which ball and cube exchange
    structure      What is the disc like?                       striped / dotted, solid / hollow, round / pointed
    text           What does the sign say?                      words of three letters, by one letter apart
    viewpoint      From where is the box seen?                  above / below, left / right

A scene is a pure function of (pattern, number, split); everything but the fact comes from its own draws. Every picture shows
at least one sprite of emoji5, which captions always name; they state the fact only for a share of the scenes, as alt text does.

The splits. Thing number t stands on two of the eight grounds in no training picture: t mod 8 is kept for `test` and `known`,
t + 4 mod 8 for `dev`. `test` is drawn by an artist that no other split shows; `known` by those of training, so that what an
unseen hand costs can be told from what an unseen combination costs.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import io
from typing import ClassVar, NamedTuple

from jaxtyping import UInt8
import numpy as np
from PIL import Image

from mof_jax.data.keyed import Draws
from mof_jax.data.packing.documents import Chat
from mof_jax.data.pairs import PATTERNS, Pair
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import embedded, pack
from mof_jax.data.worlds.pattern_art import COLOURS, NUMBERS, PAINTERS, Brush, Difficulty, ground
from mof_jax.errors import UserError, lookup, nearest
from mof_jax.ranges import Count, Share

SPLITS = ("train", "dev", "test", "known")
GROUNDS = 8  # hues, evenly spread

# name -> emoji5's label. All of them face left, whoever drew them: looked at one by one, artist by artist.
FACING = {
    "horse": "horse", "duck": "duck", "camel": "camel", "truck": "delivery truck", "fire engine": "fire engine",
    "train": "locomotive", "dinosaur": "T-Rex", "elephant": "elephant", "turtle": "turtle", "kangaroo": "kangaroo",
    "mouse": "mouse", "swan": "swan", "rooster": "rooster", "leopard": "leopard",
}
_UNCLEAR = {("elephant", "noto-v1"), ("leopard", "noto-v1")}  # these two look at the viewer
_FACELESS = {
    "apple": "red apple", "banana": "banana", "dog": "dog face", "cat": "cat face", "tree": "deciduous tree",
    "sunflower": "sunflower", "pizza": "pizza", "rocket": "rocket", "strawberry": "strawberry", "pineapple": "pineapple",
    "crab": "crab", "carrot": "carrot", "robot": "robot", "cactus": "cactus",
}
THINGS = FACING | _FACELESS
SMALL = {"key": "key", "star": "star", "heart": "red heart", "balloon": "balloon", "umbrella": "umbrella", "mushroom": "mushroom"}
STATES = {"door": ("open", "closed"), "lamp": ("on", "off"), "glass": ("full", "empty"), "flag": ("raised", "lowered")}
STRUCTURES = (("striped", "dotted"), ("solid", "hollow"), ("round", "pointed"))
WORDS = (("cat", "car"), ("hot", "hat"), ("sun", "run"), ("bed", "red"), ("pin", "pen"), ("map", "mop"), ("dog", "dot"),
         ("cup", "cap"))
_OPPOSITE = (("left", "right"), ("above", "below"))
_ARTISTS = ("noto", "noto-v1", "fluent", "fluent-flat")

_SCENE, _PAINT, _STATED = 41, 42, 43  # what a key is for


@dataclasses.dataclass(frozen=True)
class Scene:
    """What there is to know of a pair of pictures.

    Attributes:
      pattern, number, split: which scene it is.
      subject: what is asked about: a thing, or a kind of shape. companion: what stands beside it.
      thing: the sprite that a caption names in any case.
      hue: number of the ground.
      facts: of the two pictures, as the painters know them.
      options: the two answers, in the order in which they are offered; answers: which one is right for each picture.
      question: without the options.
    """

    pattern: str
    number: int
    split: str
    subject: str
    companion: str
    thing: str
    hue: int
    facts: tuple[str, str]
    options: tuple[str, str]
    answers: tuple[int, int]
    question: str

    @property
    def id(self) -> str:
        return f"{self.pattern}/{self.split}/{self.number:07d}"

    def caption(self, which: int, stated: bool = True) -> str:
        """A sentence that names what is to be seen and, if `stated`, says the fact."""
        bare, full = _CAPTIONS[self.pattern]
        fact = self.facts[which]
        words = {"s": self.subject, "c": self.companion, "f": fact, "plural": plural(self.subject)}
        if self.pattern == "presence":
            words["f"] = f"{'with' if fact.endswith('yes') else 'without'} a {fact.split(':')[0]}"
        if self.pattern == "colour":
            words["f"], words["g"] = fact.split(":")
        if self.pattern == "position":
            words["f"] = {"left": "to the left of", "right": "to the right of"}.get(fact, fact)
        return _article((full if stated else bare).format(**words))


# (the objects, the objects and the fact)
_CAPTIONS = {
    "orientation": ("a {s}", "a {s} facing {f}"),
    "presence": ("a {s}", "a {s} {f}"),
    "state": ("a {s} and a {c}", "a {s} that is {f} and a {c}"),
    "quantity": ("{plural}", "{f} {plural}"),
    "position": ("a {s} and a {c}", "a {s} {f} a {c}"),
    "colour": ("a ball, a cube and a {c}", "a {f} ball, a {g} cube and a {c}"),
    "structure": ("a disc and a {c}", "a {f} disc and a {c}"),
    "text": ("a sign and a {c}", "a sign that says {f} and a {c}"),
    "viewpoint": ("a box and a {c}", "a box seen from {f} and a {c}"),
}
_QUESTIONS = {
    "orientation": "Which way does the {s} face?",
    "presence": "Is there a {small}?",
    "state": "How is the {s}?",
    "quantity": "How many {plural} are there?",
    "position": "Where is the {s}, seen from the {c}?",
    "colour": "What colour is the ball?",
    "structure": "What is the disc like?",
    "text": "What does the sign say?",
    "viewpoint": "From where is the box seen?",
}


def plural(name: str) -> str:
    """More than one of a thing."""
    irregular = {"mouse": "mice", "cactus": "cacti", "strawberry": "strawberries"}
    return irregular.get(name, f"{name}s")


def _article(sentence: str) -> str:
    words = sentence.split(" ")
    return " ".join("an" if w == "a" and after[:1] in "aeiou" and after else w for w, after in zip(words, [*words[1:], ""]))


def allowed(thing: str, hue: int, split: str) -> bool:
    """Whether a split shows this thing on this ground."""
    turn = list(THINGS).index(thing)
    kept = {turn % GROUNDS: ("test", "known"), (turn + 4) % GROUNDS: ("dev",)}
    return split in kept.get(hue, ("train",))


class _Plan(NamedTuple):
    subject: str
    companion: str
    facts: tuple[str, str]


def _plan(pattern: str, draws: Draws) -> _Plan:
    """What a scene of a pattern is about."""
    thing = draws.choice(tuple(FACING if pattern == "orientation" else THINGS))
    if pattern == "orientation":
        return _Plan(thing, "", ("left", "right"))
    if pattern == "presence":
        asked, other = draws.sample(tuple(SMALL), 2)
        return _Plan(thing, other, (f"{asked}:yes", f"{asked}:no"))
    if pattern == "quantity":
        n = draws.below(len(NUMBERS) - 1)
        return _Plan(thing, "", (NUMBERS[n], NUMBERS[n + 1]))
    if pattern == "position":
        return _Plan(thing, "house", draws.choice(_OPPOSITE))
    if pattern == "colour":
        a, b = draws.sample(tuple(COLOURS), 2)
        return _Plan("ball", thing, (f"{a}:{b}", f"{b}:{a}"))
    if pattern == "state":
        subject = draws.choice(tuple(STATES))
        return _Plan(subject, thing, STATES[subject])
    facts = draws.choice({"structure": STRUCTURES, "text": WORDS, "viewpoint": _OPPOSITE}[pattern])
    return _Plan({"structure": "disc", "text": "sign", "viewpoint": "box"}[pattern], thing, facts)


def answer(pattern: str, fact: str) -> str:
    """The word that answers the question when a fact holds."""
    return {"presence": fact.rpartition(":")[2], "colour": fact.partition(":")[0]}.get(pattern, fact)


@functools.lru_cache(maxsize=65_536)
def scene(pattern: str, number: int, split: str = "train") -> Scene:
    """Scene `number` of a pattern; a pure function of its arguments.

    Raises:
      UserError: unknown pattern or split.
    """
    lookup(PATTERNS, pattern, "pattern")
    if split not in SPLITS:
        raise UserError(f"pattern world: unknown split {split!r}{nearest(split, SPLITS)}")
    draws = Draws(_SCENE, list(PATTERNS).index(pattern), SPLITS.index(split), number)
    plan = _plan(pattern, draws)
    thing = plan.subject if plan.subject in THINGS else plan.companion
    hue = draws.choice([h for h in range(GROUNDS) if allowed(thing, h, split)])
    facts = plan.facts if draws.below(2) else plan.facts[::-1]
    words = tuple(answer(pattern, fact) for fact in facts)
    options = words if draws.below(2) else words[::-1]
    question = _QUESTIONS[pattern].format(s=plan.subject, c=plan.companion, plural=plural(plan.subject),
                                          small=facts[0].split(":")[0])
    return Scene(pattern, number, split, plan.subject, plan.companion, thing, hue, facts, options,
                 (options.index(words[0]), options.index(words[1])), _article(question))


@functools.lru_cache(maxsize=1)
def _drawn() -> dict[str, frozenset[str]]:
    """emoji5's labels -> who drew them."""
    opened, found = pack.read(str(embedded.ROOT)), {}
    for picture in opened.pictures:
        found.setdefault(opened.concepts[picture.concept].label, set()).add(picture.vendor)
    return {label: frozenset(artists) for label, artists in found.items()}


def render(facts: Scene, which: int, pixels: int, difficulty: Difficulty = Difficulty()) -> UInt8[np.ndarray, "pixels pixels 3"]:
    """One of a scene's two pictures."""
    return np.asarray(_canvas(facts, facts.facts[which], pixels, difficulty))


def _canvas(facts: Scene, fact: str, pixels: int, difficulty: Difficulty) -> Image.Image:
    draws = Draws(_PAINT, list(PATTERNS).index(facts.pattern), SPLITS.index(facts.split), facts.number)
    artists = embedded.EVAL_VENDORS if facts.split == "test" else _ARTISTS
    first = draws.choice(artists)
    labels = THINGS | SMALL | {"house": "house"}

    def artist(label: str) -> str:
        able = [a for a in artists if a in _drawn()[label] and (label, a) not in _UNCLEAR]
        return first if first in able else able[0]

    canvas = ground(pixels, facts.hue / GROUNDS, draws, difficulty)
    if facts.pattern == "presence":
        asked, _, there = fact.partition(":")
        fact = f"{labels[asked]}:{there}"
    PAINTERS[facts.pattern](Brush(canvas, draws, artist, difficulty), labels.get(facts.subject, facts.subject),
                            labels.get(facts.companion, facts.companion), fact)
    return canvas


def png(picture: Image.Image) -> bytes:
    """Encoded, without loss."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def pair(pattern: str, number: int, split: str = "test", pixels: int = 96, difficulty: Difficulty = Difficulty()) -> Pair:
    """A scene's two pictures with what is asked about them, as the paired benchmarks have it."""
    facts = scene(pattern, number, split)
    images = tuple(png(_canvas(facts, fact, pixels, difficulty)) for fact in facts.facts)
    return Pair(facts.id, images, facts.question, facts.options, facts.answers, (facts.caption(0), facts.caption(1)), pattern)


@dataclasses.dataclass(frozen=True)
class PatternsConfig(SourceConfig):
    """MMVP's nine visual patterns as pairs of pictures that differ in one fact, with questions.

    Attributes:
      size: number of pictures. split: `train`, `dev`, `test` or `known`. pixels: side of the pictures.
      questions: which patterns, in turn; all by default.
      stated: share of the captions that state the fact a question would ask for.
      negatives: whether there is a text of kind `negative` too, which states the fact of the pair's other picture.
    """

    kind: ClassVar[str] = "patterns"
    embedded: ClassVar[bool] = True

    size: Count = 1024
    split: str = "train"
    pixels: Count = 64
    questions: tuple[str, ...] = ()
    stated: Share = 0.25
    negatives: bool = False

    def open(self) -> PatternWorld:
        return PatternWorld(self.size, self.split, self.pixels, self.questions, self.stated, self.label, negatives=self.negatives)


class PatternWorld:
    """`size` pictures, one a scene, patterns in turn, as conversations of one question; the caption is text `alt`.

    Args:
      split, pixels: see above.
      patterns: which ones, in turn; all by default.
      stated: share of the captions that state the fact.
      difficulty: of the pictures. negatives: add captions, of kind `negative`, that state what is false.

    Arrays of a record, int32 []: `pattern`, its number in the order of `PATTERNS`, and `which` of its pair it is.
    """

    def __init__(
        self, size: int, split: str = "train", pixels: int = 96, patterns: Sequence[str] = (), stated: float = 0.25,
        name: str = "patterns", difficulty: Difficulty = Difficulty(), negatives: bool = False,
    ):
        if not 0 <= stated <= 1:
            raise UserError(f"{name}.stated: {stated} is not a share between 0 and 1")
        self.patterns = tuple(patterns) or tuple(PATTERNS)
        for pattern in self.patterns:
            scene(pattern, 0, split)  # names an unknown pattern or split
        self.name, self._size, self._split, self._pixels = name, size, split, pixels
        self._stated, self._difficulty, self._negatives = stated, difficulty, negatives

    def __len__(self) -> int:
        return self._size

    def id(self, index: int) -> str:
        """Name of picture `index`."""
        facts, which = self.scene(index)
        return f"{facts.id}/{which}"

    def scene(self, index: int) -> tuple[Scene, int]:
        """The scene of picture `index`, and which of its two pictures that is."""
        facts = scene(self.patterns[index % len(self.patterns)], index // len(self.patterns), self._split)
        return facts, Draws(_STATED, index).below(2)

    def states(self, index: int) -> bool:
        """Whether the caption of picture `index` states the fact. A larger share adds captions and changes none back."""
        return Draws(_STATED, index, 1).uniform() < self._stated

    def caption(self, index: int) -> str:
        """The caption of picture `index`."""
        facts, which = self.scene(index)
        return facts.caption(which, self.states(index))

    def __getitem__(self, index: int) -> Chat:
        if not 0 <= index < self._size:
            raise IndexError(index)
        facts, which = self.scene(index)
        image = png(_canvas(facts, facts.facts[which], self._pixels, self._difficulty))
        right = facts.options[facts.answers[which]]
        asked = f"{facts.question} {facts.options[0]} or {facts.options[1]}?"
        messages = ({"role": "user", "content": f"<image>\n{asked}"}, {"role": "assistant", "content": right})
        attributes = {"pattern": facts.pattern, "kind": facts.pattern, "fact": facts.facts[which], "thing": facts.thing,
                      "question": asked, "answer": right, "choices": "|".join(facts.options)}
        texts = {"alt": (self.caption(index),)}
        if self._negatives:
            texts["negative"] = (facts.caption(1 - which),)
        arrays = {"pattern": np.array(list(PATTERNS).index(facts.pattern), np.int32), "which": np.array(which, np.int32)}
        return Chat(id=f"{facts.id}/{which}", image=image, texts=texts, attributes=attributes, arrays=arrays, messages=messages,
                    images=(image,))
