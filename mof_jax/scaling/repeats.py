"""L = E + A/N'^α + B/D'^β where data repeat: Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 and 6.

D' = U + U·R*_D·(1 − exp(−R_D/R*_D)) with U unique tokens and R_D = D/U − 1 repetitions; N' likewise with U_N, the
compute-optimal size for U tokens. All seven numbers are fitted together (the paper takes the first five from runs of one epoch
and ties α = β). The form only levels off: runs that more epochs or parameters made worse have no place in it. The paper's:
R*_D 15.39, R*_N 5.31.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from mof_jax.scaling import chinchilla, solve
from mof_jax.scaling.curve import curve_law
from mof_jax.scaling.law import Param

PARAMS = (Param("A", "of N'", log=True), Param("B", "of D'", log=True), Param("E", "irreducible loss", log=True),
          Param("alpha", "exponent of N'", log=True), Param("beta", "exponent of D'", log=True),
          Param("R_D", "repetitions of data after which they are worth little", log=True),
          Param("R_N", "likewise of parameters", log=True))
_REPEATS = (1.5, 5.0, 15.0, 45.0)
_BASES = 3


def effective(amount: Float[Array, "points"], unique: Float[Array, "points"] | float, worth: Float[Array, ""]
              ) -> Float[Array, "points"]:
    """What `amount` counts for, if `unique` of it is new and repetitions lose their worth at the rate 1/`worth`."""
    return unique * (1 + worth * -jnp.expm1(-(amount / unique - 1) / worth))


def curve(theta: Float[Array, "7"], x: Float[Array, "3 points"]) -> Float[Array, "points"]:
    """log L of log N, log D, log U; theta holds logarithms."""
    a, b, e = theta[:3]
    alpha, beta, worth_d, worth_n = jnp.exp(theta[3:])
    n, d, unique = x[0], x[1], jnp.minimum(x[1], x[2])
    g = (jnp.log(alpha / beta) + a - b) / (alpha + beta)
    optimal = g + beta / alpha * (g + unique)  # log N_opt of U tokens
    few = jnp.minimum(n, optimal)
    log_n = few + jnp.log(effective(jnp.exp(n - few), 1.0, worth_n))
    log_d = unique + jnp.log(effective(jnp.exp(d - unique), 1.0, worth_d))
    return chinchilla.curve(jnp.stack([a, b, e, alpha, beta]), jnp.stack([log_n, log_d]))


def starts(x: Float[np.ndarray, "3 points"], y: Float[np.ndarray, "points"]) -> Float[np.ndarray, "starts 7"]:
    """The best laws without repetition, of the runs of few epochs where there are enough, times worths of repetition."""
    few = x[1] - x[2] < np.log(2)
    few = few if few.sum() > 2 * len(chinchilla.PARAMS) else np.ones(len(y), bool)
    grid = chinchilla.starts(x[:2], y)
    grid = grid[np.random.default_rng(0).choice(len(grid), 96, replace=False)]
    found = solve.minimise(chinchilla.curve, grid, x[:2], y, few.astype(float))
    usable = (found.theta[:, 3:] > 0.02).all(axis=1) & np.isfinite(found.objective)
    order = np.argsort(np.where(usable, found.objective, np.inf), kind="stable")
    chosen = [found.theta[i] for i in order[:_BASES] if usable[i]] or [np.array([6.0, 7.0, y.min() - 0.3, 0.35, 0.35])]
    return np.array([(*base[:3], *np.log(base[3:]), np.log(d), np.log(n))
                     for base, d, n in itertools.product(chosen, _REPEATS, _REPEATS)])


LAW = curve_law("repeats", "L = E + A / N'^alpha + B / D'^beta, D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), N' likewise",
                "Muennighoff et al. 2023", ("N", "D", "U", "L"), ("N", "D", "U"), PARAMS, curve, starts,
                lambda p: 6 * p["N"] * p["D"])
