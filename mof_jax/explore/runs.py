"""A work dir as something to look at: series of its metrics, its evaluations, its config. Local, or in a bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import math
import re
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
import numpy as np

from mof_jax import config as configs
from mof_jax import storage, trainer
from mof_jax.errors import UserError, nearest
from mof_jax.jsonl import read_lines
from mof_jax.parsing import Malformed, is_count, parse_object, show
from mof_jax.plan.cost import sketch
from mof_jax.run import resolve
from mof_jax.train.checkpoint.place import last_stage
from mof_jax.train.reliability import goodput, history
from mof_jax.train.reliability.history import Change

Over = Literal["step", "examples", "flops"]
ABSENT = "–"  # of a key that a config does not have
_PARAMETER = re.compile(r"(\S+)  \(([\d, ]*)\)  (trained|frozen)  lr×(.+?)  decay×(.+?)  .*")


class Series(NamedTuple):
    """A number over the course of a run, float64. A value that was not finite is NaN or infinite; one not logged is absent."""

    x: Float[np.ndarray, "points"]
    y: Float[np.ndarray, "points"]


class Part(NamedTuple):
    """Parameters that share the beginning of their path."""

    name: str
    trained: int
    frozen: int
    lr: str
    decay: str


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run left.

    Attributes:
      workdir: a path or an address. name: in legends. config: as resolved. lines: of its metrics. results: of its evaluators.
      changes: what the config was otherwise before, see `train.reliability.history`.
    """

    workdir: str
    name: str
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    results: Sequence[Mapping[str, Any]]
    changes: Sequence[Change] = ()

    @classmethod
    def read(cls, workdir: str, name: str = "") -> Run:
        """The run of a work dir; of a staged one, its last stage.

        Raises:
          UserError: it has no `config.json` or no `metrics.jsonl`.
        """
        folder = last_stage(workdir.rstrip("/"))
        values, log = _object(storage.join(folder, "config.json")), storage.join(folder, "evals.jsonl")
        changes = history.saved(values)
        values.pop(history.KEY, None)
        lines = [line for line in read_lines(storage.join(folder, "metrics.jsonl")) if "step" in line]
        results = [line for line in read_lines(log) if {"step", "name"} <= line.keys()] if storage.exists(log) else []
        return cls(folder, name or folder.rsplit("/", 1)[-1], values, lines, results, changes)

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the metrics that hold numbers, in the order of the log."""
        found = dict.fromkeys(key for line in self.lines for key, value in line.items() if _number(value) is not None)
        return tuple(found)

    def series(self, key: str, over: Over = "step") -> Series:
        """One metric.

        Raises:
          UserError: no line has it.
        """
        points = [(line["step"], value) for line in self.lines if (value := _number(line.get(key))) is not None]
        if not points:
            raise UserError(f"{self.workdir}: no line of metrics.jsonl has a number {key!r}{nearest(key, self.keys)}")
        return self._over(points, over)

    def evaluations(self, over: Over = "step") -> dict[str, Series]:
        """By `EVALUATOR/METRIC`; a step that was evaluated twice counts as it was last."""
        found: dict[str, dict[int, float]] = {}
        for line in self.results:
            for key, value in line.items():
                if key not in ("step", "name", "time", "version") and (number := _number(value)) is not None:
                    found.setdefault(f"{line['name']}/{key}", {})[line["step"]] = number
        return {key: self._over(sorted(points.items()), over) for key, points in found.items()}

    def last(self) -> dict[str, float]:
        """The last value of every metric and evaluation."""
        found = {key: float(self.series(key).y[-1]) for key in self.keys}
        return found | {key: float(series.y[-1]) for key, series in self.evaluations().items()}

    @functools.cached_property
    def flops_per_step(self) -> float:
        """Model FLOPs of one training step, by formula from the config."""
        return sum(sketch(resolve(self.config)).flops.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Wall seconds by what they were spent on, over all restarts, see `train.reliability.goodput`; empty if none was
        logged."""
        return next(filter(None, map(goodput.ledger_of, reversed(self.lines))), {})

    def parameters(self, depth: int = 1) -> list[Part]:
        """Sizes and the optimizer's decisions, by the first `depth` names of the paths.

        Raises:
          UserError: no `parameters.txt` in the work dir, or one that is not of a run.
        """
        path, found = storage.join(self.workdir, "parameters.txt"), {}
        for number, text in enumerate(storage.read(path).decode(errors="replace").splitlines(), 1):
            match = _PARAMETER.fullmatch(text)
            if match is None:
                raise UserError(f"{path} line {number}: not a line that a run writes there")
            name, shape, state, lr, decay = match.groups()
            size = math.prod(int(n) for n in shape.split(",") if n.strip())
            found.setdefault("/".join(name.split("/")[:depth]), []).append((size, state == "trained", lr, decay))
        several = lambda values: ", ".join(dict.fromkeys(values))
        return [Part(name, sum(n for n, on, *_ in rows if on), sum(n for n, on, *_ in rows if not on),
                     several(lr for _, _, lr, _ in rows), several(decay for *_, decay in rows)) for name, rows in found.items()]

    def _over(self, points: Sequence[tuple[int, float]], over: Over) -> Series:
        units = {"step": lambda step: step,
                 "examples": lambda step: history.examples(self._until(step), step, self._batch_size(step)),
                 "flops": lambda step: history.flops(self._until(step), step, self._flops_at(step))}
        if over not in units:
            raise UserError(f"a series over {over!r}{nearest(over, units)}: one of {', '.join(units)}")
        x, y = np.array(points, np.float64).reshape(-1, 2).T
        return Series(np.array([units[over](step) for step in x.tolist()], np.float64), y)

    def _until(self, step: float) -> list[Change]:
        """The changes before a step."""
        return [change for change in self.changes if change.step < step]

    def _flops_at(self, step: float) -> float:
        """Of one step, under the config of then."""
        until, later = self._until(step), [change for change in self.changes if change.step >= step]
        if not later:
            return self.flops_per_step
        since = until[-1] if until else history.Change(0, 0, 0.0, {})
        return (later[0].flops - since.flops) / (later[0].step - since.step)

    def _batch_size(self, step: float) -> int:
        """In a step: what the first change after it replaced, or the last."""
        key = "batch_size"
        later = (change.keys[key][0] for change in self.changes if change.step >= step and key in change.keys)
        found = next(later, self.config.get(key))
        if not is_count(found):
            raise UserError(f"{self.workdir}/config.json: {key} is {show(found)}, not a number of examples")
        return found


