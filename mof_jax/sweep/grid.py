"""Grids of overrides, for the `sweep(arg=None)` of a config file.

A grid is a list of flat dicts, `[{"optimizer.lr": 1e-3, "seed": 0}, …]`: one dict a run, over what `get_config` returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

import numpy as np

from mof_jax.errors import UserError

Overrides = dict[str, Any]


def python(value: Any) -> Any:
    """A value with NumPy's numbers in it as Python's, what is in lists and dicts too. One of few bits becomes the number that it
    is written as: float32(0.001) is 0.001, not 0.0010000000474974513."""
    if isinstance(value, np.ndarray):
        return python(list(value)) if value.ndim else python(value[()])
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: python(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(python, value)) if type(value) in (list, tuple) else value
    return value


def product(axes: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Every combination; the last key varies fastest."""
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def zipped(axes: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """The first value of each key together, then the second, and so on.

    Raises:
      UserError: keys with different numbers of values.
    """
    if len({len(values) for values in axes.values()}) > 1:
        counts = ", ".join(f"{key} has {len(values)}" for key, values in axes.items())
        raise UserError(f"sweep: zipped keys need as many values each: {counts}")
    return [dict(zip(axes, values)) for values in zip(*axes.values())]


def chain(*grids: Sequence[Overrides]) -> list[Overrides]:
    """One grid after the other."""
    return [dict(point) for grid in grids for point in grid]


def cross(*grids: Sequence[Overrides]) -> list[Overrides]:
    """Every point of the first with every point of the second, and so on; the last grid varies fastest.

    Raises:
      UserError: two grids that set the same key.
    """
    found: list[Overrides] = [{}]
    for grid in grids:
        for ours, theirs in itertools.product(found[:1], grid[:1]):
            if both := sorted(set(ours) & set(theirs)):
                raise UserError(f"sweep: two grids of one product set {', '.join(both)}")
        found = [{**ours, **theirs} for ours, theirs in itertools.product(found, grid)]
    return found


def log_spaced(low: float, high: float, count: int, multiple: int = 1) -> list[int]:
    """`count` sizes from `low` to `high`, each by the same factor above the last, rounded to a `multiple`; none twice.

    Raises:
      UserError: bounds that are not 0 < low <= high, or fewer sizes than asked for once they are rounded.
    """
    if not 0 < low <= high or count < 1 or multiple < 1:
        raise UserError(f"sweep: log_spaced({low:g}, {high:g}, {count}, {multiple}): needs 0 < low <= high and positive counts")
    ratio = math.log(high / low) / max(1, count - 1)
    sizes = [max(1, round(low * math.exp(ratio * i) / multiple)) * multiple for i in range(count)]
    if len(set(sizes)) < count:
        raise UserError(f"sweep: log_spaced({low:g}, {high:g}, {count}, {multiple}): some sizes round to one: "
                        f"{', '.join(map(str, sizes))}; take fewer, or a finer multiple")
    return sizes
