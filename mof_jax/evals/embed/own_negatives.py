"""Whether an image is nearer to its caption than to wrong ones made for it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.model import Model


@dataclasses.dataclass(frozen=True)
class WrongCaptions(Evaluator):
    """The share of images nearer to their caption than to each wrong one of their own (as ARO, arXiv 2210.01936, and
    SugarCrepe, arXiv 2306.14610, ask).

    Attributes:
      positive, negative: kinds of text: the first of the one, all of the other.
    """

    kind: ClassVar[str] = "own_negatives"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "own_negatives"
    positive: str = "alt"
    negative: str = "negative"

    def run(self, model: Model) -> dict[str, float]:
        """`acc` in percent; equal cosines count against the model.

        Raises:
          UserError: a record without one of the two kinds.
        """
        source = open_source(self.source)
        items = records(source)
        said = {}
        for kind in (self.positive, self.negative):
            said[kind] = [[text for text in item.texts.get(kind, ()) if text.strip()] for item in items]
            if [] in said[kind]:
                record = items[said[kind].index([])].id
                raise UserError(f"{self.source.label}: record {record} has no text of kind {kind!r}")
        image = model.embedder.images(source)
        right = model.embedder.texts([texts[0] for texts in said[self.positive]])
        counts = [len(texts) for texts in said[self.negative]]
        wrong = model.embedder.texts([text for texts in said[self.negative] for text in texts])
        cosines = np.einsum("rd,rd->r", np.repeat(image, counts, 0), wrong)
        hardest = np.maximum.reduceat(cosines, np.concatenate([[0], np.cumsum(counts)[:-1]]))
        hits = 100.0 * (np.einsum("rd,rd->r", image, right) > hardest)
        model.keep("acc", [unit_of(item) for item in items], hits)
        return {"images": len(items), "acc": float(hits.mean())}
