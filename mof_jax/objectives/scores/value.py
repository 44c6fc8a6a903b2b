"""What a score matrix is, whichever way it is computed: what it is made of, and what one may ask."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

from jax import lax
from jaxtyping import Array, Float

from mof_jax.errors import UserError, lookup
from mof_jax.objectives.scores.layout import Layout
from mof_jax.objectives.scores.pairing import Pairing
from mof_jax.objectives.scores.statistics import KINDS, Statistic


@dataclasses.dataclass(frozen=True, eq=False)
class Scores(abc.ABC):
    """A matrix of scores over global queries and keys; made by `scores`.

    Attributes are the arguments of `scores`, checked and as arrays; `layout` is how rows lie on
    devices, `dtype` that of the scores: f32, or f64 for f64 features.
    """

    query: Any
    key: Any
    scale: Float[Array, ""]
    offset: Float[Array, "queries"] | None
    key_offset: Float[Array, "keys"] | None
    tile: Any
    parameters: Any
    pairing: Pairing
    shape: tuple[int, int]
    layout: Layout
    block_size: int
    precision: lax.PrecisionLike
    dtype: Any

    def reduce(
        self, *statistics: Statistic, under: Scores | None = None, learn_under: bool = False
    ) -> tuple[Float[Array, "rows"], ...]:
        """A vector for each statistic, all in one pass, differentiable in what the scores are made of.

        Args:
          under: for `expectation` and `weighted`, a second matrix t of the same rows, layout and
            form. Which entries take part is for the pairing of this one to say; that of `under` is
            not asked. With offsets as potentials (Sinkhorn), `weighted` has w_ij = exp(t_ij + u_i +
            v_j).
          learn_under: gradients go to `under`, too; otherwise weights are constants, as soft targets
            are.

        Returns:
          In the order of the statistics, a number per query or per key of each, in `dtype`, sharded
          like these.

        Raises:
          UserError: a statistic that there is not, or one that this layout or a missing `under` does
            not allow.
        """
        self._check(statistics, under)
        return self._reduce(statistics, under, learn_under)

    def total(
        self, *statistics: Statistic, under: Scores | None = None, learn_under: bool = False
    ) -> Float[Array, ""]:
        """The sum of `reduce` over all statistics and rows, for those whose slope needs the entry alone.

        Value and gradients come out of one walk over the tiles, where `reduce` needs two.

        Raises:
          UserError: as `reduce`, or a statistic is not a plain sum over its entries (`lse`, `max`,
            `kth`, `expectation`).
        """
        self._check(statistics, under)
        if curved := [s.kind for s in statistics if not KINDS[s.kind].linear]:
            raise UserError(f"total takes sums over scores, not {curved[0]}: use reduce")
        return self._total(statistics, under, learn_under)

    @abc.abstractmethod
    def _reduce(self, wanted: tuple[Statistic, ...], under: Scores | None, learn_under: bool):
        """`reduce`, once everything is checked."""

    @abc.abstractmethod
    def _total(self, wanted: tuple[Statistic, ...], under: Scores | None, learn_under: bool):
        """`total`, once everything is checked."""

    def _check(self, statistics: tuple[Statistic, ...], under: Scores | None) -> None:
        if not statistics:
            raise UserError("no statistic is asked for")
        for s in statistics:
            kind = lookup(KINDS, s.kind, "kind of statistic")
            if s.over not in ("positives", "negatives", "all") or s.side not in ("query", "key"):
                raise UserError(f"{s}: over is positives, negatives or all, side is query or key")
            if s.kind == "logistic" and s.over == "all":
                raise UserError(f"{s}: over all it has no one sign; ask for positives and negatives")
            if s.k < 1 or (s.k > 1 and s.kind != "kth"):
                raise UserError(f"{s}: k counts from 1, and only for kth")
            if s.side == "key" and self.layout.replicated:
                raise UserError(f"{s}: a replicated key is reduced on no device; spread it over the axes")
            if kind.under_slope is not None and under is None:
                raise UserError(f"{s}: needs `under`, the scores that its weights come from")
        if under is not None:
            self._check_under(statistics, under)

    def _check_under(self, statistics: tuple[Statistic, ...], under: Scores) -> None:
        if not any(KINDS[s.kind].under_slope for s in statistics):
            kinds = ", ".join(s.kind for s in statistics)
            raise UserError(f"`under` is given, but no statistic takes weights from it: {kinds}")
        if type(under) is not type(self):
            raise UserError("`under` must have the form of the scores: both streamed or both dense")
        if (under.shape, under.layout, under.dtype) != (self.shape, self.layout, self.dtype):
            here, there = (f"{x.shape} {x.dtype}" for x in (self, under))
            raise UserError(f"`under` is {there} in another place than the scores, {here}: it needs their "
                            "queries and keys, mesh, axes, groups, replication and dtype")

