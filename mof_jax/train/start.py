"""Where a run's first state comes from: its own newest checkpoint, parameters of other runs, or the seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
import re
from typing import Any

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array

from mof_jax.errors import UserError, nearest
from mof_jax.nn.module import Params, Skeleton
from mof_jax.rules import Rule, user_rules
from mof_jax.rules import resolve as resolve_rules
from mof_jax.train import display
from mof_jax.train.checkpoint import Checkpointer
from mof_jax.train.state import TrainState

STAGES = "stages.json"  # in the work dir of a staged run: the names of its stages, each a work dir below it


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where a new run takes parameters from.

    Attributes:
      path: work dir or checkpoint of another run; `stage:NAME` for an earlier stage of the same run.
      take: rules `(regex, True | False)`: which of our parameters come from there. By default those that `rename` names,
        or all if it names none.
      rename: `(our regex, their path)` pairs, e.g. `("encoders/clip/(.*)", r"image/\\1")`; the first match counts, and a
        parameter that none matches has the same path there.
      ema: take the averaged parameters if there are any.
    """

    path: str
    take: tuple[Any, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    ema: bool = True


def first_state(
    checkpointer: Checkpointer,
    init: Callable[[Array], TrainState],
    abstract: TrainState,
    shardings: TrainState,
    seed: int,
    taken: Callable[[], Params],
) -> TrainState:
    """The newest checkpoint's state, or a fresh one with the parameters that `taken` returns, laid out on the mesh."""
    restored = checkpointer.restore(jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings))
    if restored is not None:
        return restored[0]
    key = jax.random.key(seed, impl="threefry2x32")
    # A program that runs once is not worth optimising; on a CPU that saves most of its compile time.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(init, out_shardings=shardings).lower(key).compile(compiler_options=options)(key)
    given = taken()
    fill = lambda params: {path: given.get(path, x) for path, x in params.items()}
    ema = None if state.ema is None else {path: jax.numpy.copy(x) for path, x in fill(state.ema).items()}
    return dataclasses.replace(state, params=fill(state.params), frozen=fill(state.frozen), ema=ema)


def take_params(
    sources: Sequence[InitConfig],
    skeleton: Skeleton,
    shardings: Mapping[str, NamedSharding],
    adapt: Callable[[str, Array], Array],
) -> Params:
    """The parameters that `init_from` names, shapes checked, with a line about each source.

    Raises:
      UserError: no such checkpoint, a rule that matches nothing, a parameter that is absent there or of another shape.
    """
    params: Params = {}
    for i, source in enumerate(sources):
        where = "config.init_from" if len(sources) == 1 else f"config.init_from.{i}"
        taken = _take(source, skeleton, shardings, adapt, where)
        display.show(f"init_from {source.path}: {len(taken)} of {len(skeleton.shapes)} parameters taken")
        params |= taken
    if sources:
        display.show(f"{len(skeleton.shapes) - len(params)} parameters start fresh")
    return params


def _take(
    source: InitConfig, skeleton: Skeleton, shardings: Mapping[str, NamedSharding], adapt: Callable, where: str
) -> Params:
    reader, meta, step = open_checkpoint(source.path)
    rules = user_rules(source.take, f"{where}.take") or [Rule(ours, True) for ours, _ in source.rename]
    rules += [Rule(".*", not rules, optional=True)]
    wanted = [path for path, take in resolve_rules(rules, skeleton.shapes, f"{where}.take").items() if take]
    theirs = {path: renamed(path, source.rename, where) for path in wanted}
    available = {name.partition(":")[2] for name in meta["leaves"] if name.split(":")[0] in ("params", "frozen")}
    for path, name in theirs.items():
        if name not in available:
            raise UserError(f"{where}: {path} is to come from {name}, which {source.path} lacks{nearest(name, available)}")
    saved = reader.restore_params(step, {theirs[path]: shardings[path] for path in wanted}, ema=source.ema,
                                  only=set(theirs.values()))
    params = {path: adapt(path, saved[theirs[path]]) for path in wanted}
    for path, x in params.items():
        if x.shape != skeleton.shapes[path].shape:
            raise UserError(f"{where}: {path} is of shape {x.shape} in {source.path} and {skeleton.shapes[path].shape} here")
    return {path: jax.device_put(x, shardings[path]) for path, x in params.items()}


def renamed(path: str, pairs: Sequence[tuple[str, str]], where: str) -> str:
    """`path` under the first pattern that matches it in full, or as it is."""
    for ours, theirs in pairs:
        try:
            match = re.fullmatch(ours, path)
            if match:
                return match.expand(theirs)
        except re.error as error:
            raise UserError(f"{where}.rename: ({ours!r}, {theirs!r}): {error}") from None
    return path


def open_checkpoint(path: str) -> tuple[Checkpointer, dict[str, Any], int]:
    """A reader, the meta and the step of `WORKDIR` (its newest checkpoint) or `WORKDIR/checkpoints/STEP`.

    The work dir of a staged run stands for its last stage.
    """
    path = last_stage(path.rstrip("/"))
    parent, last = os.path.split(path)
    directory, step = (parent, int(last)) if last.isdigit() else (path, None)
    if os.path.basename(directory) != "checkpoints":
        directory = os.path.join(directory, "checkpoints")
    reader = Checkpointer(directory, read_only=True)
    steps = reader.steps()
    if not steps or (step is not None and step not in steps):
        known = ", ".join(map(str, steps)) or "none"
        raise UserError(f"{path}: no such checkpoint (complete steps: {known})")
    step = steps[0] if step is None else step
    return reader, reader.meta(step), step


def last_stage(workdir: str) -> str:
    """The work dir of the last stage of a staged run; `workdir` itself for any other."""
    listing = os.path.join(workdir, STAGES)
    if "://" in workdir or not os.path.isfile(listing):
        return workdir
    with open(listing) as f:
        return os.path.join(workdir, json.load(f)["stages"][-1])
