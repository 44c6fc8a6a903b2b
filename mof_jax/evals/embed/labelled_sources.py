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
from mof_jax.evals.embed.classes import check_splits, labels_of
from mof_jax.evals.embed.embedder import records
from mof_jax.evals.items import unit_of


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
          UserError: a record without the attribute, a folder of splits in the place of a split, or no class in common.
        """
        opened = open_source(train), open_source(test)
        names = [labels_of(records(source), attribute, config) for source, config in zip(opened, (train, test))]
        for found, config in zip(names, (train, test)):
            check_splits(found, config)
        classes = {name: i for i, name in enumerate(sorted(set(names[0])))}
        known = np.array([name in classes for name in names[1]])
        if not known.any():
            raise UserError(f"{opened[1].name}: no record has a class that {opened[0].name} has")
        number = lambda found: np.array([classes[name] for name in found if name in classes])
        return cls(number(names[0]), number(names[1]), known, len(classes), opened)

    @property
    def counts(self) -> dict[str, float]:
        """What a result is about: `images` and `classes`; and `left_out`, test records whose class has no training record."""
        return {"images": len(self.test), "classes": self.classes, "left_out": int((~self.known).sum())}

    @property
    def units(self) -> list[str]:
        """What each test record is about, see `evals.items`."""
        return [unit_of(record) for record, known in zip(records(self.sources[1]), self.known) if known]

    def features(
        self, embed: Callable[[Source], Float[np.ndarray, "records dim"]]
    ) -> tuple[Float[np.ndarray, "train dim"], Float[np.ndarray, "test dim"]]:
        """Features of the labelled records of both sources."""
        return embed(self.sources[0]), embed(self.sources[1])[self.known]


def unit(x: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Rows scaled to unit norm."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
