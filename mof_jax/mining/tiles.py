"""All pairs of two panels of rows, sifted in tiles on the devices.

    panel p, its rows spread over the devices      for hop in ring:            panel q's shards travel
    panel q, likewise                                for tile of own x visiting shard:
                                                       bound = rows @ columns^T
                                                       where it exceeds the cut: count, append (i, j) to the buffer

Two different panels need every hop. A panel against itself is symmetric and needs half of them: hop 0 is the upper triangle of
a shard with itself, and in a ring of even size the two devices of the antipodal hop take half of their common rectangle each.

The buffer has a fixed capacity and the counter beside it is exact, so a buffer that was too small shows. Such a call is thrown
away and its window of rows and columns is split and sifted again: nothing is ever dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int
import numpy as np

from mof_jax.mesh import BATCH_AXES, batch_shards, fetch

_GROUP = 32  # entries of a mask that are counted together when hits are looked up
_BATCH = 1024  # hits looked up at a time

Window = tuple[int, int, int, int]  # rows from, to; columns from, to; inside the two panels


@dataclasses.dataclass(frozen=True)
class Grid:
    """Sizes that are compiled in.

    Attributes:
      tile: rows and columns of a tile. tiles: of a device's shard of a panel.
      capacity: hits a device can hold during one call.
    """

    tile: int
    tiles: int
    capacity: int

    @property
    def dense(self) -> int:
        """Hits of a tile from which whole products of the other features are cheaper than a look at each hit."""
        return self.tile * self.tile // 256

    @property
    def batch(self) -> int:
        """Hits that are looked up at a time."""
        return min(_BATCH, self.tile * self.tile)


class _Hits(NamedTuple):
    """Places in the two panels, [capacity + batch, 2], of which the first `count` [] are meant."""

    places: Array
    count: Array


@functools.lru_cache(maxsize=16)  # another threshold needs no other program
def make_sweep(mesh: Mesh, grid: Grid) -> Callable[..., tuple[Array, Array]]:
    """`sweep(rows, columns, cuts, window, symmetric)`, compiled: counts [devices] and places [devices, capacity + batch, 2].

    `rows` and `columns` hold one prepared matrix [panel, width] a feature, spread over the devices; `cuts` [features] is what
    their products must exceed.
    """

    def sweep(
        rows: tuple[Array, ...], columns: tuple[Array, ...], cuts: Array, window: Array, symmetric: bool
    ) -> tuple[Array, Array]:
        local = lambda *args: _device(grid, batch_shards(mesh), symmetric, *args)
        sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(BATCH_AXES), P(BATCH_AXES), P(), P()),
                                out_specs=P(BATCH_AXES), check_vma=False)
        return sharded(rows, columns, cuts, window)

    return jax.jit(sweep, static_argnums=4)


def hits(
    sweep: Callable[..., tuple[Array, Array]], grid: Grid, rows: Sequence[Array], columns: Sequence[Array],
    cuts: Sequence[float], window: Window, symmetric: bool,
) -> Iterator[Int[np.ndarray, "hits 2"]]:
    """Every pair of a window that passes the bounds, in parts; windows that overflow are split until they fit."""
    waiting = [window]
    while waiting:
        window = waiting.pop()
        found = sweep(tuple(rows), tuple(columns), np.asarray(cuts, np.float32), np.asarray(window, np.int32), symmetric)
        counts, places = map(fetch, found)
        if counts.max() > grid.capacity:
            waiting += split(window, grid.tile)
            continue
        yield np.concatenate([found[:count] for found, count in zip(places, counts)])


def split(window: Window, tile: int) -> list[Window]:
    """Two halves along the longer side, at the edge of a tile where it has several."""
    top, bottom, left, right = window
    by_rows = bottom - top >= right - left
    first, last = (top, bottom) if by_rows else (left, right)
    middle = (first + last) // 2
    if middle // tile * tile > first:
        middle = middle // tile * tile
    if by_rows:
        return [(top, middle, left, right), (middle, bottom, left, right)]
    return [(top, bottom, left, middle), (top, bottom, middle, right)]


# One device's share.


def _device(
    grid: Grid, devices: int, symmetric: bool, rows: tuple[Array, ...], columns: tuple[Array, ...], cuts: Array, window: Array
) -> tuple[Array, Array]:
    me = lax.axis_index(BATCH_AXES)
    tiles = grid.tiles * grid.tiles
    ring = [(i, (i + 1) % devices) for i in range(devices)]

    def at_hop(hop: Array, carry: tuple[tuple[Array, ...], _Hits]) -> tuple[tuple[Array, ...], _Hits]:
        columns, found = carry
        holder = (me - hop) % devices  # whose columns are visiting

        def at_tile(t: Array, found: _Hits) -> _Hits:
            a, b = t // grid.tiles, t % grid.tiles
            start = (me * grid.tiles + a) * grid.tile, (holder * grid.tiles + b) * grid.tile
            wanted = _meets(start, grid.tile, window) & (found.count <= grid.capacity)  # what overflows is redone anyway
            if symmetric:
                wanted &= _in_triangle(a, b, hop, me, holder, devices, grid.tiles)
            upper = hop == 0 if symmetric else jnp.bool_(False)
            parts = lambda side, n: tuple(lax.dynamic_slice_in_dim(x, n * grid.tile, grid.tile) for x in side)
            return lax.cond(wanted, lambda f: _sift(grid, parts(rows, a), parts(columns, b), cuts, start, window, upper, f),
                            lambda f: f, found)

        found = lax.fori_loop(0, tiles, at_tile, found)
        return (columns if devices == 1 else lax.ppermute(columns, BATCH_AXES, ring)), found

    start = _Hits(jnp.zeros((grid.capacity + grid.batch, 2), jnp.int32), jnp.int32(0))
    hops = devices // 2 + 1 if symmetric else devices
    _, found = lax.fori_loop(0, hops, at_hop, (columns, start))
    return found.count[None], found.places[None]


def _meets(start: tuple[Array, Array], tile: int, window: Array) -> Bool[Array, ""]:
    return ((start[0] < window[1]) & (start[0] + tile > window[0]) & (start[1] < window[3]) & (start[1] + tile > window[2]))


def _in_triangle(a: Array, b: Array, hop: Array, me: Array, holder: Array, devices: int, tiles: int) -> Bool[Array, ""]:
    """Whether tile (a, b) is this device's to sift, where a panel meets itself."""
    half = (tiles + 1) // 2
    # Antipodes see the same rectangle, one as rows x columns, the other transposed: cut it along the earlier one's rows.
    antipodal = jnp.where(me < holder, a < half, b >= half)
    return jnp.where(hop == 0, a <= b, (2 * hop != devices) | antipodal)


