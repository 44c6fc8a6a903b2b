"""Samples of several kinds into rows of a fixed shape, by streams that do not know how many hosts there are.

A stream fills R rows of S positions and a buffer of I pictures a step. Its whole state is one vector of integers:

    per kind         samples drawn, and tokens realised (learned tokens + image tokens of what was drawn)
    carried over     up to `carry` samples that found no room, as (kind, draw number), oldest first

so a resumed run reads the carried samples again by number, and nothing else has to be remembered. Which sample is draw
number n of a kind is a pure function of the seed (`mixture.Stream`); stream v takes the draws n·V + v.

Kinds are chosen by the largest deficit of realised tokens against the weights. A kind whose sample found no room in
this step is passed over for the rest of it, as long as that puts no share ahead by more than two rows: a full picture
buffer is waited out with text. The debt is bounded, so the shares are exact in the long run.

Rows are filled first fit, carried samples first. A step ends when `lookahead` of its samples found no room, when the carry is
full, or when no row has more than `_SPARE` positions left. A longer look ahead fills better and costs memory: a carried
sample keeps its decoded pictures. It costs no time, since what is carried is used in the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

from jaxtyping import Int32
import numpy as np

from mof_jax.data.packing.sequences import Sample
from mof_jax.errors import UserError

_WORD = 2**31  # a counter is two int32: value = high · 2^31 + low
_COUNTERS = 4  # per kind: draws (high, low), tokens (high, low)
_ENTRY = 3  # per carried sample: kind, draw (high, low)
_SPARE = 4  # positions of a row that are not worth another look
_SLACK = 2  # rows by which a kind may be put ahead of its share


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a stream fills in one step.

    Attributes:
      rows, length: rows of the batch, and their positions.
      images: pictures in the stream's buffer.
      image_tokens, image_size: positions a picture takes, its side in pixels.
      pad_id: token where there is no text.
      carry: samples that may be left for later steps. lookahead: samples without room after which a step ends.
    """

    rows: int
    length: int
    images: int
    image_tokens: int
    image_size: int
    pad_id: int
    carry: int = 24
    lookahead: int = 16


@dataclasses.dataclass
class State:
    """Where a stream stands: samples drawn and tokens realised of each kind, and the (kind, draw) carried over."""

    draws: list[int]
    tokens: list[int]
    carried: list[tuple[int, int]]

    @staticmethod
    def width(kinds: int, carry: int) -> int:
        """Length of a state's vector."""
        return _COUNTERS * kinds + _ENTRY * carry

    @staticmethod
    def fresh(kinds: int) -> State:
        """The state before the first step."""
        return State([0] * kinds, [0] * kinds, [])

    def pack(self, carry: int) -> Int32[np.ndarray, "state"]:
        """The state as a vector."""
        words = [word for d, t in zip(self.draws, self.tokens) for word in (*divmod(d, _WORD), *divmod(t, _WORD))]
        for kind, draw in self.carried:
            words += [kind, *divmod(draw, _WORD)]
        words += [-1] * (State.width(len(self.draws), carry) - len(words))
        return np.array(words, np.int32)

    @staticmethod
    def unpack(vector: Int32[np.ndarray, "state"], kinds: int) -> State:
        """The inverse of `pack`."""
        words = [int(word) for word in vector]
        counters, rest = words[: _COUNTERS * kinds], words[_COUNTERS * kinds :]
        entries = [rest[i : i + _ENTRY] for i in range(0, len(rest), _ENTRY)]
        return State([high * _WORD + low for high, low in zip(counters[0::4], counters[1::4])],
                     [high * _WORD + low for high, low in zip(counters[2::4], counters[3::4])],
                     [(kind, high * _WORD + low) for kind, high, low in entries if kind >= 0])


@dataclasses.dataclass(frozen=True)
class Packed:
    """One step of one stream.

    Attributes:
      arrays: the stream's part of the batch, see `sequence_pipeline`.
      placed: (row, kind, draw) of every sample in it, in the order of the rows.
      replaced: bad examples met on the way, as (id, reason).
    """

    arrays: dict[str, np.ndarray]
    placed: list[tuple[int, int, int]]
    replaced: list[tuple[str, str]]


# (kind, draw of this stream, list that takes the bad examples) -> the sample, its pictures as pixels.
Read = Callable[[int, int, list[tuple[str, str]]], Sample]


