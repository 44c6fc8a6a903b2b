"""Chinchilla's parametric fit from its whole grid of starts, against SciPy's L-BFGS-B from the same starts, in one run.

    mof bench fit

The table is synthetic: 240 points drawn from the coefficients that Besiroglu et al. 2024's points give, over their ranges of N
and C, with 0.5 % noise. SciPy minimises the same objective by numerical gradients, as it is and times 1,000 (as it is, its
default tolerance stops it early), and by exact ones. SciPy's CPU seconds hold threads of BLAS that only wait.
"""

from __future__ import annotations

from collections.abc import Callable
import time

import numpy as np
from rich.table import Table
from scipy import optimize

from mof_jax import console
from mof_jax.scaling import chinchilla, solve
from mof_jax.scaling.curve import thinned
from mof_jax.scaling.fit import fit
from mof_jax.scaling.table import Points

TRUTH = {"A": 477.83, "B": 2143.4, "E": 1.81722, "alpha": 0.34731, "beta": 0.367172}
_REACHED = 1e-5  # relative, above the lowest objective of all: what counts as found


def points(n: int = 240, noise: float = 0.005, seed: int | np.random.Generator = 0) -> Points:
    """Runs of 57 M to 16 B parameters, 0.25 B to 318 B tokens and 1.4e18 to 1.3e22 FLOP, as in Hoffmann et al.'s figure 4."""
    rng = np.random.default_rng(seed)
    size, flops = np.exp(rng.uniform(np.log(57e6), np.log(16.2e9), 40 * n)), 10 ** rng.uniform(18.15, 22.1, 40 * n)
    data = flops / (6 * size)
    ok = (data > 2.4e8) & (data < 3.2e11) & (data / size > 0.3) & (data / size < 700)
    size, data = size[ok][:n], data[ok][:n]
    loss = TRUTH["E"] + TRUTH["A"] / size ** TRUTH["alpha"] + TRUTH["B"] / data ** TRUTH["beta"]
    columns = {"N": size, "D": data, "L": loss * np.exp(noise * rng.standard_normal(n))}
    return Points("synthetic", columns, tuple(range(1, n + 1)))


def run(starts: int | None = None, bootstrap: int = 1000) -> list[dict]:
    """Measures every contestant once; ours compiles within its time.

    Args:
      starts: how many of the grid's 4,500, for all contestants. bootstrap: resamples of a last row, ours alone; 0 for none.

    Returns:
      One row each: `name`, `seconds`, `cpu_seconds`, `ratio`, `cpu_ratio` (over ours), `objective`, `reached` (share of starts
      that found the lowest objective of all), `starts`.
    """
    p = points()
    problem = chinchilla.LAW.make(p)
    grid = thinned(problem.starts, starts)
    rows = [_timed("ours", lambda: solve.minimise(chinchilla.curve, grid, problem.x, problem.y).objective)]
    for name, scale, exact in (("SciPy, numerical gradients", 1.0, False),
                               ("SciPy, numerical gradients, objective × 1,000", 1e3, False),
                               ("SciPy, exact gradients, objective × 1,000", 1e3, True)):
        rows.append(_timed(name, lambda: _scipy(grid, problem.x, problem.y, scale, exact)))
    best = min(row["found"].min() for row in rows)
    for row in rows:
        found = row.pop("found")
        row |= {"objective": float(found.min()), "reached": float(np.mean(found <= (1 + _REACHED) * best)), "starts": len(grid),
                "ratio": row["seconds"] / rows[0]["seconds"], "cpu_ratio": row["cpu_seconds"] / rows[0]["cpu_seconds"]}
    if bootstrap:
        whole = _timed(f"ours, the fit and {bootstrap:,} resamples",
                       lambda: fit(p, chinchilla.LAW, bootstrap, starts=starts).objective)
        whole |= {"objective": whole.pop("found"), "reached": None, "starts": len(grid), "ratio": None, "cpu_ratio": None}
        rows.append(whole)
    return rows


def show(rows: list[dict]) -> None:
    """Prints the rows as a table."""
    table = Table(title=f"L = E + A/N^α + B/D^β, 240 points, {rows[0]['starts']:,} starts", title_justify="left")
    for column in ("contestant", "s", "CPU s", "× ours", "× ours, CPU", "objective", "starts that found it"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    ratio = lambda x: "-" if x is None else f"{x:.2f}"
    for r in rows:
        table.add_row(r["name"], f"{r['seconds']:.1f}", f"{r['cpu_seconds']:.1f}", ratio(r["ratio"]), ratio(r["cpu_ratio"]),
                      f"{r['objective']:.7e}", "-" if r["reached"] is None else f"{r['reached']:.1%}")
    console.stdout().print(table)


def _timed(name: str, call: Callable) -> dict:
    wall, cpu = time.perf_counter(), time.process_time()
    found = call()
    return {"name": name, "found": found, "seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def _scipy(starts: np.ndarray, x: np.ndarray, y: np.ndarray, scale: float, exact: bool) -> np.ndarray:
    """The objective that each start ends at."""
    call = lambda theta: value_and_gradient(theta, x, y, scale, exact)
    return np.array([optimize.minimize(call, start, jac=exact, method="L-BFGS-B").fun for start in starts]) / scale


def value_and_gradient(theta: np.ndarray, x: np.ndarray, y: np.ndarray, scale: float = 1.0, gradient: bool = True):
    """The objective in plain NumPy, with its gradient if asked for."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * x[0], b - beta * x[1], np.full(x.shape[1], e)])
    top = terms.max(axis=0)
    shares = np.exp(terms - top)
    whole = shares.sum(axis=0)
    residual = top + np.log(whole) - y
    inner = np.minimum(np.abs(residual), solve.DELTA)
    value = scale * np.sum(inner * (np.abs(residual) - 0.5 * inner))
    if not gradient:
        return value
    n, d, floor = shares / whole * np.clip(residual, -solve.DELTA, solve.DELTA)
    return value, scale * np.array([n.sum(), d.sum(), floor.sum(), -(n @ x[0]), -(d @ x[1])])
