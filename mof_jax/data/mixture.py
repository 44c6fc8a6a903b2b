"""The global cursor: which example stands at position p of a run.

Position p = step * batch + row. Nothing here knows hosts, workers or threads: `Stream.locate` is a pure function of
(sizes, weights, seed, p), so any host can compute any row of any step.

Which source: positions come in blocks. Source k owns `round(W_k n) - round(W_{k-1} n)` of the first n positions at
every block boundary (W: cumulative share), so its realised share is within 1/n of its weight. Inside a block the slots
are permuted by a hash: unlike a periodic interleaving, no source can line up with particular rows.

Which example: the n-th draw of a source of N examples is offset n mod N of epoch n // N, and each epoch is a
permutation computed by index.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

from jaxtyping import Float, Int
import numpy as np

from mof_jax.data import keyed
from mof_jax.errors import UserError

_BLOCK = 1024
_SLOTS, _ORDER = 1, 2  # what a key is for, so that block slots and epoch order never share a permutation


class Located(NamedTuple):
    """Where n positions point: which source, which example of it, and how often it has been seen before."""

    source: Int[np.ndarray, "n"]
    index: Int[np.ndarray, "n"]
    epoch: Int[np.ndarray, "n"]


class OpenOrder(abc.ABC):
    """An endless, seekable order over several sources, see `data.orders`.

    Attributes:
      sizes: records of each source that come up at all.
      shares: of the sources in the stream; of one whose weights change, at its beginning.
    """

    sizes: Int[np.ndarray, "sources"]
    shares: Float[np.ndarray, "sources"]

    @abc.abstractmethod
    def locate(self, positions: int | Int[np.ndarray, "n"]) -> Located:
        """The examples at `positions`."""

    def drawn(self, positions: int) -> Float[np.ndarray, "sources"]:
        """How many of the first `positions` are a source's, as its share says."""
        return positions * self.shares

    def another(self, source: int, index: int, attempt: int) -> int | None:
        """The record that takes the place of one that is bad; None for any of the source."""
        return None

    def notes(self) -> list[str]:
        """What a user should know when a run starts."""
        return []

    def content(self) -> dict[str, Any]:
        """What files of the order hold, for a run that goes on: nothing for one that reads none."""
        return {}


class Stream(OpenOrder):
    """An endless, seekable order over several sources.

    Args:
      sizes: examples in each source (after filtering).
      weights: relative shares of the stream; 0 leaves a source out.
      seed: names the order.
      shuffle: False reads each source in its own order, epoch after epoch.

    Raises:
      UserError: no examples, or weights that cannot be shares.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int, shuffle: bool = True):
        self.sizes = np.asarray(sizes, np.int64)
        shares = np.asarray(weights, np.float64)
        if len(shares) != len(self.sizes) or not len(shares):
            raise UserError(f"a mixture needs one weight a source, got {len(shares)} for {len(self.sizes)}")
        if not np.all(np.isfinite(shares)) or np.any(shares < 0) or shares.sum() <= 0:
            raise UserError(f"mixture weights must be finite, not negative and not all 0, got {list(weights)}")
        if np.any((self.sizes < 1) & (shares > 0)):
            raise UserError(f"source {int(np.argmin(self.sizes))} of the mixture has no examples")
        self.shares = shares / shares.sum()
        smallest = self.shares[self.shares > 0].min()
        if smallest < 2.0**-30:
            raise UserError(f"a mixture share of {smallest:.1e} would never be drawn; use weight 0 to leave it out")
        # Rounding keeps every quota non-negative once a block holds 2 slots of the rarest source.
        self.block = max(_BLOCK, 1 << int(np.ceil(np.log2(2 / smallest))))
        self._cumulative = np.cumsum(self.shares)
        self._cumulative[np.flatnonzero(self.shares)[-1] :] = 1.0
        self.seed, self.shuffle = seed, shuffle

    def counts(self, n: int | Int[np.ndarray, "n"]) -> Int[np.ndarray, "n sources"]:
        """Draws of each source among the first `n` positions, for n a multiple of the block."""
        upper = np.rint(np.multiply.outer(np.atleast_1d(n), self._cumulative)).astype(np.int64)
        return np.diff(upper, axis=1, prepend=0)

    def locate(self, positions: int | Int[np.ndarray, "n"]) -> Located:
        """The examples at `positions`; constant time and memory per position."""
        return self.record(*self.draw(np.atleast_1d(np.asarray(positions, np.int64))))

    def record(self, source: Int[np.ndarray, "n"], draw: Int[np.ndarray, "n"]) -> Located:
        """The examples that are draw number `draw` of a source."""
        size = self.sizes[source]
        epoch, offset = draw // size, draw % size
        if self.shuffle:
            offset = keyed.permute(offset, size, keyed.hash64_array(self.seed, _ORDER, source, epoch))
        return Located(source, offset, epoch)

    def draw(self, p: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Which source stands at each position, and the number of that draw."""
        if len(self.sizes) == 1:
            return np.zeros_like(p), p
        block, inside = p // self.block, p % self.block
        slot = keyed.permute(inside, self.block, keyed.hash64_array(self.seed, _SLOTS, block))
        before, after = self.counts(block * self.block), self.counts((block + 1) * self.block)
        last = np.cumsum(after - before, axis=1)  # slot numbers at which each source ends
        source = (slot[:, None] >= last).sum(axis=1)
        rows = np.arange(len(p))
        first = last[rows, source] - (after - before)[rows, source]
        return source, before[rows, source] + slot - first


class HostRows:
    """The rows of every step that one host loads: a contiguous block, so global row r is the same on any number."""

    def __init__(self, stream: OpenOrder, batch_size: int, process_index: int = 0, process_count: int = 1):
        if batch_size < 1 or batch_size % process_count:
            raise UserError(f"batch size {batch_size} is not a multiple of the {process_count} processes that load it")
        if not 0 <= process_index < process_count:
            raise UserError(f"process {process_index} of {process_count} does not exist")
        self.stream, self.batch_size = stream, batch_size
        self.rows = batch_size // process_count
        self.first = process_index * self.rows
        # Several chunks of one step ask one after another, possibly from several threads.
        self.locate = functools.lru_cache(maxsize=16)(self._locate)

    def _locate(self, step: int) -> Located:
        """This host's rows of `step`."""
        start = step * self.batch_size + self.first
        return self.stream.locate(np.arange(start, start + self.rows))

    def __getstate__(self):  # the memory of the last steps stays in its process
        return {k: v for k, v in self.__dict__.items() if k != "locate"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.locate = functools.lru_cache(maxsize=16)(self._locate)
