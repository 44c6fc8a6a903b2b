"""One row of panels after another: rows from disk to the devices, tiles, exact looks at what passed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import functools

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int
import numpy as np

from mof_jax.mesh import batch_sharding
from mof_jax.mining.cost import CHUNK
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.plan import Plan
from mof_jax.mining.sieve import cosines, prepare
from mof_jax.mining.state import Pairs
from mof_jax.mining.tiles import Grid, hits, make_sweep

# Which of the pairs (i, j) may count at all, asked before their cosines are taken.
Allowed = Callable[[Int[np.ndarray, "pairs"], Int[np.ndarray, "pairs"]], Bool[np.ndarray, "pairs"]]


class Walk:
    """A plan on the devices of a mesh."""

    def __init__(self, plan: Plan, mesh: Mesh):
        self.plan, self.mesh = plan, mesh
        self._sieves = [plan.choices[name].sieve for name in plan.on_device]
        self.grid = Grid(plan.sizes.tile, plan.sizes.tiles, plan.sizes.capacity)
        self._sweep = make_sweep(mesh, self.grid)

    def row(self, p: int, allowed: Allowed, advance: Callable[[int], None]) -> Pairs:
        """All pairs with one record in panel p and the other in p or a later one.

        Args:
          advance: told after each panel how many pairs of records were gone through.
        """
        found, cuts = [], [sieve.cut for sieve in self._sieves]
        rows = self._load(p, left=True)
        for q in range(p, self.plan.sizes.panels):
            columns = self._load(q, left=False)
            window = (0, self._size(p), 0, self._size(q))
            for places in hits(self._sweep, self.grid, rows, columns, cuts, window, symmetric=p == q):
                at = places.astype(np.int64) + np.array([p, q]) * self.plan.sizes.rows
                found += [look(self.plan, part, allowed) for part in _chunks(np.sort(at, axis=1))]
            advance(self._size(p) * (self._size(q) if p != q else self._size(p) - 1) // (1 if p != q else 2))
        return _ordered(found, len(self.plan.rules))

    def _size(self, p: int) -> int:
        return min(self.plan.sizes.rows, len(self.plan.usable) - p * self.plan.sizes.rows)

    def _load(self, p: int, left: bool) -> list[Array]:
        """A panel of every feature that is on the devices, prepared; each process reads the rows of its own devices."""
        size, sharding = self.plan.sizes.rows, batch_sharding(self.mesh)

        def put(shape: tuple[int, ...], read: Callable[[int, int], np.ndarray], dtype: type) -> Array:
            def part(index: tuple[slice, ...]) -> np.ndarray:
                start, stop, _ = index[0].indices(size)
                out = np.zeros((stop - start, *shape), dtype)  # beyond the last record: not usable
                rows = read(p * size + start, p * size + stop)
                out[: len(rows)] = rows
                return out

            return jax.make_array_from_callback((size, *shape), sharding, part)

        usable = put((), lambda start, stop: self.plan.usable[start:stop], bool)
        features = [self.plan.features[name] for name in self.plan.on_device]
        return [_prepared(self.mesh, s.sign if left else 1, s.dtype)(put((f.dim,), f.rows, np.float32), usable, s.mean, s.basis)
                for f, s in zip(features, self._sieves)]


@functools.lru_cache(maxsize=16)
def _prepared(mesh: Mesh, sign: int, dtype: str) -> Callable[..., Array]:
    return jax.jit(functools.partial(prepare, sign=sign, dtype=dtype), out_shardings=batch_sharding(mesh))


def look(plan: Plan, places: Int[np.ndarray, "pairs 2"], allowed: Allowed) -> Pairs:
    """Those of the given pairs that satisfy every rule, with their exact cosines; the most selective rule is asked first."""
    i, j = places.T
    kept = allowed(i, j)
    i, j = i[kept], j[kept]
    found: dict[str, np.ndarray] = {}
    for name in plan.choices:
        f: Embeddings = plan.features[name]
        cosine = cosines(f.take(i), f.take(j), plan.means[name])
        sign = plan.rules[name].sign
        kept = sign * cosine > sign * plan.thresholds[name]
        i, j = i[kept], j[kept]
        found = {other: values[kept] for other, values in (found | {name: cosine}).items()}
    return Pairs(i, j, np.stack([found[name] for name in plan.rules]).astype(np.float32))


def _chunks(places: Int[np.ndarray, "pairs 2"]) -> Iterator[Int[np.ndarray, "part 2"]]:
    for start in range(0, len(places), CHUNK):
        yield places[start : start + CHUNK]


def _ordered(parts: list[Pairs], features: int) -> Pairs:
    if not parts:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((features, 0), np.float32))
    i, j = (np.concatenate([getattr(part, name) for part in parts]) for name in ("i", "j"))
    cosines = np.concatenate([part.cosines for part in parts], axis=1)
    order = np.lexsort((j, i))
    return Pairs(i[order], j[order], cosines[:, order])