def _sift(
    grid: Grid, rows: tuple[Array, ...], columns: tuple[Array, ...], cuts: Array, start: tuple[Array, Array], window: Array,
    upper: Bool[Array, ""], found: _Hits,
) -> _Hits:
    """`found` with what passes in one tile."""
    exceeds = lambda n: lax.dot_general(rows[n], columns[n], (((1,), (1,)), ((), ())), precision=_precision(rows[n]),
                                        preferred_element_type=jnp.float32) > cuts[n]
    passes = exceeds(0)

    def collect(found: _Hits) -> _Hits:
        i = start[0] + lax.broadcasted_iota(jnp.int32, passes.shape, 0)
        j = start[1] + lax.broadcasted_iota(jnp.int32, passes.shape, 1)
        mask = passes & (i >= window[0]) & (i < window[1]) & (j >= window[2]) & (j < window[3]) & ((i < j) | ~upper)
        if len(rows) > 1:
            others = lambda: mask & jnp.stack([exceeds(n) for n in range(1, len(rows))]).all(axis=0)
            mask = lax.cond(jnp.sum(mask) > grid.dense, others, lambda: mask)
        return _append(grid, mask, start, found)

    return lax.cond(jnp.any(passes), collect, lambda f: f, found)


def _precision(x: Array) -> lax.Precision | None:
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def _append(grid: Grid, mask: Bool[Array, "tile tile"], start: tuple[Array, Array], found: _Hits) -> _Hits:
    """`found` with the places of a mask's true entries; beyond the capacity only the counter goes on."""
    count = jnp.sum(mask, dtype=jnp.int32)
    origin = jnp.stack(start).astype(jnp.int32)

    def more(state: tuple[Array, Array]) -> Bool[Array, ""]:
        return (state[0] < count) & (found.count + state[0] <= grid.capacity)

    def put(state: tuple[Array, Array]) -> tuple[Array, Array]:
        done, places = state
        part = origin + _places(mask, done, grid.batch)
        return done + grid.batch, lax.dynamic_update_slice_in_dim(places, part, found.count + done, 0)

    _, places = lax.while_loop(more, put, (jnp.int32(0), found.places))
    return _Hits(places, found.count + count)


def _places(mask: Bool[Array, "rows columns"], first: Array, size: int) -> Int[Array, "size 2"]:
    """Row and column of the true entries number `first` to `first + size`, in order; past the last one anything.

    Looked up in counts by row and by group of columns: no scatter, and no scan over the whole mask.
    """
    group = math.gcd(mask.shape[1], _GROUP)
    grouped = mask.reshape(mask.shape[0], -1, group)
    by_group = jnp.sum(grouped, axis=2, dtype=jnp.int32)
    by_row = jnp.sum(by_group, axis=1)
    ends = jnp.cumsum(by_row)
    rank = first + jnp.arange(size, dtype=jnp.int32)
    row = jnp.minimum(jnp.searchsorted(ends, rank, side="right"), len(by_row) - 1)
    rank = rank - (ends - by_row)[row]
    ends = jnp.cumsum(by_group[row], axis=1)
    which = jnp.minimum(jnp.sum(ends <= rank[:, None], axis=1), ends.shape[1] - 1)
    rank = rank - (ends[jnp.arange(size), which] - by_group[row, which])
    inside = jnp.sum(jnp.cumsum(grouped[row, which], axis=1, dtype=jnp.int32) <= rank[:, None], axis=1)
    return jnp.stack([row, which * group + inside], axis=1).astype(jnp.int32)
