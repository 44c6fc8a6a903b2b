"""The best run of every bin of compute, and power laws of its loss, N and D: approach 1 of Hoffmann et al. 2022
(arXiv 2203.15556).

The lowest of many noisy losses is low partly by luck: noise that is not small against the differences between runs bends this
fit.
"""

from __future__ import annotations

import numpy as np

from mof_jax.scaling.law import Law, Param
from mof_jax.scaling.lines import LinesProblem, best_of_bins
from mof_jax.scaling.table import Points

PARAMS = (Param("k_L", "coefficient of the lowest loss", log=True), Param("c", "exponent of the lowest loss"),
          Param("k_N", "coefficient of N_opt", log=True), Param("a", "exponent of N_opt"),
          Param("k_D", "coefficient of D_opt", log=True), Param("b", "exponent of D_opt"))
BINS = 4  # a factor of ten of compute


def make(p: Points) -> LinesProblem:
    """Every bin's best run at its own compute."""
    c = np.log10(p["C"])
    count = max(1, round(BINS * np.ptp(c)))
    _, best = best_of_bins(c, p["L"], np.linspace(c.min(), c.max(), count + 1))
    values = np.log([p[s][best] for s in ("L", "N", "D")])
    return LinesProblem(np.log(p["C"][best]), values, PARAMS, ("lowest loss", "N_opt", "D_opt"))


LAW = Law("envelope", "L_min = k_L C^c, N_opt = k_N C^a, D_opt = k_D C^b", "Hoffmann et al. 2022, approach 1",
          ("N", "D", "C", "L"), lambda p: PARAMS, make)
