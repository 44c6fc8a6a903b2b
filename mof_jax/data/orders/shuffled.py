"""Each source in a new order every epoch, mixed by weights that may change while a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import ClassVar

from jaxtyping import Float, Int
import numpy as np

from mof_jax.data import keyed
from mof_jax.data.mixture import Located, OpenOrder, Stream
from mof_jax.data.orders.order import Mixture, Order
from mof_jax.errors import UserError, nearest
from mof_jax.ranges import NotNegative, Whole


@dataclasses.dataclass(frozen=True)
class Shuffled(Order):
    """A random order, anew in each epoch of a source (`data.shuffle=False`: the stored one), sources mixed by
    their weights.

    Attributes:
      weights: other weights from a step on, in the order of the steps: (step, or share of the run's steps,
        {source: weight}), e.g. `[(0, {"web": 1}), (0.9, {"web": 1, "chat": 4})]`. A number below 1 with a
        point is a share. A source that an entry leaves out keeps the weight of its section; before the first
        entry all do. What has been drawn of a source stays drawn.
    """

    kind: ClassVar[str] = "shuffled"

    weights: tuple[tuple[Whole | NotNegative, dict[str, NotNegative]], ...] = ()

    def open(self, mixture: Mixture) -> OpenOrder:
        stream = Stream(mixture.sizes, mixture.weights, mixture.seed, mixture.shuffle)
        return Scheduled(mixture, self._phases(mixture)) if self.weights else stream

    def _phases(self, mixture: Mixture) -> list[tuple[int, list[float]]]:
        """(first step, weights of all sources) of every phase.

        Raises:
          UserError: a source that is not there, steps that do not rise, or a share of a run whose steps are
            not known.
        """
        where, names = "config.data.order.weights", [config.label for config in mixture.configs]
        phases = [(0, mixture.weights)]
        for number, (begin, weights) in enumerate(self.weights):
            for name in weights:
                if name not in names:
                    raise UserError(f"{where}.{number}: no source {name!r}{nearest(name, names)}")
            if isinstance(begin, float):
                if begin >= 1:
                    raise UserError(f"{where}.{number}: {begin} is no share of a run; steps have no point")
                if mixture.steps is None:
                    raise UserError(f"{where}.{number}: {begin} is a share of the run's steps, which are not "
                                    "known here; give a step")
                begin = round(begin * mixture.steps)
            phase = (begin, [weights.get(config.label, config.weight) for config in mixture.configs])
            if begin == 0 and len(phases) == 1:
                phases = [phase]
            elif begin <= phases[-1][0]:
                raise UserError(f"{where}.{number}: step {begin} does not come after step {phases[-1][0]}")
            else:
                phases.append(phase)
        return phases


class Scheduled(OpenOrder):
    """A mixture whose weights change at given steps.

    Phase s starts at position P_s and mixes its own stream of shares; of source k it takes the draws that
    follow those of the phases before, so that a source goes through an epoch as if nothing had changed. A
    block that a phase cuts off has taken draws from anywhere in the block; they are numbered anew, in the
    order of the positions, so that none is left out or taken twice.

    Raises:
      UserError: weights of a phase that cannot be shares.
    """

    def __init__(self, mixture: Mixture, phases: list[tuple[int, list[float]]]):
        self._starts = np.array([step * mixture.batch_size for step, _ in phases], np.int64)
        seeds = [mixture.seed if s == 0 else keyed.hash64(mixture.seed, s) >> 2 for s in range(len(phases))]
        # Slots of a block are permuted by the phase's own seed; records by the run's, see `_records`.
        self._streams = [Stream(mixture.sizes, weights, seed, mixture.shuffle)
                         for (_, weights), seed in zip(phases, seeds)]
        self._records = Stream(mixture.sizes, [1.0] * len(mixture.sizes), mixture.seed, mixture.shuffle)
        lengths = np.diff(self._starts).tolist()
        self._tails = [Tail(stream, length) for stream, length in zip(self._streams, lengths)]
        counts = [np.zeros(len(mixture.sizes), np.int64), *(tail.counts for tail in self._tails)]
        self._before = np.cumsum(counts, axis=0)
        self.sizes, self.shares = self._records.sizes, self._streams[0].shares

    def locate(self, positions: int | Int[np.ndarray, "n"]) -> Located:
        """The examples at `positions`."""
        p = np.atleast_1d(np.asarray(positions, np.int64))
        phase = np.searchsorted(self._starts, p, side="right") - 1
        source, draw = np.empty_like(p), np.empty_like(p)
        for s in np.unique(phase).tolist():
            rows = phase == s
            source[rows], inside = self._draw(s, p[rows] - self._starts[s])
            draw[rows] = self._before[s][source[rows]] + inside
        return self._records.record(source, draw)

    def _draw(self, phase: int, p: Int[np.ndarray, "n"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
        """Which source stands at each position of a phase, and the number of that draw in the phase."""
        source, draw = self._streams[phase].draw(p)
        if phase < len(self._tails):
            tail = self._tails[phase]
            rows = p >= tail.start
            draw[rows] = tail.draw[p[rows] - tail.start]
        return source, draw

    def drawn(self, positions: int) -> Float[np.ndarray, "sources"]:
        """How many of the first `positions` are a source's."""
        phase = int(np.searchsorted(self._starts, positions, side="right")) - 1
        return self._before[phase] + self._streams[phase].drawn(positions - int(self._starts[phase]))


class Tail:
    """The last block of a phase, which the next one cuts off.

    Attributes:
      start: its first position. draw: number, in the phase, of the draw at each of its positions.
      counts: draws of each source in the whole phase.
    """

    def __init__(self, stream: Stream, length: int):
        self.start = length // stream.block * stream.block
        before = stream.counts(self.start)[0]
        source, _ = stream.draw(np.arange(self.start, length))
        self.draw = np.empty(len(source), np.int64)
        for k in range(len(before)):
            mine = np.flatnonzero(source == k)
            self.draw[mine] = before[k] + np.arange(len(mine))
        self.counts = before + np.bincount(source, minlength=len(before))


def follows_steps(flat: Mapping[str, object]) -> bool:
    """Whether a config (by dotted keys) orders its data by shares of the run's steps, so that other steps are
    another order."""
    return any(isinstance(value, float) and value for key, value in flat.items()
               if key.startswith("data.order.weights.") and key.count(".") == 4 and key.endswith(".0"))
