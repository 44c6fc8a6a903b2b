"""What a job has held and spent so far, in a file beside its caller: `.launch/NAME.jsonl`.

A launcher that is killed and started again goes on with the same hours, dollars and attempts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import Any

from mof_jax.errors import UserError


@dataclasses.dataclass
class Ledger:
    """Events of one job, oldest first: `begin`, `create`, `held`, `start`, `seen`, `exit`, `gone`, `end`. Times are seconds
    since 1970."""

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
                with open(path, encoding="utf-8") as f:
                    events = [json.loads(line) for line in f if line.endswith("\n")]  # the last line may be half written
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except ValueError:
            raise UserError(f"{path}: not a ledger; move it away") from None
        starts = [i for i, event in enumerate(events) if event["event"] == "begin"]
        under_way = bool(starts) and events[-1]["event"] != "end"
        ledger = cls(path, events[starts[-1]:] if under_way else [])
        if not under_way:
            ledger.add("begin")
        return ledger

    def add(self, event: str, **facts: Any) -> None:
        """Writes an event down at once."""
        line = {"event": event, "time": time.time(), **facts}
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
                since = event["time"]
            elif event["event"] == "gone" and since is not None:
                total, since = total + event["time"] - since, None
        return total + (time.time() - since if since is not None else 0.0)

    def exits(self) -> list[str]:
        """Classes of the exits so far."""
        return [event["ending"] for event in self.events if event["event"] == "exit"]
