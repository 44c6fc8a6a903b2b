"""A better plan, if there is one: meshes, rematerialisation and micro-batches tried by formula, the best few compiled.

    every mesh × policy × micro-batches ─ divides? ─ state and activations fit by formula? ─ ranked by formula ─▶ the best few
        and the config as it is written ─ compiled ─▶ the fastest of those that fit and bound a step no later than it

The config as it is written is compiled first: by how much the formula of memory is off there, it is taken to be off for the
others, and by more once one of them is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
import copy
import dataclasses
import itertools
import shlex
from typing import Any

from rich.console import Group

from mof_jax import console, tasks
from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.mesh import AXES, MeshConfig, abstract_mesh, check_batch, param_shardings
from mof_jax.plan import report
from mof_jax.plan.analytic import clocks
from mof_jax.plan.memory import FACTOR, Estimate, abstract, estimate
from mof_jax.plan.report import ROOM
from mof_jax.plan.roofline import Roofline
from mof_jax.plan.towers import towers
from mof_jax.run import Program, Run, RunConfig
from mof_jax.train.state import state_shardings

REMATS = ("none", "dots", "full")
MICROBATCHES = (1, 2, 4, 8, 16, 32)
HOPELESS = 1.25  # times the room: what is refused by so much is so on every mesh
TENSOR = 16  # more than the chips of a line share is never worth its all-reduces
Changes = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A plan by formula.

    Attributes:
      changes: of the config, by key (`mesh.fsdp`, `model.llm.remat`).
    """

    changes: Changes
    memory: Estimate
    clocks: Roofline

    @property
    def policy(self) -> tuple[Any, ...]:
        """What is changed beside the mesh."""
        return tuple(value for key, value in self.changes.items() if not key.startswith("mesh."))

    def needs(self, factor: float = 1.0) -> float:
        """Bytes on a device, the estimate of temporaries off by a factor."""
        return self.memory.state + self.memory.batch + factor * self.memory.temporaries


@dataclasses.dataclass(frozen=True)
class Tried:
    """A candidate that was compiled."""

    candidate: Candidate
    plan: report.Plan


@dataclasses.dataclass(frozen=True)
class Search:
    """What came of it.

    Attributes:
      written: the config as it is. tried: it and the others, in the order of compilation. pruned: how many, by reason.
      left: candidates that were not compiled.
    """

    name: str
    config: RunConfig
    topology: Topology
    tried: Sequence[Tried]
    pruned: Mapping[str, int]
    left: int

    @property
    def written(self) -> Tried:
        return self.tried[0]

    @property
    def best(self) -> Tried | None:
        """Of those that fit and whose bound is no later than that of the config as written (if that fits), the one that is
        fastest with nothing hidden."""
        fitting = [t for t in self.tried if t.plan.fits]
        if self.written.plan.fits:
            fitting = [t for t in fitting if t.plan.clocks.bound <= self.written.plan.clocks.bound * (1 + 1e-9)]
        return min(fitting, key=lambda t: t.plan.clocks.exposed, default=None)

    def overrides(self, t: Tried) -> list[str]:
        """What a command needs to make the config that plan; nothing for the config as it is."""
        return [f"--config.{key}={x}" for key, x in t.candidate.changes.items() if value_at(self.config, key) != x]


def candidates(config: RunConfig, topology: Topology) -> tuple[Candidate, list[Candidate], Counter[str]]:
    """(the config as it is, the others that may fit, how many were pruned by reason), by formula.

    Raises:
      UserError: the config as it is cannot be laid out on the topology.
    """
    run, program = abstract(config, topology)
    flops, room = run.flops(), (1 - ROOM) * topology.chip.hbm / topology.chip.devices

    def weigh(there: Run, laid_out: Program, changes: Changes) -> Candidate:
        memory = estimate(there, laid_out)
        return Candidate(changes, memory, clocks(there, topology, memory, flops))

    keys = remat_keys(run)
    mine = {"mesh." + axis: size for axis, size in run.mesh.shape.items()} | {key: value_at(config, key) for key in keys}
    mine |= {"microbatches": config.microbatches}
    written, found, pruned = weigh(run, program, mine), [], Counter()
    for mesh in meshes(topology.devices, topology.slices):
        try:
            there, laid_out = moved(run, program, mesh)
        except UserError:
            pruned["the mesh does not divide the model"] += 1
            continue
        for parts, *policies in itertools.product(MICROBATCHES, *[REMATS] * len(keys)):
            changes = {"mesh." + axis: mesh[axis] for axis in AXES} | dict(zip(keys, policies))
            changes |= {"microbatches": parts}
            if changes == mine:
                continue
            try:
                check_batch(there.mesh, config.batch_size, parts, run.task.rows)
            except UserError:
                pruned["the mesh and micro-batches do not divide the batch"] += 1
                continue
            candidate = weigh(changed(there, changes), laid_out, changes)
            if candidate.needs(1 / FACTOR) > room:
                pruned["does not fit by formula"] += 1
            else:
                found.append(candidate)
    return written, sorted(found, key=lambda c: (c.clocks.exposed, c.needs())), pruned


