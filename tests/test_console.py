"""Nothing that somebody wrote is taken for markup of the console, or reaches a terminal as a command to it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from mof_jax import console
from mof_jax.console import bar, plain
from mof_jax.sweep import progress as sweep_progress
from mof_jax.train import display

ODD = ["[/b] sale [red] shoes", "a[v1].jsonl", "[/tmp]", ":apple: pie", "\x1b[31mred\x1b]0;title\x07", "[link=http://x]y[/link]"]


def shown(words: str) -> str:
    return words.replace("\x1b", "\\x1b").replace("\x07", "\\x07")


def printed(item) -> str:
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=True, color_system="truecolor", highlight=False).print(item)
    return out.getvalue()


@pytest.mark.parametrize("words", ODD)
def test_words_are_shown_as_they_are(words):
    assert printed(plain(words)) == shown(words) + "\n"
    table = Table(title=plain(words))
    table.add_row(plain(words))
    assert printed(table).count(shown(words)) == 2
    assert printed(console.table(words, [words], [[words]])).count(shown(words)) == 3


@pytest.mark.parametrize("words", ODD)
def test_tables_of_evaluations_and_lines_to_copy(words, capsys):
    assert shown(words) in printed(console.results(words, {words: {words: 1.0}}))
    assert printed(console.line(words)) == shown(words) + "\n"
    console.show(words)
    assert capsys.readouterr().out == shown(words) + "\n"


@pytest.mark.parametrize("words", ODD)
@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_run_says_above_its_bar(words, terminal, monkeypatch):
    """`skipped RECORD: REASON` holds names and texts of others."""
    out = io.StringIO()
    out.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", out)
    shows = display.Display(2, 0)
    shows.say(f"skipped {words}")
    shows.close()
    assert f"skipped {shown(words)}" in out.getvalue()


@pytest.mark.parametrize("words", ODD)
def test_what_a_bar_is_about(words):
    out = io.StringIO()
    with bar(console=Console(file=out, width=200, force_terminal=True, color_system=None)) as progress:
        progress.add_task(words, total=2)
    assert shown(words) in out.getvalue()


def test_surrogates_and_lines():
    assert plain("a\ud800b\tc\nd").plain == "a\\ud800b c\nd"
    assert sweep_progress.plain is plain
