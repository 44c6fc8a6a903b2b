"""k-nearest-neighbour classification of frozen image features, with the weighted vote of arXiv 1805.01978."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import Bool
import numpy as np

from mof_jax.data.sources.config import SourceConfig
from mof_jax.evals.embed.feature_baselines import Features, accuracies
from mof_jax.evals.embed.labelled_sources import Labels, unit
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.metrics.ranking import nearest
from mof_jax.evals.model import Model
from mof_jax.ranges import Count, Positive


@dataclasses.dataclass(frozen=True)
class Knn(Evaluator):
    """Classes of `test` pictures from the `train` pictures around them.

    Attributes:
      label: attribute that names a record's class; test records of a class that `train` lacks are left out.
      k: neighbours; temperature: a neighbour votes with exp(cosine / temperature).
      baselines: also measure what was there without training, see `evals.embed.feature_baselines`.
    """

    kind: ClassVar[str] = "knn"
    requires: ClassVar[tuple[str, ...]] = ("embed/image",)

    train: SourceConfig
    test: SourceConfig
    name: str = "knn"
    label: str = "label"
    k: Count = 10
    temperature: Positive = 0.07
    baselines: bool = False

    def run(self, model: Model) -> dict[str, float]:
        """`acc@1` in percent, over the test pictures whose class is known; see `Labels.counts`."""
        embedder = model.embedder
        labels = Labels.read(self.train, self.test, self.label)

        def right(features: Features) -> Bool[np.ndarray, "test"]:
            train, test = labels.features(features)
            scores, index = nearest(embedder.mesh, unit(test), unit(train), min(self.k, len(train)))
            votes = np.zeros((len(test), labels.classes))
            weights = np.exp((scores - scores.max(1, keepdims=True)) / self.temperature)
            np.add.at(votes, (np.arange(len(votes))[:, None], labels.train[index]), weights)
            return (votes.argmax(1) == labels.test) & np.isfinite(scores).all(1)  # no embedding, no hit

        return {**labels.counts, **accuracies(model, right, labels.units, self.baselines)}
