"""Tables, bars and lines on a terminal; words of others are never taken for markup or for commands to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import re
import sys
from typing import Any

from rich import progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

_MARKED = re.compile(r"\[|:[^\s:]+:")  # what may be a tag, or the name of an emoji


class _Plain(progress.TextColumn):
    """What a bar is about, as it is."""

    def render(self, task: progress.Task) -> Text:
        return plain(task.description)


def bar(**options: Any) -> progress.Progress:
    """A bar with times, whose description is never taken for markup; `options` are those of `rich.progress.Progress`."""
    return progress.Progress(_Plain(""), progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
                             progress.TextColumn("left"), progress.TimeRemainingColumn(), **options)


def cell(words: Any) -> str | Text:
    """`words` for a table: the string itself where nothing in it can be taken for something else."""
    text = str(words)
    return text if text.isprintable() and _MARKED.search(text) is None else plain(text)


def plain(words: Any, style: str = "") -> Text:
    """`words` as they are, for `Console.print`, a table's cell or title, or the description of a bar.

    A string that rich is given is markup: `[red]` in a caption would colour it, `[/b]` would raise. What cannot be printed
    (control characters, halves of surrogate pairs) is shown as its escape; line breaks stay.
    """
    shown = (c if c.isprintable() or c == "\n" else " " if c == "\t" else c.encode("unicode_escape").decode() for c in str(words))
    return Text("".join(shown), style=style)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], texts: int = 1) -> Table:
    """A rich table; the first `texts` columns are text, the others align right."""
    result = Table(title=cell(title), title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        result.add_column(cell(column), justify="left" if i < texts else "right")
    for row in rows:
        result.add_row(*(cell(f"{x:,.4g}" if isinstance(x, float) else x) for x in row))
    return result


def results(title: str, found: Mapping[str, Mapping[str, float]]) -> Table:
    """What evaluators found, by their names; counts are integers."""
    number = lambda value: f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    rows = [(name if i == 0 else "", key, number(value)) for name, values in found.items()
            for i, (key, value) in enumerate(values.items())]
    return table(title, ("evaluator", "metric", "value"), rows)


def stdout() -> Console:
    """For tables on stdout: as wide as the terminal, and wide enough for any of them where there is none."""
    return Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)


def line(text: str) -> Text:
    """Text that is not broken where the terminal ends, so that a command in it can be copied. Prints with `crop=False`."""
    found = plain(text)
    found.no_wrap, found.overflow = True, "ignore"
    return found


def show(item: Any) -> None:
    """Prints a table or text on process 0."""
    import jax  # what answers before JAX is imported says nothing here

    if jax.process_index() == 0:
        stdout().print(plain(item) if isinstance(item, str) else item, highlight=False, soft_wrap=isinstance(item, str))
