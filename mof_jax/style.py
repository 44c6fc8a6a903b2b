"""How figures look: a palette that everyone tells apart, one style, axes that say their decades."""

from __future__ import annotations

from collections.abc import Callable
import functools
import io
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import numpy as np

from mof_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P, T = ParamSpec("P"), TypeVar("T")

# Okabe and Ito's palette; what has an order (sizes, budgets) takes viridis.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#999999"
PURPLE, SKY = "#cc79a7", "#56b4e9"
SEVERAL = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, "#000000")
DASHES = ("-", "--", "-.", ":")  # beside the colours, for print in grey
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
         "grid.linewidth": 0.6, "legend.frameon": False, "legend.fontsize": 8, "svg.fonttype": "none", "pdf.fonttype": 42}
DPI = 85  # in notebooks, whose outputs are committed
_STEPS = (1, 1.5, 2, 3, 4, 5, 7)
_FINE_STEPS = (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """A function that draws, in this style; without matplotlib it says what to install (`UserError`)."""

    @functools.wraps(function)
    def inner(*args: P.args, **options: P.kwargs) -> T:
        try:
            import matplotlib
        except ImportError:
            raise UserError("plots need matplotlib: pip install -e .[notebooks]") from None
        with matplotlib.rc_context(STYLE):
            return function(*args, **options)

    return inner


def figure(panels: int = 1, width: float = 4.6, rows: int = 1, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` lines of `panels` axes, each `width` × `height` inches; the axes in reading order. A notebook shows it
    as the value of a cell."""
    made = _figure_class()(figsize=(width * panels, height * rows), layout="constrained")
    return made, list(np.atleast_1d(made.subplots(rows, panels)).ravel())


@functools.cache
def _figure_class() -> type[Figure]:
    """Made late, as matplotlib is."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        @styled
        def _repr_png_(self) -> bytes:
            """What Jupyter asks for. Plain figures are shown only after pyplot has chosen a backend."""
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=DPI)
            return out.getvalue()

    return Shown


def decades(axes: Axes, axis: str) -> None:
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


def look(number: int) -> dict[str, str]:
    """Colour and dashes of the n-th of several lines."""
    return dict(color=SEVERAL[number % len(SEVERAL)], linestyle=DASHES[number // len(SEVERAL) % len(DASHES)])
