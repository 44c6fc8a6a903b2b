"""What a TPU slice is: its chips, its names, and what they can do at best.

A slice is written `GENERATION:AxB[xC]`, several of them `2*v6e:16x16`: chips along the axes of the torus, as the compiler and the
queued resources read it. Accelerator types count otherwise: `v5p-1024` and `tpu7x-1024` are 512 chips (they count TensorCores),
`v6e-256` and `v5litepod-256` are 256.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated

from mof_jax.errors import UserError, lookup, nearest
from mof_jax.parsing import show
from mof_jax.ranges import Positive, Range


@dataclasses.dataclass(frozen=True)
class Chip:
    """One generation. Figures are of a chip, from Cloud TPU's pages (docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}).

    Attributes:
      kind: the name of accelerator types before the number. counts: what that number counts a chip.
      devices: of JAX, a chip. chips_per_host: of a machine of a slice that has several.
      flops: dense bf16 peak, FLOP/s. hbm: bytes that the compiler lets a program use (`CompileTimeHbmOom` names it).
      hbm_bandwidth: bytes/s. ici: bytes/s out of a chip over all of its links, one direction. dcn: bytes/s out of a chip to other
        slices.
      shapes: slices on offer, by chips; other shapes compile, too.
    """

    kind: str
    counts: int
    devices: int
    chips_per_host: int
    flops: float
    hbm: float
    hbm_bandwidth: float
    ici: float
    dcn: float
    shapes: tuple[str, ...]


_GIB = 2**30
_MOST_CHIPS = 1 << 20  # ten times what anybody has in one place
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16", "16x16x24")

# The compiler sees two devices in a chip of v4, the runtime one. DCN: v5p's page says 50 Gbit/s a chip, v5e's 6.4 Tbit/s for 256
# chips; the others by their hosts' network cards.
CHIPS: dict[str, Chip] = {
    "v4": Chip("v4", 2, 2, 4, 275e12, 2 * 15.25 * _GIB, 1228e9, 300e9, 6.25e9, _CUBES),
    "v5e": Chip("v5litepod", 1, 1, 4, 197e12, 15.75 * _GIB, 819e9, 200e9, 3.125e9, _FLAT),
    "v5p": Chip("v5p", 2, 1, 4, 459e12, 95.73 * _GIB, 2765e9, 600e9, 6.25e9, _CUBES),
    "v6e": Chip("v6e", 1, 1, 4, 918e12, 31.24 * _GIB, 1638e9, 400e9, 12.5e9, _FLAT),
    "tpu7x": Chip("tpu7x", 2, 2, 4, 2307e12, 2 * 94.74 * _GIB, 7380e9, 600e9, 12.5e9, _CUBES),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` equal slices of one generation, joined by the data-centre network.

    Attributes:
      shape: chips along the axes of one slice.
    """

    generation: str
    shape: tuple[int, ...]
    slices: int = 1

    @classmethod
    def parse(cls, text: str) -> Topology:
        """`v5p:8x8x8`, `2*v6e:16x16`, or an accelerator type: `v5p-1024`, `v5litepod-256`.

        Raises:
          UserError: no such generation, or no slice of that size on offer.
        """
        if not isinstance(text, str):
            raise UserError(f"topology {show(text)}: write GENERATION:AxB[xC] (v5p:8x8x8), or an accelerator type (v5p-1024)")
        if found := re.fullmatch(r"(?:([0-9]{1,6})\*)?(\w+):([0-9]{1,6}(?:x[0-9]{1,6}){1,2})", text):
            count, generation, shape = found.groups()
            chip = lookup(CHIPS, generation, "TPU generation")
            sizes = tuple(map(int, shape.split("x")))
            if len(sizes) != chip.shapes[0].count("x") + 1 or min(sizes) < 1 or int(count or 1) < 1:
                raise UserError(f"topology {show(text)}: a slice of {generation} looks like {generation}:{chip.shapes[-1]}")
            if math.prod(sizes) * int(count or 1) > _MOST_CHIPS:
                raise UserError(f"topology {show(text)}: more than {_MOST_CHIPS:,} chips")
            return cls(generation, sizes, int(count or 1))
        kinds = {chip.kind: generation for generation, chip in CHIPS.items()}
        kind, _, number = text.rpartition("-")
        if kind not in kinds or not re.fullmatch("[0-9]{1,9}", number):
            raise UserError(f"topology {show(text)}{nearest(text[:40], CHIPS)}: write GENERATION:AxB[xC] (v5p:8x8x8, "
                            "2*v6e:16x16), or an accelerator type (v5p-1024)")
        chip = CHIPS[kinds[kind]]
        offered = {_chips(shape) * chip.counts: shape for shape in chip.shapes}
        if int(number) not in offered:
            raise UserError(f"topology {show(text)}: on offer are {', '.join(f'{kind}-{n}' for n in offered)}")
        return cls(kinds[kind], tuple(map(int, offered[int(number)].split("x"))))

    def __str__(self) -> str:
        return (f"{self.slices}*" if self.slices > 1 else "") + self.slice

    @property
    def slice(self) -> str:
        """One slice, as the compiler reads it."""
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"

    @property
    def accelerator_type(self) -> str:
        """Of one slice, as `gcloud` reads it."""
        return f"{self.chip.kind}-{math.prod(self.shape) * self.chip.counts}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]

    @property
    def chips(self) -> int:
        """In all slices."""
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """In all slices."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """In all slices."""
        return max(1, math.prod(self.shape) // self.chip.chips_per_host) * self.slices


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """Where a run is meant to run: what `mof plan` compiles for. Training runs on whatever is there.

    Attributes:
      topology: see `Topology.parse`; None for a run that fits on any machine.
      price: dollars a chip-hour, by contract and region; None for no estimate.
      mfu: share of the peak that is expected of a run, for its time and cost.
    """

    topology: str | None = None
    price: Positive | None = None
    mfu: Annotated[float, Range(0, 1, above=True)] = 0.4

    def __post_init__(self):
        if self.topology is not None:
            Topology.parse(self.topology)


@dataclasses.dataclass(frozen=True)
class Throughput:
    """How fast slices are taken to train.

    Attributes:
      topology: see `Topology.parse`. mfu: the share of the peak that is expected. best: the share that a compiled step allows at
        most. exposed: that with no communication hidden. source: the plan that says so; all three None for an assumption.
    """

    topology: str
    mfu: float = HardwareConfig.mfu
    best: float | None = None
    exposed: float | None = None
    source: str | None = None


def _chips(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))
