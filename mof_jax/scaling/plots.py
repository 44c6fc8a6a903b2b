"""Pictures of a fitted law that a paper can use: logarithmic axes with units, 95 % bands, colours that everyone tells apart."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import TYPE_CHECKING

from jaxtyping import Float
import numpy as np

from mof_jax.scaling import frontier, solve
from mof_jax.scaling.law import Fit
from mof_jax.style import BLUE, GREEN, GREY, ORANGE, VERMILION, decades, figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf", "png")
LABELS = {"N": "parameters N", "D": "tokens or examples D", "C": "training compute C (FLOP)", "L": "loss L",
          "lr": "peak learning rate", "error": "error"}
_GRID = 200


@styled
def check() -> None:
    """Before the work: whether there will be plots.

    Raises:
      UserError: matplotlib is not installed.
    """


@styled
def draw(f: Fit) -> dict[str, Figure]:
    """Figures by name: `fit`, `residuals`, and `frontier` where the law has one.

    Raises:
      UserError: matplotlib is not installed.
    """
    pictures = {"chinchilla": _surface, "repeats": _surface, "isoflop": _parabolas, "lr": _parabolas, "envelope": _chosen,
                "openclip": _chosen}
    found = {"fit": pictures.get(f.law.name, _power)(f), "residuals": _residuals(f)}
    if f.law.name in frontier.WITH_FRONTIER:
        found["frontier"] = _frontier(f)
    return found


@styled
def save(figures: Mapping[str, Figure], folder: str, formats: tuple[str, ...] = FORMATS) -> list[str]:
    """Writes `FOLDER/NAME.FORMAT`; returns the paths."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for name, picture in figures.items():
        for kind in formats:
            paths.append(os.path.join(folder, f"{name}.{kind}"))
            picture.savefig(paths[-1], dpi=200)
    return paths


def _band(axes: Axes, x: Float[np.ndarray, "grid"], rows: Float[np.ndarray, "1+draws grid"], f: Fit, colour: str,
          label: str) -> None:
    """A line and its 95 % interval; rows are logarithms."""
    low, high = f.interval(rows[0], rows[1:])
    if np.isfinite(low).all():
        axes.fill_between(x, np.exp(low), np.exp(high), color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, np.exp(rows[0]), color=colour, linewidth=1.5, label=label)


def _span(x: Float[np.ndarray, "points"], beyond: float = 3.0) -> Float[np.ndarray, "grid"]:
    return np.geomspace(x.min() / 1.2, x.max() * beyond, _GRID)


def _compute(f: Fit) -> Float[np.ndarray, "points"]:
    return f.points["C"] if "C" in f.points else 6 * f.points["N"] * f.points["D"]


def _coloured(fig: Figure, axes: Axes, x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> None:
    from matplotlib.colors import LogNorm

    dots = axes.scatter(x, y, c=sizes, norm=LogNorm(), cmap="viridis", s=14, linewidth=0, alpha=0.85)
    fig.colorbar(dots, ax=axes, label=LABELS["N"])


def _surface(f: Fit) -> Figure:
    """Left: runs, and for a law with a frontier the loss at it. Right: measured against fitted."""
    fig, (left, right) = figure(2, 4.9)
    c = _compute(f)
    _coloured(fig, left, c, f.points["L"], f.points["N"])
    if f.law.name in frontier.WITH_FRONTIER:
        grid = _span(c)
        _band(left, grid, frontier.optima(f, grid)[2], f, VERMILION, "compute-optimal, 95 %")
        left.axhline(f.params["E"].value, color="black", linestyle=":", linewidth=0.9, label=_floor(f))
        left.legend()
    left.set(xscale="log", yscale="log", xlabel=LABELS["C"], ylabel=LABELS["L"])
    fitted = np.exp(f.problem.fitted(f.theta))
    right.scatter(fitted, f.points["L"], s=14, color=BLUE, alpha=0.7, linewidth=0)
    ends = [min(fitted.min(), f.points["L"].min()), max(fitted.max(), f.points["L"].max())]
    right.plot(ends, ends, color="black", linewidth=0.9)
    right.set(xscale="log", yscale="log", xlabel="loss, fitted", ylabel="loss, measured")
    for axes in (left, right):
        decades(axes, "y")
    decades(right, "x")
    return fig


def _parabolas(f: Fit) -> Figure:
    """Left: every group's losses and parabola. Right: the optima and their line."""
    import matplotlib

    p = f.problem
    over, searched = ("N", "lr") if f.law.name == "lr" else ("C", "N")
    fig, (left, right) = figure(2, 4.9)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(p.groups)))
    for g, shade in zip(p.groups, shades):
        u, y = g.u[:, 0], p.y[g.rows]
        left.plot(np.exp(u), y, "o", color=shade, markersize=3.5, fillstyle="none" if g.edge else "full",
                  label=g.label.removesuffix(" FLOP") + (", edge" if g.edge else ""))
        if g.u.shape[1] == 1 and len(y) > 3:
            grid = np.linspace(u.min(), u.max(), _GRID)
            left.plot(np.exp(grid), np.polyval(np.polyfit(u, y, 2), grid), color=shade, linewidth=1,
                      linestyle=":" if g.edge else "-")
    left.set(xscale="log", xlabel=LABELS[searched], ylabel=LABELS["L"])
    left.legend(title=LABELS[over], title_fontsize=8, ncols=2 if len(p.groups) > 4 else 1, loc="upper center",
                bbox_to_anchor=(0.5, -0.18))
    keys = np.exp(p.keys)
    grid = _span(keys)
    theta = np.vstack([f.theta, f.draws])
    slope, start = (0, 1) if f.law.name == "lr" else (1, 0)
    _band(right, grid, theta[:, [start]] + theta[:, [slope]] * np.log(grid), f, BLUE, "line, 95 %")
    right.plot(keys, np.exp(p.optima(p.y[None])[0, :, 0]), "o", color="black", markersize=4, label="optima of the parabolas")
    right.set(xscale="log", yscale="log", xlabel=LABELS[over], ylabel=f"best {LABELS[searched]}")
    decades(right, "y")
    right.legend()
    return fig


