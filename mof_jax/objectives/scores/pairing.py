"""Which entries of a score matrix are positive, negative or take no part.

A pairing is a value: vectors with a row per query or per key, and `members`, which sorts the entries
of a tile. Every entry is a positive, a negative, or ignored; `Statistic.over` chooses among

    positives    those that `of` calls positive, unless ignored
    negatives    the others, unless ignored
    all          both

`Diagonal`, `Groups`, `LabelSets` and `Labels` say what is positive, and ignore nothing. `Valid` and
`Band` stand around one of them, or around each other, and ignore:

    Valid(slots, slots, of=Band(high=s_ii + 0.1, of=LabelSets(tags)))

`members` is written as if for the whole matrix. The streamed form calls it on tiles, with each vector
cut to the tile's rows or columns; vectors of the keys travel with them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
from jax import lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mof_jax.errors import UserError
from mof_jax.objectives.scores.trees import merge


class Tile(NamedTuple):
    """A rectangle of the score matrix, as pairings see it.

    Attributes:
      scores: its entries. diagonal: () -> which of them pair a query with the key of its own position.
      columns: () -> its keys' positions in the whole matrix.
    """

    scores: Float[Array, "queries keys"]
    diagonal: Callable[[], Bool[Array, "queries keys"]]
    columns: Callable[[], Int[Array, "keys"]]


class Members(NamedTuple):
    """What the entries of a tile are.

    Attributes:
      positive: positives, whether ignored or not. takes_part: False for ignored ones; None if nothing
        is ignored.
    """

    positive: Bool[Array, "queries keys"]
    takes_part: Bool[Array, "queries keys"] | None = None

    def over(self, which: str) -> Bool[Array, "queries keys"]:
        """The entries of a `Statistic.over`."""
        if which == "all":
            return jnp.ones_like(self.positive) if self.takes_part is None else self.takes_part
        chosen = self.positive if which == "positives" else ~self.positive
        return chosen if self.takes_part is None else chosen & self.takes_part


def _vector(side: str, default: Any = None) -> Any:
    return dataclasses.field(default=default, metadata={"side": side})


class Pairing(abc.ABC):
    """Base of all pairings: a registered dataclass of vectors, each of one side, and other pairings.

    Attributes:
      dims: of its vectors: 1 for a number a row, 2 for several.
    """

    dims: ClassVar[int] = 1

    @abc.abstractmethod
    def members(self, tile: Tile) -> Members:
        """What each entry of the tile is; `self` holds the vectors of the tile's rows and columns."""

    def one_side(self, side: Literal["query", "key"]) -> Self:
        """The same without the vectors of the other side."""
        changes = {}
        for name, field, value in self._vectors():
            if isinstance(value, Pairing):
                changes[name] = value.one_side(side)
            elif field.metadata.get("side") not in (None, side):
                changes[name] = None
        return dataclasses.replace(self, **changes)

    def joined(self, other: Self) -> Self:
        """Both sides together again."""
        return merge(self, other)

    def prepared(self, queries: int, keys: int) -> Self:
        """With arrays in its fields, once they fit a score matrix of queries x keys.

        Raises:
          UserError: a vector has not one row for each query (or key).
        """
        counts, changes = {"query": queries, "key": keys}, {}
        complete = self._complete(queries, keys)
        for name, field, value in complete._vectors():
            if isinstance(value, Pairing):
                changes[name] = value.prepared(queries, keys)
            elif "side" in field.metadata and value is not None:
                side = field.metadata["side"]
                changes[name] = self._array(name, value, counts[side], side)
        return dataclasses.replace(complete, **changes)

    def valid(self, side: Literal["query", "key"]) -> Bool[Array, "rows"] | None:
        """Which rows of a side exist; None for all."""
        inner = getattr(self, "of", None)
        return inner.valid(side) if inner is not None else None

    def _vectors(self):
        return [(f.name, f, getattr(self, f.name)) for f in dataclasses.fields(self)]

    def _complete(self, queries: int, keys: int) -> Self:
        """With defaults that depend on the other fields."""
        return self

    def _array(self, name: str, value: Any, count: int, side: str) -> Array:
        value, name = jnp.asarray(value), f"{type(self).__name__}.{name}"
        if value.ndim != self.dims or value.shape[0] != count:
            what = "a number" if self.dims == 1 else "a row of numbers"
            raise UserError(
                f"{name} has shape {value.shape}; each of {count} rows of `{side}` needs {what}")
        return value


def _pairing(cls: type) -> type:
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))


@_pairing
class Diagonal(Pairing):
    """Query i and key i are a pair. Keys beyond the number of queries (a queue) are negatives of all."""

    def members(self, tile: Tile) -> Members:
        return Members(tile.diagonal())


@_pairing
class Groups(Pairing):
    """Rows of one id are each other's positives; the diagonal always is positive.

    Attributes:
      query: int32 id per query; -1 has no siblings. key: the same for keys; by default the queries'
        own.
    """

    query: Int[Array, "queries"] = _vector("query")
    key: Int[Array, "keys"] | None = _vector("key")

    def _complete(self, queries: int, keys: int) -> Self:
        return _keys_like_queries(self, queries, keys)

    def members(self, tile: Tile) -> Members:
        siblings = (self.query[:, None] == self.key[None, :]) & (self.query[:, None] != -1)
        return Members(tile.diagonal() | siblings)


