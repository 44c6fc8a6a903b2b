"""What a compiled program sends between devices, read from its text.

XLA prints a program as computations that call each other. A collective counts as often as its computation runs: a `while`
says how often in `known_trip_count` or, where the TPU's compiler leaves that out, by the bound of its condition; everything else
runs once for each caller.

    ENTRY main ─▶ while (24 times) ─▶ body ─▶ all-gather          24 all-gathers

The TPU's compiler lets one run beside other work by writing it into several fusions, which start it, carry it on (in a loop of
their own, perhaps) and end it. They share a channel, and are counted once.

The text is of one slice. What crosses to others it prints as a `send` to the runtime of the network, with the kind of collective
that it is for beside it; the other parts of a collective over several slices stay inside one, as collectives of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
import functools
import math
import re
from typing import NamedTuple

from jaxtyping import Int
import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
         "collective-broadcast")

# %name = TYPE opcode(…), attributes. A tuple type has spaces, and layouts like {1,0:T(8,128)} brackets of their own.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?[\w.-]+ = (?P<type>\(.*?\)|\S+) (?P<op>[\w-]+)\((?P<rest>.*)$")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) (?:\(.*\) -> .* )?\{$")
_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations|called_computations)=\{?(%?[\w.-]+(?:, ?%?[\w.-]+)*)\}?")
_ARRAY = re.compile(r"(pred|[suf]\d+\w*|bf16|c\d+)\[([\d,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_BOUND = re.compile(r"= [su]32\[\]\S* constant\((\d+)\)")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
# A mesh of its own, its devices in an order of their own, and the axes of it that a group runs along.
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_NETWORK = re.compile(r'_xla_host_transfer_handler_name="xla_megascale_runtime".*_xla_megascale_transfer_type="(\w+)"')
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{}]*\})\}")


class Collective(NamedTuple):
    """One instruction.

    Attributes:
      kind: see `KINDS`. times: it runs in a step. bytes: of its result on one device, once (of its operand for a reduce-scatter).
      groups: devices that exchange, one row a group; None for all of them.
      computation: it is in.
    """

    kind: str
    times: int
    bytes: int
    groups: Int[np.ndarray, "groups size"] | None
    computation: str

    @property
    def sent(self) -> float:
        """Bytes that one device sends in a step, by the ring algorithms."""
        size = self.groups.shape[1] if self.groups is not None else 2
        share = (size - 1) / size
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0, "collective-broadcast": 1.0}.get(self.kind, share)
        return self.times * self.bytes * factor


def read(text: str, devices: int, slices: int = 1) -> list[Collective]:
    """All collectives of `compiled.as_text()` for a program on `devices` devices, an equal part of them in each slice.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _computations(text)
    if entry is None:
        raise ValueError("not the text of a compiled program: no ENTRY")
    found: list[Collective] = []
    fused: set[str] = set()  # channels
    for name, times in sorted(_runs(computations, entry).items(), key=lambda item: item[1]):
        for line in computations[name]:
            match = _INSTRUCTION.match(line)
            kind = match and match["op"].removesuffix("-start")
            if kind == "send":
                if said := _NETWORK.search(match["rest"]):
                    found.append(_across(said[1], times, _array_sizes(match["type"])[0], devices, slices, name))
            elif kind == "all-reduce" and name.lstrip("%").startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # the TPU's compiler fuses one of a reduction and the slice that is wanted of it
                found.append(Collective(kind, times, sum(_array_sizes(match["type"])), _groups(match["rest"], devices), name))
            elif kind in KINDS:
                if "fus" in name and (channel := _CHANNEL.search(match["rest"])):
                    if channel[1] in fused:  # by a computation that runs no oftener
                        continue
                    fused.add(channel[1])
                groups = _groups(match["rest"], devices)
                found.append(Collective(kind, times, _payload(kind, match["type"], match["op"], groups), groups, name))
    return found


def _across(transfer: str, times: int, size: int, devices: int, slices: int, computation: str) -> Collective:
    """What crosses slices: each device exchanges with those in its place of the others."""
    kind = transfer.lower().replace("_", "-")
    kind = kind if kind in KINDS else "collective-permute"  # ONE_TO_ONE
    places = np.arange(devices).reshape(slices, -1).T
    return Collective(kind, times, size * (slices if kind == "all-gather" else 1), places, computation)


