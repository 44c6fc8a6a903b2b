"""Noticing that the machine is about to be taken away."""

from __future__ import annotations

import signal
from types import FrameType

import jax


class Preemption:
    """Answers, after each step and alike on every host, whether to save and leave.

    On one process SIGTERM and SIGINT set a flag. On several, JAX's preemption service agrees on a step with all of them: it
    holds the signal itself, so it has to be polled.
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

    def reached(self, step: int) -> bool:
        """Whether this is the step to stop after."""
        if jax.process_count() == 1:
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
