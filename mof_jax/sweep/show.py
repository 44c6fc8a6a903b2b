"""A sweep before it runs: its points, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group

from mof_jax import console
from mof_jax.hardware import Throughput
from mof_jax.scaling.frontier import Cost, cost
from mof_jax.sweep.points import Point, Sweep


def total(sweep: Sweep) -> float:
    """FLOPs of the whole sweep; what branches share is counted once."""
    return sum(point.flops for point in sweep.points)


def price(sweep: Sweep, topology: str | None = None) -> Cost | None:
    """Of the whole sweep on a topology, by default the one that its first point names; None if there is none."""
    hardware = sweep.points[0].run.hardware
    where = topology or hardware.topology
    return None if where is None else cost(total(sweep), Throughput(where, hardware.mfu), hardware.price)


def show(sweep: Sweep, topology: str | None = None) -> Group:
    """The grid as a table, and a line of totals."""
    swept = telling(sweep)
    head = ("run", "goes on from", *swept, "parameters", "w/o tables", "steps", "FLOPs")
    rows = [_row(point, swept) for point in sweep.points]
    counted = lambda n, word: f"{n} {word}{'' if n == 1 else 's'}"
    lines = [f"{counted(len(sweep.rows), 'point')}, {counted(len(sweep.points), 'run')}, {total(sweep):.3g} FLOPs"]
    if sweep.merged:
        lines.append(f"{sweep.merged} of the grid's entries are copies of other points: merged")
    if trunks := len(sweep.points) - len(sweep.rows):
        straight = sum(point.size.flops_per_step * point.run.steps for point in sweep.rows)
        lines.append(f"{counted(trunks, 'trunk')} shared by branches; without that {straight:.3g} FLOPs")
    found = price(sweep, topology)
    if found is None:
        lines.append("--topology says what that is in chip-hours")
    else:
        dollars = "" if found.dollars is None else f", ${found.dollars:,.2f}"
        lines.append(f"{found.chip_hours:,.3g} chip-hours of {found.topology} at {found.mfu:.0%} of the peak{dollars}")
    return Group(console.table("Sweep", head, rows), "\n".join(lines))


def telling(sweep: Sweep) -> list[str]:
    """The keys in which the rows differ, of those that change together the first; steps have a column of their own."""
    found: dict[tuple[int, ...], str] = {}
    for key in sweep.swept:
        values = [repr(point.swept.get(key)) for point in sweep.rows]
        found.setdefault(tuple(map(values.index, values)), key)
    return [key for key in found.values() if key != "steps"]


def _row(point: Point, swept: Sequence[str]) -> tuple[str, ...]:
    counts = point.size.counts
    origin = f"{point.trunk} @ {point.at:,}" if point.trunk else ""
    mark = "" if point.row else " (trunk)"
    return (point.id + mark, origin, *(_text(point.swept.get(key)) for key in swept), f"{counts['parameters']:,}",
            f"{counts['non_embedding_parameters']:,}", f"{point.run.steps:,}", f"{point.flops:.3g}")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
