"""Plans as they are kept: one JSON object a line, as `mof plan --json` prints them and as `docs/plans.jsonl` holds them."""

from __future__ import annotations

import os
from typing import Any

from mof_jax.data import remote
from mof_jax.errors import UserError, lookup
from mof_jax.hardware import Throughput, Topology
from mof_jax.parsing import Malformed, is_number, is_text, parse_json, show

Record = dict[str, Any]  # see `plan.report.Plan.to_json`


def read(path: str) -> list[Record]:
    """The plans of a file, local or an address. Lines that hold something else are passed over.

    Raises:
      UserError: no such file, none in it, a line that is not JSON, or a plan whose name or topology is no text.
    """
    found = []
    for number, line in enumerate(remote.read(path).split(b"\n"), 1):
        try:
            record = parse_json(line) if line.strip() else None
            if not isinstance(record, dict) or not {"name", "topology"} <= record.keys():
                continue
            for key in ("name", "topology"):
                if not is_text(record[key]):
                    raise Malformed(f"{key!r} is {show(record[key], 40)}, no text")
        except Malformed as error:
            raise UserError(f"{path} line {number}: {error}") from None
        found.append(record)
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
    if record.get("fits") is not True:
        raise UserError(f"{source}: does not fit on {record['topology']}, so that no throughput is known")
    try:
        slices = Topology.parse(record["topology"])
        clocks = record["seconds"], record["roofline"]["bound"], record["roofline"]["exposed"]
        if not all(is_number(x) and x > 0 for x in (record["model_flops"], *clocks)):
            raise ValueError("no numbers")
        least = record["model_flops"] / (slices.chips * slices.chip.flops)
        mfu, best, exposed = (least / seconds for seconds in clocks)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{source}: not what `mof plan --json` writes: it needs topology, model_flops, seconds and roofline"
                        ) from None
    if not all(0 < share <= 1 for share in (mfu, best, exposed)):
        raise UserError(f"{source}: {mfu:.3g} of the peak, {best:.3g} at best, {exposed:.3g} exposed: no shares; plan it again")
    return Throughput(str(slices), mfu, best, exposed, source)
