"""k-nearest-neighbour classification of frozen image features, with the weighted vote of arXiv 1805.01978."""

from __future__ import annotations

import dataclasses

import numpy as np

from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.encoder import Encoder, records
from mof_jax.evals.ranking import nearest


@dataclasses.dataclass(frozen=True)
class Knn:
    """Classes of `test` pictures from the `train` pictures around them.

    Attributes:
      label: attribute that names a record's class; test records of a class that `train` lacks are left out.
      k: neighbours; temperature: a neighbour votes with exp(cosine / temperature).
    """

    train: SourceConfig
    test: SourceConfig
    name: str = "knn"
    label: str = "label"
    k: int = 10
    temperature: float = 0.07

    def run(self, encoder: Encoder) -> dict[str, float]:
        """`acc@1` in percent, over the test pictures whose class is known."""
        train, test, classes = labelled(encoder, self.train, self.test, self.label)
        scores, index = nearest(encoder.mesh, unit(test[0]), unit(train[0]), min(self.k, len(train[1])))
        votes = np.zeros((len(test[1]), classes))
        weights = np.exp((scores - scores.max(1, keepdims=True)) / self.temperature)
        np.add.at(votes, (np.arange(len(votes))[:, None], train[1][index]), weights)
        return {"images": float(len(votes)), "classes": float(classes),
                "acc@1": 100 * float(np.mean(votes.argmax(1) == test[1]))}


def labelled(
    encoder: Encoder, train: SourceConfig, test: SourceConfig, label: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], int]:
    """(features, class numbers) of both sources over the classes of `train`, and how many classes there are."""
    opened = [open_source(c) for c in (train, test)]
    names = [[r.attributes.get(label) for r in records(source)] for source in opened]
    for source, found in zip(opened, names):
        if None in found:
            raise UserError(f"{source.name}: record {source[found.index(None)].id} has no attribute {label!r}")
    classes = {name: i for i, name in enumerate(sorted(set(names[0])))}
    known = np.array([name in classes for name in names[1]])
    if not known.any():
        raise UserError(f"{opened[1].name}: no record has a class that {opened[0].name} has")
    number = lambda found: np.array([classes[name] for name in found if name in classes])
    features = encoder.images(opened[0]), encoder.images(opened[1])[known]
    return (features[0], number(names[0])), (features[1], number(names[1])), len(classes)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows scaled to unit norm."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
