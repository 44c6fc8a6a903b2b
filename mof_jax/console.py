"""Words of others on a terminal: never taken for markup or for commands to it."""

from __future__ import annotations

from typing import Any

from rich import progress
from rich.text import Text


class _Plain(progress.TextColumn):
    """What a bar is about, as it is."""

    def render(self, task: progress.Task) -> Text:
        return plain(task.description)


def bar(**options: Any) -> progress.Progress:
    """A bar with times, whose description is never taken for markup; `options` are those of `rich.progress.Progress`."""
    return progress.Progress(_Plain(""), progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn(),
                             progress.TextColumn("left"), progress.TimeRemainingColumn(), **options)


def plain(words: Any, style: str = "") -> Text:
    """`words` as they are, for `Console.print`, a table's cell or title, or the description of a bar.

    A string that rich is given is markup: `[red]` in a caption would colour it, `[/b]` would raise. What cannot be printed
    (control characters, halves of surrogate pairs) is shown as its escape; line breaks stay.
    """
    shown = (c if c.isprintable() or c == "\n" else " " if c == "\t" else c.encode("unicode_escape").decode() for c in str(words))
    return Text("".join(shown), style=style)
