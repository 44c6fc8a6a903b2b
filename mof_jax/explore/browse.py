"""Looking at what a two-tower model finds: pictures of a text, texts of a picture, classes of pictures, its worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from jaxtyping import Float, Int
import numpy as np
from PIL import Image

from mof_jax import config as configs
from mof_jax.data.image import images
from mof_jax.data.record import Record
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed import gallery
from mof_jax.evals.embed.classes import Classes, labels_of
from mof_jax.evals.embed.embedder import Embedder, records
from mof_jax.evals.embed.prompts import ensemble, phrases
from mof_jax.evals.embed.retrieval import candidates, item_ids
from mof_jax.evals.metrics.ranking import nearest
from mof_jax.restore import restore

_NO_ITEM = -1


@dataclasses.dataclass(frozen=True)
class Browser:
    """A source embedded once, to be asked often.

    Attributes:
      items: its records. ids: what a caption may be matched with, see `evals.embed.retrieval.item_ids`. pixels, words: unit-norm
        embeddings of the pictures and of the captions.
    """

    embedder: Embedder
    items: Sequence[Record]
    ids: Int[np.ndarray, "records"]
    captions: Sequence[str]
    caption_ids: Int[np.ndarray, "captions"]
    pixels: Float[np.ndarray, "records dim"]
    words: Float[np.ndarray, "captions dim"]

    @classmethod
    def open(cls, path: str, source: Mapping[str, Any], texts: Sequence[str] = ("alt",)) -> Browser:
        """Restores a checkpoint and embeds a source with it.

        Args:
          path: work dir or checkpoint, local or in a bucket. source: a section as in a config. texts: kinds that are captions.

        Raises:
          UserError: no such checkpoint, a model without towers, a source without captions.
        """
        return cls.of(restore(path).embedder, source, texts)

    @classmethod
    def of(cls, embedder: Embedder, source: Mapping[str, Any], texts: Sequence[str] = ("alt",)) -> Browser:
        """The same with a model that is at hand."""
        config = configs.build(SourceConfig, source, "source")
        opened = open_source(config)
        items = records(opened)
        captions, caption_ids = candidates(items, tuple(texts))
        if not captions:
            raise UserError(f"{config.label}: no text of kind {', '.join(texts)} to browse")
        return cls(
            embedder,
            items,
            item_ids(items),
            captions,
            caption_ids,
            embedder.images(opened),
            embedder.texts(captions),
        )

    def pictures(self, queries: Sequence[str], k: int = 5
                 ) -> tuple[Float[np.ndarray, "queries k"], Int[np.ndarray, "queries k"]]:
        """Cosines and positions of the k pictures closest to any texts, best first."""
        return nearest(self.embedder.mesh, self.embedder.texts(list(queries)), self.pixels, k)

    def texts(self, positions: Sequence[int], k: int = 5) -> tuple[Float[np.ndarray, "asked k"], Int[np.ndarray, "asked k"]]:
        """Cosines and positions of the k captions closest to some of the pictures, best first."""
        return nearest(self.embedder.mesh, self.pixels[list(positions)], self.words, k)

    def sheet(self, queries: Sequence[str], positions: Sequence[int], k: int = 5) -> Image.Image:
        """Left: texts of your own and their closest pictures, framed where the caption is the query. Right: pictures and their
        closest captions, the right ones in blue."""
        item = {text: int(number) for text, number in zip(self.captions, self.caption_ids)}
        _, found = self.pictures(queries, k)
        asked = [(q, [(self._cell(i), self.ids[i] == item.get(q, _NO_ITEM)) for i in row]) for q, row in zip(queries, found)]
        _, told = self.texts(positions, k)
        shown = [(self._cell(p), [(self.captions[t], self.caption_ids[t] == self.ids[p]) for t in row])
                 for p, row in zip(positions, told)]
        return gallery.draw(asked, shown, k, (f"A text, its {k} closest pictures", f"A picture, its {k} closest captions"))

    def mistakes(self, count: int = 6, k: int = 5) -> Image.Image:
        """The worst: what is right lies farthest below what was taken for it. Left: captions, their right picture framed, then
        the closest ones. Right: pictures, their right caption in blue, then the closest ones."""
        captions, best = worst(self.words, self.pixels, self.caption_ids, self.ids, count)
        _, found = nearest(self.embedder.mesh, self.words[captions], self.pixels, k - 1)
        asked = [(self.captions[q], [(self._cell(b), True), *((self._cell(i), False) for i in row)])
                 for q, b, row in zip(captions, best, found)]
        pictures, right = worst(self.pixels, self.words, self.ids, self.caption_ids, count)
        _, told = self.texts(pictures, k - 1)
        shown = [(self._cell(p), [(self.captions[r], True), *((self.captions[t], False) for t in row)])
                 for p, r, row in zip(pictures, right, told)]
        return gallery.draw(asked, shown, k, (f"Worst captions: the right picture, then the {k - 1} that came first",
                                              "Worst pictures: what is right first"))

    def zero_shot(self, classes: str = "", templates: Sequence[str] = ("{}",), label: str = "label") -> Guesses:
        """A class for every picture, as the evaluator `zeroshot` finds it.

        Raises:
          UserError: a record without a label.
        """
        labels = labels_of(self.items, label)
        found = Classes.of(classes, labels, "classes")
        names = found.names
        weights = ensemble(self.embedder, names, phrases(tuple(templates)))
        scores, best = nearest(self.embedder.mesh, self.pixels, weights, min(5, len(names)))
        return Guesses(self.items, [names[target] for target in found.targets], names, scores, best)

    def _cell(self, position: int) -> Image.Image:
        return gallery.cell(self.items[position].image)


@dataclasses.dataclass(frozen=True)
class Guesses:
    """Zero-shot answers. `scores` are cosines and `best` positions in `names` of the closest classes, best first."""

    items: Sequence[Record]
    labels: Sequence[str]
    names: Sequence[str]
    scores: Float[np.ndarray, "records k"]
    best: Int[np.ndarray, "records k"]

    def accuracy(self, k: int = 1) -> float:
        """Percent of pictures whose class is among the first k."""
        named = np.array(self.names, object)[self.best[:, :k]]
        return 100 * float(np.mean((named == np.array(self.labels, object)[:, None]).any(1)))

    def sheet(self, count: int = 12, right: bool | None = None, columns: int = 4) -> Image.Image:
        """Pictures with their guess, those with the surest first (by the distance to the second class).

        Args:
          right: right guesses alone, wrong ones alone, or all.
        """
        hit = np.array([self.names[row[0]] == label for row, label in zip(self.best, self.labels)])
        margin = self.scores[:, 0] - self.scores[:, min(1, self.scores.shape[1] - 1)]
        order = [i for i in np.argsort(-margin, kind="stable") if right is None or hit[i] == right][:count]
        cells = [(images.decode(self.items[i].image), f"surer than the next by {margin[i]:.2f}", self.names[self.best[i, 0]],
                  None if hit[i] else self.labels[i]) for i in order]
        return gallery.draw_answers(cells, columns)


def worst(
    queries: Float[np.ndarray, "queries dim"], keys: Float[np.ndarray, "keys dim"], query_ids: Int[np.ndarray, "queries"],
    key_ids: Int[np.ndarray, "keys"], count: int, strip: int = 1024,
) -> tuple[Int[np.ndarray, "count"], Int[np.ndarray, "count"]]:
    """The queries whose best right key lies farthest below their best wrong key, and that right key; queries without a right or
    a wrong key are left out. In strips, so that no more than `strip` rows of similarities exist at once."""
    margins, rights = [], []
    for start in range(0, len(queries), strip):
        scores = queries[start:start + strip] @ keys.T
        same = query_ids[start:start + strip, None] == key_ids
        right = np.where(same, scores, -np.inf)
        rights.append(right.argmax(1))
        with np.errstate(invalid="ignore"):
            margins.append(np.where(same, -np.inf, scores).max(1) - right.max(1))
    margin = np.concatenate(margins)
    margin = np.where(np.isfinite(margin), margin, -np.inf)
    order = np.argsort(-margin, kind="stable")[:min(count, int(np.isfinite(margin).sum()))]
    return order, np.concatenate(rights)[order]