def search(name: str, config: RunConfig, topology: Topology, top: int = 3,
           compile: Callable[[str, RunConfig, Topology], report.Plan] = report.plan,
           tell: Callable[[Tried], None] = lambda t: None) -> Search:
    """Compiles the config as it is, then others in the order of the formula until `top` of them fit (or a few times as many were
    tried; a refusal takes seconds): of each rematerialisation and number of micro-batches the best mesh, since its neighbours
    differ little, and after two refusals none.

    Args:
      compile: what makes a plan. tell: is told of each.
    """
    written, others, pruned = candidates(config, topology)
    room = (1 - ROOM) * topology.chip.hbm / topology.chip.devices
    tried: list[Tried] = []

    def attempt(candidate: Candidate) -> report.Plan:
        plan = compile(name, replaced(config, candidate.changes), topology)
        tried.append(Tried(candidate, plan))
        tell(tried[-1])
        return plan

    first, fitting = attempt(written), 0
    factor = 1.0 if first.fault else off_by(written, first.needs)
    roomy = [c for c in others if c.needs(factor) <= room]
    pruned["does not fit by formula"] += len(others) - len(roomy)
    done, refused = set(), Counter()
    while fitting < top and len(tried) <= 4 * top + 4:
        open_ = (c for c in roomy if c.policy not in done and c.needs(factor) <= room)
        if (candidate := next(open_, None)) is None:
            break
        plan = attempt(candidate)
        if plan.fits:
            fitting += 1
            done.add(candidate.policy)
        else:  # what keeps more is off by more
            factor = factor if plan.fault else max(factor, off_by(candidate, plan.needs))
            roomy.remove(candidate)
            refused[candidate.policy] += 1
            if refused[candidate.policy] == 2 or plan.needs is not None and plan.needs > HOPELESS * room:
                done.add(candidate.policy)
    return Search(name, config, topology, tried, pruned, len(roomy) - fitting)


def off_by(candidate: Candidate, needs: float | None) -> float:
    """The factor that makes the formula's temporaries what a compiled program needs, between 1 / `FACTOR` and `FACTOR`."""
    if needs is None:
        return FACTOR
    rest = needs - candidate.memory.state - candidate.memory.batch
    return min(max(rest / candidate.memory.temporaries, 1 / FACTOR), FACTOR)


def meshes(devices: int, slices: int) -> Iterator[dict[str, int]]:
    """Every split of the devices; slices divide `data`."""
    divisors = [n for n in range(1, devices + 1) if devices % n == 0]
    for tensor, fsdp in itertools.product(divisors, divisors):
        data, rest = divmod(devices, tensor * fsdp)
        if not rest and tensor <= TENSOR and data % slices == 0:
            yield dict(data=data, fsdp=fsdp, tensor=tensor)


def remat_keys(run: Run) -> list[str]:
    """Where the config says the policy of the towers that a gradient runs through."""
    found = []
    for tower in towers(run):
        kind, _, name = tower.part.partition("/")
        if kind == "encoders":
            index = [e.name for e in run.config.model.encoders].index(name)
            key = f"model.encoders.{index}.vit.remat"
        else:
            key = f"model.{kind if hasattr(run.config.model, kind) else 'encoder'}.remat"
        if tower.through and key not in found:
            found.append(key)
    return found


