"""What a run does about a loss that jumps, or is no number at all."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
import dataclasses
from typing import Annotated, Any, Literal

import numpy as np

from mof_jax.errors import UserError
from mof_jax.ranges import Count, NotNegative, Range, Whole


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
      rollback_after: roll back once the loss has stayed above that limit, as it was when the loss jumped, for this many steps
        in a row, see `train.reliability.rollback`. 0 for never: a jump is reported, and nothing else.
      back: restore a checkpoint at least this many steps older than the spike. past: batches to skip beyond those that the
        run has seen by then. (PaLM: about 100 steps back, 200 to 500 batches skipped.)
      max_rollbacks: the next one ends the run instead, with `ExitCode.NON_FINITE`.
    """

    nonfinite: Literal["stop", "skip"] = "stop"
    max_skips: Whole = 100
    deviations: NotNegative = 20.0
    window: Annotated[int, Range(8)] = 200
    rollback_after: Whole = 0
    back: Count = 100
    past: Whole = 100
    max_rollbacks: Whole = 3

    def __post_init__(self):
        if self.rollback_after and not self.deviations:
            raise UserError("config.spikes.rollback_after: no loss counts as a jump with config.spikes.deviations=0; set both")


@dataclasses.dataclass(frozen=True)
class Spike:
    """A loss that jumped and has not come down.

    Attributes:
      first: the step of the jump. last: the latest in a row above the limit.
      limit: from which on a loss counted as a jump. usual: the median before it.
    """

    first: int
    last: int
    limit: float
    usual: float

    @property
    def why(self) -> str:
        """In words, as the reason of what follows."""
        return (f"the loss stayed above {self.limit:.4g} for {self.last - self.first + 1} steps from step {self.first} on "
                f"(median before: {self.usual:.4g})")


class Spiked(Exception):
    """A spike has lasted for as long as the policy bears."""

    def __init__(self, spike: Spike):
        self.spike = spike
        super().__init__(spike.why)


class Spikes:
    """Looks at losses, some steps at a time.

    What it has seen is part of a run's state: whether and when a spike lasts does not depend on where a run was stopped.

    Attributes:
      config: the policy. lasting: the first spike that lasted for `rollback_after` steps, None so far.
    """

    def __init__(self, config: SpikeConfig, state: Mapping[str, Any] | None = None):
        """Begins anew, or at a `state` that `save` gave."""
        self.config, self.lasting = config, None
        self._seen: deque[float] = deque(state["seen"] if state else (), maxlen=config.window)
        self._now = Spike(**state["now"]) if state and state["now"] else None

    def save(self) -> dict[str, Any]:
        """What has been seen, as JSON."""
        return {"seen": list(self._seen), "now": self._now and dataclasses.asdict(self._now)}

    def look(self, first: int, losses: Sequence[float]) -> list[tuple[int, float, float]]:
        """(step, loss, median before it) of the spikes among the losses of steps `first`, `first + 1`, …

        Nothing is a spike before half a window has been seen; a loss that is not finite is none, it has a policy of its own.
        """
        found = []
        for step, loss in enumerate(losses, first):
            if not np.isfinite(loss):
                continue
            if self.config.deviations and len(self._seen) >= self.config.window // 2:
                middle = float(np.median(self._seen))
                spread = float(np.median(np.abs(np.array(self._seen) - middle)))
                limit = middle + self.config.deviations * max(spread, 1e-3 * abs(middle))
                if loss > limit:
                    found.append((step, loss, middle))
                self._follow(step, loss, limit, middle)
            self._seen.append(loss)
        return found

    def _follow(self, step: int, loss: float, limit: float, usual: float) -> None:
        """Keeps the spike under way up to date. Its limit stays that of its first step: the window moves up with the losses."""
        if self._now is not None and loss > self._now.limit:
            self._now = dataclasses.replace(self._now, last=step)
        else:
            self._now = Spike(step, step, limit, usual) if loss > limit else None
        if self._now is not None and self.lasting is None:
            lasted = self._now.last - self._now.first + 1
            self.lasting = self._now if 0 < self.config.rollback_after <= lasted else None
