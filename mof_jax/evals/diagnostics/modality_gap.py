"""What keeps images and texts apart in a shared space, though they are trained to meet (Liang et al., arXiv
2203.02053)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Float
import numpy as np

from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.labelled_sources import unit
from mof_jax.evals.embed.probe import fit, predict
from mof_jax.evals.embed.retrieval import kinds_of
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.metrics import geometry
from mof_jax.evals.model import Model
from mof_jax.ranges import Whole

_STRENGTH, _STEPS = 1e-4, 100  # of the separating hyperplane's fit


@dataclasses.dataclass(frozen=True)
class ModalityGap(Evaluator):
    """Distance of centroids, linear separability, alignment and uniformity of pairs.

    Attributes:
      texts: kinds of text, the first that a record has is its caption; none for the kind that the source has.
      seed: which half of the pairs the separating hyperplane is fitted on.
    """

    kind: ClassVar[str] = "modality_gap"
    requires: ClassVar[tuple[str, ...]] = ("embed/image", "embed/text")

    source: SourceConfig
    name: str = "modality_gap"
    texts: tuple[str, ...] = ()
    seed: Whole = 0

    def run(self, model: Model) -> dict[str, float]:
        """`centroid_distance`; `separability`, percent of held-out embeddings whose modality a hyperplane
        tells (50: no gap); `alignment` of pairs; `uniformity_image` and `uniformity_text`. See
        `metrics.geometry`.

        Raises:
          UserError: fewer than four pairs, no such kind of text, or a record without a caption.
        """
        source = open_source(self.source)
        items = records(source)
        if len(items) < 4:
            raise UserError(
                f"{self.source.label}: {len(items)} pairs are too few for a hyperplane; 4 at least"
            )
        kinds = kinds_of(source, items, self.texts)
        captions = [
            next((t for kind in kinds for t in item.texts.get(kind, ()) if t.strip()), None)
            for item in items
        ]
        if None in captions:
            bare = items[captions.index(None)].id
            raise UserError(f"{self.source.label}: record {bare} has no text of kind {', '.join(kinds)}")
        x, y = (
            np.asarray(unit(z), np.float64)
            for z in (model.embedder.images(source), model.embedder.texts(captions))
        )
        units, apart = [unit_of(item) for item in items], geometry.alignment(x, y)
        model.keep("alignment", units, apart[:, None])
        model.keep("centroid_distance", units, np.concatenate([x, y], axis=1), "centroid_distance")
        model.keep("uniformity_image", units, x, "uniformity")
        model.keep("uniformity_text", units, y, "uniformity")
        return {"pairs": len(items), "centroid_distance": geometry.centroid_distance(x, y),
                "separability": 100 * separability(x, y, self.seed), "alignment": float(apart.mean()),
                "uniformity_image": geometry.uniformity(x), "uniformity_text": geometry.uniformity(y)}


def separability(
    x: Float[np.ndarray, "pairs dim"], y: Float[np.ndarray, "pairs dim"], seed: int = 0
) -> float:
    """The share of held-out embeddings whose modality a logistic regression tells that was fitted on the
    other half of the pairs (arXiv 2405.18570 measures it so). A pair's two embeddings are on one side of
    the split."""
    order = np.random.default_rng(seed).permutation(len(x))
    fitted, held = np.split(order, [len(x) // 2])
    stack = lambda rows: np.concatenate([x[rows], y[rows]]).astype(np.float32)
    side = lambda rows: np.repeat(np.arange(2), len(rows))
    weights = fit(stack(fitted), side(fitted), 2, _STRENGTH, _STEPS)
    return float(np.mean(predict(weights, stack(held)) == side(held)))
