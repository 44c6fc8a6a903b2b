"""Laws of optima: in every group of runs a parabola through the loss, its lowest point, a line through the lowest points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
import itertools

from jaxtyping import Float, Int
import numpy as np
from scipy import stats

from mof_jax.errors import UserError
from mof_jax.scaling.law import HeldOut, Param
from mof_jax.scaling.lines import leverage, line_held_out

Lines = Callable[[Float[np.ndarray, "draws groups variables"], Float[np.ndarray, "groups"]], Float[np.ndarray, "draws params"]]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in what is searched.

    Attributes:
      label: as printed. key: logarithm of what the line is over. rows: of the points. u: logarithms of what is searched.
      edge: why its optimum is not used, empty if it is.
    """

    label: str
    key: float
    rows: Int[np.ndarray, "runs"]
    u: Float[np.ndarray, "runs variables"]
    edge: str = ""

    @property
    def centre(self) -> Float[np.ndarray, "variables"]:
        return self.u.mean(axis=0)

    @property
    def design(self) -> Float[np.ndarray, "runs terms"]:
        """1, u, u² of one variable; 1, u, v, u², uv, v² of two; centred."""
        z = (self.u - self.centre).T
        squares = [z[i] * z[j] for i, j in _squares(len(z))]
        return np.stack([np.ones_like(z[0]), *z, *squares], axis=1)

    def optima(self, y: Float[np.ndarray, "draws runs"]) -> Float[np.ndarray, "draws variables"]:
        """Lowest points of the parabolas through losses; NaN where there is none."""
        b = y @ np.linalg.pinv(self.design).T
        k = self.u.shape[1]
        curvature = np.zeros((len(y), k, k))
        for n, (i, j) in enumerate(_squares(k)):
            curvature[:, i, j] += b[:, 1 + k + n]
            curvature[:, j, i] += b[:, 1 + k + n]
        convex = np.linalg.eigvalsh(curvature)[:, 0] > 0
        curvature[~convex] = np.eye(k)
        at = self.centre - np.linalg.solve(curvature, b[:, 1 : 1 + k, None])[..., 0]
        return np.where(convex[:, None], at, np.nan)


