"""Tables in a log, and commands that can be copied from it."""

from __future__ import annotations

from rich.console import Group

from mof_jax import console


def test_a_log_gets_whole_tables_and_whole_lines(capsys):
    """No terminal, no width to keep to: neither a cell nor a command is broken in two."""
    command = "The best: " + " ".join(f"--config.key_{i}={i}" for i in range(20))
    wide = console.table("t", [f"column {i}" for i in range(8)], [["a cell of words"] + [f"{i}23.4 to 567.8" for i in range(7)]])
    console.stdout().print(Group(wide, console.line(command)), crop=False)
    out = capsys.readouterr().out.splitlines()
    assert command in out and sum("a cell of words" in line and "623.4 to 567.8" in line for line in out) == 1


def test_figures_that_are_no_numbers_are_shown():
    from mof_jax.console import results

    table = results("t", {"e": {"a": float("nan"), "b": float("inf"), "c": 1234.5, "d": 0.5, "n": 1234}})
    assert list(table.columns[2].cells) == ["nan", "inf", "1,234.50", "0.50", "1,234"]
