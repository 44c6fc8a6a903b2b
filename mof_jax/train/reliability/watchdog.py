"""A thread that notices when a run stands still: it writes down where, and in the end gives up for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import contextlib
import dataclasses
import faulthandler
import os
import statistics
import sys
import tempfile
import threading
import time

from mof_jax import storage
from mof_jax.errors import ExitCode, UserError
from mof_jax.ranges import NotNegative, Positive


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """When a run counts as hanging.

    Attributes:
      dump: a step that takes this many times the median step has all stacks written to `WORKDIR/stacks-PROCESS-N.txt`.
      exit: one that takes this many ends the process with `ExitCode.HANG`. 0 for never, both.
      least_s: but no step counts as slow before this many seconds.
      elsewhere_s: seconds for anything that is no step (compiling, an evaluation, a save): stacks after half of it.
    """

    dump: NotNegative = 20.0
    exit: NotNegative = 60.0
    least_s: Positive = 300.0
    elsewhere_s: Positive = 7200.0


class Watchdog:
    """Watches one process. `step` after each step, `elsewhere` around what is none; both cost a clock reading."""

    def __init__(self, config: WatchdogConfig, workdir: str, process: int = 0):
        self._config, self._workdir, self._process = config, workdir, process
        self._durations: deque[float] = deque(maxlen=101)
        self._since, self._where = time.monotonic(), "the start"
        self._dumps, self._dumped = 0, False
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def step(self) -> None:
        """A step is done."""
        now = time.monotonic()
        if not self._where:
            self._durations.append(now - self._since)
        self._since, self._where, self._dumped = now, "", False

    @contextlib.contextmanager
    def elsewhere(self, what: str) -> Iterator[None]:
        """Around something that may take long and is no step; the step that it interrupts starts anew after it."""
        self._since, self._where, self._dumped = time.monotonic(), what, False
        try:
            yield
        finally:
            self._since, self._where, self._dumped = time.monotonic(), "", False

    def limits(self) -> tuple[float, float]:
        """Seconds after which to write stacks and to give up; infinite for never."""
        c = self._config
        if self._where:
            first, last = c.elsewhere_s / 2, c.elsewhere_s
        else:
            usual = statistics.median(self._durations) if self._durations else 0.0
            first, last = (max(times * usual, c.least_s) for times in (c.dump, c.exit))
        return first if c.dump else float("inf"), last if c.exit else float("inf")

    def _watch(self) -> None:
        while True:
            pause, before = min(1.0, min(self.limits()) / 4), time.monotonic()
            if self._over.wait(pause):
                return
            if (late := time.monotonic() - before - pause) > max(2.0, 4 * pause):
                self._since += late  # this thread stood still, too: the machine slept, or moved, or the process was stopped
            idle, (dump, give_up) = time.monotonic() - self._since, self.limits()
            what = self._where or "a step"
            if idle > min(dump, give_up) and not self._dumped:
                self._dumped = True
                _say(f"watchdog: {what} takes {idle:,.0f} s; stacks of all threads in {self._dump()}")
            if idle > give_up:
                _say(f"error: process {self._process} hangs: {what} has taken {idle:,.0f} s, the limit is {give_up:,.0f} s "
                     "(config.watchdog); run the same command again to go on from the last checkpoint")
                os._exit(ExitCode.HANG)  # nothing else gets a process out of a collective

    def _dump(self) -> str:
        """Writes the stacks; where to."""
        self._dumps += 1
        path = storage.join(self._workdir, f"stacks-{self._process}-{self._dumps}.txt")
        with tempfile.TemporaryFile() as f:
            faulthandler.dump_traceback(f, all_threads=True)
            f.seek(0)
            try:
                storage.write_atomic(path, [f.read()])
            except (UserError, OSError) as error:
                return f"(not written: {error})"
        return path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
