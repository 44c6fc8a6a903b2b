"""Plans as they are kept: one JSON object a line, as `mof plan --json` prints them and as `docs/plans.jsonl` holds them."""

from __future__ import annotations

import os
from typing import Any

from mof_jax import storage
from mof_jax.errors import UserError, lookup
from mof_jax.hardware import Throughput, Topology
from mof_jax.parsing import Malformed, is_number, is_text, parse_json, show

Record = dict[str, Any]  # see `plan.report.Plan.to_json`


def read(path: str) -> list[Record]:
    """The plans of a file, local or an address. Other objects in it are not plans; a last line that a kill cut off is dropped.

    Raises:
      UserError: no such file, none in it, or a line that is damaged.
    """
    lines = storage.read(path).split(b"\n")  # not by `splitlines`, which ends a line at letters that JSON may hold
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
            if not isinstance(record, dict) or not {"name", "topology"} <= record.keys():
                continue
            for key in ("name", "topology"):
                if not is_text(record[key]):
                    raise Malformed(f"{key!r} is {show(record[key], 40)}, no text")
        except Malformed as error:
            if number == len(lines) and number > 1:
                continue
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
      UserError: no such file or plan, several plans and no name or of one name, one that does not fit, or one that is no plan.
    """
    path, _, name = (text, "", "") if os.path.exists(text) else text.partition("#")
    records = read(path)
    found = {record["name"]: record for record in records}
    if not name and len(records) > 1:
        raise UserError(f"{path}: {len(records)} plans; write which one, {path}#NAME: {', '.join(found)}")
    record = lookup(found, name, f"{path}: plan") if name else records[0]
    source = f"{path}#{record['name']}"
    if sum(other["name"] == record["name"] for other in records) > 1:
        raise UserError(f"{source}: several plans have this name; leave one of them in the file")
    if record.get("fits") is not True:
        raise UserError(f"{source}: does not fit on {record['topology']}, so that no throughput is known")
    slices = Topology.parse(record["topology"])
    roofline = record["roofline"] if isinstance(record.get("roofline"), dict) else {}
    clocks = record.get("seconds"), roofline.get("bound"), roofline.get("exposed")
    if not all(is_number(value) and value > 0 for value in (record.get("model_flops"), *clocks)):
        raise UserError(f"{source}: not what `mof plan --json` writes: it needs topology, model_flops, seconds and roofline")
    least = float(record["model_flops"]) / (slices.chips * slices.chip.flops)
    mfu, best, exposed = (least / float(seconds) for seconds in clocks)
    if not all(0 < share <= 1 for share in (mfu, best, exposed)):
        raise UserError(f"{source}: {mfu:.3g} of the peak, {best:.3g} at best, {exposed:.3g} exposed: no shares; plan it again")
    return Throughput(str(slices), mfu, best, exposed, source)
