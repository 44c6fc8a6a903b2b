"""Runs a claim: arms × seeds as a sweep, paired intervals from the rows that they leave, one line for the
table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import os
import time
from typing import Any, NamedTuple

from mof_jax import config as configs
from mof_jax import evals
from mof_jax.claims import bases, commits, rows
from mof_jax.claims.claim import PILOT, SEEDS, Claim, Equivalence
from mof_jax.claims.verdict import Interval, Verdict, compare, judge, together
from mof_jax.errors import UserError, nearest
from mof_jax.evals.items import Items, path_of, read_items
from mof_jax.run import RunConfig
from mof_jax.sweep import table
from mof_jax.sweep.grid import Overrides
from mof_jax.sweep.points import Point, Sweep, expand
from mof_jax.sweep.runner import Command, Runner, trainer
from mof_jax.train.checkpoint.place import last_stage


class Judged(NamedTuple):
    """What came of it: the line, and whether it is a pilot's, which is none of the table."""

    row: rows.Row
    pilot: bool


def load(spec: str) -> Claim:
    """The claim of a config file.

    Args:
      spec: `FILE.py[:ARG]`; ARG is handed to `claim` as to `get_config`.

    Raises:
      UserError: no such file, no `claim()`, or it returns something else.
    """
    path, _, arg = spec.partition(":")
    module = configs.load_module(path)
    if not hasattr(module, "claim"):
        raise UserError(
            f"{path}: a config file with a claim defines claim(), which returns a mof_jax.claims.claim.Claim"
        )
    found = configs.call(path, module.claim, *([arg] if arg else []))
    if not isinstance(found, Claim):
        raise UserError(
            f"{path}: claim() returned {type(found).__name__}; expected a mof_jax.claims.claim.Claim"
        )
    for arm, overrides in found.arms.items():
        if "seed" in overrides:
            raise UserError(
                f"{path}: claim: arm {arm} sets the seed; every arm is run with each of the seeds"
            )
        if unknown := next((name for name in bases.named(overrides) if name not in found.bases), None):
            raise UserError(
                f"{path}: claim: arm {arm}: no base is called {unknown!r}{nearest(unknown, found.bases)}"
            )
    return found


def run(
    spec: str,
    workdir: str,
    docs: str = "docs",
    *,
    seeds: Sequence[int] = SEEDS,
    workers: int = 1,
    store: str | None = None,
    command: Command | None = None,
) -> Judged:
    """Trains every arm with every seed, or goes on where that stands, and writes the verdict.

    Args:
      workdir: of the runs. docs: folder of `claims.jsonl`. seeds: 0, 1, 2, or from 100 on for a pilot,
        which is counted and judged for the reader, and never in the table. store: of base models, by
        default `WORKDIR/bases`.
      command: how a point is trained; by default `mof train`.

    Raises:
      UserError: a claim that is not committed, or judged already; seeds of both kinds; runs that failed.
        Preempted: a signal came; run again to go on.
    """
    found, (path, _, arg) = load(spec), spec.partition(":")
    pilot = _is_pilot(seeds)
    name = os.path.relpath(os.path.realpath(path), commits.git(path, "rev-parse", "--show-toplevel").strip())
    name += f":{arg}" if arg else ""
    commit = None if pilot else _committed(path, name, docs)
    begun, code = time.time(), commits.code()
    store = os.path.join(workdir, "bases") if store is None else store
    places = {name: os.path.abspath(bases.train(base, store, code)) for name, base in found.bases.items()}
    points, sweep = grid(spec, found, seeds, places)
    Runner(sweep, workdir, command or trainer(spec), workers).run()
    items = {key: _items(workdir, point, found.metrics) for key, point in points.items()}
    row = {
        "file": name,
        "says": found.says,
        "paper": found.paper,
        "time": rows.now(),
        **outcome(found, items, seeds),
        "data": found.data,
        "minutes": round((time.time() - begun) / 60, 1),
        "code": code,
    }
    if pilot:
        rows.add(
            os.path.join(docs, rows.PILOTS), {"seeds": list(seeds), "hash": commits.hash_of(path), **row}
        )
        return Judged(row, True)
    words = f"mof claim {name} --workdir W"
    pilots = sum(line.get("file") == name for line in rows.read(os.path.join(docs, rows.PILOTS)))
    row |= {"hash": commit.hash, "commit": commit.commit, "pilots": pilots, "command": words}
    rows.add(os.path.join(docs, rows.ROWS), row)
    rows.write_table(docs)
    return Judged(row, False)


def _is_pilot(seeds: Sequence[int]) -> bool:
    if tuple(seeds) == SEEDS:
        return False
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < PILOT:
        raise UserError(
            f"--seeds {','.join(map(str, seeds))}: a verdict takes {', '.join(map(str, SEEDS))}; to try a "
            f"claim out, give seeds from {PILOT} on, each once"
        )
    return True