@_pairing
class LabelSets(Pairing):
    """Rows that share a label are each other's positives; the diagonal always is positive.

    Attributes:
      query: int32 labels per query, rows of one width filled up with -1, in any order.
      key: the same for keys, of any width; by default the queries' own.
    """

    dims: ClassVar[int] = 2

    query: Int[Array, "queries labels"] = _vector("query")
    key: Int[Array, "keys labels2"] | None = _vector("key")

    def _complete(self, queries: int, keys: int) -> Self:
        return _keys_like_queries(self, queries, keys)

    def members(self, tile: Tile) -> Members:
        width = self.key.shape[1]

        def shared(i):
            own = lax.dynamic_index_in_dim(self.query, i // width, 1)
            return (own == lax.dynamic_index_in_dim(self.key, i % width, 1).T) & (own != -1)

        return Members(_any_of(self.query.shape[1] * width, shared, tile.diagonal()))


@_pairing
class Labels(Pairing):
    """Each query names its positives by their positions among the keys: rows of a class table.

    There is no diagonal.

    Attributes:
      columns: int32 positions per query, rows of one width filled up with -1. A position that is no
        key's is nobody's.
    """

    dims: ClassVar[int] = 2

    columns: Int[Array, "queries labels"] = _vector("query")

    def members(self, tile: Tile) -> Members:
        columns, nothing = tile.columns()[None, :], jnp.zeros(tile.scores.shape, bool)

        def named(i):
            return lax.dynamic_index_in_dim(self.columns, i, 1) == columns

        return Members(_any_of(self.columns.shape[1], named, nothing))


@_pairing
class Valid(Pairing):
    """Ignores all entries of queries or keys that do not exist: empty slots, absent modalities.

    A statistic of such a row is one over no entries (see `Statistic`), and gradients of its features
    are 0 whatever its cotangent. Of an inner product even a NaN in such a row is harmless (of scores given
    as `under`, if they are `Valid`, too); a function that makes tiles must be finite there, with finite
    derivatives.

    Attributes:
      query: False for queries that take part in nothing; None if all exist. key: the same for keys.
      of: says which of the others are positive.
    """

    query: Bool[Array, "queries"] | None = _vector("query")
    key: Bool[Array, "keys"] | None = _vector("key")
    of: Pairing = Diagonal()

    def members(self, tile: Tile) -> Members:
        inner = self.of.members(tile)
        rows = None if self.query is None else jnp.broadcast_to(self.query[:, None], tile.scores.shape)
        columns = None if self.key is None else jnp.broadcast_to(self.key[None, :], tile.scores.shape)
        return Members(inner.positive, _both(inner.takes_part, _both(rows, columns)))

    def valid(self, side: Literal["query", "key"]) -> Bool[Array, "rows"] | None:
        return _both(self.query if side == "query" else self.key, self.of.valid(side))

    def _array(self, name: str, value: Any, count: int, side: str) -> Array:
        return super()._array(name, value, count, side).astype(bool)


@_pairing
class Band(Pairing):
    """Ignores the scores of a query outside low <= s <= high.

    Such as likely false negatives above s_ii + beta (UniME, arXiv 2504.17432). Bounds carry no gradient. A
    bound that is itself one of the scores (the k-th largest) wants a margin of a few roundings: one score
    computed twice may differ in its last bit.

    Attributes:
      low, high: a number per query, or None for no bound.
      of: says what is positive.
      drops: `negatives` keeps all positives; `all` applies to them, too.
    """

    low: Float[Array, "queries"] | None = _vector("query")
    high: Float[Array, "queries"] | None = _vector("query")
    of: Pairing = Diagonal()
    drops: Literal["negatives", "all"] = dataclasses.field(
        default="negatives", metadata={"static": True})

    def _complete(self, queries: int, keys: int) -> Self:
        if self.drops not in ("negatives", "all"):
            raise UserError(f"Band.drops is negatives or all, not {self.drops!r}")
        return self

    def members(self, tile: Tile) -> Members:
        inner = self.of.members(tile)
        above = None if self.low is None else tile.scores >= self.low[:, None]
        below = None if self.high is None else tile.scores <= self.high[:, None]
        inside = _both(above, below)
        if inside is not None and self.drops == "negatives":
            inside |= inner.positive
        return Members(inner.positive, _both(inner.takes_part, inside))


def _both(a, b):
    """Where both hold; None holds everywhere."""
    return b if a is None else a if b is None else a & b


def _any_of(count: int, test: Callable, found: Array) -> Array:
    """`found` or any of `test(0)` to `test(count - 1)`, in turn: there is no room for `count` tiles."""
    return lax.fori_loop(0, count, lambda i, found: found | test(i), found)


def _keys_like_queries(pairing, queries: int, keys: int):
    """Ids of the keys, if not given, are those of the queries."""
    if pairing.key is not None:
        return pairing
    if queries != keys:
        name = f"{type(pairing).__name__}.key"
        raise UserError(f"{name} is missing: {queries} queries and {keys} keys are no pairs")
    return dataclasses.replace(pairing, key=pairing.query)
