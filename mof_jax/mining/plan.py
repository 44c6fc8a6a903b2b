"""From features and rules to everything that is fixed before the first tile: usable rows, thresholds, bounds, sizes."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import math
from typing import Any

import jax
from jaxtyping import Bool, Float
import numpy as np

from mof_jax.errors import UserError
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.rules import Rule
from mof_jax.mining.sample import Choice, Sample, cheapest, full_width, quantile
from mof_jax.mining.sieve import default_dtype, usable_rows

_BLOCK = 8192
_DENSE = 2.0**-11  # share of passing pairs from which the other features' products pay on the device


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Attributes:
      tile: rows and columns of a tile. tiles: of a device's shard of a panel. panels: of the records. rows: of a panel.
      capacity: hits that a device holds during one call.
    """

    tile: int
    tiles: int
    panels: int
    rows: int
    capacity: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes:
      features, rules: by name, as asked for. thresholds: cosines. sources: where a threshold that is a quantile came from.
      means: subtracted before a cosine is taken. usable: rows that take part. zero: valid rows that have no direction.
      choices: a bound for each feature, the leading one first. joint: all of them are held on the devices.
    """

    features: Mapping[str, Embeddings]
    rules: Mapping[str, Rule]
    thresholds: Mapping[str, float]
    sources: Mapping[str, str]
    means: Mapping[str, Float[np.ndarray, "dim"]]
    centred: bool
    usable: Bool[np.ndarray, "records"]
    zero: int
    choices: Mapping[str, Choice]
    joint: bool
    sizes: Sizes

    @property
    def on_device(self) -> list[str]:
        """Features whose bounds are computed in tiles, the leading one first."""
        return list(self.choices)[: None if self.joint else 1]

    def rule(self, name: str) -> str:
        """A rule in words, with the figure that is used."""
        text = f"{self.rules[name].side} {self.thresholds[name]:.6g}"
        if self.rules[name].quantile is not None:
            text += f" (q{self.rules[name].quantile:g} of {self.sources[name]})"
        return text

    def describe(self) -> dict[str, Any]:
        """What the result depends on, for its metadata."""
        about = lambda f: {"fingerprint": f.fingerprint, "dim": f.dim, "dtype": f.dtype}
        return {
            "rules": {name: self.rule(name) for name in self.rules},
            "thresholds": {name: [self.rules[name].side, self.thresholds[name]] for name in self.rules},
            "centred": self.centred,
            "features": {name: about(f) for name, f in self.features.items()},
            "records": len(self.usable), "usable": int(self.usable.sum()),
        }

    def fingerprint(self, *more: Any) -> str:
        """Of everything that the rows of an unfinished run depend on."""
        crc = hashlib.sha256(self.usable.tobytes()).hexdigest()
        return hashlib.sha256(json.dumps([self.describe(), crc, self.sizes.rows, *more]).encode()).hexdigest()[:16]


def make_plan(
    features: Mapping[str, Embeddings], rules: Mapping[str, Rule], devices: int, *, centre: bool = False, skip_bad: bool = False,
    tile: int | None = None, capacity: int = 2**18, panel: int | None = None, width: int | None = None, dtype: str | None = None,
) -> Plan:
    """Checks everything and decides everything.

    Args:
      devices: over which the rows are spread. skip_bad: leave out rows that are zero or not finite, rather than stop.
      tile, capacity, panel (rows at most): see `Sizes`; by default what suits the backend.
      width, dtype: of the leading feature's bound, by default the cheapest.

    Raises:
      UserError: features that do not belong together, rows without a direction, a size that makes no sense.
    """
    check(features, rules)
    dtype = dtype or default_dtype()
    least = (("tile", tile, 1), ("capacity", capacity, 1), ("panel", panel, 1), ("width", width, 2))
    if wrong := [f"{what} {value}: at least {low}" for what, value, low in least if value is not None and value < low]:
        raise UserError(wrong[0])
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype {dtype}: float32 or bfloat16")
    usable, zero, means = survey(features, centre, skip_bad)
    sample = Sample.draw(usable)
    thresholds, choices = {}, {}
    for name, rule in rules.items():
        unit = sample.unit(features[name], means[name])
        thresholds[name] = rule.value if rule.quantile is None else quantile(unit, rule.quantile)
        choices[name] = full_width(unit, rule, thresholds[name], means[name], dtype)
    order = sorted(choices, key=lambda name: choices[name].cost)
    choices[order[0]] = cheapest(sample.unit(features[order[0]], means[order[0]]), choices[order[0]], width)
    return Plan(
        dict(features), dict(rules), thresholds, dict.fromkeys(rules, sample.describe()), means, centre, usable, zero,
        {name: choices[name] for name in order}, len(order) > 1 and choices[order[0]].passing > _DENSE,
        sizes(len(usable), devices, tile, capacity, panel))


def check(features: Mapping[str, Embeddings], rules: Mapping[str, Rule]) -> None:
    """Refuses features that are not of the same records, and rules that do not fit them."""
    if not features:
        raise UserError("mining needs at least one feature")
    if set(features) != set(rules):
        raise UserError(f"features {', '.join(features)} but rules for {', '.join(rules) or 'none'}; give each feature one rule")
    (first, reference), *others = features.items()
    for f in features.values():
        if len(f.row_shape) != 1:
            raise UserError(f"{f.path}: rows of shape {f.row_shape}; mining compares vectors, embed with which='image'")
        if len(f) < 2:
            raise UserError(f"{f.path}: {len(f)} row; a pair needs two")
    for name, f in others:
        if len(f) != len(reference):
            raise UserError(f"{name} has {len(f):,} rows ({f.path}), {first} has {len(reference):,} ({reference.path}); "
                            "embed the same source with both")
        if f.ids is not None and reference.ids is not None and f.ids != reference.ids:
            row = next(i for i, (a, b) in enumerate(zip(f.ids, reference.ids)) if a != b)
            raise UserError(f"row {row} is {f.ids[row]!r} in {f.path} and {reference.ids[row]!r} in {reference.path}; "
                            "embed the same source with both")


def survey(
    features: Mapping[str, Embeddings], centre: bool, skip_bad: bool
) -> tuple[Bool[np.ndarray, "records"], int, dict[str, Float[np.ndarray, "dim"]]]:
    """Which rows take part, how many valid ones have no direction, and the means (zero where nothing is centred).

    Raises:
      UserError: a valid row that is zero or not finite, unless `skip_bad`; fewer than two rows left.
    """
    count = len(next(iter(features.values())))
    valid = np.logical_and.reduce([f.valid for f in features.values()])
    usable, means = valid.copy(), {name: np.zeros(f.dim, np.float32) for name, f in features.items()}
    for centred in (False, True) if centre else (False,):
        if centred:
            means = {name: _mean(f, usable) for name, f in features.items()}
        for name, f in features.items():
            for start in range(0, count, _BLOCK):
                here = slice(start, start + _BLOCK)
                bad = usable[here] & ~usable_rows(f.rows(start, start + _BLOCK), means[name])
                if bad.any() and not skip_bad:
                    raise UserError(f"{f.path}: row {start + int(np.argmax(bad))} is zero or not finite"
                                    f"{' once the mean is subtracted' if centred else ''}, so it has no cosine; "
                                    "embed again, or leave such rows out with --skip-bad")
                usable[here] &= ~bad
    if usable.sum() < 2:
        raise UserError(f"{int(usable.sum())} of {count:,} rows can be used; a pair needs two")
    return usable, int(valid.sum() - usable.sum()), means


def _mean(f: Embeddings, usable: Bool[np.ndarray, "records"]) -> Float[np.ndarray, "dim"]:
    total = np.zeros(f.dim)
    for start in range(0, len(f), _BLOCK):
        total += f.rows(start, start + _BLOCK)[usable[start : start + _BLOCK]].sum(axis=0, dtype=np.float64)
    return (total / usable.sum()).astype(np.float32)


def sizes(records: int, devices: int, tile: int | None, capacity: int, panel: int | None) -> Sizes:
    """Panels of equal size, none larger than `panel` rows if a tile a device fits into that."""
    cpu = jax.default_backend() == "cpu"
    panel = panel or (16_384 if cpu else 65_536 * devices)
    tile = tile or min(1024 if cpu else 2048, 32 * math.ceil(records / devices / 32))
    most = max(1, panel // (devices * tile))
    panels = math.ceil(records / (most * devices * tile))
    tiles = math.ceil(records / (panels * devices * tile))
    rows = tiles * devices * tile
    return Sizes(tile, tiles, math.ceil(records / rows), rows, capacity)
