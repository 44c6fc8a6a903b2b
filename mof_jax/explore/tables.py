"""Runs as tables, which a notebook shows as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from mof_jax import console
from mof_jax.explore.runs import ABSENT, Run, differences
from mof_jax.train.reliability.goodput import report

_ALWAYS = ("loss", "examples", "examples_per_s")


def parameters(run: Run, depth: int = 1) -> Table:
    """How many there are of each part, and what the optimizer does with them."""
    rows = [(p.name, f"{p.trained:,}", f"{p.frozen:,}", p.lr, p.decay) for p in run.parameters(depth)]
    whole = [sum(p.trained for p in run.parameters(depth)), sum(p.frozen for p in run.parameters(depth))]
    rows.append(("all", *(f"{n:,}" for n in whole), "", ""))
    return console.table(f"Parameters of {run.name}", ("part", "trained", "frozen", "lr ×", "decay ×"), rows)


def goodput(run: Run) -> Table:
    """What the wall time went to, over all restarts."""
    return report(run.seconds)


def evaluations(run: Run) -> Table:
    """The last results of every evaluator."""
    rows = [(key, f"{series.x[-1]:,.0f}", float(series.y[-1])) for key, series in run.evaluations().items()]
    return console.table(f"Evaluations of {run.name}", ("result", "step", "value"), rows)


def compare(runs: Sequence[Run], results: Sequence[str] = ()) -> Table:
    """A column a run: what is different in its config, then its last numbers.

    Args:
      results: further metrics, or results as `EVALUATOR/METRIC`; by default all that the evaluators found.
    """
    apart = differences(runs)
    last = [run.last() for run in runs]
    evaluated = dict.fromkeys(key for run in runs for key in run.evaluations())
    rows = [(f"config.{key}", *map(_short, values)) for key, values in apart.items()]
    rows += [(key, *(f"{numbers[key]:,.4g}" if key in numbers else ABSENT for numbers in last))
             for key in (*_ALWAYS, *(results or evaluated))]
    rows.append(("FLOP a step", *(f"{run.flops_per_step:.3g}" for run in runs)))
    return console.table("Runs: what differs, and where they ended", ("", *(run.name for run in runs)), rows)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"
