"""The same statistics from the whole matrix, in plain JAX.

For small batches, for tests, and for papers that need more of the scores than statistics.
"""

from __future__ import annotations

import functools

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mof_jax.objectives.scores.pairing import Members, Tile
from mof_jax.objectives.scores.statistics import Statistic
from mof_jax.objectives.scores.value import Scores


class DenseScores(Scores):
    """Scores as one matrix; see `Scores`."""

    @functools.cached_property
    def matrix(self) -> Float[Array, "queries keys"]:
        """All s_ij, those that are ignored among them."""
        if self.tile is None:
            features, kind = (self.query, self.key), self.dtype
            f = jnp.einsum("id,jd->ij", *features, precision=self.precision, preferred_element_type=kind)
        else:
            f = self.tile(self.parameters, self.query, self.key).astype(self.dtype)
        s = self.scale * f
        s = s if self.offset is None else s + self.offset[:, None]
        return s if self.key_offset is None else s + self.key_offset[None, :]

    @functools.cached_property
    def members(self) -> Members:
        """Which entries are positive, and which take part."""
        groups = self.layout.groups
        blocks = [max(n // groups, 1) for n in self.shape]
        (group, row), (other, column) = (jnp.divmod(jnp.arange(n), b) for n, b in zip(self.shape, blocks))
        same = group[:, None] == other
        tile = Tile(self.matrix, lambda: same & (row[:, None] == column), lambda: column)
        members = self.pairing.members(tile)
        if groups == 1:
            return members
        inside = members.takes_part
        return members._replace(takes_part=same if inside is None else same & inside)

    def _reduce(self, wanted: tuple[Statistic, ...], under: DenseScores | None, learn_under: bool):
        t = None if under is None else under.matrix if learn_under else lax.stop_gradient(under.matrix)
        return tuple(_reduced(s, self.matrix, t, self.members.over(s.over)) for s in wanted)

    def _total(self, wanted: tuple[Statistic, ...], under: DenseScores | None, learn_under: bool):
        return sum(values.sum() for values in self._reduce(wanted, under, learn_under))


def _reduced(
    statistic: Statistic, s: Array, t: Array | None, members: Bool[Array, "queries keys"]
) -> Float[Array, "rows"]:
    """One statistic of a whole matrix `s`, weights from `t`."""
    if statistic.side == "key":
        s, t, members = s.T, None if t is None else t.T, members.T
    some = members.any(1)
    inside = members | ~some[:, None]  # all of a row without members, so that its gradient is no NaN
    match statistic.kind:
        case "lse":
            return jnp.where(some, jax.nn.logsumexp(jnp.where(inside, s, -jnp.inf), 1), -jnp.inf)
        case "max" | "kth":
            k = statistic.k if statistic.kind == "kth" else 1
            at = lax.top_k(jnp.where(members, s, -jnp.inf), min(k, s.shape[1]))[1][:, -1:]
            return jnp.where(members.sum(1) >= k, jnp.take_along_axis(s, at, 1)[:, 0], -jnp.inf)
        case "expectation":
            entries = jax.nn.softmax(jnp.where(inside, t, -jnp.inf), 1) * s
        case "weighted":
            entries = jnp.exp(t) * s
        case "logistic":
            entries = jax.nn.softplus(-s if statistic.over == "positives" else s)
        case "expit":
            entries = jax.nn.sigmoid(s)
        case "count":
            entries = jnp.ones_like(s)
        case "sum":
            entries = s
    return jnp.where(members, entries, 0).sum(1)
