"""What a run does about a loss that jumps, or is no number at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import dataclasses
from typing import Literal

import numpy as np

from mof_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class SpikeConfig:
    """The policy.

    Attributes:
      nonfinite: of a step whose loss, gradient or update is not finite: `stop` leaves the state before it and ends the run with
        `ExitCode.NON_FINITE`; `skip` drops the update inside the step (parameters, optimizer, average stay as they are), counts
        it as `skipped_updates`, and goes on.
      max_skips: with `skip`, the run stops once more updates than this were dropped.
      deviations: say so where a loss lies above median + deviations · MAD of the steps before it, 0 for never. (MAD: median of
        the absolute deviations from the median, at least a thousandth of it; 1.48 MAD is a normal standard deviation.)
      window: how many steps before.
    """

    nonfinite: Literal["stop", "skip"] = "stop"
    max_skips: int = 100
    deviations: float = 20.0
    window: int = 200

    def __post_init__(self):
        if self.max_skips < 0 or self.deviations < 0 or self.window < 8:
            raise UserError("config.spikes: max_skips and deviations must not be negative, window is at least 8 steps")


class Spikes:
    """Looks at losses, some steps at a time."""

    def __init__(self, config: SpikeConfig):
        self._config = config
        self._seen: deque[float] = deque(maxlen=config.window)

    def look(self, first: int, losses: Sequence[float]) -> list[tuple[int, float, float]]:
        """(step, loss, median before it) of the spikes among the losses of steps `first`, `first + 1`, …

        Nothing is a spike before half a window has been seen; a loss that is not finite is none, it has a policy of its own.
        """
        found = []
        for step, loss in enumerate(losses, first):
            if not np.isfinite(loss):
                continue
            if self._config.deviations and len(self._seen) >= self._config.window // 2:
                middle = float(np.median(self._seen))
                spread = float(np.median(np.abs(np.array(self._seen) - middle)))
                if loss > middle + self._config.deviations * max(spread, 1e-3 * abs(middle)):
                    found.append((step, loss, middle))
            self._seen.append(loss)
        return found
