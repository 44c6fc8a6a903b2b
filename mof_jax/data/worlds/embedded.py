"""Pictures that ship with the package: "emoji5", real artwork with real captions, no download.

One picture a vendor and concept, 64 px WebP on white; names and keywords in 28 languages. Five vendors train (`noto`,
`noto-v1`, `fluent`, `fluent-flat`, and `circle-flags` for flags); `twemoji` only evaluates. Who drew them, and under
which licence: `emoji5/NOTICE`. `scripts/build_emoji5.py` makes the files.

The split, by label *family* so that no held-out concept has a sibling in training (rule: `mof_jax.data.worlds.families`):

    train     pictures of the training vendors, families that are not held out
    twemoji   an unseen vendor, concepts whose family was trained on
    unseen    concepts of held-out families, about one in ten; pictures from Twemoji unless other vendors are asked for

Candidates of a zero-shot run are the English labels of the split's concepts, all of them, in the order of
`emoji5/<split>.tsv`. Every concept says whether it is a flag, so that flags can be reported apart: a flag is read from
a round badge in training and from a rectangle in Twemoji, and its caption is a name that no other picture explains.
Twemoji draws some concepts alike (30 families of people with 4 pictures, six flags twice): 1,701 different
pictures for 1,734 concepts of `twemoji`. Retrieval takes such a picture as one with several captions; zero-shot, where a
concept is a class, finds at most 98.1 % of them. `unseen` has no such twins.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import ClassVar

import numpy as np

from mof_jax.data.record import Computed, Record
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.worlds import pack
from mof_jax.errors import UserError, nearest

ROOT = pathlib.Path(__file__).parent / "emoji5"
TRAIN_VENDORS = ("noto", "noto-v1", "fluent", "fluent-flat", "circle-flags")
EVAL_VENDORS = ("twemoji",)
SPLITS = ("train", "twemoji", "unseen")


@dataclasses.dataclass(frozen=True)
class Emoji5Config(SourceConfig):
    """The pictures that ship with the package, with names and keywords in 28 languages.

    Attributes:
      split: `train`, `twemoji` or `unseen`. locales: languages of the captions.
    """

    kind: ClassVar[str] = "emoji5"
    embedded: ClassVar[bool] = True

    split: str = "train"
    locales: tuple[str, ...] = ("en",)

    def open(self) -> Emoji5:
        return Emoji5(split=self.split, locales=self.locales)


class Emoji5:
    """A split of the embedded pictures, as a `Source`. Files are opened at the first access, and once a process.

    Texts: `alt` (the label) and `tags` (keywords) in English; `alt:de`, `tags:de` … in any other locale asked for. Arrays:
    `concept`, the number of the concept, and `tags`, the numbers of its keywords in `tags()`.
    """

    def __init__(
        self,
        split: str = "train",
        vendors: Sequence[str] | None = None,
        locales: Sequence[str] = ("en",),
        root: str | pathlib.Path = ROOT,
    ):
        """
        Args:
          split: `train`, `twemoji` or `unseen`.
          vendors: which vendors' pictures; None for the split's own. `unseen` may be read from any vendor.
          locales: languages of the captions, see `locales()`.
          root: folder of the pack.

        Raises:
          UserError: an unknown split or vendor, an evaluation vendor in training, a training vendor in `twemoji`.
        """
        self.split, self.root = _known(split, SPLITS, "split"), str(root)
        self.name = f"emoji5/{split}"
        allowed = {"train": TRAIN_VENDORS, "twemoji": EVAL_VENDORS, "unseen": TRAIN_VENDORS + EVAL_VENDORS}[split]
        default = TRAIN_VENDORS if split == "train" else EVAL_VENDORS
        self.vendors = default if vendors is None else _several(vendors, allowed, f"vendor of split {split!r}")
        self.locales = tuple([locales] if isinstance(locales, str) else locales)
        self._pictures: tuple[pack.Picture, ...] | None = None

    def __len__(self) -> int:
        return len(self._rows())

    def __getitem__(self, index: int) -> Record:
        rows, opened = self._rows(), pack.read(self.root)
        if not -len(rows) <= index < len(rows):
            raise IndexError(f"{self.name}: index {index} of {len(rows)}")
        picture = rows[index]
        concept = opened.concepts[picture.concept]
        return Record(
            id=f"{picture.vendor}/{concept.hex}",
            image=opened.image(picture),
            texts=self._texts(opened, concept),
            group=concept.number,
            attributes={
                "vendor": picture.vendor,
                "concept": concept.hex,
                "family": concept.family,
                "label": concept.label,
                "flag": "yes" if concept.flag else "no",
            },
            arrays=Computed(_ARRAYS, concept),
        )

    def _texts(self, opened: pack.Pack, concept: pack.Concept) -> dict[str, tuple[str, ...]]:
        texts = {}
        for locale in self.locales:
            if locale == "en":
                texts["alt"], texts["tags"] = (concept.label,), concept.tags
            else:
                labels, tags = opened.locale(locale)
                texts[f"alt:{locale}"] = (labels[concept.number],)
                texts[f"tags:{locale}"] = tuple(tags[concept.number])
        return texts

    def _rows(self) -> tuple[pack.Picture, ...]:
        """The split's pictures: vendors in the order given, concepts in the order of the candidates."""
        if self._pictures is None:  # two threads may both compute it; they find the same
            opened = pack.read(self.root)
            _several(self.locales, opened.locales, "locale")
            have = {(picture.vendor, picture.concept): picture for picture in opened.pictures}
            keys = ((vendor, c.number) for vendor in self.vendors for c in _concepts(opened, self.split))
            self._pictures = tuple(have[key] for key in keys if key in have)
        return self._pictures


