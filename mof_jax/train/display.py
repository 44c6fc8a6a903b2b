"""What a person sees while a run trains: a bar with an ETA on a terminal, a line a log interval elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import sys
from typing import Any

import jax
from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mof_jax.console import cell, plain


class Display:
    """A bar over the steps of a run; silent on every process but the first."""

    def __init__(self, steps: int, start: int):
        self._steps, self._active = steps, jax.process_index() == 0
        self._bar = None
        if self._active and sys.stderr.isatty():
            self._bar = progress.Progress(
                progress.TextColumn("train"), progress.BarColumn(), progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"), progress.TimeElapsedColumn(), progress.TextColumn("left"),
                progress.TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("train", total=steps, completed=start, note="compiling")
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, line: Mapping[str, Any]) -> None:
        """Shows one line of metrics."""
        mfu = "" if line.get("mfu") is None else f" · MFU {line['mfu']:.1%}"
        note = (f"loss {line['loss']:.4f} · {line['examples_per_s']:,.0f} examples/s{mfu}"
                f" · data wait {line['data_wait']:.0%}")
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        elif self._active:
            print(f"step {line['step']:>7,}/{self._steps:,}  {note}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(plain(text), highlight=False)
        elif self._active:
            print(plain(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A rich table; the first column is text, the others align right."""
    result = Table(title=cell(title), title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        result.add_column(cell(column), justify="left" if i == 0 else "right")
    for row in rows:
        result.add_row(*(cell(f"{x:,.4g}" if isinstance(x, float) else x) for x in row))
    return result


def results(title: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    """What evaluators found, by their names; counts are integers."""
    number = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    rows = [(name if i == 0 else "", key, number(value)) for name, values in found.items()
            for i, (key, value) in enumerate(values.items())]
    return table(title, ("evaluator", "metric", "value"), rows)


def console() -> Console:
    """For tables on stdout: as wide as the terminal, and wide enough for any of them where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)


def line(text: str) -> Text:
    """Text that is not broken where the terminal ends, so that a command in it can be copied. Prints with `crop=False`."""
    found = plain(text)
    found.no_wrap, found.overflow = True, "ignore"
    return found


def show(item: Any) -> None:
    """Prints a table or text on process 0."""
    if jax.process_index() == 0:
        console().print(plain(item) if isinstance(item, str) else item, highlight=False, soft_wrap=isinstance(item, str))
