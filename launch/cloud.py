"""What a backend can do, whichever it is: lists of commands, and readings of their answers."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import enum
from typing import Protocol

from launch.job import Job
from launch.shell import Command


class Stage(enum.Enum):
    """Where slices stand."""

    ABSENT = "absent"
    WAITING = "waiting"
    READY = "ready"
    LOST = "lost"
    FAILED = "failed"
    DONE = "done"


@dataclasses.dataclass(frozen=True)
class State:
    """Stage of the slices, and the backend's own word for it; `detail` is its message, if it has one."""

    stage: Stage
    word: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Worker:
    """One host of a run.

    Attributes:
      name: of the host or pod.
      code: exit status, None while it runs.
      log: its last lines.
      started: False if it has not been told to run.
    """

    name: str
    code: int | None
    log: str = ""
    started: bool = True


@dataclasses.dataclass(frozen=True)
class Step:
    """Commands that belong together, and what they do in a few words. `secrets`: they need the job's secret file meanwhile."""

    what: str
    commands: tuple[Command, ...]
    secrets: bool = False


class Cloud(Protocol):
    """A backend. Nothing here runs anything.

    Attributes:
      restarts_itself: what ends a run here was tried again by the backend, by the same rules.
    """

    job: Job
    restarts_itself: bool

    def create(self) -> list[Step]:
        """Asks for the slices."""

    def delete(self) -> list[Step]:
        """Gives them back. Deleting what is not there is no error."""

    def describe(self) -> list[Command]:
        """Commands whose answers `state` reads."""

    def state(self, answers: Sequence[str]) -> State:
        """What the answers say."""

    def setup(self) -> list[Step]:
        """Installs the code on every worker."""

    def preflight(self) -> list[Step]:
        """Checks the workers."""

    def start(self, seconds: float) -> list[Step]:
        """Starts training, for so long at most."""

    def poll(self) -> Command:
        """Asks how the workers stand."""

    def workers(self, answer: str) -> list[Worker]:
        """What `poll` answered."""

    def stop(self) -> list[Step]:
        """Asks the run to save and end."""

    def logs(self, lines: int) -> Command:
        """Prints the last lines of every worker."""
