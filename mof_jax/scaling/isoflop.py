"""N_opt = k_N·C^a and D_opt = k_D·C^b from IsoFLOP parabolas: approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556).

A parabola in log N is the start of a series: where α and β differ its lowest point is off by a factor that hardly moves with C,
so that the exponents are better known than the coefficients.
"""

from __future__ import annotations

from jaxtyping import Float
import numpy as np

from mof_jax.scaling.law import Law, Param
from mof_jax.scaling.optima import OptimaProblem, grouped
from mof_jax.scaling.table import Points

PARAMS = (Param("k_N", "coefficient of N_opt", log=True), Param("a", "exponent of N_opt"),
          Param("k_D", "coefficient of D_opt", log=True), Param("b", "exponent of D_opt"))


def lines(optima: Float[np.ndarray, "draws groups 1"], keys: Float[np.ndarray, "groups"]) -> Float[np.ndarray, "draws 4"]:
    """log k_N, a and log k_D, b: D_opt = C / (6 N_opt)."""
    design = np.stack([np.ones_like(keys), keys], axis=1)
    n = optima[..., 0] @ np.linalg.pinv(design).T
    return np.concatenate([n, np.array([-np.log(6), 1]) - n], axis=1)


def make(p: Points) -> OptimaProblem:
    """Groups of equal compute, to five percent."""
    groups = grouped(np.log(p["C"]), np.log(p["N"])[:, None], p["L"], lambda c: f"C = {c:.3g} FLOP", ("N",))
    return OptimaProblem(p["L"], groups, lines, PARAMS, ("N",))


LAW = Law("isoflop", "N_opt = k_N C^a, D_opt = k_D C^b", "Hoffmann et al. 2022, approach 2", ("N", "C", "L"),
          lambda p: PARAMS, make)
