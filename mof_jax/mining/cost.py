"""What mining is going to cost, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
from rich.table import Table

from mof_jax.console import plain
from mof_jax.mesh import batch_shards
from mof_jax.mining.sample import ROWS, Choice

CHUNK = 4096  # pairs that are looked at together
_LOOK_SECONDS = 4e-6  # to fetch two rows of a feature or two and compute their cosines on the host


@dataclasses.dataclass(frozen=True)
class Cost:
    """Attributes:
      pairs: of all records. tiles: that are multiplied. panels: of rows, each against itself and all later ones.
      full: FLOPs of the upper triangle for every feature at full width. sieve: those of the bounds actually computed.
      looks: pairs that are expected to need an exact look. rate: FLOP/s of all devices, measured. seconds: estimated.
      host, device: bytes beyond the stored embeddings; a device's.
    """

    pairs: int
    tiles: int
    panels: int
    full: float
    sieve: float
    looks: float
    rate: float
    seconds: float
    host: int
    device: int


def estimate(
    mesh: Mesh, records: int, panels: int, panel: int, tile: int, capacity: int, dims: Sequence[int], lead: Choice,
    on_device: Sequence[int],
) -> Cost:
    """The cost model.

    Args:
      panel: rows of one. dims: of all features. lead: the sieve of the leading feature. on_device: widths held there.
    """
    pairs = records * (records - 1) // 2
    side = math.ceil(records / tile)
    tiles = side * (side + 1) // 2
    sieve = 2.0 * tiles * tile * tile * lead.sieve.width
    devices, itemsize = batch_shards(mesh), jnp.dtype(lead.sieve.dtype).itemsize
    rate = matmul_rate(tile, lead.sieve.width, lead.sieve.dtype) * (devices if jax.default_backend() != "cpu" else 1)
    looks = lead.passing * pairs
    # Rows, columns and the columns in flight; a float32 panel and two of its stages being prepared; a tile of bounds; hits.
    held = 3 * panel // devices * sum(on_device) * itemsize + 3 * panel // devices * max(dims) * 4
    device = held + 2 * tile * tile * 4 + capacity * 8
    host = panel // devices * max(dims) * 4 + 2 * CHUNK * max(dims) * 12 + 3 * min(ROWS, records) * max(dims) * 8
    seconds = sieve / rate + looks * _LOOK_SECONDS
    return Cost(pairs, tiles, panels, 2.0 * pairs * sum(dims), sieve, looks, rate, seconds, host, device)


@functools.cache
def matmul_rate(tile: int, width: int, dtype: str) -> float:
    """FLOP/s of one device on a tile's product, the best of three."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((tile, width)), dtype)
    some = max(1, min(64, int(4e9 / (2 * tile * tile * width))))
    product = jax.jit(lambda x: jax.lax.fori_loop(
        0, some, lambda i, s: s + jnp.max(jnp.matmul(x + s.astype(x.dtype) * 0, x.T, preferred_element_type=jnp.float32)),
        jnp.float32(0)))
    jax.block_until_ready(product(x))
    best = math.inf
    for _ in range(3):
        begun = time.perf_counter()
        jax.block_until_ready(product(x))
        best = min(best, time.perf_counter() - begun)
    return 2 * tile * tile * width * some / best


def table(cost: Cost, features: Sequence[tuple[str, str, str, str]]) -> Table:
    """As printed. Args: features: name, rule, width of feature and bound, role."""
    result = Table(title="What it will cost", title_justify="left", show_header=False)
    for name, rule, width, role in features:
        result.add_row(plain(name), plain(f"{rule}; {width}; {role}"))
    result.add_row("pairs", f"{cost.pairs:,} in {cost.tiles:,} tiles, {cost.panels:,} rows of panels")
    result.add_row("FLOPs", f"{cost.sieve:.3g} for the bound, {cost.full:.3g} for all features of the upper triangle in full")
    result.add_row("exact looks", f"about {cost.looks:,.0f} pairs expected")
    result.add_row("time", f"about {_duration(cost.seconds)} at {cost.rate / 1e9:,.0f} GFLOP/s (measured)")
    result.add_row("memory", f"{cost.device / 1e6:,.0f} MB a device, {cost.host / 1e6:,.0f} MB on the host, however many records")
    return result


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
