"""What happened to the points of a sweep: `W/sweep.jsonl`, one object an event, only ever added to.

A line may be torn by a kill at any byte. The next one begins behind a line break; a torn or damaged line counts for nothing, and
what it would have said is found out again from the point's own folder.
"""

from __future__ import annotations

from collections import Counter
import dataclasses
import fcntl
import json
import os
import time
from typing import Any, get_args

from mof_jax.parsing import Malformed, is_number, parse_object
from mof_jax.sweep.kinds import Kind, Status

NAME = "sweep.jsonl"


@dataclasses.dataclass
class Record:
    """What the ledger knows of a point.

    Attributes:
      status: None before its first end, and again once it is reopened.
      ends: by name of their kind, since it was opened. seconds: of all tries. reason: of the last end.
    """

    status: Status | None = None
    ends: Counter[str] = dataclasses.field(default_factory=Counter)
    seconds: float = 0.0
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to do."""
        return self.status in ("done", "failed", "diverged")


class Ledger:
    """The file, shared by all runners of a work dir."""

    def __init__(self, folder: str):
        os.makedirs(folder, exist_ok=True)
        self.path = os.path.join(folder, NAME)
        self._seen, self._records = -1, {}

    def read(self) -> dict[str, Record]:
        """Records by point id, as of now."""
        size = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        if size != self._seen:
            self._records = _replay(self.path) if size else {}
            self._seen = size
        return self._records

    def record(self, id: str) -> Record:
        """Of one point."""
        return self.read().get(id, Record())

    def started(self, id: str, attempt: int) -> None:
        """A try begins."""
        self._add(id=id, event="start", attempt=attempt, pid=os.getpid())

    def ended(self, id: str, kind: Kind, seconds: float = 0.0, reason: str = "") -> Status:
        """A try has ended; returns what that makes of the point."""
        tries = self.record(id).ends[kind.name]
        status: Status = "again" if tries < kind.retries else kind.last
        self._add(id=id, event="end", kind=kind.name, status=status, seconds=round(seconds, 1), reason=reason)
        return status

    def reopen(self, id: str) -> None:
        """A point that failed is to be tried anew."""
        self._add(id=id, event="reopen")

    def _add(self, **event: Any) -> None:
        line = json.dumps({**event, "time": round(time.time(), 1)})
        fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # until it is closed
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
            os.write(fd, b"\n" * torn + f"{line}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)


def _replay(path: str) -> dict[str, Record]:
    records: dict[str, Record] = {}
    with open(path, "rb") as f:
        lines = f.read().split(b"\n")
    for line in lines:
        try:
            event = parse_object(line)
        except Malformed:  # torn, or the end of the file
            continue
        id, seconds = event.get("id"), event.get("seconds")
        if not isinstance(id, str):
            continue
        if event.get("event") == "reopen":
            records[id] = Record(seconds=records.get(id, Record()).seconds)
        elif event.get("event") == "end" and event.get("status") in get_args(Status) and is_number(seconds) and seconds >= 0 \
                and isinstance(event.get("kind"), str) and isinstance(event.get("reason"), str):
            record = records.setdefault(id, Record())
            record.status, record.reason = event["status"], event["reason"]
            record.ends[event["kind"]] += 1
            record.seconds += seconds
    return records
