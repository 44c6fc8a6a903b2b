"""What an order is: a pure function from a position of the run to an example, so that there is nothing to
save but the step.

    config section  ->  Order  --open(mixture)-->  OpenOrder.locate(positions)  ->  (source, index, epoch)

Nothing in it knows hosts, workers or threads. Position p = step · batch + row.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
import dataclasses
from typing import ClassVar

from mof_jax.data.mixture import OpenOrder
from mof_jax.data.record import Source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What an order is opened with.

    Attributes:
      sources: the opened sources, filtered. configs: what a config says of each.
      seed: of the run. shuffle: False reads in stored order.
      batch_size: rows of a step over all processes. steps: of the run, None if they are not known.
    """

    sources: Sequence[Source]
    configs: Sequence[SourceConfig]
    seed: int
    shuffle: bool
    batch_size: int
    steps: int | None = None

    @property
    def sizes(self) -> list[int]:
        """Records of each source."""
        return [len(source) for source in self.sources]

    @property
    def weights(self) -> list[float]:
        """Weights of the sources, as their sections say."""
        return [config.weight for config in self.configs]


@dataclasses.dataclass(frozen=True)
class Order(abc.ABC):
    """How the examples of a mixture follow each other.

    Attributes:
      kind: its name in a config.
    """

    kind: ClassVar[str]

    @abc.abstractmethod
    def open(self, mixture: Mixture) -> OpenOrder:
        """The order over opened sources.

        Raises:
          UserError: a file that it needs is not there, or does not fit the sources or the batch.
        """


def rows_together(size: int, mixture: Mixture, key: str) -> None:
    """Raises `UserError` where a batch is no whole number of runs of `size` rows that belong together."""
    if mixture.batch_size % size:
        raise UserError(f"config.data.order.{key}: {size} rows belong together, and the batch of "
                        f"{mixture.batch_size} is no multiple of {size}")

