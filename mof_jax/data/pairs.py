"""Paired pictures: two that differ in one fact, a question that asks for it, and a statement for each.

What MMVP and MMVP-VLM hold (arXiv 2401.06209), what `data.worlds.pattern_world` draws, and what the paired evaluators read.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import re

from mof_jax.data.record import Record

# Nine visual patterns: key -> (the paper's name, MMVP-VLM's `Type`), in the order of the paper's tables.
PATTERNS: dict[str, tuple[str, str]] = {
    "orientation": ("Orientation and Direction", "Orientation"),
    "presence": ("Presence of Specific Features", "Presence"),
    "state": ("State and Condition", "State"),
    "quantity": ("Quantity and Count", "Quantity"),
    "position": ("Positional and Relational Context", "Spatial"),
    "colour": ("Color and Appearance", "Color"),
    "structure": ("Structural and Physical Characteristics", "Structural Character"),
    "text": ("Text", "Text"),
    "viewpoint": ("Viewpoint and Perspective", "Camera Perspective"),
}


def pattern_of(name: str) -> str:
    """The key of the pattern called `name`: a key, the paper's name or a `Type`, whatever its case, underscores or plural.

    "" if there is none: files and loaders write `Camera Perspective`, `Camera_Perspective`, `Texts`.
    """
    return _KEYS.get(_plain(name), "")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().lower().removesuffix("s")


_KEYS = {_plain(name): key for key, names in PATTERNS.items() for name in (key, *names)}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two pictures and what is asked about both.

    Attributes:
      id: stable name.
      images: encoded pictures.
      question: the same for both; empty where there is none (MMVP-VLM).
      options: the two answers offered; empty likewise.
      answers: which option is right for each picture, 0 or 1.
      statements: what is true of each picture and false of the other; empty where there are none (MMVP).
      pattern: a key of `PATTERNS`, "" where it is not known.
    """

    id: str
    images: tuple[bytes, bytes]
    question: str = ""
    options: tuple[str, str] | tuple[()] = ()
    answers: tuple[int, int] = (0, 1)
    statements: tuple[str, str] | tuple[()] = ()
    pattern: str = ""

    def record(self, which: int) -> Record:
        """One of the pictures, with its statement as text `alt`."""
        texts = {"alt": (self.statements[which],)} if self.statements else {}
        attributes = {"pattern": self.pattern, "pair": self.id, "which": str(which)}
        return Record(id=f"{self.id}/{which}", image=self.images[which], texts=texts, attributes=attributes)


class PairPictures:
    """The pictures of pairs as a `Source`: 2i and 2i + 1 are those of pair i."""

    def __init__(self, pairs: Sequence[Pair], name: str = "pairs"):
        self.pairs, self.name = pairs, name

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.pairs[index // 2].record(index % 2)
