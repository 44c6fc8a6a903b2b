"""The runs of a sweep as lines for `python -m launch sweep`: one job each, as queued resources or as a JobSet."""

from __future__ import annotations

from collections.abc import Sequence
import json
import os

from mof_jax import storage
from mof_jax.sweep.points import Point, Sweep


def emit(sweep: Sweep, spec: str, path: str) -> list[str]:
    """Writes `path`, and where there are trunks `NAME.trunks.jsonl` beside it, to be run to the end before.

    Work dirs are `launch`'s: a folder a run below the base job's, named by the id. So a branch finds its trunk beside it.

    Returns:
      The files in the order in which they are to be run.
    """
    ahead = {point.trunk for point in sweep.points if point.trunk}
    trunks = [point for point in sweep.points if point.id in ahead]
    found = []
    if trunks:
        stem, ending = os.path.splitext(path)
        found.append(_write(trunks, spec, f"{stem}.trunks{ending}"))
    return [*found, _write([point for point in sweep.points if point.id not in ahead], spec, path)]


def _write(points: Sequence[Point], spec: str, path: str) -> str:
    lines = [json.dumps({"id": point.id, "config": spec, "overrides": point.overrides}) + "\n" for point in points]
    storage.write_atomic(path, ["".join(lines).encode()])
    return path
