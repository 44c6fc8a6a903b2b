"""How the rows of both sides lie on devices, and which of them meet.

Queries are spread over the batch axes of a mesh, and so are keys, which travel a ring (Inf-CL, arXiv
2410.17243; SigLIP, arXiv 2303.15343, section 3.3), unless they are replicated: then each device reads
all of them, and none travels. With `groups` = g, the global batch is g consecutive blocks of equal
size that do not see each other: a ring of its own for each, or several blocks within each device
(M2-Encoder, arXiv 2401.15896).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from mof_jax.errors import UserError


class Layout(NamedTuple):
    """Hashable; see `layout`.

    Attributes:
      axes: the mesh axes over which rows are spread, major first. devices: how many those are.
      ring: consecutive devices whose rows meet. blocks: of one device, that do not see each other; 1
        unless `ring` is 1.
      groups: blocks of the global batch. replicated: every device has all keys.
      queries, keys: rows of a block on one device.
    """

    mesh: Mesh | None
    axes: tuple[str, ...]
    devices: int
    ring: int
    blocks: int
    groups: int
    replicated: bool
    queries: int
    keys: int

    @property
    def square(self) -> bool:
        """Query i and key i lie at the same place of the same device."""
        return self.queries == self.keys and not self.replicated

    def first_query(self) -> Int[Array, ""] | int:
        """Position, in its group, of this device's first query."""
        if self.replicated and self.axes:
            return lax.axis_index(self.axes) * self.queries
        return 0 if self.ring == 1 else lax.axis_index(self.axes) % self.ring * self.queries

    def first_key(self, hop) -> Int[Array, ""] | int:
        """Position, in its group, of the first key that is here at a hop of the ring."""
        if self.ring == 1:
            return 0
        return (lax.axis_index(self.axes) - hop) % self.ring * self.keys

    def over_ring(self, hop: Callable, carry):
        """`hop(i, carry)` for every device of the ring; at hop 0 a device sees its own keys."""
        return hop(0, carry) if self.ring == 1 else lax.fori_loop(0, self.ring, hop, carry)

    def pass_on(self, x):
        """Hands `x` to the next device of the ring; after `ring` hops everything is home again."""
        if self.ring == 1:
            return x
        after = [i // self.ring * self.ring + (i + 1) % self.ring for i in range(self.devices)]
        return jax.tree.map(lambda a: lax.ppermute(a, self.axes, list(enumerate(after))), x)

    def summed(self, x):
        """The sum over all devices."""
        return jax.tree.map(lambda a: lax.psum(a, self.axes), x) if self.axes else x

    def run(self, f: Callable, rows, columns, shared):
        """`f(rows, columns, shared) -> (rows, columns, sums)` on every device, with its share of the rows.

        `f` sees the rows of one block and sums over devices itself; here sums are added over the
        blocks of a device.
        """
        if self.blocks > 1:
            f = _by_blocks(f, self.blocks)
        if not self.axes:
            return f(rows, columns, shared)
        spread = P(self.axes)
        specs = (spread, P() if self.replicated else spread, P())
        # Varying-axes checks serve autodiff through shard_map, which `custom_vjp` replaces.
        f = jax.shard_map(f, mesh=self.mesh, in_specs=specs, out_specs=specs, check_vma=False)
        return f(rows, columns, shared)


def layout(
    queries: int, keys: int, mesh: Mesh | None, batch_axes: Sequence[str], groups: int, replicated: bool
) -> Layout:
    """The layout of global row counts.

    Raises:
      UserError: the mesh lacks an axis, its size does not divide the rows, or it cannot hold the
        groups.
    """
    axes = tuple(batch_axes) if mesh is not None else ()
    if unknown := [a for a in axes if a not in mesh.shape]:
        raise UserError(f"batch_axes {unknown}: the mesh has axes {', '.join(mesh.axis_names)}")
    devices = math.prod(mesh.shape[a] for a in axes)
    sizes = ", ".join(f"{a}={mesh.shape[a]}" for a in axes)
    for what, count in (("pairs" if queries == keys else "queries", queries), ("keys", keys)):
        if count % devices and not (what == "keys" and replicated):
            raise UserError(
                f"a global batch of {count} {what} is not a multiple of {devices} devices ({sizes})")
    if groups < 1 or queries % groups or keys % groups:
        raise UserError(f"groups={groups} does not divide {queries} queries and {keys} keys evenly")
    if groups > 1 and replicated:
        raise UserError(
            f"groups={groups}: keys that every device has are no group's; spread them over the batch axes")
    if groups % devices and devices % groups:
        raise UserError(
            f"groups={groups} cannot lie on {devices} devices ({sizes}): neither is a multiple of the other")
    blocks = max(1, groups // devices)
    ring = 1 if replicated else max(1, devices // groups)
    here = devices * blocks
    local = queries // here, keys if replicated else keys // here
    return Layout(mesh, axes, devices, ring, blocks, groups, replicated, *local)


def _by_blocks(f: Callable, blocks: int) -> Callable:
    """`f` for one block after the other."""

    def cut(x):
        return x.reshape(blocks, x.shape[0] // blocks, *x.shape[1:])

    def join(x):
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    def run(rows: Any, columns: Any, shared: Any):
        cuts = jax.tree.map(cut, (rows, columns))
        ours, theirs, sums = lax.map(lambda both: f(*both, shared), cuts)
        return *jax.tree.map(join, (ours, theirs)), jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)

    return run
