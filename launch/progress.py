"""What a long wait shows: how long, in which state, how long yet at most, what it has cost."""

from __future__ import annotations

import time

from rich.console import Console

from launch.job import Job
from launch.ledger import Ledger
from mof_jax.console import plain


def duration(seconds: float) -> str:
    """`1 h 05 min`, `3 min 20 s`, `12 s`."""
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


class Progress:
    """Lines about one job: a moving one on a terminal; in a file, one at each change and each ten minutes.

    Args:
      job: whose price and deadline it shows.
      ledger: what was spent.
      console: where to.
    """

    def __init__(self, job: Job, ledger: Ledger, console: Console):
        self._job, self._ledger, self._console = job, ledger, console
        self._started, self._word, self._last = time.monotonic(), "", 0.0
        self._moving = console.status("") if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._moving:
            self._moving.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._moving:
            self._moving.stop()

    def line(self, word: str) -> str:
        """The state in one line."""
        spent = self._ledger.seconds()
        rate = self._job.dollars_per_hour
        money = "" if rate is None else f", ${spent / 3600 * rate:,.2f} of ${self._job.hours * rate:,.2f} at most"
        return (f"{self._job.name}: {word}, for {duration(time.monotonic() - self._started)}; slices held "
                f"{duration(spent)}, {duration(self._job.hours * 3600 - spent)} left{money}")

    def update(self, word: str) -> None:
        """Shows the state, if there is news."""
        if word != self._word:
            self._started = time.monotonic()
        if self._moving:
            self._moving.update(plain(self.line(word)))
        elif word != self._word or time.monotonic() - self._last > 600:
            self.say(self.line(word))
            self._last = time.monotonic()
        self._word = word

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(plain(text), highlight=False, soft_wrap=True)
