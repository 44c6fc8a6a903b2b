"""Whether a config can be planned and fits, in seconds: by the record of its full form, or, where that is of another program, by
compiling a small form and counting the full one.

    python -m mof_jax.plan.check configs/mm1/pretrain_7b.py --log docs/plans.jsonl

prints one JSON object a stage. `make plan-check` does it for every config (`scripts/plan_check.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import sys
import time

from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.mesh import make_mesh
from mof_jax.plan import program
from mof_jax.plan.cache import key_of
from mof_jax.plan.memory import FACTOR, Estimate, abstract, estimate
from mof_jax.plan.records import Record, by_name
from mof_jax.plan.report import ROOM
from mof_jax.plan.shrink import shrink
from mof_jax.run import RunConfig


@dataclasses.dataclass(frozen=True)
class Checked:
    """What is known of a run.

    Attributes:
      small: slices and mesh of the small form, empty where it was not needed. seconds: of everything. error: of its
        compilation, None where there was none.
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


def check(name: str, config: RunConfig, records: Mapping[str, Record], cache: str | None,
          compile: Callable[..., program.Compiled] = program.compile_step) -> Checked:
    """Compiles the small form of a run for the topology that it names, and counts the full one. Where the full form's record is
    of this very program, by this very compiler, there is nothing left to compile.

    Args:
      records: plans by name, see `plan.report.Plan.to_json`. cache: folder of compiled programs, None for none.

    Raises:
      UserError: the full form's mesh does not divide its batch or a dimension.
    """
    begun, topology = time.perf_counter(), Topology.parse(config.hardware.topology)
    run, full = abstract(config, topology)
    record = records.get(name)
    recorded = None if record is None or record["memory"] is None else record["needs"]
    known = _known(record, config, topology)
    where, error = ("", None) if known == "fresh" else _small(config, topology, cache, compile)
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


def _known(record: Record | None, config: RunConfig, topology: Topology) -> str:
    """Whether a plan was made of the program that a run has today, of another, or never. The program is traced for it, not
    compiled; a config may say other things than when it was planned, as long as that is the program it makes."""
    if record is None:
        return "none"
    lowered = program.lower(config, make_mesh(config.mesh, program.devices(topology)))[2]
    return "fresh" if record.get("program") == key_of(lowered.as_text(), topology) else "stale"


def _where(topology: Topology, config: RunConfig) -> str:
    sizes = {"data": config.mesh.data, "fsdp": config.mesh.fsdp, "tensor": config.mesh.tensor}
    return f"{topology} ({' × '.join(f'{axis} {size}' for axis, size in sizes.items() if size > 1) or 'one device'})"


def main() -> None:
    """Checks the stages of one config."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from mof_jax import config as configs
    from mof_jax.plan.cost import stages

    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("config")
    p.add_argument("--log", default="docs/plans.jsonl", help="plans of full forms")
    p.add_argument("--cache", default=None, help="folder of compiled programs")
    args = p.parse_args()
    try:
        runs, records = stages(configs.load(args.config)), by_name(args.log)
        for stage, config in runs.items():
            found = check(args.config if len(runs) == 1 else f"{args.config}, stage {stage}", config, records, args.cache)
            print(json.dumps(dataclasses.asdict(found)), flush=True)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