def moved(run: Run, program: Program, mesh: Mapping[str, int]) -> tuple[Run, Program]:
    """A run's shapes on another mesh.

    Raises:
      UserError: a dimension or the heads that it does not divide.
    """
    if any(tower.heads % mesh["tensor"] for tower in towers(run)):
        raise UserError(f"config.mesh.tensor: {mesh['tensor']} does not divide the heads")
    there = copy.copy(run)
    there.mesh = abstract_mesh(MeshConfig(**mesh), mesh["data"] * mesh["fsdp"] * mesh["tensor"])
    there.shardings = param_shardings(there.mesh, run.skeleton, run.config.mesh.rules)
    return there, program._replace(shardings=state_shardings(there.mesh, program.state, there.shardings))


def changed(run: Run, changes: Changes) -> Run:
    """A run with another config, on the mesh that it is on, its skeleton kept: what changes must not change parameters."""
    found = copy.copy(run)
    found.config = replaced(run.config, changes)
    found.task = tasks.make(found.config, found.mesh, found.tokenizer)
    return found


def replaced(config: Any, changes: Changes) -> Any:
    """A config with the values of dotted keys, lists indexed by number."""
    for key, value in changes.items():
        config = _replaced(config, key.split("."), value)
    return config


def _replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    if isinstance(node, tuple):
        i = int(path[0])
        return (*node[:i], _replaced(node[i], path[1:], value), *node[i + 1:])
    return dataclasses.replace(node, **{path[0]: _replaced(getattr(node, path[0]), path[1:], value)})


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        config = config[int(name)] if isinstance(config, tuple) else getattr(config, name)
    return config


def told(t: Tried) -> str:
    """A line for one that was just compiled."""
    what = ", ".join(f"{key.removeprefix('model.')} {value}" for key, value in t.candidate.changes.items())
    needs = "the compiler failed" if t.plan.fault else "refused" if t.plan.needs is None else f"{t.plan.needs / 2**30:.2f} GiB"
    return f"{what}: {needs}" + ("" if t.plan.clocks is None else f", {t.plan.clocks.bound:.3f} to {t.plan.clocks.exposed:.3f} s")


def to_json(found: Search) -> dict[str, Any]:
    """Everything, in bytes and seconds."""
    entry = lambda t: dict(
        changes=dict(t.candidate.changes), overrides=found.overrides(t), fits=t.plan.fits, best=t is found.best,
        formula=dict(needs=t.candidate.needs(), bound=t.candidate.clocks.bound, exposed=t.candidate.clocks.exposed),
        compiled=dict(needs=t.plan.needs) | ({} if t.plan.clocks is None else dict(
            bound=t.plan.clocks.bound, exposed=t.plan.clocks.exposed, limit=t.plan.clocks.limit)))
    return dict(name=found.name, topology=str(found.topology), tried=[entry(t) for t in found.tried], pruned=dict(found.pruned),
                left=found.left)


def show(found: Search) -> Group:
    """The candidates that were compiled, why others were not, and what to write to get the best."""
    gib = lambda x: "?" if x is None else f"{x / 2**30:.2f}"
    seconds = lambda clocks: "" if clocks is None else f"{clocks.bound:.3f} to {clocks.exposed:.3f}"
    rows = []
    for t in found.tried:
        c, p = t.candidate, t.plan
        mesh = " × ".join(f"{axis} {c.changes['mesh.' + axis]}" for axis in AXES if c.changes["mesh." + axis] > 1)
        verdict = "best" if t is found.best else "fits" if p.fits else "the compiler failed" if p.fault else "does not fit"
        rows.append((mesh or "one device", ", ".join(map(str, c.policy)), gib(c.needs()), seconds(c.clocks), gib(p.needs),
                     seconds(p.clocks), verdict + (" (as written)" if t is found.written else "")))
    policies = ", ".join(key.removeprefix("model.") for key in found.written.candidate.changes if not key.startswith("mesh."))
    table = console.table(f"{found.name} on {found.topology}; s: at best, and with nothing hidden; policies: {policies}", (
        "mesh", "policies", "GiB by formula", "s", "GiB compiled", "s", ""), rows)
    pruned = "; ".join(f"{n:,} {why}" for why, n in found.pruned.items() if n) or "none"
    lines = [f"Not compiled: {found.left:,} slower by formula or like those. Pruned: {pruned}."]
    if found.best is None:
        lines.append("Nothing that was compiled fits.")
    elif found.best is found.written:
        lines.append("The config as it is written is the best of them.")
    else:
        lines.append("The best: " + shlex.join(found.overrides(found.best)))
    return Group(table, *map(console.line, lines))
