"""From a grid to points: overrides resolved, each run named by what it computes, duplicates merged, trunks found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
import numpy as np

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.objectives import following_steps
from mof_jax.plan.cost import stages
from mof_jax.run import RunConfig
from mof_jax.sweep.branches import KEY, Trunk
from mof_jax.sweep.grid import Overrides, python
from mof_jax.sweep.sizes import Size, assignments, size_of
from mof_jax.train.schedule import make_schedule

# Where a run's state comes from and where its programs are kept change nothing of what it computes.
_NOT_OF_THE_RUN = ("branch_from", "compilation_cache")
# What a branch may have otherwise than its trunk: nothing here reaches the state before they part.
_MAY_DIFFER = (*_NOT_OF_THE_RUN, "steps", "evals", "eval_every", "eval_ema", "eval_batch_size", "log_every", "checkpoint",
               "profile", "watchdog", "hardware")


@dataclasses.dataclass(frozen=True)
class Point:
    """One run.

    Attributes:
      id: twelve hex digits of the resolved config, whatever its spelling, its work dir and where it branches off.
      overrides: over the config file; `branch_from` names the trunk as the work dir beside its own.
      runs: the resolved config, or those of its stages, by name.
      swept: what the grid set, with the values that this point has.
      trunk: id of the run that it goes on from, None for a run from its beginning. at: after which step.
      row: whether it is a point of the law, or only the trunk of some.
    """

    id: str
    overrides: Overrides
    runs: Mapping[str, RunConfig]
    swept: Mapping[str, Any]
    trunk: str | None = None
    at: int = 0
    row: bool = True

    @property
    def run(self) -> RunConfig:
        """The last stage's, which the point is about."""
        return list(self.runs.values())[-1]

    @property
    def size(self) -> Size:
        """Parameters and FLOPs of a step of `run`."""
        return size_of(self.run)

    @property
    def flops(self) -> float:
        """What is left to compute, of all stages."""
        return sum(size_of(run).flops_per_step * (run.steps - self.at) for run in self.runs.values())


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Points in the order of the grid, each behind its trunk. `merged` of the grid's entries were copies of others."""

    points: tuple[Point, ...]
    merged: int = 0

    @property
    def rows(self) -> tuple[Point, ...]:
        """Those that are points of the law."""
        return tuple(point for point in self.points if point.row)

    @property
    def swept(self) -> tuple[str, ...]:
        """The keys in which the rows differ."""
        values: dict[str, set[str]] = {}
        for point in self.rows:
            for key, value in point.swept.items():
                values.setdefault(key, set()).add(repr(value))
        return tuple(key for key, different in values.items() if len(different) > 1)


def grid_of(spec: str) -> list[Overrides]:
    """What `sweep(arg)` of a config file returns.

    Args:
      spec: `FILE.py[:ARG]`, as for `config.load`.

    Raises:
      UserError: the file has no `sweep`, or it returns something else than overrides.
    """
    path, _, arg = spec.partition(":")
    module = configs.load_module(path)
    if not hasattr(module, "sweep"):
        raise UserError(f"{path}: a config file to sweep defines sweep(arg=None), which returns a list of overrides")
    grid = module.sweep(arg) if arg else module.sweep()
    if not isinstance(grid, (list, tuple)) or not all(isinstance(point, Mapping) for point in grid):
        raise UserError(f"{path}: sweep() returned {type(grid).__name__}; expected a list of dicts of overrides")
    if not grid:
        raise UserError(f"{path}: sweep() returned no points")
    return [dict(point) for point in grid]


def expand(spec: str, common: Sequence[str] = (), grid: Sequence[Overrides] | None = None) -> Sweep:
    """The points of a config file's grid, all of them checked before any is run.

    Args:
      common: `key=value` overrides of all points; a point's own come after them.
      grid: instead of the file's.

    Raises:
      UserError: naming the point and the key.
    """
    base = configs.override(configs.load(spec), common)
    grid = [_python(entry) for entry in (grid_of(spec) if grid is None else grid)]
    keys = list(dict.fromkeys(key for point in grid for key in point if key != KEY))
    found: dict[str, Point] = {}
    copies = 0
    for number, entry in enumerate(grid, 1):
        try:
            points = _points(base, entry, keys, common)
        except UserError as error:
            raise UserError(f"{spec}: point {number} of the grid ({_words(entry)}): {error}") from None
        if points[-1].id in found and found[points[-1].id].row:
            copies += 1
            continue
        for point in points:
            there = found.get(point.id)
            if there is None:
                found[point.id] = point
            elif point.row and not there.row:  # a trunk that is a point, too
                found[point.id] = dataclasses.replace(there, row=True, swept=point.swept)
    return Sweep(tuple(found.values()), copies)


