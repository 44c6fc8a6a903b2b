"""The report's picture: arms with a dot a seed, and the arms that matter by pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mof_jax.data.pairs import PATTERNS
from mof_jax.studies.blindness.plan import ARMS, CONTROLS
from mof_jax.studies.blindness.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _PINK, _GREY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#999999"  # told apart by everyone


def draw(results: Results) -> Figure:
    """Left: every arm. Right: by pattern, CLIP, SSL, I-MoF and the control with a second CLIP."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    arms = {"clip": _BLUE, "ssl": _ORANGE, results.amof: _PINK, "imof": _GREEN, **dict.fromkeys(CONTROLS, _GREY)}
    for y, (arm, colour) in enumerate(arms.items()):
        values = results.pair_accuracy(arm)
        left.barh(y, values.mean(), color=colour, alpha=0.55)
        left.plot(values, np.full(len(values), y), "o", color=colour, markersize=5, markeredgecolor="black", markeredgewidth=0.5)
    left.set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms])
    left.invert_yaxis()
    left.axvline(25, color="black", linewidth=0.8, linestyle=":")
    left.set(xlabel="pairs right, test (%); dots are seeds, dotted: chance")
    x = np.arange(len(PATTERNS))
    chosen = {"clip": (_BLUE, -0.3), "ssl": (_ORANGE, -0.1), "imof": (_GREEN, 0.1), "clip-clip": (_GREY, 0.3)}
    for arm, (colour, shift) in chosen.items():
        values = results.by_pattern(arm)
        right.bar(x + shift, values.mean(0), 0.19, color=colour, alpha=0.75, label=ARMS[arm].title)
        for row in values:
            right.plot(x + shift, row, ".", color="black", markersize=3)
    right.set_xticks(x, PATTERNS, rotation=25)
    right.axhline(25, color="black", linewidth=0.8, linestyle=":")
    right.set(ylabel="pairs right, test (%)", ylim=(0, 100))
    right.legend(frameon=False, fontsize="small", ncols=2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
