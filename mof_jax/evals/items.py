"""Every row behind a figure, with the unit that it is about: what a paired bootstrap resamples.

Two rows about one thing (two images of a concept, two questions about a scene) are not independent, so
units are drawn and not rows. A file of items is JSON lines, `{"figure", "statistic", "unit", "values"}`; a
value that is no number is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
import os
from typing import Any, NamedTuple

import jax
from jaxtyping import Float
import numpy as np

from mof_jax import storage
from mof_jax.data.record import Record
from mof_jax.errors import UserError
from mof_jax.evals.metrics.statistics import STATISTICS, fits
from mof_jax.parsing import Malformed, is_number, is_text, parse_object, show


class Items(NamedTuple):
    """The rows of one figure.

    Attributes:
      units: what each row is about. values: of each row. statistic: name in `metrics.statistics.STATISTICS`
        of the function of the values that the figure is; `mean` for scores.
    """

    units: Sequence[str]
    values: Float[np.ndarray, "rows columns"]
    statistic: str = "mean"

    def figure(self, weights: Float[np.ndarray, "rows"] | None = None) -> float:
        """The figure, row i counted `weights[i]` times."""
        return STATISTICS[self.statistic](self.values)(
            np.ones(len(self.units)) if weights is None else weights
        )


def unit_of(record: Record) -> str:
    """What a record is about: its group (the images of one concept), or the record itself where it has
    none."""
    return f"group {record.group}" if record.group >= 0 else record.id


def path_of(folder: str, name: str, step: int) -> str:
    """Where an evaluator's items of a step lie in a work dir."""
    return os.path.join(folder, "items", f"{name}-{step}.jsonl")


def write_items(folder: str | None, name: str, step: int, items: Mapping[str, Items]) -> None:
    """Writes one line a row and figure; process 0 only.

    Raises:
      UserError: no folder to write to, or nothing kept.
    """
    if folder is None:
        raise UserError(f"{name}.items: items are written to a local work dir, and there is none")
    if not items:
        raise UserError(f"{name}.items: an evaluator of this kind keeps no items; leave it out")
    if jax.process_index():
        return
    path = path_of(folder, name, step)
    storage.make_folder(os.path.dirname(path))
    storage.write_atomic(path, (_line(figure, found.statistic, unit, row) for figure, found in items.items()
                                for unit, row in zip(found.units, found.values, strict=True)))


def _line(figure: str, statistic: str, unit: str, row: Float[np.ndarray, "columns"]) -> bytes:
    values = [value if math.isfinite(value) else None for value in row.tolist()]
    return (
        json.dumps({"figure": figure, "statistic": statistic, "unit": unit, "values": values}).encode()
        + b"\n"
    )


def read_items(path: str) -> dict[str, Items]:
    """Items by figure.

    Raises:
      UserError: no such file, or a line that is none of its own.
    """
    units: dict[str, list[str]] = {}
    rows: dict[str, list[list[float]]] = {}
    statistics: dict[str, str] = {}
    for number, line in enumerate(storage.read(path).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            figure, statistic, unit, values = _parsed(line)
            if statistics.setdefault(figure, statistic) != statistic or len(values) != len(
                (rows.get(figure) or [values])[0]
            ):
                raise Malformed(f"is of another statistic or length than the other rows of {show(figure)}")
        except Malformed as error:
            raise UserError(f"{path} line {number}: {error}") from None
        units.setdefault(figure, []).append(unit)
        rows.setdefault(figure, []).append(values)
    found = {figure: Items(units[figure], np.array(rows[figure]), statistics[figure]) for figure in rows}
    if odd := next((figure for figure, kept in found.items() if not fits(kept.statistic, kept.values)), None):
        raise UserError(
            f"{path}: the rows of {show(odd)} have other columns than a {statistics[odd]} has, or gaps"
        )
    return found


def _parsed(line: bytes) -> tuple[str, str, str, list[float]]:
    row: dict[str, Any] = parse_object(line)
    figure, statistic, unit, values = (row.get(key) for key in ("figure", "statistic", "unit", "values"))
    if not (
        is_text(figure)
        and is_text(unit)
        and isinstance(statistic, str)
        and statistic in STATISTICS
        and isinstance(values, list)
        and values
    ):
        raise Malformed("is no line of a file of items")
    if not all(value is None or is_number(value) for value in values):
        raise Malformed(f"the values {show(values)} are not all numbers")
    return figure, statistic, unit, [math.nan if value is None else float(value) for value in values]