def _python(entry: Overrides) -> Overrides:
    trunk = entry.get(KEY)
    found = {key: python(value) for key, value in entry.items() if key != KEY}
    if isinstance(trunk, Trunk):
        trunk = Trunk(python(trunk.overrides), python(trunk.at))
    return found if KEY not in entry else found | {KEY: trunk}


def identity(runs: Mapping[str, RunConfig]) -> str:
    """The id of a run, or of a staged one."""
    return configs.digest({name: {key: value for key, value in configs.to_dict(run).items() if key not in _NOT_OF_THE_RUN}
                           for name, run in runs.items()})


def _points(base: ConfigDict, entry: Overrides, keys: Sequence[str], common: Sequence[str]) -> list[Point]:
    """The trunk of an entry, if it has one, and its point."""
    entry = dict(entry)
    trunk = entry.pop(KEY, None)
    if trunk is not None and not isinstance(trunk, Trunk):
        raise UserError(f"{KEY}: expected a sweep.branches.Trunk, got {trunk!r}")
    shared = dict(assignment.split("=", 1) for assignment in common)
    shared = {key: configs.literal(value) for key, value in shared.items()}

    def point(overrides: Overrides, **more: Any) -> Point:
        values = configs.override(base, assignments(overrides))
        runs = stages(values)
        for run in runs.values():
            _schedule(run)
        plain = configs.to_dict(list(runs.values())[0]) if len(runs) == 1 else values.to_dict()
        return Point(identity(runs), {**shared, **overrides}, runs, {key: _value(plain, key) for key in keys}, **more)

    if trunk is None:
        return [point(entry)]
    first, branch = point(trunk.overrides, row=False), point(entry, at=trunk.at)
    _check_branch(first, branch)
    source = f"sibling:{first.id}/checkpoints/{trunk.at}"
    return [first, dataclasses.replace(branch, trunk=first.id, overrides={**branch.overrides, KEY: source})]


def _check_branch(trunk: Point, branch: Point) -> None:
    """Refuses a branch that would not compute what its config says.

    Raises:
      UserError: what is different before they part, and by which key.
    """
    if len(trunk.runs) > 1 or len(branch.runs) > 1:
        raise UserError("a staged config has no trunk to branch off from")
    ours, theirs, at = branch.run, trunk.run, branch.at
    if bound := following_steps(ours.objective, ours.model):
        raise UserError(f"config.{bound[0]} follows the number of steps from the first one on, so that a run has no "
                        "branches")
    if not 0 < at <= theirs.steps or at >= ours.steps or at not in theirs.checkpoint.at:
        kept = ", ".join(map(str, theirs.checkpoint.at)) or "none"
        raise UserError(f"a branch of {ours.steps} steps cannot begin after step {at} of a trunk of {theirs.steps} steps that "
                        f"keeps {kept}")
    for key, (a, b) in _differences(ours, theirs).items():
        raise UserError(f"the trunk has {key} {b!r}, the branch {a!r}; build branches last, from all that their runs share")
    rates = [np.asarray(_schedule(run)(jnp.arange(at))) for run in (ours, theirs)]
    if (apart := np.flatnonzero(rates[0] != rates[1])).size:
        raise UserError(f"the branch's learning rate differs from its trunk's at step {apart[0]} of {at} before they part")


def _schedule(run: RunConfig) -> Callable[[Int[Array, "steps"]], Float[Array, "steps"]]:
    """Step -> share of the peak rate; warm-up and cooldown have to fit the steps."""
    try:
        return make_schedule(run.optimizer.schedule, run.steps)
    except ValueError as error:
        raise UserError(f"config.optimizer.schedule: {error}") from None


def _differences(ours: RunConfig, theirs: RunConfig) -> dict[str, tuple[Any, Any]]:
    flat = []
    for run in (ours, theirs):
        values = {key: value for key, value in configs.to_dict(run).items() if key not in _MAY_DIFFER}
        values["optimizer"] = {key: value for key, value in values["optimizer"].items() if key != "schedule"}
        flat.append(configs.flatten(values))
    missing = object()
    return {key: (flat[0].get(key), flat[1].get(key)) for key in {**flat[0], **flat[1]}
            if flat[0].get(key, missing) != flat[1].get(key, missing)}


def _value(values: Any, key: str) -> Any:
    """What a config has at a dotted key, None if nothing."""
    for part in key.split("."):
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, (list, tuple)) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
        else:
            return None
    return values


def _words(entry: Overrides) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in entry.items() if key != KEY) or "no overrides"
