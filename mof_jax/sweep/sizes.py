"""Grids that know what a model costs: IsoFLOP grids, and rates that follow the size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import functools
import json
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.plan import cost
from mof_jax.run import RunConfig, resolve
from mof_jax.scaling import lr as mm1
from mof_jax.sweep.grid import Overrides, python
from mof_jax.train.summary import parameter_counts

# What changes neither the model nor a step of it.
_FREE = ("steps", "seed", "evals", "eval_every", "init_from", "branch_from", "checkpoint", "watchdog", "spikes", "profile")


class Size(NamedTuple):
    """A run without arrays: its parameters by kind (see `train.summary.parameter_counts`), FLOPs of a step."""

    counts: Mapping[str, int]
    flops_per_step: float


def size_of(run: RunConfig) -> Size:
    """What a run costs, by formula; those that differ in length, rates or seed alone are counted once."""
    values = {key: x for key, x in configs.to_dict(run).items() if key not in _FREE}
    values["optimizer"] = {key: values["optimizer"][key] for key in ("name", "freeze", "lr_factors", "decay", "bounds")}
    return _size(json.dumps(values, sort_keys=True))


@functools.lru_cache(maxsize=1024)
def _size(text: str) -> Size:
    plan = cost.sketch(resolve(json.loads(text) | {"steps": 1}))
    return Size(parameter_counts(plan.skeleton, plan.decisions), sum(plan.flops.values()))


def _of(config: ConfigDict, point: Overrides) -> Size:
    runs = cost.stages(configs.override(config, assignments(point)))
    return size_of(list(runs.values())[-1])


def assignments(point: Mapping[str, Any]) -> list[str]:
    """A point as `config.override` and `--config.` read it."""
    return [f"{key}={python(value)!r}" for key, value in point.items()]


def isoflop(config: ConfigDict, budgets: Sequence[float], sizes: Sequence[Overrides], fewest: int = 1) -> list[Overrides]:
    """For every budget and every size the steps that spend it, by the task's own FLOPs; sizes for which that is less than
    `fewest` steps are left out.

    Args:
      budgets: training compute, FLOP.

    Raises:
      UserError: a budget that pays for no size.
    """
    found: list[Overrides] = []
    for budget in budgets:
        steps = [round(budget / _of(config, size).flops_per_step) for size in sizes]
        group = [{**size, "steps": n} for size, n in zip(sizes, steps) if n >= max(1, fewest)]
        if not group:
            raise UserError(f"sweep: {budget:g} FLOP pay for fewer than {max(1, fewest)} steps of every size (at most "
                            f"{max(steps)})")
        found += group
    return found


def by_rule(
    config: ConfigDict, grid: Sequence[Overrides], lr: Callable[[float], float] = mm1.rate,
    weight_decay: Callable[[float, float], float] = lambda rate, n: mm1.MM1_DECAY,
) -> list[Overrides]:
    """A grid with the learning rate and the weight decay that a rule gives each of its sizes; by default MM1's.

    Args:
      lr: N (parameters without the tables) -> peak learning rate.
      weight_decay: (learning rate, N) -> `optimizer.weight_decay`, which the rate multiplies: MM1's λ = 0.1·η is 0.1 here.
    """
    found = []
    for point in grid:
        n = _of(config, point).counts["non_embedding_parameters"]
        rate = lr(n)
        found.append({**point, "optimizer.lr": rate, "optimizer.weight_decay": weight_decay(rate, n)})
    return found
