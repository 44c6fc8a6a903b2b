"""Laws that are straight lines in logarithms through chosen points: y = c + slope·x, by least squares, several y at once."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from jaxtyping import Float, Int
import numpy as np

from mof_jax.errors import UserError
from mof_jax.scaling.law import HeldOut, Param


@dataclasses.dataclass
class LinesProblem:
    """See `law.Problem`; y holds the logarithms of the first response at every x, then of the second, and so on.

    Errors are drawn from a normal distribution of their size: a line through five points leaves too few to draw from. Stretched
    by Student's t that is the textbook interval.

    Attributes:
      x: logarithms. names: of (coefficient, exponent) a response. responses: in the order of y. sign: −1 where the law is
        written with x^−slope.
    """

    x: Float[np.ndarray, "chosen"]
    values: Float[np.ndarray, "responses chosen"]
    names: tuple[Param, ...]
    responses: tuple[str, ...]
    notes: tuple[str, ...] = ()
    resample: str = "normal"
    loss: str = "Σ squares of log residuals"

    def __post_init__(self):
        self.y = self.values.ravel()
        self.blocks = np.repeat(np.arange(len(self.values)), len(self.x))
        self.dof = len(self.x) - 2
        if self.dof < 1 or np.ptp(self.x) == 0:
            raise UserError(f"{len(self.x)} points for a straight line; three at different places at least")
        self.design = np.stack([np.ones_like(self.x), self.x], axis=1)

    def solve(self, starts: int | None) -> tuple[Float[np.ndarray, "params"], float]:
        theta = self.refit(self.y[None], None, np.empty(0))[0]
        return theta, float(np.sum((self.y - self.fitted(theta)) ** 2))

    def refit(self, y: Float[np.ndarray, "draws points"], weights: Float[np.ndarray, "draws points"] | None,
              theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "draws params"]:
        if weights is not None:
            raise UserError("lines through chosen points have no resampling by pairs; take residual or normal")
        y = y.reshape(len(y), len(self.values), len(self.x))
        return (y @ np.linalg.pinv(self.design).T).reshape(len(y), -1)

    def fitted(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        return (theta.reshape(-1, 2) @ self.design.T).ravel()

    def leverage(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        return np.tile(leverage(self.design), len(self.values))

    def held_out(self) -> HeldOut | None:
        return line_held_out(self.x, self.values, self.responses)

    def warnings(self, theta: Float[np.ndarray, "params"], low: Float[np.ndarray, "params"],
                 high: Float[np.ndarray, "params"]) -> list[str]:
        found = list(self.notes)
        if len(self.x) < 5:
            found.append(f"{len(self.x)} points for a straight line: too few to trust; five at least")
        for p, a, b in zip(self.names[1::2], low[1::2], high[1::2]):
            if a <= 0 <= b:
                found.append(f"{p.name} is not determined: its interval holds 0")
        return found


def leverage(design: Float[np.ndarray, "points params"]) -> Float[np.ndarray, "points"]:
    """The diagonal of the hat matrix."""
    return np.sum(np.linalg.qr(design)[0] ** 2, axis=1)


def line_held_out(x: Float[np.ndarray, "chosen"], values: Float[np.ndarray, "responses chosen"], responses: tuple[str, ...]
                  ) -> HeldOut | None:
    """A line through all but the largest x, at the largest; None for fewer than four points."""
    if len(x) < 4:
        return None
    order = np.argsort(x)
    small, last = order[:-1], order[-1]
    errors = [abs(np.polyval(np.polyfit(x[small], y[small], 1), x[last]) - y[last]) for y in values]
    return HeldOut(f"{', '.join(responses)} at the largest", len(errors), float(np.mean(errors)), float(np.max(errors)))


def best_of_bins(x: Float[np.ndarray, "points"], y: Float[np.ndarray, "points"], edges: Float[np.ndarray, "bins+1"]
                 ) -> tuple[Int[np.ndarray, "chosen"], Int[np.ndarray, "chosen"]]:
    """(the bins that hold a point, the point of the lowest y in each); the last edge belongs to the last bin."""
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    held = np.unique(bins)
    lowest: Callable[[int], int] = lambda b: int(np.flatnonzero(bins == b)[np.argmin(y[bins == b])])
    return held, np.array([lowest(b) for b in held])
