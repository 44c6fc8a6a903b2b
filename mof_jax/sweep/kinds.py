"""How a run ends, and how often each kind of end is tried again."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mof_jax.errors import ExitCode

Status = Literal["done", "again", "failed", "diverged"]


class Kind(NamedTuple):
    """An end.

    Attributes:
      retries: further tries after ends of this kind. last: what the point is after those.
    """

    name: str
    retries: int
    last: Status


# A run that a signal ended went on well until then; one that ran out of a device's memory may have shared it with another; the
# rest of the table ends the same way again, and a second try of a crash says whether it does.
KINDS: dict[int, Kind] = {
    ExitCode.DONE: Kind("done", 0, "done"),
    ExitCode.USER_ERROR: Kind("user error", 0, "failed"),
    ExitCode.INTERNAL_ERROR: Kind("crash", 1, "failed"),
    ExitCode.PREEMPTED: Kind("preempted", 100, "failed"),
    ExitCode.HANG: Kind("hang", 2, "failed"),
    ExitCode.NON_FINITE: Kind("not finite", 0, "diverged"),
    ExitCode.OUT_OF_MEMORY: Kind("out of memory", 1, "failed"),
    ExitCode.PEER_LOST: Kind("peer lost", 3, "failed"),
}
KILLED = Kind("killed", 3, "failed")
NO_TRUNK = Kind("no trunk", 0, "failed")  # of a branch whose trunk ended before it


def kind_of(code: int) -> Kind:
    """The kind of a process's return code: a negative one is a signal, an unknown one a crash."""
    if code < 0:
        return KILLED
    return KINDS.get(code, KINDS[ExitCode.INTERNAL_ERROR])
