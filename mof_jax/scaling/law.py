"""What a law is, and what a fit of one knows.

A law is one short file that ends in a `Law`, and one line of `registry.LAWS`. It says what it reads from a table and how the
points become a `Problem`; resampling, intervals, held-out error, tables and plots are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float, Int
import numpy as np

from mof_jax.scaling.table import Points


class Param(NamedTuple):
    """A number that a law finds. `log`: the problem works with its natural logarithm, so that it stays positive."""

    name: str
    meaning: str
    log: bool = False


class HeldOut(NamedTuple):
    """How far a fit to the smaller runs is off on the largest: |log(predicted / measured)|, mean and worst of `count`."""

    what: str
    count: int
    mean: float
    worst: float


class Problem(Protocol):
    """Points, and how numbers are found from them.

    Attributes:
      y: what is predicted. blocks: of each point; errors are exchanged within a block.
      resample: `pairs` (points are drawn with replacement), `residual` (errors are) or `normal` (errors are drawn from a normal
        distribution of their size: where there are too few to draw from).
      dof: degrees of freedom that are left. loss: the name of what is minimised.
    """

    y: Float[np.ndarray, "points"]
    blocks: Int[np.ndarray, "points"]
    resample: str
    dof: int
    loss: str

    def solve(self, starts: int | None) -> tuple[Float[np.ndarray, "params"], float]:
        """The parameters and the objective, from as many of its starts as `starts` says (None: all)."""

    def refit(self, y: Float[np.ndarray, "draws points"], weights: Float[np.ndarray, "draws points"] | None,
              theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "draws params"]:
        """The parameters of resampled points, `theta` those of the real ones. NaN where there is no solution."""

    def fitted(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        """What a fit says of the points."""

    def leverage(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        """How much each point draws the fit to itself, 0 to 1."""

    def held_out(self) -> HeldOut | None:
        """None where too few points would be left."""

    def warnings(self, theta: Float[np.ndarray, "params"], low: Float[np.ndarray, "params"],
                 high: Float[np.ndarray, "params"]) -> list[str]:
        """What a reader must know before trusting the fit."""


@dataclasses.dataclass(frozen=True)
class Law:
    """How a table becomes parameters.

    Attributes:
      formula: as printed. source: the paper. needs: symbols of `table.COLUMNS` that it reads. optional: those it reads if there.
      target: the symbol that is predicted. make: from checked points to a problem.
    """

    name: str
    formula: str
    source: str
    needs: tuple[str, ...]
    params: Callable[[Points], tuple[Param, ...]]
    make: Callable[[Points], Problem]
    optional: tuple[str, ...] = ()
    target: str = "L"


class Estimate(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law with its parameters.

    Attributes:
      theta, draws: as the problem has them (logarithms where `Param.log`). widen: Student's t over the normal quantile.
      how: points were resampled. failed: draws without a solution, left out.
    """

    law: Law
    points: Points
    problem: Any
    names: tuple[Param, ...]
    theta: Float[np.ndarray, "params"]
    objective: float
    draws: Float[np.ndarray, "draws params"]
    widen: float
    how: str
    failed: int
    held_out: HeldOut | None
    warnings: tuple[str, ...]

    def interval(self, value: Float[np.ndarray, "*shape"], drawn: Float[np.ndarray, "draws *shape"]
                 ) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        """95 % bounds of anything that was computed from `theta` and from `draws`; of positive things hand over logarithms."""
        return bounds(value, drawn, self.widen)

    def estimate(self, log_value: float, log_drawn: Float[np.ndarray, "draws"]) -> Estimate:
        """Of a positive number, from logarithms."""
        low, high = self.interval(np.asarray(log_value), log_drawn)
        return Estimate(*(float(np.exp(x)) for x in (log_value, low, high)))

    @property
    def params(self) -> Mapping[str, Estimate]:
        """By name."""
        low, high = self.interval(self.theta, self.draws)
        read = lambda x, p: float(np.exp(x)) if p.log else float(x)
        return {p.name: Estimate(*(read(bound[i], p) for bound in (self.theta, low, high))) for i, p in enumerate(self.names)}

    @property
    def residuals(self) -> Float[np.ndarray, "points"]:
        """y − fitted, in the unit of the problem's y."""
        return self.problem.y - self.problem.fitted(self.theta)


def bounds(value: np.ndarray, drawn: np.ndarray, widen: float) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval, its arms stretched by `widen`; nowhere without draws.

    The k-th of n draws is the quantile k/(n + 1): with the usual (k − 1)/(n − 1), 200 draws give 94 % where 95 are asked for.
    """
    if len(drawn) < 20:
        return np.full_like(value, np.nan, float), np.full_like(value, np.nan, float)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0, method="weibull")
    return value + widen * (low - value), value + widen * (high - value)
