"""Laws that say the target of every point: log L = f(parameters; log inputs), fitted by Huber's loss from a grid of starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

from jaxtyping import Float
import numpy as np

from mof_jax.errors import UserError
from mof_jax.scaling import solve
from mof_jax.scaling.law import HeldOut, Law, Param
from mof_jax.scaling.table import Points

Starts = Callable[[Float[np.ndarray, "inputs points"], Float[np.ndarray, "points"]], Float[np.ndarray, "starts params"]]

_LARGEST = 0.2  # of the points, held out
_NEAR = 0.01  # relative: minima so near the best are other readings of the same points
_BOOT_STARTS = 3
_FACTOR = 100.0  # an interval of a positive parameter over more than this says that it is not known


@dataclasses.dataclass
class CurveProblem:
    """See `law.Problem`; y is the logarithm of the target.

    Attributes:
      x: logarithms of the inputs. size: of each run, by which the largest are held out. minima: of the last `solve`.
    """

    curve: solve.Curve
    names: tuple[Param, ...]
    x: Float[np.ndarray, "inputs points"]
    y: Float[np.ndarray, "points"]
    size: Float[np.ndarray, "points"]
    starts: Float[np.ndarray, "starts params"]
    resample: str = "residual"
    loss: str = f"Σ Huber(δ = {solve.DELTA:g}) of log residuals"
    minima: solve.Minima | None = None

    def __post_init__(self):
        self.blocks = np.zeros(len(self.y), int)
        self.dof = len(self.y) - len(self.names)
        if self.dof < 1:
            raise UserError(f"{len(self.y)} points for {len(self.names)} parameters ({', '.join(p.name for p in self.names)}): "
                            "more points than parameters are needed")

    def solve(self, starts: int | None) -> tuple[Float[np.ndarray, "params"], float]:
        self.minima = solve.minimise(self.curve, thinned(self.starts, starts), self.x, self.y)
        best = int(np.nanargmin(self.minima.objective))
        return self.minima.theta[best], float(self.minima.objective[best])

    def refit(self, y: Float[np.ndarray, "draws points"], weights: Float[np.ndarray, "draws points"] | None,
              theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "draws params"]:
        """From the best fit and from a few starts that found it."""
        starts = np.vstack([theta, thinned(self.starts, _BOOT_STARTS - 1)])
        several = lambda rows: np.repeat(rows, len(starts), axis=0)
        found = solve.minimise(self.curve, np.tile(starts, (len(y), 1)), self.x, several(y),
                               1.0 if weights is None else several(weights))
        best = found.objective.reshape(len(y), -1).argmin(1)
        return found.theta.reshape(len(y), len(starts), -1)[np.arange(len(y)), best]

    def fitted(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        return solve.evaluate(self.curve, theta, self.x)

    def leverage(self, theta: Float[np.ndarray, "params"]) -> Float[np.ndarray, "points"]:
        slopes = solve.jacobian(self.curve, theta, self.x)
        return np.sum(np.linalg.qr(_scaled(slopes))[0] ** 2, axis=1)

    def held_out(self) -> HeldOut | None:
        order = np.argsort(self.size, kind="stable")
        small, large = np.split(order, [len(order) - max(1, round(_LARGEST * len(order)))])
        if len(small) <= len(self.names):
            return None
        weights = np.isin(np.arange(len(order)), small).astype(float)  # rather than fewer points: compiled once
        found = solve.minimise(self.curve, thinned(self.starts, 200), self.x, self.y, weights)
        theta = found.theta[np.nanargmin(found.objective)]
        error = np.abs(solve.evaluate(self.curve, theta, self.x[:, large]) - self.y[large])
        return HeldOut("target of the largest runs", len(large), float(error.mean()), float(error.max()))

    def warnings(self, theta: Float[np.ndarray, "params"], low: Float[np.ndarray, "params"],
                 high: Float[np.ndarray, "params"]) -> list[str]:
        found = []
        if len(self.y) < 3 * len(self.names):
            found.append(f"{len(self.y)} points for {len(self.names)} parameters: too few to trust; three a parameter at least")
        singular = np.linalg.svd(_scaled(solve.jacobian(self.curve, theta, self.x)), compute_uv=False)
        if singular[-1] < 1e-6 * singular[0]:
            found.append("the points do not determine all parameters: some combination of them changes no prediction "
                         "(one size alone? no repeated data?)")
        for p, a, b in zip(self.names, low, high):
            if p.log and b - a > np.log(_FACTOR):
                found.append(f"{p.name} is not determined: its interval spans a factor of {np.exp(min(b - a, 99)):.3g}")
            elif not p.log and a <= 0 <= b:
                found.append(f"{p.name} is not determined: its interval holds 0")
        return found + self._basins(theta, low, high)

    def _basins(self, theta: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[str]:
        """Starts that ended almost as low somewhere else."""
        if self.minima is None:
            return []
        near = self.minima.theta[self.minima.objective <= (1 + _NEAR) * self.minima.objective.min()]
        spread = np.ptp(near, axis=0)
        allowed = np.where(np.isfinite(high - low), high - low, 0.1 * np.maximum(np.abs(theta), 1))
        wide = [f"{p.name} from {_read(p, x.min()):.4g} to {_read(p, x.max()):.4g}"
                for p, x, s, a in zip(self.names, near.T, spread, allowed) if s > a]
        return [f"several basins fit within {_NEAR:.0%} of the best: {', '.join(wide)}"] if wide else []


def curve_law(name: str, formula: str, source: str, needs: Sequence[str], inputs: Sequence[str], params: tuple[Param, ...],
              curve: solve.Curve, starts: Starts, size: Callable[[Points], Float[np.ndarray, "points"]],
              target: str = "L") -> Law:
    """A law of this kind from its parts; `inputs` are the symbols whose logarithms `curve` is given, in order."""

    def make(p: Points) -> CurveProblem:
        x, y = np.log([p[s] for s in inputs]), np.log(p[target])
        return CurveProblem(curve, params, x, y, size(p), starts(x, y))

    return Law(name, formula, source, tuple(needs), lambda p: params, make, target=target)


def thinned(starts: Float[np.ndarray, "starts params"], count: int | None) -> Float[np.ndarray, "fewer params"]:
    """So many of the starts, the same ones each time."""
    if count is None or count >= len(starts):
        return starts
    return starts[np.random.default_rng(0).choice(len(starts), count, replace=False)]


def _scaled(slopes: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(slopes, axis=0)
    return slopes / np.where(norms > 0, norms, 1)


def _read(p: Param, x: float) -> float:
    return float(np.exp(x)) if p.log else float(x)
