"""The same statistics from the whole matrix, in plain JAX: small batches, tests, and papers that need more of the scores."""

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
            f = jnp.einsum("id,jd->ij", self.query, self.key, precision=self.precision, preferred_element_type=self.dtype)
        else:
            f = self.tile(self.parameters, self.query, self.key).astype(self.dtype)
        s = self.scale * f
        s = s if self.offset is None else s + self.offset[:, None]
        return s if self.key_offset is None else s + self.key_offset[None, :]

    @functools.cached_property
    def members(self) -> Members:
        """Which entries are positive, and which take part."""
        groups, (queries, keys) = self.layout.groups, self.shape
        (group, row), (other, column) = (jnp.divmod(jnp.arange(n), max(n // groups, 1)) for n in (queries, keys))
        same = group[:, None] == other
        tile = Tile(self.matrix, lambda: same & (row[:, None] == column), lambda: column)
        members = self.pairing.members(tile)
        if groups == 1:
            return members
        return members._replace(takes_part=same if members.takes_part is None else same & members.takes_part)

    def _reduce(self, wanted: tuple[Statistic, ...], under: DenseScores | None, learn_under: bool):
        t = None if under is None else under.matrix if learn_under else lax.stop_gradient(under.matrix)
        return tuple(_reduced(s, self.matrix, t, self.members.over(s.over)) for s in wanted)

    def _total(self, wanted: tuple[Statistic, ...], under: DenseScores | None, learn_under: bool) -> Float[Array, ""]:
        return sum(values.sum() for values in self._reduce(wanted, under, learn_under))


def _reduced(statistic: Statistic, s: Array, t: Array | None, members: Bool[Array, "queries keys"]) -> Float[Array, "rows"]:
    """One statistic of a whole matrix `s`, weights from `t`."""
    if statistic.side == "key":
        s, t, members = s.T, None if t is None else t.T, members.T
    some = members.any(1)
    inside = jnp.where(members | ~some[:, None], s, -jnp.inf)  # finite over no entries, so that its gradient is no NaN
    match statistic.kind:
        case "lse":
            return jnp.where(some, jax.nn.logsumexp(inside, 1), -jnp.inf)
        case "max" | "kth":
            k = statistic.k if statistic.kind == "kth" else 1
            at = lax.top_k(jnp.where(members, s, -jnp.inf), min(k, s.shape[1]))[1][:, -1:]
            return jnp.where(members.sum(1) >= k, jnp.take_along_axis(s, at, 1)[:, 0], -jnp.inf)
        case "expectation":
            weights = jax.nn.softmax(jnp.where(members | ~some[:, None], t, -jnp.inf), 1)
            entries = weights * s
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
