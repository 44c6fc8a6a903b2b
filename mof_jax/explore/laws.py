"""Scaling laws in a notebook: every law that a table allows, their intervals, and how far they reach beyond it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
import numpy as np
from rich.table import Table

from mof_jax import console
from mof_jax.errors import UserError, lookup
from mof_jax.scaling import solve, table
from mof_jax.scaling.fit import fit
from mof_jax.scaling.law import Fit
from mof_jax.scaling.plots import LABELS
from mof_jax.scaling.registry import LAWS
from mof_jax.scaling.table import Points
from mof_jax.style import BLUE, GREY, VERMILION, decades, figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGENET = {"a": 5.858, "b": -0.1114}  # Cherti et al. 2022: zero-shot error by GMAC
_RESAMPLES, _STARTS = 200, 500  # enough for a notebook; `mof fit` takes 1,000 and the whole grid


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a table gave: fits by law, and for the other laws why not."""

    fits: Mapping[str, Fit]
    refused: Mapping[str, str]


def load(source: str, law: str, columns: Mapping[str, str] | None = None) -> Points:
    """The points of a table or of a sweep's work dir as a law reads them.

    Raises:
      UserError: see `scaling.table.read` and `points`.
    """
    found = lookup(LAWS, law, "law")
    path, names, rows = table.read(source, columns)
    return table.points(path, rows, found.needs, found.optional, found.target, names=names)


def fit_all(source: str | Points, laws: Sequence[str], columns: Mapping[str, str] | None = None,
            bootstrap: int = _RESAMPLES, starts: int | None = _STARTS) -> Fitted:
    """Fits laws to one table; a law that the table does not allow (too few points, no budget twice, no column) says why."""
    fits, refused = {}, {}
    for name in laws:
        try:
            points = load(source, name, columns) if isinstance(source, str) else source
            fits[name] = fit(points, LAWS[name], bootstrap, starts=starts)
        except UserError as error:
            refused[name] = str(error).removeprefix(f"{source}: ")
    return Fitted(fits, refused)


def intervals(found: Fitted) -> Table:
    """Every parameter of every law with its 95 % interval; below, the laws that the table does not allow."""
    rows = []
    for f in found.fits.values():
        for i, (parameter, x) in enumerate(f.params.items()):
            off = "–" if f.held_out is None else f"{f.held_out.mean:.2%}"
            rows.append((f.law.formula if i == 0 else "", parameter, *(f"{v:.4g}" for v in x),
                         off if i == 0 else "", str(len(f.points)) if i == 0 else ""))
    rows += [(f"{name}: {why}", *[""] * 6) for name, why in found.refused.items()]
    columns = ("law", "parameter", "value", "from", "to", "held out, off by", "points")
    return console.table("Laws with 95 % intervals", columns, rows)


@styled
def recovered(f: Fit, truth: Mapping[str, float]) -> Figure:
    """A fit of points whose law is known: each parameter and its interval over the truth, which is 1."""
    fig, (axes,) = figure(1, 5.6, height=0.9 + 0.35 * len(truth))
    for y, (name, value) in enumerate(truth.items()):
        x = f.params[name]
        (low, high), middle = sorted((x.low / value, x.high / value)), x.value / value
        inside = low <= 1 <= high
        axes.plot([low, high], [y, y], color=BLUE if inside else VERMILION, linewidth=2)
        axes.plot(middle, y, "o" if inside else "s", color=BLUE if inside else VERMILION, markersize=5)
    axes.axvline(1, color="black", linewidth=0.9)
    axes.set_yticks(range(len(truth)), [f"{name} = {value:g}" for name, value in truth.items()])
    axes.invert_yaxis()
    axes.set(xlabel="fitted / true, 95 % (orange squares: the interval misses the truth)")
    axes.grid(axis="y", visible=False)
    return fig


