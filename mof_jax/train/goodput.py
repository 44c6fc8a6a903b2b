"""Where the time of a run went, over all of its restarts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import time
from typing import Any

from rich.table import Table

from mof_jax.data import remote
from mof_jax.train import display
from mof_jax.train.metrics import read_lines

KEY = "seconds"  # of a line of metrics.jsonl: the ledger so far
KINDS = {
    "step": "steps",
    "data": "devices without a batch",
    "checkpoint": "saving",
    "eval": "evaluation",
    "start": "start: data, compiling, restoring",
    "lost": "done again, or for nothing, after a stop",
}


class Ledger:
    """Wall seconds by kind. What is not spent on anything else is spent on steps."""

    def __init__(self, before: Sequence[Mapping[str, Any]] = (), start: int = 0, begun: float | None = None):
        """Goes on where the lines of the run so far stand.

        Args:
          before: lines of `metrics.jsonl`, also those beyond `start`: they will be done again, their time is lost.
          start: the step that the run goes on from. begun: `time.perf_counter()` at the start of this process's work.
        """
        ledgers = [line[KEY] for line in before if KEY in line]
        self._keep(before, start, ledgers[-1] if ledgers else {})
        self._mark = time.perf_counter() if begun is None else begun

    def back(self, before: Sequence[Mapping[str, Any]], start: int) -> None:
        """The run goes back to step `start`: what has gone by since is lost, and what follows is a start again.

        Args:
          before: as above.
        """
        self._keep(before, start, self.read())

    def _keep(self, before: Sequence[Mapping[str, Any]], start: int, spent: Mapping[str, float]) -> None:
        """Stands where the lines until `start` do; the rest of the seconds that were `spent` is lost."""
        kept = next((line[KEY] for line in reversed(before) if KEY in line and line["step"] <= start), {})
        self._seconds = {kind: float(kept.get(kind, 0.0)) for kind in KINDS}
        self._seconds["lost"] += max(0.0, sum(spent.values()) - sum(kept.values()))
        self._starting = True

    def started(self) -> None:
        """The first step is done: all that was until now was the start."""
        if self._starting:
            self._settle("start")
            self._starting = False

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """Around something that is no step."""
        self._settle("start" if self._starting else "step")
        try:
            yield
        finally:
            self._settle(kind)

    def waited(self, seconds: float) -> None:
        """Of the step under way, so much went by without a batch."""
        kind = "start" if self._starting else "step"
        self._seconds[kind] -= seconds
        self._seconds["data"] += seconds

    def read(self) -> dict[str, float]:
        """Seconds by kind, since the run first began."""
        self._settle("start" if self._starting else "step")
        return {kind: round(seconds, 3) for kind, seconds in self._seconds.items()}

    def _settle(self, kind: str) -> None:
        now = time.perf_counter()
        self._seconds[kind] += now - self._mark
        self._mark = now


def read(workdir: str) -> dict[str, float]:
    """The ledger of a run as its last line of metrics has it, empty for one that has logged nothing."""
    path = remote.join(workdir, "metrics.jsonl")
    found = [line[KEY] for line in read_lines(path) if KEY in line] if remote.exists(path) else []
    return found[-1] if found else {}


def report(seconds: Mapping[str, float]) -> Table:
    """A table of a ledger, the largest share first; the share of `step` is the goodput."""
    total = sum(seconds.values()) or 1.0
    rows = [(KINDS[kind], f"{value:,.1f}", f"{value / total:.1%}")
            for kind, value in sorted(seconds.items(), key=lambda item: -item[1]) if value]
    return display.table(f"Goodput {seconds.get('step', 0.0) / total:.1%}", ("time went to", "seconds", "share"), rows)
