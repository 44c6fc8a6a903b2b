"""Errors a user can act on, and the exit codes they become.

A `UserError` is one line: it names the file, record, key or parameter at fault and says what to do. The command line
prints that line without a traceback and exits with `EXIT_USER`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
import difflib
import sys
from typing import TypeVar

T = TypeVar("T")

EXIT_OK = 0
EXIT_USER = 1
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_PREEMPTED = 75  # EX_TEMPFAIL: the state was saved, run the same command again


class UserError(Exception):
    """A mistake in the input (config, data, flags, paths) rather than in the program."""


class Preempted(Exception):
    """The run was asked to stop and has saved its state; running it again resumes it."""


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
    """Runs a program; a user's mistake becomes one line on stderr and `EXIT_USER`."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    return EXIT_OK


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known word closest to `word`, or the short list of what there is."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(known)})" if len(known) <= 24 else ""


def lookup(table: dict[str, T], name: str, what: str) -> T:
    """`table[name]`, or a `UserError` that names the nearest entry."""
    if name not in table:
        raise UserError(f"unknown {what} {name!r}{nearest(name, table)}")
    return table[name]
