"""A plan: what a run needs on a topology, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from rich.console import Group
from rich.table import Table

from mof_jax import console
from mof_jax.config import digest
from mof_jax.console import plain
from mof_jax.data.packing.sequence_pipeline import SequenceConfig
from mof_jax.hardware import Topology
from mof_jax.plan.collectives import Collective, axes_of, read
from mof_jax.plan.program import Compiled, compile_step, state_bytes
from mof_jax.plan.roofline import Roofline, roofline
from mof_jax.run import RunConfig

ROOM = 0.05  # of HBM that a plan leaves free: the runtime's own, fragmentation, a library that grows


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a run on a topology.

    Attributes:
      name: of the config and stage. step: as compiled. sent: its collectives. clocks: None for a step that does not fit.
    """

    name: str
    config: RunConfig
    topology: Topology
    step: Compiled
    sent: list[Collective]
    clocks: Roofline | None

    @property
    def hbm(self) -> float:
        """Bytes that a program may use on one device."""
        return self.topology.chip.hbm / self.topology.chip.devices

    @property
    def needs(self) -> float | None:
        """Bytes on one device; None where the compiler refused without a figure."""
        if self.step.memory is not None:
            return self.step.memory.used
        return self.step.needed

    @property
    def fault(self) -> str:
        """What the compiler said where it failed for another reason than size."""
        return self.step.fault

    @property
    def fits(self) -> bool:
        """With `ROOM` to spare."""
        return self.step.memory is not None and self.needs <= (1 - ROOM) * self.hbm

    @property
    def state(self) -> dict[str, float]:
        """Bytes of the state on one device, by part and in all (`state`)."""
        found = state_bytes(self.step.program)
        return found | {"state": sum(found.values())}

    @property
    def seconds(self) -> float | None:
        """Of a step at the MFU that the config expects, and never less than the bound."""
        if self.clocks is None:
            return None
        return max(self.clocks.bound, self.clocks.model_flops / self.clocks.peak / self.config.hardware.mfu)

    @property
    def chip_hours(self) -> float | None:
        """Of the whole run, at `seconds` a step."""
        return None if self.seconds is None else self.seconds * self.config.steps * self.topology.chips / 3600

    @property
    def dollars(self) -> float | None:
        """Of the whole run, None without a price."""
        hours, price = self.chip_hours, self.config.hardware.price
        return None if hours is None or price is None else hours * price

    def to_json(self) -> dict[str, Any]:
        """Everything, in bytes, seconds, FLOPs and dollars; `config` and `program` say what it is a plan of."""
        c, t, memory = self.config, self.topology, self.step.memory
        found: dict[str, Any] = dict(
            name=self.name, config=digest(c), program=self.step.key, topology=str(t),
            chips=t.chips, accelerator_type=t.accelerator_type, slices=t.slices,
            mesh=dict(self.step.run.mesh.shape), batch_size=c.batch_size, steps=c.steps, fits=self.fits, hbm=self.hbm,
            needs=self.needs, **({"fault": self.fault} if self.fault else {}), state=self.state,
            memory=None if memory is None else dataclasses.asdict(memory) | {"used": memory.used},
            collectives=[dict(kind=k, axes=list(axes), times=n, bytes=b) for (k, axes), (n, b) in self.by_kind().items()])
        if self.clocks is not None:
            found |= dict(
                model_flops=self.clocks.model_flops, recomputed=self.clocks.recomputed,
                roofline={name: getattr(self.clocks, name) for name in ("compute", "memory", "ici", "dcn", "bound", "exposed")},
                limit=self.clocks.limit, mfu_bound=self.clocks.mfu(self.clocks.bound), seconds=self.seconds,
                chip_hours=self.chip_hours, dollars=self.dollars)
            if isinstance(c.data, SequenceConfig):
                found["tokens_per_second"] = c.batch_size * c.data.context_length / self.seconds
        return found

    def by_kind(self) -> Mapping[tuple[str, tuple[str, ...]], tuple[int, float]]:
        """(times, bytes that one device sends) in a step, by kind and the mesh axes crossed."""
        found: dict[tuple[str, tuple[str, ...]], tuple[int, float]] = {}
        sizes = dict(self.step.run.mesh.shape)
        for x in self.sent:
            key = x.kind, axes_of(x.groups, sizes)
            times, sent = found.get(key, (0, 0.0))
            found[key] = times + x.times, sent + x.sent
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def plan(name: str, config: RunConfig, topology: Topology) -> Plan:
    """Compiles a run's step for a topology and reads what it needs."""
    step = compile_step(config, topology)
    if step.memory is None:
        return Plan(name, config, topology, step, [], None)
    sent = read(step.text, topology.devices, topology.slices)
    return Plan(name, config, topology, step, sent, roofline(step.run, topology, step.memory, sent))


