"""Plans as they are kept: one JSON object a line, as `mof plan --json` prints them and as `docs/plans.jsonl` holds them."""

from __future__ import annotations

import os
from typing import Any

from mof_jax.errors import UserError, lookup
from mof_jax.hardware import Throughput, Topology
from mof_jax.train.metrics import read_lines

Record = dict[str, Any]  # see `plan.report.Plan.to_json`


def read(path: str) -> list[Record]:
    """The plans of a file, local or an address.

    Raises:
      UserError: no such file, or none in it.
    """
    found = [line for line in read_lines(path) if isinstance(line, dict) and {"name", "topology"} <= line.keys()]
    if not found:
        raise UserError(f"{path}: no plans; `mof plan --config FILE.py --topology v5e:16x16 --json` prints some")
    return found


def by_name(path: str) -> dict[str, Record]:
    """The plans of a file that is there, and none of one that is not, or is empty."""
    return {record["name"]: record for record in read(path)} if os.path.exists(path) and os.path.getsize(path) else {}


def throughput(text: str) -> Throughput:
    """What the plan `PATH#NAME` says of its step: model FLOPs over its seconds and its chips' peak. `#NAME` can be left out where
    the file holds one plan.

    Raises:
      UserError: no such file or plan, several plans and no name, one that does not fit, or one that is no plan.
    """
    path, _, name = text.partition("#")
    found = {record["name"]: record for record in read(path)}
    if not name and len(found) > 1:
        raise UserError(f"{path}: {len(found)} plans; write which one, {path}#NAME: {', '.join(found)}")
    record = lookup(found, name, f"{path}: plan") if name else next(iter(found.values()))
    source = f"{path}#{record['name']}"
    if not record.get("fits"):
        raise UserError(f"{source}: does not fit on {record['topology']}, so that no throughput is known")
    try:
        slices = Topology.parse(record["topology"])
        least = float(record["model_flops"]) / (slices.chips * slices.chip.flops)
        clocks = record["seconds"], record["roofline"]["bound"], record["roofline"]["exposed"]
        mfu, best, exposed = (least / float(seconds) for seconds in clocks)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        raise UserError(f"{source}: not what `mof plan --json` writes: it needs topology, model_flops, seconds and roofline"
                        ) from None
    if not all(0 < share <= 1 for share in (mfu, best, exposed)):
        raise UserError(f"{source}: {mfu:.3g} of the peak, {best:.3g} at best, {exposed:.3g} exposed: no shares; plan it again")
    return Throughput(str(slices), mfu, best, exposed, source)
