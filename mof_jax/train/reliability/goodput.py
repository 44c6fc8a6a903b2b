"""Where the time of a run went, over all of its restarts and between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import json
import time
from typing import Any

from rich.table import Table

from mof_jax import console, storage
from mof_jax.jsonl import read_lines
from mof_jax.parsing import Malformed, is_count, is_number, parse_object

KEY, WHEN = "seconds", "unix_time"  # of a line of metrics.jsonl: the ledger so far, and the time of day
ENDED = "ended.json"  # in the work dir: the last step of the process before, and the same two; a kill leaves none
KINDS = {
    "step": "steps",
    "data": "devices without a batch",
    "checkpoint": "saving",
    "eval": "evaluation",
    "start": "start: data, compiling, restoring",
    "lost": "done again, or for nothing, after a stop",
    "down": "no process ran: waiting for machines, or stopped on purpose",
}


class Ledger:
    """Wall seconds by kind. What is not spent on anything else is spent on steps."""

    def __init__(self, before: Sequence[Mapping[str, Any]] = (), start: int = 0, begun: float | None = None):
        """Goes on where the lines of the run so far stand. From the last of them to `begun` it was down; a clock that was set
        back in between counts as no time.

        Args:
          before: of the run so far, see `lines`; also those beyond `start`: they will be done again, their time is lost.
          start: the step that the run goes on from. begun: `time.perf_counter()` at the start of this process's work.
        """
        self._keep(before, start, next(filter(None, map(ledger_of, reversed(before))), {}))
        self._mark = time.perf_counter() if begun is None else begun
        last = next((line[WHEN] for line in reversed(before) if is_number(line.get(WHEN))), None)
        if last is not None:
            self._seconds["down"] += max(0.0, time.time() - (time.perf_counter() - self._mark) - last)

    def back(self, before: Sequence[Mapping[str, Any]], start: int) -> None:
        """The run goes back to step `start`: what has gone by since is lost, and what follows is a start again.

        Args:
          before: as above.
        """
        self._keep(before, start, self.read())

    def _keep(self, before: Sequence[Mapping[str, Any]], start: int, spent: Mapping[str, float]) -> None:
        """Stands where the lines until `start` do; the rest of the seconds that were `spent` is lost."""
        kept = next((ledger_of(line) for line in reversed(before) if ledger_of(line) and line.get("step", 0) <= start), {})
        self._seconds = {kind: kept.get(kind, 0.0) for kind in KINDS}
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

    def line(self) -> dict[str, Any]:
        """What a line of metrics says of the time."""
        return {KEY: self.read(), WHEN: round(time.time(), 3)}

    def end(self, workdir: str, step: int) -> None:
        """Leaves word for the next process: this one ends, its last step was `step`."""
        storage.write_atomic(storage.join(workdir, ENDED), [json.dumps({"step": step, **self.line()}).encode()])

    def _settle(self, kind: str) -> None:
        now = time.perf_counter()
        self._seconds[kind] += now - self._mark
        self._mark = now


def lines(workdir: str) -> list[dict[str, Any]]:
    """What a run has logged so far, empty for nothing: its lines of metrics and, at its place among them, how the process that
    ended last without being killed left it. A word of that process that cannot be read is as good as none."""
    log, word = storage.join(workdir, "metrics.jsonl"), storage.join(workdir, ENDED)
    found = read_lines(log) if storage.exists(log) else []
    if found and storage.exists(word):
        with contextlib.suppress(Malformed, KeyError):
            ended = parse_object(storage.read(word))
            if is_count(ended["step"]) and is_number(ended[WHEN]) and ledger_of(ended):
                later = (i for i, line in enumerate(found) if is_number(line.get(WHEN)) and line[WHEN] > ended[WHEN])
                found.insert(next(later, len(found)), {"step": ended["step"], KEY: ended[KEY], WHEN: ended[WHEN]})
    return found


def ledger_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The ledger that a line holds, empty for none; what is no time there is passed over."""
    found = line.get(KEY)
    if not isinstance(found, Mapping):
        return {}
    return {kind: float(found[kind]) for kind in KINDS if is_number(found.get(kind)) and found[kind] >= 0}


def read(workdir: str) -> dict[str, float]:
    """The ledger of a run as it was last written, empty for one that has logged nothing."""
    return next(filter(None, map(ledger_of, reversed(lines(workdir)))), {})


def report(seconds: Mapping[str, float]) -> Table:
    """A table of a ledger, the largest share first; the share of `step` is the goodput.

    All shares are of the wall time since the run first began. Where it was down for a part of that, the goodput of its
    processes stands beside.
    """
    total, step, down = sum(seconds.values()) or 1.0, seconds.get("step", 0.0), seconds.get("down", 0.0)
    rows = [(KINDS[kind], f"{value:,.1f}", f"{value / total:.1%}")
            for kind, value in sorted(seconds.items(), key=lambda item: -item[1]) if value]
    running = f" of all time, {step / ((total - down) or 1.0):.1%} of the time that a process ran" if down else ""
    return console.table(f"Goodput {step / total:.1%}{running}", ("time went to", "seconds", "share"), rows)