def axes_of(groups: Int[np.ndarray, "groups size"] | None, sizes: dict[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the devices of a group differ.

    Args:
      sizes: of the mesh axes, the slowest first; a device's number is its place in the mesh.
    """
    if groups is None:
        return tuple(name for name, size in sizes.items() if size > 1)
    places = np.stack(np.unravel_index(groups, tuple(sizes.values())))
    return tuple(name for name, place in zip(sizes, places) if (place != place[:, :1]).any())


def _computations(text: str) -> tuple[dict[str, list[str]], str | None]:
    """Lines by computation, and the name of the entry."""
    found: dict[str, list[str]] = {}
    entry = current = None
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            if match := _COMPUTATION.match(line):
                current = found.setdefault(match["name"], [])
                entry = match["name"] if match["entry"] else entry
        elif current is not None and line.startswith(" "):
            current.append(line)
    return found, entry


def _runs(computations: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs in one run of the entry."""
    calls = {name: list(_calls(lines, computations)) for name, lines in computations.items()}
    callers: dict[str, list[tuple[str, int]]] = {}
    for caller, called in calls.items():
        for name, times in called:
            callers.setdefault(name, []).append((caller, times))

    @functools.cache
    def runs(name: str) -> int:
        return 1 if name == entry else sum(runs(caller) * times for caller, times in callers.get(name, []))

    return {name: n for name in computations if (n := runs(name))}


def _calls(lines: list[str], computations: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    """(computation, times) of everything a computation calls."""
    for line in lines:
        match = _INSTRUCTION.match(line)
        # The later parts of an asynchronous call name the computation again.
        if match is None or match["op"] in ("async-update", "async-done"):
            continue
        times = _trips(line, computations) if match["op"] == "while" else 1
        for group in _CALLED.findall(match["rest"]):
            for name in group.split(","):
                yield name.strip().lstrip("%"), times


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often the body of a `while` runs. Its counter starts at 0 in everything that JAX and XLA make of a scan.

    Raises:
      ValueError: its condition is no comparison with one constant.
    """
    if said := _TRIPS.search(line):
        return int(said[1])
    condition = _CONDITION.search(line)[1]
    bounds = {int(n) for inner in computations[condition] for n in _BOUND.findall(inner)}
    if len(bounds) != 1:
        raise ValueError(f"the loop with condition {condition} does not say how often it runs ({sorted(bounds)})")
    return bounds.pop()


def _payload(kind: str, type_: str, op: str, groups: np.ndarray | None) -> int:
    """Bytes of the result of an instruction of that type; of the operand for a reduce-scatter."""
    sizes = _array_sizes(type_)
    if not op.endswith("-start") or kind == "all-reduce":  # which returns its results alone
        return sum(sizes) * (groups.shape[1] if kind == "reduce-scatter" and groups is not None else 1)
    if kind == "collective-permute":  # operand, result, two counters
        return max(sizes, default=0)
    both = [size for size in sizes if size > 4]  # operands, then results
    half = len(both) // 2
    return sum(both[:half] if kind == "reduce-scatter" else both[half:])


def _array_sizes(type_: str) -> list[int]:
    """Bytes of each array of a type."""
    return [_bytes(dtype, shape) for dtype, shape in _ARRAY.findall(type_)]


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(int(n) for n in shape.split(",") if n) * bits // 8


def _groups(rest: str, devices: int) -> Int[np.ndarray, "groups size"] | None:
    """`replica_groups` in its three spellings, or the pairs of a permutation; None where it names none, for all devices."""
    ints = lambda part: [int(n) for n in part.split(",")] if part else None
    if match := _IOTA.search(rest):
        shape, dims, order = map(ints, match.groups())
        return _iota(dims, order).reshape(shape)
    if match := _MESH.search(rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        along = re.findall(r"'(\w+)'", match[4])
        numbers = _iota(ints(match[2]) or [math.prod(sizes.values())], ints(match[3])).reshape(list(sizes.values()))
        order = [i for i, name in enumerate(sizes) if name not in along] + [list(sizes).index(name) for name in along]
        return numbers.transpose(order).reshape(-1, math.prod(sizes[name] for name in along))
    if match := _LISTED.search(rest) or _PAIRS.search(rest):
        rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", match[1])]
        return np.array(rows) if len({len(row) for row in rows}) == 1 else None
    return np.arange(devices)[None] if devices > 1 else None


def _iota(dims: list[int], order: list[int] | None) -> Int[np.ndarray, "..."]:
    """Numbers from 0 in an array of these dimensions, transposed."""
    numbers = np.arange(math.prod(dims)).reshape(dims)
    return numbers.transpose(order) if order else numbers
