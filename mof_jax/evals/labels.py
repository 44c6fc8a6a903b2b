"""Two sources with class labels: what classification of frozen features starts from."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.data.record import Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.encoder import records


@dataclasses.dataclass(frozen=True)
class Labels:
    """Class numbers of the training records and of those test records whose class has a training record.

    Attributes:
      train, test: class numbers. known: which records of the test source `test` is about. classes: how many there are.
      sources: the opened sources.
    """

    train: Int[np.ndarray, "train"]
    test: Int[np.ndarray, "test"]
    known: Bool[np.ndarray, "records"]
    classes: int
    sources: tuple[Source, Source]

    @classmethod
    def read(cls, train: SourceConfig, test: SourceConfig, attribute: str) -> Labels:
        """Numbers the classes that `attribute` names in `train`, sorted.

        Raises:
          UserError: a record without the attribute, or no class in common.
        """
        opened = open_source(train), open_source(test)
        names = [[r.attributes.get(attribute) for r in records(source)] for source in opened]
        for source, found in zip(opened, names):
            if None in found:
                raise UserError(f"{source.name}: record {source[found.index(None)].id} has no attribute {attribute!r}")
        classes = {name: i for i, name in enumerate(sorted(set(names[0])))}
        known = np.array([name in classes for name in names[1]])
        if not known.any():
            raise UserError(f"{opened[1].name}: no record has a class that {opened[0].name} has")
        number = lambda found: np.array([classes[name] for name in found if name in classes])
        return cls(number(names[0]), number(names[1]), known, len(classes), opened)

    def features(
        self, embed: Callable[[Source], Float[np.ndarray, "records dim"]]
    ) -> tuple[Float[np.ndarray, "train dim"], Float[np.ndarray, "test dim"]]:
        """Features of the labelled records of both sources."""
        return embed(self.sources[0]), embed(self.sources[1])[self.known]


def unit(x: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Rows scaled to unit norm."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
