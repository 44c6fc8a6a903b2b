"""CLIP-blind pairs, all of them: alike to one encoder and unlike to another (arXiv 2401.06209, section 2).

    features ─ plan ─▶ for panel p:  for panel q ≥ p:  tiles on the devices ─▶ candidates ─ exact cosines ─▶ row p on disk
                                                                                              all rows ─▶ pairs.parquet

The devices compute an upper bound of one feature's cosine for every pair of the upper triangle (`sieve`, `tiles`); the exact
cosines of the few candidates, in float64 from the stored rows and compared strictly, decide. So the result depends neither
on tiles, devices and dtype of the bound nor on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import os
import tempfile
from typing import Any, Literal
import zlib

import jax
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mof_jax import storage
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, batch_shards, make_mesh
from mof_jax.mining import cost, report
from mof_jax.mining.embeddings import Embeddings
from mof_jax.mining.plan import Plan, make_plan
from mof_jax.mining.rules import PAPER, Rule
from mof_jax.mining.state import Pairs, State
from mof_jax.mining.walk import Walk


@dataclasses.dataclass(frozen=True)
class Mined:
    """What was found.

    Attributes:
      pairs: in order of (i, j), i < j. names: of the features, in the order of `pairs.cosines`.
      info: thresholds, fingerprints and statistics, as in the file's metadata.
    """

    pairs: Pairs
    names: tuple[str, ...]
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.pairs.i)

    def cosine(self, name: str) -> Float[np.ndarray, "pairs"]:
        """Of one feature."""
        return self.pairs.cosines[self.names.index(name)]

    @property
    def blindness(self) -> Float[np.ndarray, "pairs"]:
        """How far apart the features are, see `report.blindness`."""
        return report.blindness(self.pairs, self.info["thresholds"])

    @classmethod
    def read(cls, path: str) -> Mined:
        """From a file that `mine` wrote."""
        return cls(*report.read(path))


@dataclasses.dataclass(frozen=True)
class Labels:
    """A label a record as a number, -1 for none, and which pairs may count: of the `same` label, of `different`, all (None)."""

    names: tuple[str, ...]
    codes: Int[np.ndarray, "records"]
    within: Literal["same", "different"] | None

    @classmethod
    def of(cls, labels: Sequence[str], within: Literal["same", "different"] | None) -> Labels:
        """From names, "" for none."""
        names = sorted(set(labels) - {""})
        number = {name: n for n, name in enumerate(names)} | {"": -1}
        return cls(tuple(names), np.array([number[label] for label in labels], np.int32), within)

    def allowed(self, i: Int[np.ndarray, "pairs"], j: Int[np.ndarray, "pairs"]) -> Bool[np.ndarray, "pairs"]:
        """Pairs that may count; one without a label is neither same nor different."""
        a, b = self.codes[i], self.codes[j]
        if self.within is None:
            return np.ones(len(i), bool)
        return (a >= 0) & (b >= 0) & ((a == b) == (self.within == "same"))


def mine(
    features: Mapping[str, Embeddings],
    rules: Mapping[str, Rule] = PAPER,
    out: str | None = None,
    *,
    centre: bool = False,
    labels: Sequence[str] | None = None,
    within: Literal["same", "different"] | None = None,
    top_k: int | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    devices: Sequence[jax.Device] | None = None,
    console: Console | None = None,
    between: Callable[[], None] = lambda: None,
    **sizes: Any,
) -> Mined:
    """Every pair of records that satisfies all rules.

    Args:
      features, rules: by name; embeddings of the same records in the same order.
      out: a new `.parquet` file; finished rows lie in `OUT.state` meanwhile, and the same call goes on with them.
      centre: subtract each feature's mean before cosines are taken.
      labels: one a record, "" for none. within: keep only pairs of the `same` label, or of `different` ones.
      top_k: keep the k blindest pairs of each image. limit: keep this many of the blindest pairs overall.
      skip_bad: leave out rows that are zero or not finite, rather than stop.
      between: called after each panel, alike on all processes; may raise to stop, finished rows are kept.
      devices: by default all. sizes: `tile`, `capacity`, `panel`, `width`, `dtype`, see `plan.make_plan`.

    Raises:
      UserError: features that do not belong together, rules out of range, an output that exists.
    """
    _check(features, out, labels, within, top_k, limit)
    console = console or Console(stderr=True, quiet=jax.process_index() > 0)
    mesh = make_mesh(MeshConfig(), list(devices or jax.devices()))
    plan = make_plan(features, rules, batch_shards(mesh), centre=centre, skip_bad=skip_bad, **sizes)
    known = Labels.of([""] * len(plan.usable) if labels is None else labels, within)
    _introduce(plan, mesh, console)
    with tempfile.TemporaryDirectory() as scratch:
        target = out or os.path.join(scratch, "pairs.parquet")
        state = State(f"{target}.state", plan.fingerprint(within, zlib.crc32(known.codes) if within else None))
        _walk(plan, mesh, state, known, console, between)
        if jax.process_index() == 0:
            settings = plan.describe() | {"within": within, "top_k": top_k, "limit": limit}
            ids = next((f.ids for f in features.values() if f.ids is not None), None)
            report.write(target, state, plan.sizes.panels, settings, ids, known.names, known.codes)
            state.remove()
        _together()
        return Mined.read(target)


def check_out(out: str) -> None:
    """Refuses an output that could not be written, before hours of work.

    Raises:
      UserError: not a local `.parquet` file, there already, or in no folder.
    """
    if storage.is_remote(out) or not out.endswith(".parquet"):
        raise UserError(f"{out}: pairs go to a local .parquet file")
    if os.path.exists(out):
        raise UserError(f"{out}: exists already; give another name or delete it")
    if not os.path.isdir(os.path.dirname(os.path.abspath(out))):
        raise UserError(f"{out}: no such folder; make it first")


def _check(features: Mapping[str, Embeddings], out: str | None, labels: Sequence[str] | None, within: str | None,
           top_k: int | None, limit: int | None) -> None:
    if out is None and jax.process_count() > 1:
        raise UserError("several processes need a place to write: give out")
    if out is not None:
        check_out(out)
    if within not in (None, "same", "different") or (within and labels is None):
        raise UserError(f"within={within!r}: same or different, and it needs labels")
    count = len(next(iter(features.values()), ()))
    if labels is not None and len(labels) != count:
        raise UserError(f"{len(labels):,} labels for {count:,} records")
    if any(x is not None and x < 1 for x in (top_k, limit)):
        raise UserError(f"top_k={top_k}, limit={limit}: at least 1")


def _introduce(plan: Plan, mesh: Mesh, console: Console) -> None:
    """Prints what is about to happen and what it costs."""
    lead, s = plan.choices[plan.on_device[0]], plan.sizes
    widths = [plan.choices[name].sieve.width for name in plan.on_device]
    estimate = cost.estimate(mesh, len(plan.usable), s.panels, s.rows, s.tile, s.capacity,
                             [f.dim for f in plan.features.values()], lead, widths)
    rows = []
    for n, (name, choice) in enumerate(plan.choices.items()):
        role = "every tile" if n == 0 else "tiles with many hits, then pairs that passed" if plan.joint else "pairs that passed"
        bound = f"bound of {choice.sieve.width} in {choice.sieve.dtype}, " if n == 0 or plan.joint else ""
        rows.append((name, plan.rule(name), f"{choice.sieve.dim} dimensions", bound + role))
    console.print(cost.table(estimate, rows))
    left = len(plan.usable) - int(plan.usable.sum())
    if left or plan.centred:
        console.print(f"{left:,} of {len(plan.usable):,} records left out ({plan.zero:,} zero or not finite); "
                      f"{'centred' if plan.centred else 'not centred'}", highlight=False)


def _walk(plan: Plan, mesh: Mesh, state: State, labels: Labels, console: Console, between: Callable[[], None]) -> None:
    """Computes the rows that are not finished yet."""
    columns = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"),
               TimeRemainingColumn()]
    missing = [p for p in range(plan.sizes.panels) if not state.done(p)]
    _together()  # nobody writes before everybody has looked
    walk, count = Walk(plan, mesh), len(plan.usable)
    later = lambda p: max(0, count - p * plan.sizes.rows)
    pairs = lambda p: (later(p) * (later(p) - 1) - later(p + 1) * (later(p + 1) - 1)) // 2
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("mine", total=count * (count - 1) // 2)
        progress.advance(bar, sum(pairs(p) for p in range(plan.sizes.panels) if p not in missing))

        def advance(done: int) -> None:
            between()
            progress.advance(bar, done)

        for p in missing:
            state.save(p, walk.row(p, labels.allowed, advance))
    _together()


def _together() -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("mine")
