"""What a small multimodal model is taught and asked about the pattern world, as arrays of words.

A row is a picture and one text about it; `_` is where the picture's tokens stand:

    fact       <bos> _ which way does the horse face ? left or right ? left <eos>
    name       <bos> _ what is in the picture ? horse <eos>
    caption    <bos> _ describe the picture . a horse facing left <eos>

Words are tokens, and every answer to a question of facts is one word, so that a choice between two options is a comparison of
two logits at one position.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.data.worlds import pattern_world as world
from mof_jax.data.worlds.pattern_art import COLOURS, NUMBERS
from mof_jax.data.worlds.pattern_world import Scene

PAD, BOS, EOS = 0, 1, 2
KINDS = ("fact", "name", "caption")
WORDS = 18  # positions of a row beside the picture's
_NAME, _CAPTION = "what is in the picture ?", "describe the picture ."


def words_of(text: str) -> list[str]:
    """Words and marks, in lower case."""
    return re.findall(r"[\w']+|[^\w\s]", text.lower())


def _sentences(scene: Scene) -> list[str]:
    return [scene.question, *scene.options, scene.thing, *(scene.caption(i, s) for i in (0, 1) for s in (False, True))]


class Vocabulary:
    """Every word that the world can say, in alphabetical order behind the special tokens."""

    def __init__(self):
        some = [world.scene(pattern, n) for pattern in world.PATTERNS for n in range(1500)]
        found = {w for scene in some for text in _sentences(scene) for w in words_of(text)}
        named = (*world.THINGS, *map(world.plural, world.THINGS), *world.SMALL, *COLOURS, *NUMBERS, *sum(world.WORDS, ()))
        found |= {w for text in (*named, "or", "an", _NAME, _CAPTION) for w in words_of(text)}
        self.words = ("<pad>", "<bos>", "<eos>", *sorted(found))
        self.ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, text: str) -> list[int]:
        return [self.ids[word] for word in words_of(text)]

    def text(self, ids: Sequence[int]) -> str:
        """Words up to the first end."""
        ids = list(ids)
        return " ".join(self.words[i] for i in (ids[: ids.index(EOS)] if EOS in ids else ids))


@dataclasses.dataclass(frozen=True)
class Texts:
    """Texts about pictures: `tokens` without the picture, padded behind; `begins` is where the answer begins.

    Attributes:
      ends: one behind the last token, which is the end token.
    """

    tokens: Int[np.ndarray, "... words"]
    begins: Int[np.ndarray, "..."]
    ends: Int[np.ndarray, "..."]

    def __getitem__(self, index) -> Texts:
        return Texts(self.tokens[index], self.begins[index], self.ends[index])


def texts(vocabulary: Vocabulary, scene: Scene, which: int, stated: bool) -> Texts:
    """The three texts about one picture, in the order of `KINDS`."""
    asked = f"{scene.question} {scene.options[0]} or {scene.options[1]} ?"
    right = scene.options[scene.answers[which]]
    rows = [(asked, right), (_NAME, scene.thing), (_CAPTION, scene.caption(which, stated))]
    tokens = np.full((len(rows), WORDS), PAD, np.int32)
    begins, ends = np.zeros(len(rows), np.int32), np.zeros(len(rows), np.int32)
    for i, (prompt, reply) in enumerate(rows):
        head, tail = [BOS, *vocabulary(prompt)], [*vocabulary(reply), EOS]
        tokens[i, : len(head) + len(tail)] = head + tail
        begins[i], ends[i] = len(head), len(head) + len(tail)
    return Texts(tokens, begins, ends)


def stack(items: Sequence[Texts]) -> Texts:
    """Texts of many pictures, [pictures, kinds, …]."""
    return Texts(*(np.stack([getattr(item, f.name) for item in items]) for f in dataclasses.fields(Texts)))


def rows(texts: Texts, slots: int) -> dict[str, Int[np.ndarray, "rows context"] | Float[np.ndarray, "rows context"]]:
    """A batch for the MLLM task: `slots` positions of the picture behind the first token of every row, then its words."""
    count = len(texts.tokens)
    tokens = np.concatenate([texts.tokens[:, :1], np.full((count, slots), PAD, np.int32), texts.tokens[:, 1:]], axis=1)
    places = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    begins, ends = texts.begins[:, None] + slots, texts.ends[:, None] + slots
    return {"tokens": tokens, "image_index": np.where((places >= 1) & (places < 1 + slots), places - 1, -1).astype(np.int32),
            "positions": places, "segment_ids": (places < ends).astype(np.int32),
            "loss_weight": ((places >= begins) & (places < ends)).astype(np.float32)}


def choices(vocabulary: Vocabulary, scenes: Sequence[Scene]) -> Int[np.ndarray, "scenes 2"]:
    """The tokens of the two options."""
    return np.array([[vocabulary.ids[option] for option in scene.options] for scene in scenes], np.int32)


def right_choices(logits: Float[np.ndarray, "scenes 2 2"], scenes: Sequence[Scene]) -> Bool[np.ndarray, "scenes 2"]:
    """Which of a scene's two pictures the likelier option is right for; a tie is wrong.

    Args:
      logits: of scene, picture, option.
    """
    answers = np.array([scene.answers for scene in scenes])
    right = np.take_along_axis(logits, answers[..., None], axis=-1)[..., 0]
    return right > np.take_along_axis(logits, 1 - answers[..., None], axis=-1)[..., 0]
