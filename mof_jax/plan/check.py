"""Whether a config can be planned and fits, in seconds: by the record of its full form, or, where that is of another program, by
compiling a small form and counting the full one. `make plan-check` does it for every config (`scripts/plan_check.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import time

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.hardware import HardwareConfig, Topology
from mof_jax.mesh import MeshConfig, abstract_mesh, make_mesh
from mof_jax.plan import program
from mof_jax.plan.cache import key_of
from mof_jax.plan.cost import stages
from mof_jax.plan.memory import FACTOR, Estimate, abstract, estimate
from mof_jax.plan.records import Record
from mof_jax.plan.report import ROOM
from mof_jax.plan.shrink import shrink
from mof_jax.run import RunConfig


@dataclasses.dataclass(frozen=True)
class Checked:
    """What is known of a run.

    Attributes:
      small: slices and mesh of the small form, or the run that was compiled in its place; empty where none was needed.
        seconds: of everything. error: of its compilation, None where there was none.
      memory: of the full form. hbm: bytes that a program may use on one device.
      record: of the full form's last plan: `fresh` (it was of this very program), `stale` or `none`. recorded: bytes it needed.
    """

    name: str
    topology: str
    small: str
    seconds: float
    error: str | None
    memory: Estimate
    hbm: float
    record: str
    recorded: float | None

    @property
    def verdict(self) -> str:
        """`fits`, by the compiler; `fits by formula`, even if the formula is off by `FACTOR`; `fits perhaps`, if it is not off;
        or what is wrong."""
        room = (1 - ROOM) * self.hbm
        gib = lambda x: f"{x / 2**30:.2f} GiB"
        if self.error is not None:
            return f"two layers on {self.small} do not compile: {self.error}"
        if self.record == "fresh":
            if self.recorded is not None and self.recorded <= room:
                return "fits"
            return f"its full plan wants {'more' if self.recorded is None else gib(self.recorded)} of {gib(room)}"
        if self.memory.used > room:
            return f"by formula it wants {gib(self.memory.used)} of {gib(room)}"
        return "fits by formula" if self.memory.used + (FACTOR - 1) * self.memory.temporaries <= room else "fits perhaps"

    @property
    def passes(self) -> bool:
        return self.verdict.startswith("fits")


def named(name: str) -> dict[str, RunConfig]:
    """The runs of a config file by the names that their plans have.

    Raises:
      UserError: the config is wrong, names no slices, or has a mesh that does not cover them.
    """
    runs = stages(configs.load(name))
    found = {name if len(runs) == 1 else f"{name}, stage {stage}": run for stage, run in runs.items()}
    for run_name, run in found.items():
        if run.hardware.topology is None:
            raise UserError(f"{run_name}: no slices to plan for; set config.hardware.topology, e.g. v5e:16x16")
        _split(run)
    return found


def covered(runs: Mapping[str, RunConfig]) -> dict[str, str]:
    """Runs whose small form has nothing that another's has not: the same run on the same generation, with at least as many slices
    and at least the same axes of the mesh split. Name -> the other's name.

    Args:
      runs: by name, as `named` gives them.
    """
    whole = {name: _split(config) for name, config in runs.items()}
    found, kept = {}, []
    for name in sorted(runs, key=lambda name: (-whole[name][0].slices, -len(whole[name][1]))):
        topology, axes = whole[name]
        over = (k for k in kept if _rest(runs[k]) == _rest(runs[name]) and whole[k][0].chip == topology.chip and
                whole[k][0].slices >= topology.slices and whole[k][1] >= axes)
        if (other := next(over, None)) is None:
            kept.append(name)
        else:
            found[name] = other
    return found


def _split(config: RunConfig) -> tuple[Topology, frozenset[str]]:
    """(slices, axes of the mesh that are split)."""
    topology = Topology.parse(config.hardware.topology)
    return topology, frozenset(axis for axis, size in abstract_mesh(config.mesh, topology.devices).shape.items() if size > 1)


def _rest(config: RunConfig) -> RunConfig:
    """A run but for where it runs and how it is split."""
    return dataclasses.replace(config, hardware=HardwareConfig(), mesh=MeshConfig(rules=config.mesh.rules))


def check(name: str, config: RunConfig, record: Record | None, cache: str | None, other: str | None = None,
          compile: Callable[..., program.Compiled] = program.compile_step) -> Checked:
    """Compiles the small form of a run for the topology that it names, and counts the full one. Where the full form's record is
    of this very program, by this very compiler, there is nothing left to compile.

    Args:
      record: the last plan, see `plan.report.Plan.to_json`. cache: folder of compiled programs, None for none. other: the run
        that is compiled in this one's place, see `covered`.

    Raises:
      UserError: the full form's mesh does not divide its batch or a dimension.
    """
    begun, topology = time.perf_counter(), Topology.parse(config.hardware.topology)
    if record is None:
        known, (run, full) = "none", abstract(config, topology)
    else:  # the program is traced, not compiled: a config may say other things than when it was planned, if that makes no other
        run, full, lowered = program.lower(config, make_mesh(config.mesh, program.devices(topology)))
        known = "fresh" if record.get("program") == key_of(lowered.as_text(), topology) else "stale"
    where, error = "", None
    if known != "fresh":
        where, error = _small(config, topology, cache, compile) if other is None else (f"as {other}", None)
    recorded = None if record is None or record["memory"] is None else record["needs"]
    return Checked(name, str(topology), where, time.perf_counter() - begun, error, estimate(run, full),
                   topology.chip.hbm / topology.chip.devices, known, recorded)


def _small(config: RunConfig, topology: Topology, cache: str | None, compile: Callable[..., program.Compiled]
           ) -> tuple[str, str | None]:
    """(slices and mesh of the small form, what the compiler has against it)."""
    small, slices = shrink(config, topology)
    error = None
    try:
        step = compile(small, slices, cache, quick=True)
        if step.memory is None:
            error = step.fault or "out of memory"
    except Exception as refused:  # noqa: BLE001  whatever the compiler says is the result
        error = " ".join(str(refused).split())[:300] or type(refused).__name__
    return _where(slices, small), error


def _where(topology: Topology, config: RunConfig) -> str:
    sizes = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
    return f"{topology} ({' × '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1) or 'one device'})"
