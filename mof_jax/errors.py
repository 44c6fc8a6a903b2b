"""Errors a user can act on, and the exit codes they become.

A `UserError` is one line: it names the file, record, key or parameter at fault and says what to do. The command line
prints that line without a traceback and exits with the error's `code`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import difflib
import enum
import sys
from typing import Any, ClassVar, TypeVar

from mof_jax.parsing import one_line

T = TypeVar("T")
_LONGEST = 10_000  # letters of a message


class ExitCode(enum.IntEnum):
    """How a command ended: the contract with whatever starts it again.

    Run it again after 75, 76 and 79 (and after a signal): it goes on from its newest intact checkpoint. The others would end
    the same way; the last line of stderr says what to change.
    """

    DONE = 0
    USER_ERROR = 1
    INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h
    PREEMPTED = 75  # EX_TEMPFAIL: asked to stop, the state was saved
    HANG = 76  # the watchdog gave up; the stacks are in WORKDIR/stacks-*.txt
    NON_FINITE = 77  # the loss is not finite, or has jumped once too often, and the policy says stop
    OUT_OF_MEMORY = 78  # of a device
    PEER_LOST = 79  # another host of the job, or a process that loads data, is gone


class UserError(Exception):
    """A mistake in the input (config, data, flags, paths) rather than in the program.

    Its text is one printable line, whatever names and values of others it quotes; of a very long one, begin and end.
    """

    code: ClassVar[ExitCode] = ExitCode.USER_ERROR

    def __str__(self) -> str:
        text = one_line(super().__str__())
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


class NonFinite(UserError):
    """A loss, gradient or update is not finite, and the run's policy is to stop."""

    code = ExitCode.NON_FINITE


class Diverged(UserError):
    """A loss jumped and stayed up, and there is no rollback left, or no checkpoint to go back to."""

    code = ExitCode.NON_FINITE


class Preempted(Exception):
    """The run was asked to stop and has saved its state; running it again resumes it."""


class WorkerLost(UserError):
    """A process that loads data was killed; running the command again resumes it."""

    code = ExitCode.PEER_LOST


class BadExample(UserError):
    """One record that cannot be used.

    Attributes:
      source: file or source the record comes from.
      record: its id or position inside the source.
      reason: what is wrong with it.
    """

    def __init__(self, source: str, record: str | int, reason: str):
        self.source, self.record, self.reason = source, str(record), reason
        super().__init__(f"{source}: record {record}: {reason}")

    def __reduce__(self):  # it crosses process boundaries
        return BadExample, (self.source, self.record, self.reason)


def exit_code(main: Callable[[], None]) -> int:
    """Runs a program; a user's mistake becomes one line on stderr and its code."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    return ExitCode.DONE


def out_of_memory(error: BaseException) -> str | None:
    """What XLA says of a device that is full, in one line; None if `error` is something else.

    Told by name: the class lives in JAX, which a command that never computes does not import.
    """
    known = type(error).__name__ in ("XlaRuntimeError", "JaxRuntimeError") and "RESOURCE_EXHAUSTED" in str(error)
    return str(error).splitlines()[0] if known else None


def nearest(word: Any, known: Iterable[Any]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or the short list of what there is."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(known)})" if len(known) <= 24 else ""


def lookup(table: dict[str, T], name: Any, what: str) -> T:
    """`table[name]`, or a `UserError` that names the nearest entry."""
    if not isinstance(name, str) or name not in table:
        raise UserError(f"unknown {what} {name!r}{nearest(name, table)}")
    return table[name]