def _chosen(f: Fit) -> Figure:
    """All runs, those that the line goes through, and the line."""
    fig, (axes,) = figure()
    x, p = f.points["C"], f.problem
    axes.plot(x, f.points[f.law.target], "o", color=GREY, markersize=3.5, alpha=0.7, label="runs")
    axes.plot(np.exp(p.x), np.exp(p.values[0]), "o", color="black", markersize=4.5, label="best of each bin")
    grid = _span(x, 2)
    theta = np.vstack([f.theta, f.draws])
    _band(axes, grid, theta[:, [0]] + theta[:, [1]] * np.log(grid), f, BLUE, "fit, 95 %")
    unit = "compute C (GMAC)" if f.law.name == "openclip" else LABELS["C"]
    axes.set(xscale="log", yscale="log", xlabel=unit, ylabel=LABELS[f.law.target])
    decades(axes, "y")
    axes.legend()
    return fig


def _power(f: Fit) -> Figure:
    """The points and the curve."""
    fig, (axes,) = figure()
    x = f.points["x"]
    grid = _span(x, 10)
    rows = solve.evaluate(f.problem.curve, np.vstack([f.theta, f.draws]), np.log(grid)[None])
    _band(axes, grid, rows, f, BLUE, "fit, 95 %")
    axes.plot(x, f.points["L"], "o", color="black", markersize=3.5, label="runs")
    if "E" in f.params:
        axes.axhline(f.params["E"].value, color="black", linestyle=":", linewidth=0.9, label=_floor(f))
    axes.set(xscale="log", yscale="log", xlabel=f.points.names.get("x", "x"), ylabel=LABELS["L"])
    decades(axes, "y")
    axes.legend()
    return fig


def _residuals(f: Fit) -> Figure:
    """Measured less fitted, over the size of the run."""
    fig, (axes,) = figure()
    p, relative = f.problem, f.law.name not in ("isoflop", "lr")
    axes.axhline(0, color="black", linewidth=0.9)
    values = 100 * f.residuals if relative else f.residuals
    if hasattr(p, "values"):  # several responses at the same x
        for i, (name, colour, shape) in enumerate(zip(p.responses, (BLUE, ORANGE, GREEN), "os^")):
            axes.plot(np.exp(p.x), values.reshape(len(p.values), -1)[i], shape, color=colour, markersize=4.5, label=name)
        axes.legend()
        label = "compute C (GMAC)" if f.law.name == "openclip" else LABELS["C"]
    else:
        symbol = "x" if "x" in f.points else "N" if f.law.name == "lr" else "C"
        x = _compute(f) if symbol == "C" else f.points[symbol]
        label = f.points.names.get("x", "x") if symbol == "x" else LABELS[symbol]
        if symbol == "C":
            _coloured(fig, axes, x, values, f.points["N"])
        else:
            axes.plot(x, values, "o", color=BLUE, markersize=3.5, alpha=0.8)
    axes.set(xscale="log", xlabel=label, ylabel="measured over fitted (%)" if relative else "loss, measured less fitted")
    return fig


def _frontier(f: Fit) -> Figure:
    """N_opt and D_opt by budget."""
    fig, (left, right) = figure(2, 4.2)
    c = _compute(f)
    grid = _span(c, 100)
    n, d, _ = frontier.optima(f, grid)
    for axes, rows, symbol, colour in ((left, n, "N", BLUE), (right, d, "D", GREEN)):
        runs = f.points[symbol] if symbol in f.points else c / (6 * f.points["N"])
        axes.plot(c, runs, "o", color=GREY, markersize=2.5, alpha=0.5, label="runs")
        _band(axes, grid, rows, f, colour, f"{symbol}_opt, 95 %")
        axes.axvline(c.max(), color="black", linestyle=":", linewidth=0.9, label="largest run")
        axes.set(xscale="log", yscale="log", xlabel=LABELS["C"], ylabel=f"compute-optimal {LABELS[symbol]}")
        axes.legend()
    return fig


def _floor(f: Fit) -> str:
    """The irreducible loss; nothing where the fit drove its logarithm towards minus infinity."""
    value = f.params["E"].value
    return f"E = {value:.3g}" if value > 1e-9 else "E = 0"
