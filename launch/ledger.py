"""What a job has held and spent so far, in a file beside its caller: `.launch/NAME.jsonl`.

A launcher that is killed and started again goes on with the same hours, dollars and attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
import time
from typing import Any

from mof_jax.errors import UserError
from mof_jax.parsing import Malformed, is_number, parse_object

_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclasses.dataclass
class Ledger:
    """Events of one job, oldest first: `begin`, `create`, `held`, `start`, `seen`, `exit`, `gone`, `end`. `time` is seconds since
    1970, `uptime` since the machine was started, at `boot`."""

    path: str
    events: list[dict[str, Any]]

    @classmethod
    def open(cls, folder: str, name: str) -> Ledger:
        """The ledger of a job that is under way, or a new one if the last has ended.

        Raises:
          UserError: the folder cannot be written, or the file is broken.
        """
        path = os.path.join(folder, f"{name}.jsonl")
        events: list[dict[str, Any]] = []
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            if os.path.exists(path):
                with open(path, "rb") as f:
                    lines = f.read().split(b"\n")[:-1]  # the last line may be half written
                events = [_event(line, f"{path} line {number}", name) for number, line in enumerate(lines, 1)]
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        starts = [i for i, event in enumerate(events) if event["event"] == "begin"]
        under_way = bool(starts) and events[-1]["event"] != "end"
        ledger = cls(path, events[starts[-1]:] if under_way else [])
        if not under_way:
            ledger.add("begin")
        return ledger

    def add(self, event: str, **facts: Any) -> None:
        """Writes an event down at once."""
        line = {"event": event, **_now(), **facts}
        self.events.append(line)
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")

    @property
    def held(self) -> bool:
        """Whether slices are held, as far as is known."""
        return next((e["event"] == "held" for e in reversed(self.events) if e["event"] in ("held", "gone")), False)

    def seconds(self) -> float:
        """For which slices have been held, until now."""
        total, since = 0.0, None
        for event in self.events:
            if event["event"] == "held" and since is None:
                since = event
            elif event["event"] == "gone" and since is not None:
                total, since = total + elapsed(since, event), None
        return total + (elapsed(since, _now()) if since is not None else 0.0)

    def exits(self) -> list[str]:
        """Classes of the exits so far."""
        return [event["ending"] for event in self.events if event["event"] == "exit"]


def _now() -> dict[str, Any]:
    """This moment by the wall clock, and by one that nobody sets: seconds since the machine was started, and which start it
    was."""
    return {"time": time.time(), "uptime": time.clock_gettime(_UPTIME), "boot": _boot()}


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""  # no Linux: the wall clock has to do


def elapsed(first: Mapping[str, Any], last: Mapping[str, Any]) -> float:
    """Seconds between two moments. A clock that was set back takes none away: within one start of the machine uptime counts, and
    after another start at least the time since then has gone by."""
    by_wall = last["time"] - first["time"]
    if not last.get("boot") or "uptime" not in first or "uptime" not in last:
        return max(0.0, by_wall)
    if first.get("boot") == last["boot"]:
        return max(0.0, last["uptime"] - first["uptime"])
    return max(by_wall, last["uptime"])


def _event(line: bytes, where: str, name: str) -> dict[str, Any]:
    """One event of a ledger.

    Raises:
      UserError: it is none.
    """
    try:
        event = parse_object(line)
        times = [event.get("time"), event.get("uptime", 0.0)]
        if isinstance(event.get("event"), str) and all(map(is_number, times)) and isinstance(event.get("boot", ""), str):
            if event["event"] != "exit" or isinstance(event.get("ending"), str):
                return event
        problem = "no event of a job"
    except Malformed as error:
        problem = str(error)
    raise UserError(f"{where}: {problem}; whether {name} holds slices is not known: look with `python -m launch status`, give "
                    "them back with `python -m launch delete`, and move this file away")
