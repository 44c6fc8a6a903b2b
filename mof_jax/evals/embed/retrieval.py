"""Image ↔ text retrieval, R@1/5/10, with several captions an image and several images a caption."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import ClassVar
import unicodedata

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.data.filter import Subset
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.text import captions as texts_of
from mof_jax.evals.embed.embedder import Embedder, records
from mof_jax.evals.embed.prompts import ensemble
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.metrics.ranking import Hop, positive_ranks
from mof_jax.evals.model import Model
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class Retrieval(Evaluator):
    """Candidates are all texts of the chosen kinds and all pictures of the source, see `Pool`.

    Attributes:
      texts: kinds of text that count as captions of their image; none for the kind that the source has, see `captions.kind_of`.
      at: the k of R@k.
      templates: a caption's embedding is the mean over these phrases; `("{}",)` is the caption itself.
    """

    kind: ClassVar[str] = "retrieval"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "retrieval"
    texts: tuple[str, ...] = ()
    at: tuple[Count, ...] = (1, 5, 10)
    templates: tuple[str, ...] = ("{}",)

    def run(self, model: Model) -> dict[str, float]:
        """`i2t@k`, `t2i@k` and their mean `r@k`, in percent, and what was found.

        Returns:
          `images`: pictures, and `merged_rows`: records that show one of them again. `candidates`: captions, and
          `repeated_captions`: how many of them say what another one says. `uncaptioned`: pictures without a caption, which are
          candidates but ask for none.

        Raises:
          UserError: no captions of these kinds. BadExample: a record that cannot be read.
        """
        embedder = model.embedder
        source = open_source(self.source)
        items = records(source)
        pool = Pool.of(items, kinds_of(source, items, self.texts))
        images = embed_pool(embedder, source, pool)
        texts = ensemble(embedder, pool.captions, self.templates)
        asked = pool.captioned
        forth, back = pool.hops
        numbers = np.arange(len(images), dtype=np.int32)
        i2t = positive_ranks(embedder.mesh, images[asked], texts, numbers[asked], pool.words, (forth, back))
        t2i = positive_ranks(embedder.mesh, texts, images, pool.words, numbers, (back[::-1], forth[::-1]))
        result = {"images": len(images), "candidates": len(texts),
                  "merged_rows": len(items) - len(images),
                  "repeated_captions": len(texts) - len(np.unique(pool.words)), "uncaptioned": int((~asked).sum())}
        shown, said = pool.units
        for k in self.at:
            hits = 100.0 * (i2t < k), 100.0 * (t2i < k)
            _keep(model, k, hits, ([shown[i] for i in np.flatnonzero(asked)], said))
            result[f"i2t@{k}"] = 100 * float(np.mean(i2t < k))
            result[f"t2i@{k}"] = 100 * float(np.mean(t2i < k))
            result[f"r@{k}"] = (result[f"i2t@{k}"] + result[f"t2i@{k}"]) / 2
        return result


def _keep(
    model: Model, k: int, hits: tuple[np.ndarray, np.ndarray], units: tuple[list[str], list[str]]
) -> None:
    """The rows of i2t@k, of t2i@k, and of their mean, in a column each."""
    for name, values, of in zip(("i2t", "t2i"), hits, units):
        model.keep(f"{name}@{k}", of, values)
    both = np.full((sum(map(len, hits)), 2), np.nan)
    both[: len(hits[0]), 0], both[len(hits[0]):, 1] = hits
    model.keep(f"r@{k}", units[0] + units[1], both)


@dataclasses.dataclass(frozen=True)
class Pool:
    """Pictures and captions, and which belong together.

    A picture that several records show (the same bytes) is one picture. A caption belongs to an item, the pictures of a group or
    a picture alone, and counts once for it. It is a right answer for every picture of each item that has the same words, see
    `same_words`, and they are for it.

    Attributes:
      rows: the first record of each picture. picture: which one each record shows.
      captions: with the item that each belongs to, `owners`, and the number of its words, `words`.
      links: (picture, item) of each record.
    """

    rows: Int[np.ndarray, "pictures"]
    picture: Int[np.ndarray, "records"]
    captions: list[str]
    owners: Int[np.ndarray, "captions"]
    words: Int[np.ndarray, "captions"]
    links: Hop

    @classmethod
    def of(cls, items: Sequence[Record], kinds: Sequence[str]) -> Pool:
        """What the records offer with texts of these kinds."""
        picture = _pictures(items)
        numbers, of = np.unique(item_ids(items), return_inverse=True)
        captions, owners = candidates(items, kinds)
        words: dict[str, int] = {}
        said = np.array([words.setdefault(same_words(caption), len(words)) for caption in captions], np.int32)
        links = np.unique(np.stack([picture, of.astype(np.int32)]), axis=1)
        return cls(np.unique(picture, return_index=True)[1], picture, captions, np.searchsorted(numbers, owners).astype(np.int32),
                   said, (links[0], links[1]))

    @property
    def hops(self) -> tuple[Hop, Hop]:
        """Edges from pictures to items, and from items to words."""
        return self.links, (self.owners, self.words)

    @property
    def captioned(self) -> Bool[np.ndarray, "pictures"]:
        """Which pictures have a caption."""
        found = np.zeros(len(self.rows), bool)
        found[self.links[0][np.isin(self.links[1], self.owners)]] = True
        return found

    @property
    def units(self) -> tuple[list[str], list[str]]:
        """The item that each picture shows (the first, of several), and that each caption belongs to, see
        `evals.items`."""
        pictures, first = np.unique(self.links[0], return_index=True)
        return [f"item {n}" for n in self.links[1][first]], [f"item {n}" for n in self.owners]

    def right(self, picture: int, caption: int) -> bool:
        """Whether a caption is a right answer for a picture."""
        items = self.links[1][self.links[0] == picture]
        return bool((self.words[np.isin(self.owners, items)] == self.words[caption]).any())


def embed_pool(embedder: Embedder, source: Source, pool: Pool) -> Float[np.ndarray, "pictures dim"]:
    """One embedding a picture."""
    return embedder.images(source if len(pool.rows) == len(source) else Subset(source, pool.rows))


def kinds_of(source: Source, items: Sequence[Record], wanted: Sequence[str]) -> tuple[str, ...]:
    """The kinds of text that are captions: `wanted`, or by default what the source has.

    Raises:
      UserError: a kind that no record has, or none to take by default; the line lists what the source has.
    """
    has = {kind for item in items for kind, values in item.texts.items() if any(text.strip() for text in values)}
    if wanted and set(wanted) <= has:
        return tuple(dict.fromkeys(wanted))
    missing = next((kind for kind in wanted if kind not in has), "")
    return (texts_of.kind_of(source, missing, "texts"),)


def same_words(text: str) -> str:
    """What two texts have in common that say the same: neither case nor blanks count, which most tokenizers drop."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _pictures(items: Sequence[Record]) -> Int[np.ndarray, "records"]:
    """Which picture each record shows: the same bytes are the same picture."""
    seen: dict[bytes | int, int] = {}
    return np.array([seen.setdefault(item.image or i, len(seen)) for i, item in enumerate(items)], np.int32)


def item_ids(items: Sequence[Record]) -> Int[np.ndarray, "records"]:
    """What a caption may be matched with: pictures of one group are one item; without a group each picture is its own."""
    pictures, groups = _pictures(items), {}
    for item, picture in zip(items, pictures.tolist()):
        if item.group >= 0:
            groups.setdefault(picture, item.group)
    alone = 1 + max((item.group for item in items), default=0)
    return np.array([item.group if item.group >= 0 else groups.get(picture, alone + picture)
                     for item, picture in zip(items, pictures.tolist())], np.int64)


def candidates(items: Sequence[Record], kinds: Sequence[str]) -> tuple[list[str], Int[np.ndarray, "captions"]]:
    """Captions and the item each belongs to; a caption that an item repeats counts once."""
    seen: dict[tuple[int, str], str] = {}
    for item, number in zip(items, item_ids(items).tolist()):
        for kind in kinds:
            for text in item.texts.get(kind, ()):
                if text.strip():
                    seen.setdefault((number, text.strip()), text)
    return list(seen.values()), np.array([number for number, _ in seen], np.int64)