def _committed(path: str, name: str, docs: str) -> commits.Committed:
    """The claim's commit, if it may be judged now; `name` is how its row is called."""
    found = commits.committed(path)
    if found is None:
        raise UserError(
            f"{path}: its claim() is not committed as it stands; commit it before its first run, or try it "
            f"out with --seeds {PILOT}"
        )
    judged = {(row.get("file"), row.get("hash")) for row in rows.read(os.path.join(docs, rows.ROWS))}
    if (name, found.hash) in judged:
        raise UserError(
            f"{name}: this claim is judged already, in {docs}/{rows.ROWS}; a verdict's seeds run once"
        )
    return found


def grid(
    spec: str, claim: Claim, seeds: Sequence[int], places: Mapping[str, str] = {}
) -> tuple[dict[tuple[str, int], Point], Sweep]:
    """The run of each arm and seed, and all of them as a sweep; every evaluator of the metrics keeps its
    items.

    Args:
      places: work dirs of the base models.

    Raises:
      UserError: an arm's overrides, or a metric whose evaluator it does not have.
    """
    found: dict[tuple[str, int], Point] = {}
    for arm, overrides in claim.arms.items():
        overrides = bases.resolve(dict(overrides), places)
        try:
            keeps = _keep_items(expand(spec, grid=[overrides]).points[-1], claim.metrics)
            for seed in seeds:
                found[arm, seed] = expand(
                    spec, grid=[{**overrides, **keeps, **_seeded(spec, seed)}]
                ).points[-1]
        except UserError as error:
            raise UserError(f"arm {arm}: {error}") from None
    return found, Sweep(tuple({point.id: point for point in found.values()}.values()))


def _seeded(spec: str, seed: int) -> Overrides:
    values = configs.load(spec)
    return (
        {f"stages.{i}.seed": seed for i in range(len(values.stages))}
        if "stages" in values
        else {"seed": seed}
    )


def _keep_items(point: Point, metrics: Sequence[str]) -> Overrides:
    """Overrides by which the evaluators of some metrics keep their items, after the last step alone."""
    last = f"stages.{len(point.runs) - 1}." if list(point.runs) != ["run"] else ""
    names = {evals.build(section, f"evals.{i}").name: i for i, section in enumerate(point.run.evals)}
    found: Overrides = {f"{last}eval_every": 0}
    for metric in metrics:
        name = metric.partition("/")[0]
        if name not in names:
            raise UserError(
                f"metric {metric}: its config has no evaluator of that name (it has "
                f"{', '.join(names) or 'none'})"
            )
        found[f"{last}evals.{names[name]}.items"] = True
    return found


def _items(workdir: str, point: Point, metrics: Sequence[str]) -> dict[str, Items]:
    """The rows of each metric that a finished run left."""
    run: RunConfig = point.run
    folder = last_stage(table.folder_of(workdir, point.id))
    found = {}
    for metric in metrics:
        name, _, key = metric.partition("/")
        kept = read_items(path_of(folder, name, run.steps))
        if key not in kept:
            raise UserError(
                f"metric {metric}: {name} keeps no items of {key!r}{nearest(key, kept)}; those are what an "
                "interval is taken from"
            )
        found[metric] = kept[key]
    return found


def outcome(
    claim: Claim, items: Mapping[tuple[str, int], Mapping[str, Items]], seeds: Sequence[int]
) -> dict[str, Any]:
    """`metric`, `arms` by seed, `conditions` with their intervals, `verdict`.

    Args:
      items: of each (arm, seed), by metric.
    """
    arms = {arm: {str(seed): items[arm, seed][claim.metric].figure() for seed in seeds} for arm in claim.arms}
    conditions, verdicts = [], []
    for condition in claim.conditions:
        for contrast in claim.contrasts(condition):
            found = [
                compare(
                    items[contrast.arm, seed][contrast.metric],
                    items[contrast.over, seed][contrast.metric],
                    f"{contrast.arm} against {contrast.over}, seed {seed}, {contrast.metric}",
                )
                for seed in seeds
            ]
            verdicts.append(judge(condition, found))
            conditions.append(
                _condition(condition, contrast, dict(zip(map(str, seeds), found)), verdicts[-1])
            )
    return {"metric": claim.metric, "arms": arms, "conditions": conditions, "verdict": together(verdicts)}


def _condition(
    condition: Any, contrast: Any, seeds: Mapping[str, Interval], verdict: Verdict
) -> dict[str, Any]:
    return {"what": str(condition), "metric": contrast.metric, "arm": contrast.arm, "over": contrast.over,
            "claimed": getattr(condition, "claimed", None),
            "margin": condition.margin if isinstance(condition, Equivalence) else None,
            "seeds": {seed: interval._asdict() for seed, interval in seeds.items()}, "verdict": verdict}
