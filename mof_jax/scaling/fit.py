"""Points in, a law with intervals out."""

from __future__ import annotations

from jaxtyping import Float
import numpy as np
from scipy import stats

from mof_jax.errors import UserError
from mof_jax.scaling.law import Fit, Law, Problem, bounds
from mof_jax.scaling.table import Points


def fit(points: Points, law: Law, bootstrap: int = 1000, seed: int = 0, starts: int | None = None,
        resample: str | None = None) -> Fit:
    """Fits a law and resamples its points.

    Intervals are percentiles of the resampled fits, their arms stretched by Student's t with the degrees of freedom that are
    left, over the normal quantile: a resample has errors of the size that was found, not of the size that is.

    Args:
      bootstrap: resamples; 0 for no intervals. starts: how many of the law's grid, all by default. resample: see `law.Problem`;
        by default what the law holds for right.

    Raises:
      UserError: too few points, or none that a law can use.
    """
    if not len(points):
        raise UserError(f"{points.source}: no usable points ({len(points.excluded)} left out: "
                        f"{points.excluded[0].reason if points.excluded else 'the table is empty'})")
    try:
        problem = law.make(points)
    except UserError as error:
        raise UserError(f"{points.source}: {error}") from None
    theta, objective = problem.solve(starts)
    how = resample or problem.resample
    draws = resampled(problem, theta, bootstrap, np.random.default_rng(seed), how)
    whole = np.isfinite(draws).all(axis=1)
    widen = float(stats.t.ppf(0.975, problem.dof) / stats.norm.ppf(0.975))
    low, high = bounds(theta, draws[whole], widen)
    warnings = [*points.warnings, *problem.warnings(theta, low, high)]
    if failed := int((~whole).sum()):
        warnings.append(f"{failed} of {bootstrap} resamples have no solution and are left out of the intervals")
    return Fit(law, points, problem, law.params(points), theta, objective, draws[whole], widen, how, failed,
               problem.held_out(), tuple(warnings))


def resampled(problem: Problem, theta: Float[np.ndarray, "params"], count: int, rng: np.random.Generator, how: str
              ) -> Float[np.ndarray, "draws params"]:
    """Parameters of `count` resamples, see `law.Problem.resample`."""
    if not count:
        return np.empty((0, len(theta)))
    n = len(problem.y)
    if how == "pairs":
        weights = rng.multinomial(n, np.full(n, 1 / n), count).astype(float)
        return problem.refit(np.broadcast_to(problem.y, (count, n)), weights, theta)
    fitted = problem.fitted(theta)
    # A point draws the fit to itself, so that its residual is smaller than its error.
    errors = (problem.y - fitted) / np.sqrt(np.maximum(1 - problem.leverage(theta), 1e-6))
    drawn = np.empty((count, n))
    for block in np.unique(problem.blocks):
        rows = np.flatnonzero(problem.blocks == block)
        draw = _normal if how == "normal" else _smooth
        drawn[:, rows] = draw(errors[rows], count, rng)
    return problem.refit(fitted + drawn, None, theta)


def _normal(errors: Float[np.ndarray, "points"], count: int, rng: np.random.Generator) -> Float[np.ndarray, "draws points"]:
    return rng.normal(0, np.sqrt(np.mean(errors**2)), (count, len(errors)))


def _smooth(errors: Float[np.ndarray, "points"], count: int, rng: np.random.Generator) -> Float[np.ndarray, "draws points"]:
    """Errors with replacement, blurred by Silverman's width and shrunk to their own variance again.

    A robust fit goes exactly through as many points as it has parameters: their residuals of 0 are no errors, and the density
    of errors about 0 is what the width of its intervals hangs on. Unblurred, 29 points gave 92 % where 95 were asked for.
    """
    size = np.sqrt(np.mean(errors**2))
    width = 1.06 * len(errors) ** -0.2 * min(size, 1.4826 * float(np.median(np.abs(errors))))
    picked = errors[rng.integers(len(errors), size=(count, len(errors)))]
    blurred = picked + width * rng.standard_normal(picked.shape)
    return blurred * (size / np.hypot(size, width) if size > 0 else 1.0)
