"""Noticing that the machine is about to be taken away."""

from __future__ import annotations

import itertools
import signal
from types import FrameType

import jax

from mof_jax.errors import Preempted

# Polls of this process. JAX's service agrees on one of them, the next that no process has made yet, so they are numbered through:
# training, evaluation and the stages of a run share one service.
_POLLS = itertools.count(1)


class Preemption:
    """Answers, alike on every host, whether to save and leave.

    On one process SIGTERM and SIGINT set a flag. On several, JAX's preemption service agrees on a poll with all of them: it
    holds the signal itself, so it has to be polled, by every process equally often.
    """

    def __init__(self):
        self._asked = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Preemption:
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: leave without saving
        self._asked = True

    def reached(self) -> bool:
        """Whether to stop here; from then on it stays so."""
        if jax.process_count() > 1 and not self._asked:
            from jax.experimental import multihost_utils

            self._asked = multihost_utils.reached_preemption_sync_point(next(_POLLS))
        return self._asked

    def check(self) -> None:
        """Between two batches of an evaluation, or two tiles of mining.

        Raises:
          Preempted: here is where to stop.
        """
        if self.reached():
            raise Preempted("stopped by a signal; what was finished is kept, run again to go on")
