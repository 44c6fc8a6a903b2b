"""Pictures of a fitted law that a paper can use: logarithmic axes with units, 95 % bands, colours that everyone tells apart."""

from __future__ import annotations

from collections.abc import Mapping
import os
from typing import TYPE_CHECKING

from jaxtyping import Float
import numpy as np

from mof_jax.errors import UserError
from mof_jax.scaling import frontier, solve
from mof_jax.scaling.law import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette; sizes and budgets, which have an order, take viridis.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#999999"
FORMATS = ("svg", "pdf", "png")
LABELS = {"N": "parameters N", "D": "tokens or examples D", "C": "training compute C (FLOP)", "L": "loss L",
          "lr": "peak learning rate", "error": "error"}
_STEPS = (1, 1.5, 2, 3, 4, 5, 7)
_FINE_STEPS = (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)
_GRID = 200
_STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
          "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8, "svg.fonttype": "none", "pdf.fonttype": 42}


def draw(f: Fit) -> dict[str, Figure]:
    """Figures by name: `fit`, `residuals`, and `frontier` where the law has one.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("plots need matplotlib: pip install -e .[notebooks]") from None
    pictures = {"chinchilla": _surface, "repeats": _surface, "isoflop": _parabolas, "lr": _parabolas, "envelope": _chosen,
                "openclip": _chosen}
    with matplotlib.rc_context(_STYLE):
        found = {"fit": pictures.get(f.law.name, _power)(f), "residuals": _residuals(f)}
        if f.law.name in frontier.WITH_FRONTIER:
            found["frontier"] = _frontier(f)
    return found


def save(figures: Mapping[str, Figure], folder: str, formats: tuple[str, ...] = FORMATS) -> list[str]:
    """Writes `FOLDER/NAME.FORMAT`; returns the paths."""
    import matplotlib

    os.makedirs(folder, exist_ok=True)
    paths = []
    with matplotlib.rc_context(_STYLE):
        for name, figure in figures.items():
            for kind in formats:
                paths.append(os.path.join(folder, f"{name}.{kind}"))
                figure.savefig(paths[-1], dpi=200)
    return paths


def _figure(panels: int = 1, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, 3.6), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))


def _decades(axes: Axes, axis: str) -> None:
    """More numbers on a logarithmic axis that spans less than a factor of thirty."""
    from matplotlib import ticker

    which = getattr(axes, f"{axis}axis")
    low, high = getattr(axes, f"get_{axis}lim")()
    if high / low < 30:
        which.set_major_locator(ticker.LogLocator(10, _STEPS if high / low > 3 else _FINE_STEPS))
        plain = ticker.FormatStrFormatter("%.3g")
        which.set_major_formatter(plain if low > 1e-2 and high < 1e4 else ticker.LogFormatterSciNotation(labelOnlyBase=False,
                                                                                                 minor_thresholds=(9, 9)))
        which.set_minor_formatter(ticker.NullFormatter())


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


def _coloured(figure: Figure, axes: Axes, x: np.ndarray, y: np.ndarray, sizes: np.ndarray) -> None:
    from matplotlib.colors import LogNorm

    dots = axes.scatter(x, y, c=sizes, norm=LogNorm(), cmap="viridis", s=14, linewidth=0, alpha=0.85)
    figure.colorbar(dots, ax=axes, label=LABELS["N"])


def _surface(f: Fit) -> Figure:
    """Left: runs, and for a law with a frontier the loss at it. Right: measured against fitted."""
    figure, (left, right) = _figure(2, 4.9)
    c = _compute(f)
    _coloured(figure, left, c, f.points["L"], f.points["N"])
    if f.law.name in frontier.WITH_FRONTIER:
        grid = _span(c)
        _band(left, grid, frontier.optima(f, grid)[2], f, VERMILION, "compute-optimal, 95 %")
        left.axhline(f.params["E"].value, color="black", linestyle=":", linewidth=0.9, label=f"E = {f.params['E'].value:.3g}")
        left.legend()
    left.set(xscale="log", yscale="log", xlabel=LABELS["C"], ylabel=LABELS["L"])
    fitted = np.exp(f.problem.fitted(f.theta))
    right.scatter(fitted, f.points["L"], s=14, color=BLUE, alpha=0.7, linewidth=0)
    ends = [min(fitted.min(), f.points["L"].min()), max(fitted.max(), f.points["L"].max())]
    right.plot(ends, ends, color="black", linewidth=0.9)
    right.set(xscale="log", yscale="log", xlabel="loss, fitted", ylabel="loss, measured")
    for axes in (left, right):
        _decades(axes, "y")
    _decades(right, "x")
    return figure


def _parabolas(f: Fit) -> Figure:
    """Left: every group's losses and parabola. Right: the optima and their line."""
    import matplotlib

    p = f.problem
    over, searched = ("N", "lr") if f.law.name == "lr" else ("C", "N")
    figure, (left, right) = _figure(2, 4.9)
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
    _decades(right, "y")
    right.legend()
    return figure


def _chosen(f: Fit) -> Figure:
    """All runs, those that the line goes through, and the line."""
    figure, (axes,) = _figure()
    x, p = f.points["C"], f.problem
    axes.plot(x, f.points[f.law.target], "o", color=GREY, markersize=3.5, alpha=0.7, label="runs")
    axes.plot(np.exp(p.x), np.exp(p.values[0]), "o", color="black", markersize=4.5, label="best of each bin")
    grid = _span(x, 2)
    theta = np.vstack([f.theta, f.draws])
    _band(axes, grid, theta[:, [0]] + theta[:, [1]] * np.log(grid), f, BLUE, "fit, 95 %")
    unit = "compute C (GMAC)" if f.law.name == "openclip" else LABELS["C"]
    axes.set(xscale="log", yscale="log", xlabel=unit, ylabel=LABELS[f.law.target])
    _decades(axes, "y")
    axes.legend()
    return figure


def _power(f: Fit) -> Figure:
    """The points and the curve."""
    figure, (axes,) = _figure()
    x = f.points["x"]
    grid = _span(x, 10)
    rows = solve.evaluate(f.problem.curve, np.vstack([f.theta, f.draws]), np.log(grid)[None])
    _band(axes, grid, rows, f, BLUE, "fit, 95 %")
    axes.plot(x, f.points["L"], "o", color="black", markersize=3.5, label="runs")
    if "E" in f.params:
        axes.axhline(f.params["E"].value, color="black", linestyle=":", linewidth=0.9, label=f"E = {f.params['E'].value:.3g}")
    axes.set(xscale="log", yscale="log", xlabel=f.points.names.get("x", "x"), ylabel=LABELS["L"])
    _decades(axes, "y")
    axes.legend()
    return figure


def _residuals(f: Fit) -> Figure:
    """Measured less fitted, over the size of the run."""
    figure, (axes,) = _figure()
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
            _coloured(figure, axes, x, values, f.points["N"])
        else:
            axes.plot(x, values, "o", color=BLUE, markersize=3.5, alpha=0.8)
    axes.set(xscale="log", xlabel=label, ylabel="measured over fitted (%)" if relative else "loss, measured less fitted")
    return figure


def _frontier(f: Fit) -> Figure:
    """N_opt and D_opt by budget."""
    figure, (left, right) = _figure(2, 4.2)
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
    return figure