@dataclasses.dataclass
class OptimaProblem:
    """See `law.Problem`; y is the loss itself.

    Groups whose optimum lies on the edge of their grid stay out of the lines, in resamples too.

    Attributes:
      lines: from optima and keys to parameters. searched: what is searched, by name. responses: of `held_out`.
    """

    y: Float[np.ndarray, "points"]
    groups: tuple[Group, ...]
    lines: Lines
    names: tuple[Param, ...]
    searched: tuple[str, ...]
    resample: str = "residual"
    loss: str = "Σ squares of loss residuals"

    def __post_init__(self):
        used = [g for g in self.groups if not g.edge]
        if len(used) < 2:
            raise UserError(f"{len(used)} of {len(self.groups)} groups have an optimum inside their grid; a line needs two "
                            f"({'; '.join(f'{g.label}: {g.edge}' for g in self.groups if g.edge)})")
        self.used = np.array([not g.edge for g in self.groups])
        self.blocks = np.zeros(len(self.y), int)
        self.dof = sum(len(g.rows) - g.design.shape[1] for g in self.groups)
        if self.dof < 1:
            raise UserError("the parabolas go through all of their points: groups of more points are needed")
        self.keys = np.array([g.key for g in used])

    def optima(self, y: Float[np.ndarray, "draws points"]) -> Float[np.ndarray, "draws used variables"]:
        """Of the groups that are used."""
        return np.stack([g.optima(y[:, g.rows]) for g in self.groups if not g.edge], axis=1)

    def solve(self, starts: int | None) -> tuple[Float[np.ndarray, "params"], float]:
        theta = self.lines(self.optima(self.y[None]), self.keys)[0]
        return theta, float(np.sum((self.y - self.fitted(theta)) ** 2))

    def refit(self, y: Float[np.ndarray, "draws points"], weights: Float[np.ndarray, "draws points"] | None,
              theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "draws params"]:
        if weights is not None:
            raise UserError("parabolas of a few points have no resampling by pairs; take residual or normal")
        return self.lines(self.optima(y), self.keys)

    def fitted(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        """The parabolas' losses; the lines do not change them."""
        found = np.empty_like(self.y)
        for g in self.groups:
            found[g.rows] = g.design @ (np.linalg.pinv(g.design) @ self.y[g.rows])
        return found

    def leverage(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        found = np.empty_like(self.y)
        for g in self.groups:
            found[g.rows] = leverage(g.design)
        return found

    def held_out(self) -> HeldOut | None:
        optima = self.optima(self.y[None])[0]
        return line_held_out(self.keys, optima.T, tuple(f"best {name}" for name in self.searched))

    def scatter(self) -> float | None:
        """p-value of the optima lying on their line but for the noise of the losses; None for two groups."""
        if len(self.keys) < 3:
            return None
        sigma = np.sqrt(np.sum((self.y - self.fitted(np.empty(0))) ** 2) / self.dof)
        noise = np.random.default_rng(0).normal(0, sigma, (400, len(self.y)))
        spread = np.nanvar(self.optima(self.fitted(np.empty(0)) + noise), axis=0)[:, 0]
        at, root = self.optima(self.y[None])[0][:, 0], 1 / np.sqrt(spread)
        line = np.polyfit(self.keys, at, 1, w=root)
        ratio = np.sum((root * (at - np.polyval(line, self.keys))) ** 2) / (len(at) - 2)
        return float(stats.f.sf(ratio, len(at) - 2, self.dof))

    def warnings(self, theta: Float[np.ndarray, "params"], low: Float[np.ndarray, "params"],
                 high: Float[np.ndarray, "params"]) -> list[str]:
        found = [f"{g.label}: {g.edge}; left out of the line" for g in self.groups if g.edge]
        most = max(len(g.rows) for g in self.groups)
        found += [f"{g.label} has {len(g.rows)} runs where another group has {most}" for g in self.groups if len(g.rows) < most]
        found += [f"{g.label}: {len(g.rows)} runs for a parabola of {g.design.shape[1]} terms: too few to trust"
                  for g in self.groups if len(g.rows) < g.design.shape[1] + 2]
        if self.used.sum() < 3:
            found.append("two optima for a straight line: nothing shows whether it is one")
        p = self.scatter()
        if p is not None and p < 0.01:
            found.append(f"the optima scatter about their line more than the noise of the losses explains (p = {p:.2g}): the "
                         "intervals know that noise alone and are too narrow")
        return found


def _squares(variables: int) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(range(variables), 2))


def grouped(keys: Float[np.ndarray, "points"], u: Float[np.ndarray, "points variables"], y: Float[np.ndarray, "points"],
            labels: Callable[[float], str], searched: Sequence[str], tolerance: float = 0.05) -> tuple[Group, ...]:
    """Runs of equal key (neighbours within `tolerance` in the logarithm), each group with a verdict on its optimum."""
    order = np.argsort(keys, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(keys[order]) > tolerance) + 1)
    found = []
    for rows in parts:
        g = Group(labels(float(np.exp(keys[rows].mean()))), float(keys[rows].mean()), np.sort(rows), u[np.sort(rows)])
        found.append(dataclasses.replace(g, edge=_edge(g, y[g.rows], searched)))
    return tuple(found)


def _edge(g: Group, y: Float[np.ndarray, "runs"], searched: Sequence[str]) -> str:
    """Why the group's optimum is not to be used: too few runs, no minimum, or one on or beyond the edge of its grid."""
    terms = g.design.shape[1]
    if len(y) < terms or np.linalg.matrix_rank(g.design) < terms:
        return f"{len(y)} runs do not make a parabola of {terms} terms"
    best, at = g.u[np.argmin(y)], g.optima(y[None])[0]
    for i, name in enumerate(searched):
        low, high = g.u[:, i].min(), g.u[:, i].max()
        if best[i] in (low, high):
            side = "smallest" if best[i] == low else "largest"
            return f"its best run has the {side} {name} of its grid ({np.exp(best[i]):.4g})"
        if not low < at[i] < high:  # True for NaN
            return f"its parabola has no minimum inside the grid of {name}"
    return ""