@dataclasses.dataclass(frozen=True)
class Extrapolation:
    """A law of the smaller runs, asked for the largest.

    Attributes:
      small: fitted without the largest. held: which points of the table were kept from it. predicted, low, high: of those.
    """

    small: Fit
    points: Points
    held: Bool[np.ndarray, "points"]
    predicted: Float[np.ndarray, "held"]
    low: Float[np.ndarray, "held"]
    high: Float[np.ndarray, "held"]

    @property
    def measured(self) -> Float[np.ndarray, "held"]:
        return self.points[self.small.law.target][self.held]

    @property
    def off(self) -> float:
        """Mean of |log(predicted / measured)|."""
        return float(np.mean(np.abs(np.log(self.predicted / self.measured))))


def extrapolate(points: Points, law: str, share: float = 0.25, bootstrap: int = _RESAMPLES, starts: int | None = _STARTS
                ) -> Extrapolation:
    """Fits a law of N and D (or of x) to all but the `share` of the runs with the most compute, and predicts those. The band is
    the law's: a single run has its own error besides.

    Raises:
      UserError: a law that predicts no loss of a run, or too few points left.
    """
    found = lookup(LAWS, law, "law")
    size = 6 * points["N"] * points["D"] if "D" in points else points["x"]
    held = np.zeros(len(points), bool)
    held[np.argsort(size, kind="stable")[len(points) - max(1, round(share * len(points))):]] = True
    small = fit(points.keep(~held, "held out"), found, bootstrap, starts=starts)
    problem = small.problem
    if not hasattr(problem, "curve"):
        raise UserError(f"the law {law!r} predicts no single runs; chinchilla and power do")
    inputs = np.log([points[s] for s in (("N", "D") if "D" in points else ("x",))])[:, held]
    rows = solve.evaluate(problem.curve, np.vstack([small.theta, small.draws]), inputs)
    low, high = small.interval(rows[0], rows[1:])
    return Extrapolation(small, points, held, np.exp(rows[0]), np.exp(low), np.exp(high))


@styled
def reach(found: Extrapolation) -> Figure:
    """Measured over compute, and what the law of the smaller runs said of the largest."""
    fig, (axes,) = figure(1, 6.2)
    p, held = found.points, found.held
    x = 6 * p["N"] * p["D"] if "D" in p else p["x"]
    axes.plot(x[~held], p[found.small.law.target][~held], "o", color=GREY, markersize=4, label="runs that were fitted")
    axes.plot(x[held], found.measured, "o", color="black", markersize=5, label="largest runs, measured")
    arms = np.abs(np.stack([found.predicted - found.low, found.high - found.predicted]))
    axes.errorbar(x[held] * 1.06, found.predicted, arms, fmt="D", color=BLUE, markersize=4, linewidth=1,
                  label=f"predicted, 95 %: off by {found.off:.2%}")
    axes.set(xscale="log", yscale="log", xlabel=LABELS["C"], ylabel=LABELS[found.small.law.target])
    decades(axes, "y")
    axes.legend()
    return fig


def drawn_openclip(runs: int = 40, noise: float = 0.02, seed: int = 0) -> Points:
    """A table of errors that has OpenCLIP's law for the lowest of each of its five bins; the other runs lie above."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(1, 6, 6)
    centres = 10 ** ((edges[:-1] + edges[1:]) / 2)
    best = IMAGENET["a"] * centres ** IMAGENET["b"] * np.exp(noise * rng.standard_normal(5))
    c = np.concatenate([[10.0, 10 ** 5.9], centres, 10 ** rng.uniform(1, 5.9, runs)])
    floor = IMAGENET["a"] * c ** IMAGENET["b"]
    error = np.concatenate([1.4 * floor[:2], best, floor[7:] * np.exp(rng.uniform(0.25, 0.6, runs))])
    return Points("drawn from OpenCLIP's law", {"C": c, "error": error}, tuple(range(1, len(c) + 1)))
