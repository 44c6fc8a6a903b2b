"""Randomness keyed by integers: hashes, draws, and permutations computed by index.

Everything the input pipeline decides (order, caption, crop, replacement) is a pure function of integers such as
(seed, epoch, source, example). The generator is SplitMix64, written out here, so that a run resumed under another
version of NumPy, on another number of hosts or threads, sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import TypeVar

from jaxtyping import Int, UInt64
import numpy as np

T = TypeVar("T")

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1, _MIX2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def mix64(x: int) -> int:
    """SplitMix64's finaliser: a bijection of 64-bit integers in which every input bit reaches every output bit."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * _MIX1) & _MASK
    x = ((x ^ (x >> 27)) * _MIX2) & _MASK
    return x ^ (x >> 31)


def hash64(*parts: int) -> int:
    """A 64-bit hash of a tuple of integers; order and length matter."""
    h = len(parts)
    for part in parts:
        h = mix64((h + _GOLDEN ^ (part & _MASK)) + _GOLDEN)
    return h


def _mix_array(x: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX2)
    return x ^ (x >> np.uint64(31))


def hash64_array(*parts: int | Int[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
    """`hash64` of n tuples at once; integers stand for constant columns."""
    columns = np.broadcast_arrays(*(np.atleast_1d(np.asarray(p)) for p in parts))
    h = np.full(columns[0].shape, len(parts), np.uint64)
    for column in columns:
        h = _mix_array(((h + np.uint64(_GOLDEN)) ^ column.astype(np.uint64)) + np.uint64(_GOLDEN))
    return h


_HALF_ROUNDS = 8


def permute(
    index: Int[np.ndarray, "n"], size: int | Int[np.ndarray, "n"], key: UInt64[np.ndarray, "n"]
) -> Int[np.ndarray, "n"]:
    """Position `index` of the permutation of `range(size)` that `key` names.

    An unbalanced Feistel network over the next power of two, walked until it lands inside the range: a bijection for
    every size and key, in constant memory. Every element may have its own size and key, so a batch that spans sources
    and epochs is one call.

    Raises:
      IndexError: an index outside its range.
    """
    index = np.atleast_1d(np.asarray(index, np.int64))
    size = np.broadcast_to(np.asarray(size, np.int64), index.shape)
    if np.any((index < 0) | (index >= size)):
        raise IndexError("permute: an index lies outside range(size)")
    bits = np.array([max(4, (int(s) - 1).bit_length()) for s in np.unique(size)], np.uint64)
    bits = bits[np.searchsorted(np.unique(size), size)]
    key = np.broadcast_to(key, index.shape)
    out, pending = index.astype(np.uint64), np.arange(len(index))
    while len(pending):
        out[pending] = _feistel(out[pending], bits[pending], key[pending])
        pending = pending[out[pending] >= size[pending].astype(np.uint64)]
    return out.astype(np.int64)


def _feistel(x: UInt64[np.ndarray, "n"], bits: UInt64[np.ndarray, "n"], key: UInt64[np.ndarray, "n"]):
    """A keyed bijection of `bits`-bit integers. Each half round is an XOR of one half with a hash of the other."""
    one = np.uint64(1)
    low_bits = bits // np.uint64(2)
    low_mask = (one << low_bits) - one
    high_mask = (one << (bits - low_bits)) - one
    low, high = x & low_mask, x >> low_bits
    for r in range(_HALF_ROUNDS):
        k = key + np.uint64((r + 1) * _GOLDEN & _MASK)
        if r % 2:
            low = low ^ (_mix_array(high + k) & low_mask)
        else:
            high = high ^ (_mix_array(low + k) & high_mask)
    return (high << low_bits) | low


class Draws:
    """A stream of random draws named by a tuple of integers: `Draws(seed, epoch, source, example, view)`."""

    __slots__ = ("_state",)

    def __init__(self, *key: int):
        self._state = hash64(*key)

    def bits(self) -> int:
        """64 random bits."""
        self._state = (self._state + _GOLDEN) & _MASK
        return mix64(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform in [low, high), 53 bits."""
        return low + (high - low) * ((self.bits() >> 11) * 2.0**-53)

    def below(self, n: int) -> int:
        """Uniform in range(n); the bias of the modulo is below n / 2^64."""
        return self.bits() % n

    def normal(self) -> float:
        """Standard normal (Box-Muller)."""
        return math.sqrt(-2 * math.log(1 - self.uniform())) * math.cos(2 * math.pi * self.uniform())

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[self.below(len(items))]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index drawn in proportion to `weights`; an entry of weight 0 is never drawn."""
        u, last = self.uniform(0.0, sum(weights)), 0
        for i, w in enumerate(weights):
            if w > 0:
                last = i
                if u < w:
                    return i
            u -= w
        return last  # rounding in the subtraction above

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """`k` distinct items (all of them if there are fewer), in random order."""
        pool = list(items)
        for i in range(min(k, len(pool))):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]
