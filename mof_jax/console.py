"""Words of others on a terminal: never taken for markup or for commands to it."""

from __future__ import annotations

import re
from typing import Any

from rich import progress
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