def vendors(split: str = "train") -> tuple[str, ...]:
    """The vendors whose pictures a split shows by default."""
    return TRAIN_VENDORS if _known(split, SPLITS, "split") == "train" else EVAL_VENDORS


def locales() -> tuple[str, ...]:
    """Every caption language, `en` first."""
    return pack.read(str(ROOT)).locales


@functools.cache
def tags() -> tuple[str, ...]:
    """Every English keyword of any split, sorted: what the numbers in the array `tags` mean."""
    return tuple(sorted({tag for split in ("twemoji", "unseen") for concept in concepts(split) for tag in concept.tags}))


@functools.cache
def _tag_numbers() -> dict[str, int]:
    return {tag: number for number, tag in enumerate(tags())}


_ARRAYS = {
    "concept": lambda concept: np.array(concept.number, np.int32),
    "tags": lambda concept: np.array([_tag_numbers()[tag] for tag in concept.tags], np.int32),
}


def candidates(split: str) -> list[str]:
    """The English labels of a split's concepts, in fixed order; see `concepts`."""
    return [concept.label for concept in concepts(split)]


def concepts(split: str) -> tuple[pack.Concept, ...]:
    """A split's concepts, aligned with `candidates`; `Record.group` is a concept's `number`."""
    return _concepts(pack.read(str(ROOT)), _known(split, SPLITS, "split"))


def _concepts(opened: pack.Pack, split: str) -> tuple[pack.Concept, ...]:
    # What is trained on is what "twemoji" tests: every family that is not held out.
    return opened.evaluation_list("unseen" if split == "unseen" else "twemoji")


def _known(word: str, known: Sequence[str], what: str) -> str:
    if word not in known:
        raise UserError(f"emoji5: unknown {what} {word!r}{nearest(str(word), known)}")
    return word


def _several(words: Sequence[str], known: Sequence[str], what: str) -> tuple[str, ...]:
    words = tuple([words] if isinstance(words, str) else words)
    if not words or len(set(words)) != len(words):
        raise UserError(f"emoji5: {what}: name at least one, each once, got {list(words)}")
    return tuple(_known(word, known, what) for word in words)
