"""How a model's image embeddings lie on the sphere: uniformity, effective rank, tolerance."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.evals.embed.classes import labels_of
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.embed.labelled_sources import unit
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import unit_of
from mof_jax.evals.metrics import geometry
from mof_jax.evals.model import Model


@dataclasses.dataclass(frozen=True)
class EmbeddingGeometry(Evaluator):
    """Uniformity (arXiv 2005.10242), effective rank (RankMe, arXiv 2210.02885) and, with labels, tolerance
    (arXiv 2012.09740).

    Attributes:
      label: attribute that names a record's class, for tolerance; empty for none.
    """

    kind: ClassVar[str] = "embedding_geometry"
    requires: ClassVar[tuple[str, ...]] = ("embed/image",)

    source: SourceConfig
    name: str = "geometry"
    label: str = ""

    def run(self, model: Model) -> dict[str, float]:
        """`uniformity`, at t = 2 on unit-norm embeddings; `effective_rank` of the same, at most `dim`;
        `tolerance`, NaN where no class has two images. See `metrics.geometry`.

        Raises:
          UserError: a record without the label.
        """
        source = open_source(self.source)
        items = records(source)
        classes = labels_of(items, self.label, self.source) if self.label else []
        x = np.asarray(unit(model.embedder.images(source)), np.float64)
        units = [unit_of(item) for item in items]
        result = {"images": len(x), "dim": x.shape[1], "uniformity": geometry.uniformity(x),
                  "effective_rank": geometry.effective_rank(x)}
        model.keep("uniformity", units, x, "uniformity")
        model.keep("effective_rank", units, x, "effective_rank")
        if classes:
            number = np.unique(classes, return_inverse=True)[1]
            result["tolerance"] = geometry.tolerance(x, number)
            model.keep("tolerance", units, np.concatenate([x, number[:, None]], axis=1), "tolerance")
        return result