class Packer:
    """Fills one stream's rows, step after step.

    Args:
      shape: what a step fills.
      weights: shares of the kinds, by realised tokens.
      read: reads a draw; no sample may be longer than a row or have more pictures than the buffer.
      state: where to begin.
    """

    def __init__(self, shape: Shape, weights: Sequence[float], read: Read, state: State):
        self.shape, self._read, self._state = shape, read, state
        self._weights = [w / sum(weights) for w in weights]
        self._samples: dict[tuple[int, int], Sample] = {}  # the carried ones; read again after a resume

    def next(self) -> Packed:
        """The next step's rows; the state moves on."""
        step = _Step(self.shape)
        replaced: list[tuple[str, str]] = []
        waiting, self._state.carried = self._state.carried, []
        before = list(self._state.tokens)
        for key in waiting:
            sample = self._samples.pop(key, None) or self._read(*key, replaced)
            self._offer(step, key, sample)
        blocked: set[int] = set()
        misses = 0
        while misses < self.shape.lookahead and len(self._state.carried) < self.shape.carry and not step.full():
            kind = self._choose(blocked)
            key = (kind, self._state.draws[kind])
            sample = self._read(*key, replaced)
            self._state.draws[kind] += 1
            self._state.tokens[kind] += sample.size
            if not self._offer(step, key, sample):
                blocked.add(kind)
                misses += 1
        arrays = step.arrays()
        arrays["cursor"] = self._state.pack(self.shape.carry)[None]
        arrays["kind_tokens"] = np.array([[now - then for now, then in zip(self._state.tokens, before)]], np.float32)
        return Packed(arrays, [(row, *key) for row, samples in enumerate(step.placed) for key, _ in samples], replaced)

    def _choose(self, blocked: set[int]) -> int:
        """The kind with the largest deficit; one that found no room in this step only if the others are too far ahead."""
        total = sum(self._state.tokens)
        deficit = [w * total - t for w, t in zip(self._weights, self._state.tokens)]
        slack = _SLACK * self.shape.length
        free = [k for k in range(len(deficit)) if k not in blocked and deficit[k] >= -slack]
        return max(free or range(len(deficit)), key=lambda k: (deficit[k], self._weights[k], -k))

    def _offer(self, step: _Step, key: tuple[int, int], sample: Sample) -> bool:
        """Places the sample, or carries it over."""
        if step.place(key, sample):
            return True
        self._state.carried.append(key)
        self._samples[key] = sample
        return False


class _Step:
    """The rows of one step while they fill."""

    def __init__(self, shape: Shape):
        self._shape = shape
        self._free = [shape.length] * shape.rows
        self._images = shape.images
        self.placed: list[list[tuple[tuple[int, int], Sample]]] = [[] for _ in range(shape.rows)]

    def full(self) -> bool:
        """Whether no row has room worth filling."""
        return max(self._free) <= _SPARE

    def place(self, key: tuple[int, int], sample: Sample) -> bool:
        """Puts the sample into the first row that holds it; False if there is none, or no room for its pictures."""
        if len(sample) > self._shape.length or len(sample.starts) > self._shape.images:
            raise ValueError(f"sample {sample.id} of {len(sample)} tokens and {len(sample.starts)} images fits no step")
        row = next((r for r, free in enumerate(self._free) if len(sample) <= free), None)
        if row is None or len(sample.starts) > self._images:
            return False
        self._free[row] -= len(sample)
        self._images -= len(sample.starts)
        self.placed[row].append((key, sample))
        return True

    def arrays(self) -> dict[str, np.ndarray]:
        """The rows as arrays, see `sequence_pipeline`."""
        s = self._shape
        grid = (s.rows, s.length)
        tokens, segments = np.full(grid, s.pad_id, np.int32), np.zeros(grid, np.int32)
        positions, weight = np.zeros(grid, np.int32), np.zeros(grid, np.float32)
        index = np.full(grid, -1, np.int32)
        pixels = np.zeros((s.images, s.image_size, s.image_size, 3), np.uint8)
        used = 0
        for row, samples in enumerate(self.placed):
            at = 0
            for number, (_, sample) in enumerate(samples, 1):
                here = slice(at, at + len(sample))
                tokens[row, here], segments[row, here] = sample.tokens, number
                positions[row, here], weight[row, here] = np.arange(len(sample)), sample.supervised
                for start, picture in zip(sample.starts, sample.pictures):
                    begin = at + start
                    index[row, begin : begin + s.image_tokens] = used * s.image_tokens + np.arange(s.image_tokens)
                    pixels[used] = picture
                    used += 1
                at += len(sample)
        arrays = {
            "tokens": tokens, "segment_ids": segments, "positions": positions, "loss_weight": weight, "image_index": index,
            "fill_tokens": np.array([1 - sum(self._free) / (s.rows * s.length)], np.float32)}
        if not s.images:
            return arrays
        return arrays | {"images": pixels, "image_valid": np.arange(s.images) < used,
                         "fill_images": np.array([used / s.images], np.float32)}


def check_cursor(cursor: Int32[np.ndarray, "streams state"], streams: int, width: int) -> None:
    """Refuses a cursor of another packing.

    Raises:
      UserError: another number of streams, kinds or carried samples.
    """
    if np.shape(cursor) != (streams, width):
        raise UserError(f"data: the checkpoint's cursor is {'x'.join(map(str, np.shape(cursor)))}, this config needs "
                        f"{streams}x{width}; batch_size, rows_per_stream, the kinds and carry cannot change within a run")
