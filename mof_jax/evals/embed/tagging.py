"""Images with several labels each, ranked by their cosines with the labels' texts: mAP, P@k, nDCG@k."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import numpy as np

from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.prompts import ensemble, phrases
from mof_jax.evals.embed.retrieval import same_words
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.metrics import multilabel
from mof_jax.evals.model import Model
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class Tagging(Evaluator):
    """Mean average precision, precision and nDCG at k of images with several tags each.

    Tags are a kind of text; those of the same words, whatever their case and blanks, are one.

    Attributes:
      texts: the kind. templates: phrases with a place for a tag, or one entry naming a file of them.
      query: whether a `tag` ranks the images, or an `image` the tags, for P@k and nDCG@k.
      at: the k. least: tags of fewer images are left out.
    """

    kind: ClassVar[str] = "tagging"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "tagging"
    texts: str = "tags"
    templates: tuple[str, ...] = ("{}",)
    query: Literal["tag", "image"] = "tag"
    at: tuple[Count, ...] = (1, 5)
    least: Count = 1

    def run(self, model: Model) -> dict[str, float]:
        """`map`, the mean over tags of the average precision with which each ranks the images, and `p@k`
        and `ndcg@k`, means over queries; all in percent. Equal scores as in `metrics.multilabel`. `images`
        counts those with a tag that is left, `untagged` the others, which are candidates of a tag all the
        same and ask for none.

        Raises:
          UserError: no tag of so many images.
        """
        source = open_source(self.source)
        items = records(source)
        said = [
            {same_words(tag): tag for tag in item.texts.get(self.texts, ()) if tag.strip()}
            for item in items
        ]
        names: dict[str, str] = {key: tag for tags in reversed(said) for key, tag in tags.items()}
        count = {key: sum(key in tags for tags in said) for key in names}
        keys = sorted(key for key in names if count[key] >= self.least)
        if not keys:
            raise UserError(
                f"{self.source.label}: no text of kind {self.texts!r} belongs to {self.least} image(s)"
            )
        labels = np.array([[key in tags for key in keys] for tags in said])
        words = ensemble(model.embedder, [names[key] for key in keys], phrases(self.templates))
        scores = model.embedder.images(source) @ words.T
        scores = np.where(np.isfinite(scores), scores, np.finfo(np.float32).min)  # no number, no hit
        tagged = labels.any(axis=1)
        units = [unit_of(item) for item in items]
        model.keep("map", units, np.concatenate([scores, labels], axis=1), "mean_average_precision")
        result = {"images": int(tagged.sum()), "tags": len(keys), "untagged": int((~tagged).sum()),
                  "map": 100 * multilabel.mean_average_precision(scores, labels)}
        asked, right = (scores.T, labels.T) if self.query == "tag" else (scores[tagged], labels[tagged])
        of = keys if self.query == "tag" else [name for name, kept in zip(units, tagged) if kept]
        for k in self.at:
            for key, of_query in ((f"p@{k}", multilabel.precision_at(asked, right, k)),
                                  (f"ndcg@{k}", multilabel.ndcg_at(asked, right, k))):
                result[key] = 100 * float(of_query.mean())
                model.keep(key, of, 100 * of_query[:, None])
        return result
