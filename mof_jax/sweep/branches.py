"""Many lengths of training for little more than the longest: cooldown branches of one trunk.

    trunk     warm-up, constant rate ───┬──────────┬───────────────┐   keeps the state where a branch begins
    branches                            └╲ D₁      └─╲ D₂          └──╲ D₃

A branch goes on from the trunk's whole state and only cools down (Hägele et al. 2024, arXiv 2405.18392; Hu et al. 2024, arXiv
2404.06395). What it computes is bit for bit what one run of its schedule computes; so it is that run, with its id, its FLOPs
and its data, and only cheaper. `points.expand` refuses a branch of which that is not true.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mof_jax.errors import UserError
from mof_jax.sweep.grid import Overrides

KEY = "branch_from"  # of a point's overrides; in a grid its value is a `Trunk`


class Trunk(NamedTuple):
    """Where a branch begins: after step `at` of the run of these overrides."""

    overrides: Overrides
    at: int


def cooldowns(
    base: Overrides, steps: Sequence[int], share: float = 0.2, kind: Literal["wsd", "rsqrt"] = "wsd"
) -> list[Overrides]:
    """Runs of several lengths that share a trunk.

    Args:
      base: what all of them have in common; build it with everything else of the grid in it.
      steps: of each run, its cooldown included. share: of its steps, those of the cooldown.
      kind: of the schedule, see `train.schedule`.

    Raises:
      UserError: a share outside (0, 1), or a run too short to have one.
    """
    if not 0 < share < 1:
        raise UserError(f"sweep: a cooldown takes a share of the steps between 0 and 1, not {share:g}")
    cooling = {n: max(1, round(share * n)) for n in sorted(steps)}
    if not cooling or min(n - c for n, c in cooling.items()) < 1:
        raise UserError(f"sweep: cooldown branches need at least 2 steps, got {', '.join(map(str, steps)) or 'none'}")
    starts = [n - c for n, c in cooling.items()]
    trunk = {**base, "steps": max(starts), "optimizer.schedule.kind": kind, "optimizer.schedule.cooldown": 0,
             "checkpoint.at": sorted(set(starts)), "eval_every": None}
    return [{**base, "steps": n, "optimizer.schedule.kind": kind, "optimizer.schedule.cooldown": c,
             KEY: Trunk(trunk, n - c)} for n, c in cooling.items()]
