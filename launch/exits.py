"""How a run ended, and what follows: exit code and last lines of the log → class → action. Pure functions.

The trainer's codes come first; the text of the log decides where the code says little (an abort in C++, a kill, an internal
error).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import enum
import re

from mof_jax.errors import ExitCode

EXIT_TIME = 124  # of `timeout`, under which the workers run: the cost guard's hours are over


class Ending(enum.Enum):
    """A class of exits; the value is its name in job files. Of several hosts the first of this order is the cause."""

    USER = "user"
    OUT_OF_MEMORY = "oom"
    NON_FINITE = "non_finite"
    HANG = "hang"
    DEADLINE = "deadline"
    PREEMPTED = "preempted"
    NO_CAPACITY = "no_capacity"
    LOST_HOST = "lost_host"
    UNKNOWN = "unknown"
    DONE = "done"


class Action(enum.Enum):
    """What the launcher does next: give the slice back for good, start again on it, or get a new one."""

    STOP = "stop"
    RERUN = "rerun"
    RECREATE = "recreate"


@dataclasses.dataclass(frozen=True)
class Rule:
    """Default of a class.

    Attributes:
      action: may be changed in the job's `retry.policy`.
      code: that `python -m launch up` itself ends with.
      advice: what a user does if it was the last word.
    """

    action: Action
    code: int
    advice: str


# A program that ran out of memory, or found a wrong key, does so again on any slice; a sick host or a taken one does not.
RULES: dict[Ending, Rule] = {
    Ending.DONE: Rule(Action.STOP, ExitCode.DONE, "nothing is left to do"),
    Ending.USER: Rule(Action.STOP, ExitCode.USER_ERROR, "mend what the line above names, then launch again"),
    Ending.OUT_OF_MEMORY: Rule(Action.STOP, ExitCode.OUT_OF_MEMORY,
                               "see `mof plan --config … --topology …`; a smaller micro-batch, "
                               "more remat, or a larger slice"),
    Ending.NON_FINITE: Rule(Action.STOP, ExitCode.NON_FINITE,
                            "look at the last steps of metrics.jsonl; launching again resumes before them"),
    Ending.HANG: Rule(Action.RECREATE, ExitCode.HANG, "the stacks are in the log (`python -m launch logs`)"),
    Ending.DEADLINE: Rule(Action.STOP, ExitCode.PREEMPTED, "launch again to resume, with a budget of its own"),
    Ending.PREEMPTED: Rule(Action.RECREATE, ExitCode.PREEMPTED, "launch again to resume, perhaps in another zone or on demand"),
    Ending.NO_CAPACITY: Rule(Action.RECREATE, ExitCode.PREEMPTED, "launch again later, in another zone or with a reservation"),
    Ending.LOST_HOST: Rule(Action.RECREATE, ExitCode.PEER_LOST, "launch again to resume; if it happens again, try another zone"),
    Ending.UNKNOWN: Rule(Action.RERUN, ExitCode.INTERNAL_ERROR, "see the log (`python -m launch logs`)"),
}

_CODES = {
    ExitCode.DONE: Ending.DONE, ExitCode.USER_ERROR: Ending.USER, ExitCode.PREEMPTED: Ending.PREEMPTED,
    ExitCode.HANG: Ending.HANG, ExitCode.NON_FINITE: Ending.NON_FINITE, ExitCode.OUT_OF_MEMORY: Ending.OUT_OF_MEMORY,
    ExitCode.PEER_LOST: Ending.LOST_HOST,
    EXIT_TIME: Ending.DEADLINE,
    2: Ending.USER,  # argparse
    126: Ending.USER, 127: Ending.USER,  # the shell: not executable, not found
    143: Ending.PREEMPTED,  # SIGTERM before the loop listened
}

# Last lines of a run whose code says nothing; the first that is found decides. XLA's and JAX's own words.
_TEXTS: tuple[tuple[str, Ending], ...] = (
    (r"RESOURCE_EXHAUSTED|CompileTimeHbmOom|Ran out of memory in memory space|MemoryError|out of memory"
     r"|Attempting to (reserve|allocate) .* (bytes|[GM]i?B?)\b", Ending.OUT_OF_MEMORY),
    (r"FloatingPointError|(loss|gradients?|grad_norm) (is|are|became) (nan|inf|not finite|non-finite)", Ending.NON_FINITE),
    (r"watchdog", Ending.HANG),
    (r"coordination service|JAX distributed service|heartbeat|Connection (closed|reset) by peer|gloo|barrier timed out"
     r"|UNAVAILABLE:|another task died|peer .* (lost|died|gone)", Ending.LOST_HOST),
    (r"SIGTERM|preempt", Ending.PREEMPTED),
)


def classify(code: int, log: str = "") -> Ending:
    """The class of one process.

    Args:
      code: its exit status, 128 + N if signal N ended it.
      log: its last lines.
    """
    if code in _CODES:
        return _CODES[code]
    for pattern, ending in _TEXTS:
        if re.search(pattern, log, re.IGNORECASE):
            return ending
    return Ending.UNKNOWN


def cause(endings: Sequence[Ending]) -> Ending:
    """Of all hosts of a run: what one host does of itself comes before what the others then suffer."""
    order = list(Ending)
    return min(endings, key=order.index)


def action(ending: Ending, policy: Mapping[str, str]) -> Action:
    """What follows, by the job's policy and the defaults."""
    return Action(policy[ending.value]) if ending.value in policy else RULES[ending].action


def stop_codes(policy: Mapping[str, str]) -> list[int]:
    """The trainer's codes after which a restart is useless."""
    return sorted(int(code) for code, ending in _CODES.items() if code != ExitCode.DONE and action(ending, policy) is Action.STOP)
