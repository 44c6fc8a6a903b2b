"""The points of a sweep as a table that `mof fit W` reads: `W/points.csv`, one row a settled point, in the grid's order.

Nothing in it depends on clocks or on how often the sweep was killed; seconds are in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import csv
import io
import json
import os
from typing import Any

from mof_jax import storage
from mof_jax.data.packing.sequence_pipeline import SequenceConfig
from mof_jax.errors import UserError, nearest
from mof_jax.evals import build
from mof_jax.parsing import Malformed, parse_object
from mof_jax.sweep.ledger import Record
from mof_jax.sweep.points import Point, Sweep
from mof_jax.train import summary
from mof_jax.train.checkpoint.place import last_stage

NAME = "points.csv"
_NUMBERS = ("parameters", "trained_parameters", "embedding_parameters", "non_embedding_parameters", "flops", "examples",
            "documents", "tokens", "unique_examples", "unique_tokens", "batch_size", "learning_rate", "weight_decay")
_SAID = ("batch_size", "optimizer.lr", "optimizer.weight_decay")  # keys that have a column of their own anyway


def folder_of(folder: str, id: str) -> str:
    """The work dir of a point."""
    return os.path.join(folder, "runs", id)


def read_summary(workdir: str) -> dict[str, Any] | None:
    """What a finished run (its last stage) left, None for one that is not finished.

    Raises:
      UserError: it is damaged.
    """
    path = os.path.join(last_stage(workdir), summary.NAME)
    if not os.path.exists(path):
        return None
    try:
        return parse_object(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}; delete it, and the run is finished again") from None


def check_loss(sweep: Sweep, key: str | None) -> None:
    """Refuses a `--loss` that no point will have.

    Raises:
      UserError: naming the evaluators.
    """
    name, slash, _ = (key or "loss").partition("/")
    if not slash and name == "loss":
        return
    for point in sweep.rows:
        known = [build(section, f"config.evals.{i}").name for i, section in enumerate(point.run.evals)]
        if not slash or name not in known:
            raise UserError(f"--loss {key}: write EVALUATOR/METRIC, or loss for the training loss; evaluators of point "
                            f"{point.id}: {', '.join(known) or 'none'}")


def loss_of(found: Mapping[str, Any], key: str | None) -> float:
    """A summary's loss: `EVALUATOR/METRIC`, or `loss`, the last training loss; by default the first evaluator's `loss`.

    Raises:
      UserError: the evaluator has no such metric.
    """
    if key is None:
        held_out = (values["loss"] for values in found["evals"].values() if "loss" in values)
        return next(held_out, found["loss"])
    name, _, metric = key.partition("/")
    if not metric:
        return found["loss"]
    values = found["evals"].get(name, {})
    if metric not in values:
        raise UserError(f"--loss {key}: {name} has no such metric{nearest(metric, values)}")
    return values[metric]


def rows(sweep: Sweep, records: Mapping[str, Record], folder: str, loss: str | None = None) -> list[dict[str, Any]]:
    """One a settled point; the loss of one that failed or diverged is NaN, which no law takes for a number."""
    found = []
    for point in sweep.rows:
        record = records.get(point.id, Record())
        if not record.settled:
            continue
        done = read_summary(folder_of(folder, point.id)) if record.status == "done" else None
        numbers = _planned(point) if done is None else {**done, "loss": loss_of(done, loss)}
        swept = {key: point.swept.get(key) for key in sweep.swept if key not in _SAID}
        found.append({"id": point.id, "status": record.status, **swept,
                      **{key: numbers[key] for key in (*_NUMBERS, "loss") if key in numbers}})
    return found


def _planned(point: Point) -> dict[str, Any]:
    """What a run that ended badly was meant to be."""
    run, size = point.run, point.size
    flops, examples = size.flops_per_step * run.steps, run.steps * run.batch_size
    packed = isinstance(run.data, SequenceConfig)  # rows of tokens, not pairs
    tokens = {"tokens": examples * run.data.context_length} if packed else {}
    return {**size.counts, "flops": flops, "examples": examples, **tokens, "batch_size": run.batch_size,
            "learning_rate": run.optimizer.lr, "weight_decay": run.optimizer.weight_decay, "loss": float("nan")}


def to_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, columns in a fixed order; a value that is missing is empty."""
    names = list(dict.fromkeys(name for row in table for name in row))
    last = [name for name in (*_NUMBERS, "loss") if name in names]
    columns = [name for name in names if name not in last] + last
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in table)
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else repr(value) if isinstance(value, float) else json.dumps(value)


def write(sweep: Sweep, records: Mapping[str, Record], folder: str, loss: str | None = None) -> None:
    """Writes `points.csv` in one piece; nothing before the first point is settled."""
    found = rows(sweep, records, folder, loss)
    if found:
        storage.write_atomic(os.path.join(folder, NAME), [to_csv(found).encode()])