def show(p: Plan) -> Group:
    """The plan as tables."""
    gb = lambda x: f"{x / 2**30:,.2f}"
    t, memory, state = p.topology, p.step.memory, p.state
    mesh = " × ".join(f"{axis} {size}" for axis, size in p.step.run.mesh.shape.items())
    title = f"{p.name} on {t} ({t.chips:,} chips, {t.accelerator_type}; {mesh})"
    head = Table(title=plain(title), title_justify="left", show_header=False)
    verdict = "fits" if p.fits else "DOES NOT FIT"
    if p.fault:
        verdict, room = "NOT KNOWN", f"the compiler failed at this program; another mesh may do ({p.fault})"
    elif p.needs is None:
        room = "the compiler refused it without a figure"
    else:
        spare = (p.hbm - p.needs) / p.hbm
        room = (f"{gb(p.needs)} of {gb(p.hbm)} GiB a device, {spare:.1%} to spare" if spare >= 0 else
                f"{gb(p.needs)} GiB a device, {gb(p.needs - p.hbm)} GiB ({-spare:.1%}) too much for {gb(p.hbm)}")
    head.add_row("verdict", plain(f"{verdict}: {room}"))
    parts = [("parameters", state["params"] + state["frozen"]), ("optimizer", state["opt"]), ("average", state["ema"])]
    if memory is not None:
        parts += [("batch and the rest", memory.arguments - state["state"]),
                  ("new outputs", memory.outputs - memory.aliased), ("activations, gradients, temporaries", memory.temporaries)]
    for name, size in parts:
        if size > 0:
            head.add_row(name, f"{gb(size)} GiB")
    tables = [head]
    if p.clocks is not None:
        tables.append(_speed(p))
    if p.sent:
        rows = [(kind, ", ".join(axes) or "-", f"{times:,}", f"{sent / 1e6:,.1f}") for (kind, axes), (times, sent) in
                p.by_kind().items()]
        tables.append(console.table("Collectives of a step", ("kind", "across", "times", "MB sent a device"), rows))
    return Group(*tables)


def _speed(p: Plan) -> Table:
    c, clocks, hardware = p.config, p.clocks, p.config.hardware
    table = Table(title="A step", title_justify="left", show_header=False)
    table.add_row("model FLOPs", f"{clocks.model_flops:.3g}, and {clocks.recomputed:.3g} done again")
    table.add_row("at best", f"{clocks.bound:.3f} s, bound by {clocks.limit} (compute {clocks.compute:.3f}, memory "
                             f"{clocks.memory:.3f}, links {clocks.ici:.3f}, network {clocks.dcn:.3f})")
    table.add_row("with nothing hidden", f"{clocks.exposed:.3f} s")
    table.add_row("MFU", f"{clocks.mfu(clocks.exposed):.1%} with nothing hidden, at most {clocks.mfu(clocks.bound):.1%}")
    rate = f"{c.batch_size / p.seconds:,.0f} examples/s"
    if isinstance(c.data, SequenceConfig):
        rate += f", {c.batch_size * c.data.context_length / p.seconds:,.0f} positions/s"
    share = f"{clocks.mfu(p.seconds):.0%} MFU (config.hardware.mfu {hardware.mfu})"
    table.add_row("expected", f"{p.seconds:.3f} s at {share}: {rate}")
    cost = "" if p.dollars is None else f", ${p.dollars:,.0f} at ${hardware.price} a chip-hour"
    days = p.seconds * c.steps / 86400
    table.add_row("the run", f"{c.steps:,} steps: {days:,.1f} days, {p.chip_hours:,.0f} chip-hours{cost}")
    return table
