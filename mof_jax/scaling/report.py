"""A fit as tables and as JSON."""

from __future__ import annotations

from collections import Counter
import dataclasses
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from mof_jax.console import plain
from mof_jax.errors import UserError
from mof_jax.scaling import frontier
from mof_jax.scaling.frontier import Allocation
from mof_jax.scaling.law import Estimate, Fit
from mof_jax.scaling.table import Points

_SHOWN = 20  # excluded rows; the JSON has all


def to_json(f: Fit, plan: Allocation | None = None) -> dict[str, Any]:
    """Everything but the draws; intervals are 95 %."""
    held = f.held_out
    found: dict[str, Any] = dict(
        law=f.law.name, formula=f.law.formula, source=f.law.source, table=f.points.source, points=len(f.points),
        params={name: _estimate(x) for name, x in f.params.items()}, objective=f.objective, objective_is=f.problem.loss,
        resamples=len(f.draws), resampled=f.how, widened=f.widen,
        held_out=None if held is None else held._asdict(), warnings=list(f.warnings), notes=list(f.points.notes),
        excluded=[dataclasses.asdict(e) for e in f.points.excluded])
    if optima := getattr(f.problem, "groups", None):
        found["groups"] = [dict(label=g.label, runs=len(g.rows), used=not g.edge, why_not=g.edge or None,
                                best=None if g.edge else [float(x) for x in np.exp(g.optima(f.problem.y[None, g.rows])[0])])
                           for g in optima]
    if "batch" in f.points:
        batches = np.unique(f.points["batch"])
        found["batch"] = float(batches[0]) if len(batches) == 1 else None
    if f.law.name in frontier.WITH_FRONTIER:
        found["frontier"] = _exponents(f)
    if plan is not None:
        found["plan"] = {key: _estimate(x) if isinstance(x, Estimate) else x for key, x in vars(plan).items()}
        found["plan"]["cost"] = None if plan.cost is None else dataclasses.asdict(plan.cost)
    return found


def show(f: Fit, plan: Allocation | None = None) -> Group:
    """Parameters with their intervals, what was left out, warnings, and the plan."""
    how = f"{len(f.draws):,} resamples ({f.how})" if len(f.draws) else "no intervals: --bootstrap 0"
    title = f"{f.law.formula}   ({f.law.source})\n{len(f.points)} points of {f.points.source}; {how}"
    table = Table(title=plain(title), title_justify="left", header_style="bold")
    for column in ("parameter", "value", "95 % from", "to", "meaning"):
        table.add_column(column, justify="left" if column in ("parameter", "meaning") else "right")
    for p, x in zip(f.names, f.params.values()):
        table.add_row(p.name, *(_number(v) for v in x), p.meaning)
    if exponents := _exponents(f) if f.law.name == "chinchilla" else None:
        for (name, x), what in zip(exponents.items(), ("exponent of N_opt in C", "exponent of D_opt in C")):
            table.add_row(name, *(_number(v) for v in x.values()), what)
    lines = [f"objective {f.objective:.6e} ({f.problem.loss})"]
    if f.held_out is not None:
        h = f.held_out
        lines.append(f"held out, fitted without: {h.what}: off by {h.mean:.2%} on average, {h.worst:.2%} at worst ({h.count})")
    lines += [f"note: {text}" for text in f.points.notes]
    parts: list[Any] = [table, plain("\n".join(lines))]
    if f.points.excluded:
        parts.append(excluded(f.points))
    parts += [plain(f"warning: {text}", style="yellow") for text in f.warnings]
    return Group(*parts, *([] if plan is None else [planned(plan)]))


def excluded(p: Points) -> Table:
    """The points that the law did not see, with the reason."""
    table = Table(title=f"{len(p.excluded)} points left out", title_justify="left", header_style="bold")
    table.add_column("row", justify="right")
    table.add_column("reason")
    for e in p.excluded[:_SHOWN]:
        table.add_row(str(e.row), plain(e.reason))
    if more := p.excluded[_SHOWN:]:
        kinds = Counter(e.reason.split(":")[0].split("=")[0].strip() for e in more)
        table.add_row("…", plain(f"{len(more)} more: " + ", ".join(f"{n} × {kind}" for kind, n in kinds.most_common(5))))
    return table


def planned(p: Allocation) -> Group:
    """What to train for a budget."""
    table = Table(title=f"For {p.flops:.3g} FLOP", title_justify="left", show_header=False)
    for name, x in (("parameters N", p.N), ("tokens or examples D", p.D), ("D / N", p.tokens_per_parameter), ("loss", p.loss)):
        if x is not None:
            table.add_row(name, f"{_number(x.value)}   [{_number(x.low)}, {_number(x.high)}]")
    if p.lr is not None:
        table.add_row("learning rate", _number(p.lr))
        table.add_row("weight decay, decoupled", _number(p.weight_decay))
    if p.batch is not None:
        table.add_row("batch", f"{p.batch:,.0f}, that of the grid of learning rates")
    if p.cost is not None:
        c = p.cost
        dollars = "no price given (--price)" if c.dollars is None else f"${c.dollars:,.0f}"
        table.add_row(f"on {c.topology}",
                      f"{c.chip_hours:,.0f} chip-hours, {c.days:,.1f} days at {c.mfu:.0%} of the peak, {dollars}")
        if c.source is not None:
            table.add_row("throughput", plain(f"of {c.source}: {c.least:,.0f} chip-hours at the best its step allows, "
                                              f"{c.exposed:,.0f} with no communication hidden"))
    return Group(table, *(plain(f"note: {text}") for text in p.notes))


def _exponents(f: Fit) -> dict[str, dict[str, float | None]]:
    try:
        return {name: _estimate(x) for name, x in frontier.exponents(f).items()}
    except UserError:  # an exponent that is not positive; the fit's warnings say so
        return {}


def _estimate(x: Estimate) -> dict[str, float | None]:
    return {key: value if np.isfinite(value) else None for key, value in x._asdict().items()}


def _number(x: float | None) -> str:
    if x is None or not np.isfinite(x):
        return "-"
    return f"{x:,.5g}" if 1e-3 <= abs(x) < 1e5 else f"{x:.4g}"
