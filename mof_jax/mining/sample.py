"""What a keyed sample of records says about all pairs: quantiles, how selective a bound is, and so which one to take."""

from __future__ import annotations

import dataclasses

from jaxtyping import Bool, Float, Int
import numpy as np

from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.rules import Rule
from mof_jax.mining.sieve import Sieve, margin

ROWS = 4096  # whose pairs are all looked at: 8,386,560
_WIDEST = 8192  # dimensions beyond which eigenvectors would cost more than they save
_LADDER = (32, 64, 96, 128, 192, 256)  # widths tried, bound included
# Cost of a tile's element, in the time of one multiply-add: the comparison, and an exact look at a pair that passed.
_COMPARE, _LOOK = 48, 160_000
_JUDGES = 1024  # rows whose pairs judge a bound


@dataclasses.dataclass(frozen=True)
class Sample:
    """Records drawn without replacement with seed 0, in order; all usable ones if there are at most `ROWS`.

    Attributes:
      rows: their positions. of: how many usable records there are.
    """

    rows: Int[np.ndarray, "rows"]
    of: int

    @classmethod
    def draw(cls, usable: Bool[np.ndarray, "records"], count: int = ROWS) -> Sample:
        where = np.flatnonzero(usable)
        if len(where) <= count:
            return cls(where, len(where))
        return cls(np.sort(np.random.default_rng(0).choice(where, count, replace=False)), len(where))

    def unit(self, features: Embeddings, mean: Float[np.ndarray, "dim"]) -> Float[np.ndarray, "rows dim"]:
        """Centred rows of unit length, float64."""
        x = (features.take(self.rows) - mean).astype(np.float64)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def describe(self) -> str:
        """Which pairs a quantile was taken from."""
        pairs = len(self.rows) * (len(self.rows) - 1) // 2
        return f"all {pairs:,} pairs" + ("" if len(self.rows) == self.of else f" of {len(self.rows):,} records drawn with seed 0")


def quantile(unit: Float[np.ndarray, "rows dim"], q: float) -> float:
    """Of the cosines of all pairs of the rows, see `quantile_of`."""
    n = len(unit)
    found = np.empty(n * (n - 1) // 2)
    at = 0
    for start in range(0, n, 512):
        block = unit[start : start + 512] @ unit[start:].T
        part = block[np.triu_indices(len(block), 1, block.shape[1])]
        found[at : at + len(part)] = part
        at += len(part)
    return quantile_of(found, q)


def quantile_of(values: Float[np.ndarray, "n"], q: float) -> float:
    """The middle of the gap in which the quantile falls: no value lies on it, so that strictly above and below mean what they
    say whatever the last bit of a value."""
    k = min(int(q * (len(values) - 1)), max(0, len(values) - 2))
    return float(np.partition(values, range(k, min(k + 2, len(values))))[k : k + 2].mean())


@dataclasses.dataclass(frozen=True)
class Choice:
    """The sieve taken for a feature, and the share of pairs that it is expected to let through."""

    sieve: Sieve
    passing: float

    @property
    def cost(self) -> float:
        """Per pair, in multiply-adds."""
        return self.sieve.width + _COMPARE + self.passing * _LOOK


def full_width(
    unit: Float[np.ndarray, "rows dim"], rule: Rule, threshold: float, mean: Float[np.ndarray, "dim"], dtype: str
) -> Choice:
    """The bound that is the cosine itself, judged by the sample's pairs."""
    judges = _judges(unit)[0]
    cut = rule.sign * threshold - margin(len(mean), len(mean), dtype)
    return Choice(Sieve(rule.sign, threshold, dtype, mean), _passing(rule.sign * (judges @ judges.T), cut))


def cheapest(unit: Float[np.ndarray, "rows dim"], full: Choice, width: int | None = None) -> Choice:
    """The bound that costs least by the sample's pairs, `full` or one of fewer coordinates.

    Args:
      width: of the bound, where the caller wants to say; the feature's own or more for `full`.
    """
    s = full.sieve
    wanted = [w for w in ((width,) if width else _LADDER) if w < s.dim <= _WIDEST]
    if s.dtype == "bfloat16" and not width:
        wanted = [w for w in wanted if w % 128 == 0]  # a matrix unit fills up to that anyway
    if not wanted:
        return full
    judges, others = _judges(unit)
    basis = _leading(others, max(wanted) - 1)
    projected = judges @ basis
    choices = [] if width else [full]
    for w in wanted:
        part = projected[:, : w - 1]
        rest = np.sqrt(np.maximum(1 - np.sum(part * part, axis=1), 0))
        bounds = s.sign * (part @ part.T) + np.outer(rest, rest)
        passing = _passing(bounds, s.sign * s.threshold - margin(s.dim, w, s.dtype))
        choices.append(Choice(dataclasses.replace(s, basis=np.ascontiguousarray(basis[:, : w - 1])), passing))
    return min(choices, key=lambda c: c.cost)


def _leading(unit: Float[np.ndarray, "rows dim"], count: int) -> Float[np.ndarray, "dim count"]:
    """Orthonormal, and close to the leading eigenvectors of the rows' second moment, largest first, by two steps of subspace
    iteration: any basis makes a right bound, this one makes a tight one."""
    x = unit.astype(np.float32)
    moment = x.T @ x
    some = np.random.default_rng(0).standard_normal((len(moment), count), dtype=np.float32)
    for _ in range(2):
        some = np.linalg.qr(moment @ some)[0]
    turned = some @ np.linalg.eigh(some.T @ moment @ some)[1][:, ::-1]
    return np.linalg.qr(turned.astype(np.float64))[0].astype(np.float32)


def _judges(unit: Float[np.ndarray, "rows dim"]) -> tuple[Float[np.ndarray, "judges dim"], Float[np.ndarray, "others dim"]]:
    """Rows whose pairs judge a bound, and those it is fitted to: others, if there are more."""
    picked = np.arange(0, len(unit), max(1, len(unit) // _JUDGES))[:_JUDGES]
    judges, others = unit[picked].astype(np.float32), np.delete(unit, picked, axis=0)
    return judges, others if len(others) else unit


def _passing(bounds: Float[np.ndarray, "rows rows"], cut: float) -> float:
    """Share of the pairs that exceed the cut."""
    n = len(bounds)
    return float(np.sum(bounds > cut) - np.sum(np.diag(bounds) > cut)) / max(1, n * (n - 1))
