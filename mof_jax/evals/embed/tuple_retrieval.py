"""Retrieval between captions and tuples, parts of a picture as modalities, ranked by volume or by cosine."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import io
from typing import ClassVar, Literal

from jaxtyping import Int
import numpy as np

from mof_jax.data.fields.views import Part, half
from mof_jax.data.image import images
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.retrieval import kinds_of, same_words
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.model import Model
from mof_jax.objectives.gram import volume_scores
from mof_jax.objectives.scores import Band, Groups, Scores, Statistic, scores
from mof_jax.ranges import Count

TIE = 1e-6  # scores this close are equal: one that is computed twice may round differently


@dataclasses.dataclass(frozen=True)
class TupleRetrieval(Evaluator):
    """A caption's picture, given as its parts, and the caption of these (GRAM, arXiv 2412.11959).

    The image tower embeds every part. Captions of the same words are right answers for each other's pictures.

    Attributes:
      parts: of a picture, see `Views.part`.
      text: kind of text that is the caption, the first of a record; empty for the kind that the source has.
      by: what `r@k` ranks by: minus the volume of caption and parts, the mean of the caption's cosines with
        the parts, or its cosine with their sum. Of several the one that is best at the first k: a yardstick
        chosen in its own favour.
      at: the k of R@k.
    """

    kind: ClassVar[str] = "tuple_retrieval"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "tuples"
    parts: tuple[Part, ...] = ("left", "right")
    text: str = ""
    by: tuple[Literal["volume", "mean", "sum"], ...] = ("volume",)
    at: tuple[Count, ...] = (1, 5, 10)

    def __post_init__(self):
        if not (self.parts and self.by and self.at):
            raise ValueError("parts, by and at: one of each at least")

    def run(self, model: Model) -> dict[str, float]:
        """`r@k`, the mean of both directions in percent, and likewise `volume_r@k`, `mean_r@k` and `sum_r@k`.

        Raises:
          UserError: no such kind of text, or a record without one. BadExample: a record that cannot be read.
        """
        source = open_source(self.source)
        items = records(source)
        (kind,) = kinds_of(source, items, (self.text,) if self.text else ())
        captions = [next((text for text in item.texts.get(kind, ()) if text.strip()), "") for item in items]
        if "" in captions:
            record = items[captions.index("")].id
            raise UserError(f"{self.source.label}: record {record} has no text of kind {kind}")
        _, words = np.unique([same_words(caption) for caption in captions], return_inverse=True)
        text = model.embedder.texts(captions)
        parts = [model.embedder.images(Parts(source, part)) for part in self.parts]
        mean = np.mean(parts, axis=0)
        unit = mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
        makes = {"volume": lambda **more: volume_scores(text, *parts, **more),
                 "mean": lambda **more: scores(text, mean, precision="highest", **more),
                 "sum": lambda **more: scores(text, unit, precision="highest", **more)}
        ranks = {name: ranks_of(make, words.astype(np.int32)) for name, make in makes.items()}
        hits = {f"{name}_r@{k}": 100 * (rank < k).mean(0) for name, rank in ranks.items() for k in self.at}
        best = max(self.by, key=lambda name: hits[f"{name}_r@{self.at[0]}"].mean())
        hits |= {f"r@{k}": hits[f"{best}_r@{k}"] for k in self.at}
        for figure, values in hits.items():
            model.keep(figure, [f"words {n}" for n in words], values)
        found = {figure: float(values.mean()) for figure, values in hits.items()}
        return {"pictures": len(items), "different_captions": int(words.max()) + 1} | found


class Parts:
    """The records of a source with a part of each picture in its place."""

    def __init__(self, source: Source, part: Part):
        self.source, self.part, self.name = source, part, f"{source.name}, {part}"

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record, png = self.source[index], io.BytesIO()
        if record.image is None or self.part == "whole":
            return record
        picture = images.decode(record.image, source=self.source.name, record=record.id)
        half(picture, self.part).save(png, "PNG")
        return dataclasses.replace(record, image=png.getvalue())


def ranks_of(make: Callable[..., Scores], words: Int[np.ndarray, "rows"]) -> Int[np.ndarray, "2 rows"]:
    """How many wrong answers score at least as high as the best right one, for each query and for each key.

    Ties, and scores that are no numbers, count against the model.

    Args:
      make: the scores of all queries with all keys, from a pairing and offsets. words: rows of one number are
        right answers for each other.
    """
    right, sides = Groups(words), {"query": "offset", "key": "key_offset"}
    best = make(pairing=right).reduce(*(Statistic("max", "positives", side) for side in sides))
    below = Band(high=np.full(len(words), -TIE, np.float32), of=right)
    worse = [make(pairing=below, **{shift: -top}).reduce(Statistic("count", "negatives", side))[0]
             for (side, shift), top in zip(sides.items(), best)]
    return (len(words) - np.bincount(words)[words] - np.stack(worse)).astype(np.int32)
