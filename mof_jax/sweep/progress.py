"""What a person sees while a sweep runs: a bar with an ETA on a terminal, a line a point elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
import sys
import time

from rich import progress
from rich.console import Console

from mof_jax.console import plain
from mof_jax.sweep.ledger import Record
from mof_jax.sweep.points import Sweep


class Progress:
    """A bar over the FLOPs of a sweep."""

    def __init__(self, sweep: Sweep, records: Mapping[str, Record]):
        self._work = {point.id: point.flops for point in sweep.points}
        self._begun = time.monotonic()
        self._before = self._done(records)
        self._bar = None
        if sys.stderr.isatty():
            self._bar = progress.Progress(
                progress.TextColumn("sweep"), progress.BarColumn(), progress.TextColumn("{task.fields[note]}"),
                progress.TimeElapsedColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("sweep", total=sum(self._work.values()), completed=self._before, note="")
            self._bar.start()

    def show(self, records: Mapping[str, Record], running: int) -> None:
        """Moves the bar, and says how many trainers are under way."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done(records),
                             note=f"{self.standing(records)}, {running} running{self._left(records)}")

    def standing(self, records: Mapping[str, Record]) -> str:
        """`3 of 20 runs done, 1 failed`."""
        counts = Counter(records[id].status for id in self._work if id in records and records[id].settled)
        others = "".join(f", {counts[status]} {status}" for status in ("failed", "diverged") if counts[status])
        return f"{counts['done']} of {len(self._work)} runs done{others}"

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(plain(text), highlight=False)
        else:
            print(plain(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _done(self, records: Mapping[str, Record]) -> float:
        return sum(work for id, work in self._work.items() if id in records and records[id].settled)

    def _left(self, records: Mapping[str, Record]) -> str:
        """The rest at the pace of what was settled since we began."""
        new = self._done(records) - self._before
        if not new:
            return ""
        seconds = (time.monotonic() - self._begun) / new * (sum(self._work.values()) - self._done(records))
        return f", {seconds / 60:,.0f} min left"