def read_all(workdirs: Mapping[str, str] | Sequence[str]) -> list[Run]:
    """Several runs, by the name of each or under their folders' names."""
    named = workdirs if isinstance(workdirs, Mapping) else {path.rstrip("/").rsplit("/", 1)[-1]: path for path in workdirs}
    return [Run.read(path, name) for name, path in named.items()]


def ensure(workdir: str, config: str, assignments: Sequence[str] = ()) -> str:
    """Trains a run if it is not there, or goes on with one that was cut off.

    Args:
      config: file of it, `FILE.py[:arg]`. assignments: `key=value` over it.

    Returns:
      The work dir.
    """
    wanted = resolve(configs.override(configs.load(config), assignments))
    log = storage.join(workdir, "metrics.jsonl")
    if not storage.exists(log) or max((line.get("step", 0) for line in read_lines(log)), default=0) < wanted.steps:
        trainer.train(wanted, workdir)
    return workdir


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """What the runs' configs say otherwise: by dotted key, the value of each run; `ABSENT` where it has no such key."""
    flat = [configs.flatten(run.config) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    found = {key: [values.get(key, ABSENT) for values in flat] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values[1:])}


def smooth(y: Float[np.ndarray, "points"], weight: float) -> Float[np.ndarray, "points"]:
    """An exponential average without the pull of its start: Σ wⁱ·y₍ₙ₋ᵢ₎ / Σ wⁱ over the finite values so far; 0 leaves all as
    it is.

    A value that is not finite stays as it is and leaves the average alone.

    Raises:
      UserError: a weight outside [0, 1).
    """
    if not 0 <= weight < 1:
        raise UserError(f"smoothing {weight}: a weight from 0 (none) to below 1")
    total = norm = 0.0
    found = np.array(y, np.float64)
    for i, value in enumerate(found):
        if np.isfinite(value):
            total, norm = weight * total + value, weight * norm + 1
            found[i] = total / norm
    return found


def _object(path: str) -> dict[str, Any]:
    try:
        return parse_object(storage.read(path))
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def _number(value: Any) -> float | None:
    """What the log means by a value: JSON has no NaN, so that `'nan'` and `'inf'` stand for numbers."""
    if isinstance(value, str):
        return float(value) if value in ("nan", "inf", "-inf") else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
