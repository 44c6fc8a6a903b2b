"""What a term of a loss is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from mof_jax.mesh import batch_shards, join_rows, part_of_rows

Features = Mapping[str, Array]
_TERMS = 2**32 - 1  # folded in first, so that no term's key is that of a row


class Mean(NamedTuple):
    """A figure for the log: a sum and what it is divided by, once everything is added up."""

    sum: Float[Array, ""] | float
    weight: Float[Array, ""] | float = 1.0


class Loss(NamedTuple):
    """A sum and its weight, so that accumulation, packing and sharding can add and divide once.

    Attributes:
      sum: of the batch; the mean is sum / weight.
      weight: what the sum is over (pairs, tokens, patches). Equal to what the term counts in the whole batch beforehand.
      metrics: further figures, each with a weight of its own.
      moved: new values of what the term owns and changes without gradient (`nn.module.moving`), by path in what it built; in
        what `Task.losses` gives, by path in the model.
    """

    sum: Float[Array, ""]
    weight: Float[Array, ""] | float
    metrics: Mapping[str, Mean] = {}
    moved: Mapping[str, Array] = {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What a step knows besides parameters and data.

    Attributes:
      step: steps done before this one.
      steps: of the whole run.
      mesh: of the devices, None for one.
      microbatches: parts in which the rows go through the model, one after the other.
      key: of (seed, step), in a term folded with its name. None in evaluation, and only there.
      keys: one a row, or a pytree of such (`Task.keys`); they make dropout independent of how rows are cut and spread.
    """

    step: Int[Array, ""] | int = 0
    steps: int = dataclasses.field(default=1, metadata=dict(static=True))
    mesh: Mesh | None = dataclasses.field(default=None, metadata=dict(static=True))
    microbatches: int = dataclasses.field(default=1, metadata=dict(static=True))
    key: Key[Array, ""] | None = None
    keys: Any = None

    @property
    def shards(self) -> int:
        """Devices that the rows are spread over."""
        return 1 if self.mesh is None else batch_shards(self.mesh)

    def of(self, term: str) -> Context:
        """A term's own: the same for whatever other terms there are."""
        if self.key is None:
            return self
        key = jax.random.fold_in(jax.random.fold_in(self.key, _TERMS), zlib.crc32(term.encode()))
        return dataclasses.replace(self, key=key)

    def part(self, rows: Any, i: Int[Array, ""]) -> Any:
        """The rows of micro-batch `i`: the i-th part of every device's own, so that none moves between devices."""
        return jax.tree.map(lambda x: part_of_rows(x, i, self.microbatches, self.shards), rows)

    def in_parts(self, function: Callable[[Any], Any], rows: Any, *, recomputed: bool = False) -> tuple[Any, Any]:
        """`function(rows) -> (rows, sums)`, a micro-batch at a time.

        The rows come back in their order, the sums added up. With keys per row among the inputs, results and every gradient
        equal those of one call on all rows.

        Args:
          recomputed: in the backward pass, so that no more than one micro-batch's activations are kept.
        """
        if self.microbatches == 1:
            return function(rows)

        # Cut inside the loop: parts that a scan goes over would be a second copy of all images, in another order.
        def one(i: Int[Array, ""]) -> tuple[Any, Any]:
            return function(self.part(rows, i))

        body = jax.checkpoint(one) if recomputed else one

        def add(total: Any, i: Int[Array, ""]) -> tuple[Any, Any]:
            found, sums = body(i)
            return jax.tree.map(jnp.add, total, sums), found

        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(body, 0)[1])
        sums, parts = jax.lax.scan(add, zeros, jnp.arange(self.microbatches))
        return jax.tree.map(lambda x: join_rows(x, self.shards), parts), sums
