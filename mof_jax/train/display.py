"""What a person sees while a run trains: a bar with an ETA on a terminal, a line a log interval elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
import sys
from typing import Any

import jax
from rich import progress
from rich.console import Console

from mof_jax.console import plain


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
