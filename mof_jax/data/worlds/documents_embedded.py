"""Documents made of what ships with the package: pages of pictures with words about them, and a glossary, as text.

The pictures and their names are emoji5's (`embedded`), the explanations WordNet's (`wordnet/LICENSE`). A page shows
two to six things that share a keyword; the glossary explains a few words of one subject. Page `i` is a pure function
of `i`. Held-out concepts appear on no page of the `train` split and their names are not explained in the glossary.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import ClassVar

from mof_jax.data.keyed import Draws
from mof_jax.data.packing.documents import Page
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import embedded, pack
from mof_jax.errors import UserError
from mof_jax.ranges import Count

GLOSSES = pathlib.Path(__file__).parent / "wordnet" / "glosses.tsv"

_PAGE, _GLOSSARY = 11, 12  # what a key is for
_LEAST = 3  # things that share a keyword, for it to make a subject


@functools.cache
def glosses() -> dict[str, str]:
    """What WordNet says, by lower-case term."""
    try:
        lines = GLOSSES.read_text(encoding="utf-8").splitlines()
        return dict(line.split("\t") for line in lines)
    except (OSError, ValueError) as error:
        raise UserError(f"{GLOSSES}: {error}; reinstall mof_jax or run scripts/build_glosses.py again") from None


@functools.cache
def _held_out() -> frozenset[str]:
    """Names of the concepts that no training run may see."""
    return frozenset(concept.label.lower() for concept in embedded.concepts("unseen"))


@functools.cache
def subjects(split: str) -> tuple[tuple[str, tuple[pack.Concept, ...]], ...]:
    """(keyword, the concepts that have it) of a split, sorted. Flags are left out, they are named by nothing
    they show, and so is a keyword that names a held-out concept, where those are not to be seen."""
    members: dict[str, list[pack.Concept]] = {}
    for concept in embedded.concepts(split):
        for tag in () if concept.flag else concept.tags:
            members.setdefault(tag, []).append(concept)
    kept = [tag for tag in sorted(members) if len(members[tag]) >= _LEAST and tag.isascii()]
    return tuple((tag, tuple(members[tag])) for tag in kept if split == "unseen" or tag.lower() not in _held_out())


@functools.cache
def _pictures(split: str) -> dict[int, tuple[pack.Picture, ...]]:
    """The pictures that a split shows of each concept."""
    shown: dict[int, list[pack.Picture]] = {}
    for picture in pack.read(str(embedded.ROOT)).pictures:
        if picture.vendor in embedded.vendors(split):
            shown.setdefault(picture.concept, []).append(picture)
    return {number: tuple(pictures) for number, pictures in shown.items()}


def _explained(term: str, draws: Draws) -> str:
    """`term: gloss`, or the term alone where nothing is known of it."""
    gloss = glosses().get(term.lower())
    if gloss is None:
        return term
    return draws.choice((f"{term}: {gloss}", f"{term}, {gloss}", f"{term} ({gloss})"))


def _other_locales(split: str, locales: tuple[str, ...]) -> tuple[str, ...]:
    """The languages besides English; an unknown one, or an unknown split, is a `UserError`."""
    len(embedded.Emoji5(split, locales=locales))
    return tuple(locale for locale in locales if locale != "en")


@dataclasses.dataclass(frozen=True)
class PagesConfig(SourceConfig):
    """Interleaved pages of the embedded pictures and what WordNet says of them.

    Attributes:
      size: number of pages. split: whose pictures they show (`train`, `twemoji`, `unseen`).
      locales: languages in which a thing is named on some pages, besides English.
    """

    kind: ClassVar[str] = "pages"
    embedded: ClassVar[bool] = True

    size: Count = 1024
    split: str = "train"
    locales: tuple[str, ...] = ("en",)

    def open(self) -> PageWorld:
        return PageWorld(self.size, self.split, self.locales, self.label)


@dataclasses.dataclass(frozen=True)
class GlossaryConfig(SourceConfig):
    """Pages of text that explain a few words of one subject.

    Attributes:
      size: number of pages. locales: languages in which words are named, besides English.
    """

    kind: ClassVar[str] = "glossary"
    embedded: ClassVar[bool] = True

    size: Count = 1024
    locales: tuple[str, ...] = ("en",)

    def open(self) -> Glossary:
        return Glossary(self.size, self.locales, self.label)


class PageWorld:
    """`size` interleaved pages.

    Args:
      split: whose pictures they show, as in `embedded`: `train`, `twemoji` or `unseen`.
      locales: languages in which a thing is named on some pages, besides English.
    """

    def __init__(self, size: int, split: str = "train", locales: tuple[str, ...] = ("en",), name: str = "pages"):
        self.name, self._size, self._split, self._locales = name, size, split, _other_locales(split, locales)

    def __len__(self) -> int:
        return self._size

    def id(self, index: int) -> str:
        """Name of page `index`."""
        return f"{index:08d}"

    def __getitem__(self, index: int) -> Page:
        if not 0 <= index < self._size:
            raise IndexError(index)
        opened, shown = pack.read(str(embedded.ROOT)), _pictures(self._split)
        draws = Draws(_PAGE, embedded.SPLITS.index(self._split), index)
        subject, members = draws.choice(subjects(self._split))
        members = draws.sample([c for c in members if c.number in shown], 2 + draws.below(5))
        pictures_first = draws.below(2) == 0
        parts: list[str | bytes] = [f"{_explained(subject, draws)}.\n"]
        for concept in members:
            picture = opened.image(draws.choice(shown[concept.number]))
            words = _explained(concept.label, draws) + self._translated(opened, concept, draws) + ".\n"
            parts += [picture, words] if pictures_first else [words, picture]
        if not pictures_first:
            parts.append("\n")  # a page does not end with a picture that no word follows
        return Page(
            id=self.id(index),
            image=next(part for part in parts if isinstance(part, bytes)),
            texts={"text": ("".join(part for part in parts if isinstance(part, str)),)},
            attributes={"subject": subject, "concepts": " ".join(c.hex for c in members)},
            parts=tuple(parts),
        )

    def _translated(self, opened: pack.Pack, concept: pack.Concept, draws: Draws) -> str:
        if not self._locales:
            return ""
        locale = draws.choice(self._locales)
        return f" [{locale}: {opened.locale(locale)[0][concept.number]}]"


class Glossary:
    """`size` pages of text: three to eight words of one subject, explained or described by their keywords."""

    def __init__(self, size: int, locales: tuple[str, ...] = ("en",), name: str = "glossary"):
        self.name, self._size, self._locales = name, size, _other_locales("train", locales)

    def __len__(self) -> int:
        return self._size

    def id(self, index: int) -> str:
        """Name of page `index`."""
        return f"{index:08d}"

    def __getitem__(self, index: int) -> Page:
        if not 0 <= index < self._size:
            raise IndexError(index)
        opened, draws = pack.read(str(embedded.ROOT)), Draws(_GLOSSARY, index)
        subject, members = draws.choice(subjects("train"))
        lines = [f"{_explained(subject, draws)}."]
        for concept in draws.sample(members, 3 + draws.below(6)):
            lines.append(f"{_explained(concept.label, draws)}.")
            tags = [tag for tag in concept.tags if tag.lower() not in _held_out()]
            if tags and draws.below(2):
                lines.append(f"{concept.label} goes with {', '.join(draws.sample(tags, 3))}.")
            word = draws.choice(tags or [concept.label]).lower()
            if word in glosses() and draws.below(2):
                lines.append(f"{_explained(word, draws)}.")
            if self._locales:
                locale = draws.choice(self._locales)
                lines.append(f"{concept.label} is {opened.locale(locale)[0][concept.number]} ({locale}).")
        text = "\n".join(lines) + "\n"
        return Page(id=self.id(index), image=None, texts={"text": (text,)}, attributes={"subject": subject}, parts=(text,))
