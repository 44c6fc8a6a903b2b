"""Pictures of runs: one from all sides, several beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mof_jax.errors import UserError
from mof_jax.explore.runs import Over, Run, smooth
from mof_jax.style import BLUE, GREY, ORANGE, VERMILION, decades, figure, look, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVER = {"step": "steps", "examples": "examples", "flops": "training compute (FLOP)"}


@styled
def overview(run: Run, smoothing: float = 0.4) -> Figure:
    """Loss, learning rate, norm of the gradient, throughput (and MFU where the device has a known peak), waiting for data, and
    what wall time went to."""
    fig, (loss, rate, norm, speed, wait, time) = figure(3, 3.7, rows=2, height=2.5)
    _smoothed(loss, run, "loss", smoothing, BLUE)
    rate.plot(*run.series("lr"), color=BLUE)
    _smoothed(norm, run, "grad_norm", smoothing, BLUE)
    speed.plot(*run.series("examples_per_s"), color=BLUE)
    wait.plot(run.series("data_wait").x, 100 * run.series("data_wait").y, color=BLUE)
    for axes, title in ((loss, "loss"), (rate, "learning rate"), (norm, "norm of the gradient"), (speed, "examples a second"),
                        (wait, "devices waited for data (%)")):
        axes.set(title=title, xlabel="step")
        axes.title.set_fontsize(9)
    if "mfu" in run.keys:
        right = speed.twinx()
        right.plot(run.series("mfu").x, 100 * run.series("mfu").y, color=ORANGE, linestyle="--")
        right.set_ylabel("MFU (%), dashed")
    for axes in (speed, wait):
        axes.set_ylim(bottom=0)
    _spent(time, run)
    return fig


@styled
def compare(runs: Sequence[Run], key: str = "loss", over: Sequence[Over] = ("step", "examples", "flops"),
            smoothing: float = 0.4) -> Figure:
    """One metric of several runs: over steps, over examples seen and over compute, raw (faint) and smoothed."""
    fig, panels = figure(len(over), 4.2, height=3.2)
    for axes, unit in zip(panels, over):
        for i, run in enumerate(runs):
            x, y = run.series(key, unit)
            axes.plot(x, y, color=look(i)["color"], linewidth=0.8, alpha=0.25)
            axes.plot(x, smooth(y, smoothing), label=run.name, linewidth=1.6, **look(i))
        axes.set(xlabel=OVER[unit], ylabel=key)
    panels[0].legend()
    return fig


@styled
def evaluations(runs: Sequence[Run], keys: Sequence[str], over: Over = "step") -> Figure:
    """Results of evaluators (`EVALUATOR/METRIC`) over the course of the runs, a panel each.

    Raises:
      UserError: a result that no run has.
    """
    fig, panels = figure(len(keys), 4.2, height=3.0)
    for axes, key in zip(panels, keys):
        found = {run.name: series[key] for run in runs if key in (series := run.evaluations(over))}
        if not found:
            known = sorted({name for run in runs for name in run.evaluations()})
            raise UserError(f"{key}: no run has such a result; there are {', '.join(known) or 'none'}")
        for i, run in enumerate(runs):
            if run.name in found:
                axes.plot(*found[run.name], marker="os^Dv"[i % 5], markersize=4, label=run.name, **look(i))
        axes.set(xlabel=OVER[over], title=key)
        axes.title.set_fontsize(9)
    panels[0].legend()
    return fig


def _smoothed(axes: Axes, run: Run, key: str, smoothing: float, colour: str) -> None:
    x, y = run.series(key)
    axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.3)
    axes.plot(x, smooth(y, smoothing), color=colour, linewidth=1.6)
    bad = ~np.isfinite(y)
    if bad.any():
        axes.plot(x[bad], np.full(bad.sum(), np.max(y[~bad], initial=0.0)), "x", color=VERMILION, label="not finite")
        axes.legend()
    if (y[~bad] > 0).all():
        axes.set_yscale("log")
        decades(axes, "y")


def _spent(axes: Axes, run: Run) -> None:
    """Goodput: shares of the wall time as bars, the longest on top; the names are those of `train.reliability.goodput.KINDS`."""
    seconds = {kind: value for kind, value in sorted(run.seconds.items(), key=lambda item: item[1]) if value > 0}
    total = sum(seconds.values()) or 1.0
    colours = {"step": BLUE, "lost": VERMILION}
    axes.barh(list(seconds), [100 * value / total for value in seconds.values()],
              color=[colours.get(kind, GREY) for kind in seconds])
    axes.set(title=f"where {total:,.0f} s went", xlabel="% of wall time")
    axes.title.set_fontsize(9)
    axes.grid(axis="y", visible=False)
