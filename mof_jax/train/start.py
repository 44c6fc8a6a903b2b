"""Where a run's first state comes from: its own newest checkpoint, parameters of other runs, or the seed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import os
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array
import numpy as np

from mof_jax import console, renames, storage
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.errors import UserError, nearest
from mof_jax.interop import words
from mof_jax.interop.families import FAMILIES
from mof_jax.interop.source import Source, is_foreign, with_words
from mof_jax.nn.module import Params, Skeleton
from mof_jax.rules import Rule, user_rules
from mof_jax.rules import resolve as resolve_rules
from mof_jax.train.checkpoint import place
from mof_jax.train.checkpoint.checkpointer import Checkpointer
from mof_jax.train.settings import disagreements, settings
from mof_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where a new run takes parameters from.

    Attributes:
      path: work dir or checkpoint of another run; `stage:NAME` for an earlier stage of the same run; `hf:PATH_OR_ID` for a
        model of another library (see `mof_jax.interop`), whose paths are those that `mof convert` gives it.
      take: rules `(regex, True | False)`: which of our parameters come from there. By default those that `rename` names,
        or all if it names none.
      rename: `(our regex, their path)` pairs, e.g. `("encoders/clip/(.*)", r"image/\\1")`; the first match counts, and a
        parameter that none matches has the same path there.
      ema: take the averaged parameters if there are any.
      check: refuse the weights of another library where our model would compute something else with them (activation,
        epsilon, heads, normalisation of pixels …).
    """

    path: str
    take: tuple[Any, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    ema: bool = True
    check: bool = True


class Given(NamedTuple):
    """Parameters that lie somewhere.

    Attributes:
      paths: of all of them. read: some of them, by path, laid out as it is told where the shapes allow it.
      settings: configs of the modules they belong to, see `train.settings`; empty if unknown.
    """

    paths: Collection[str]
    read: Callable[[Mapping[str, NamedSharding]], Params]
    settings: Mapping[str, Any]


def first_state(
    checkpointer: Checkpointer,
    init: Callable[[Array], TrainState],
    abstract: TrainState,
    shardings: TrainState,
    seed: int,
    taken: Callable[[], Params],
    step: int | None = None,
) -> TrainState:
    """The newest checkpoint's state, or a fresh one with the parameters that `taken` returns, laid out on the mesh.

    Args:
      step: exactly this checkpoint's instead, or an error.

    Raises:
      UserError: no checkpoint verifies, or it is another model's.
    """
    restored = checkpointer.restore(jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings), step)
    if restored is not None:
        return restored[0]
    if step is not None:
        raise UserError(f"{checkpointer.directory}/{step}: cannot be restored; the line above says why")
    key = jax.random.key(seed, impl="threefry2x32")
    # A program that runs once is not worth optimising; on a CPU that saves most of its compile time.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    state = jax.jit(init, out_shardings=shardings).lower(key).compile(compiler_options=options)(key)
    given = taken()
    fill = lambda params: {path: given.get(path, x) for path, x in params.items()}
    ema = None if state.ema is None else {path: jax.numpy.copy(x) for path, x in fill(state.ema).items()}
    return dataclasses.replace(state, params=fill(state.params), frozen=fill(state.frozen), ema=ema)


def trunk(branch_from: str, workdir: str, steps: int) -> tuple[Checkpointer, int]:
    """The checkpoint that a branch goes on from: a reader, and its step.

    Args:
      branch_from: `WORKDIR/checkpoints/STEP`, or `sibling:NAME/checkpoints/STEP` for the work dir NAME beside this run's.
      steps: of the branch, counted from the trunk's first.

    Raises:
      UserError: no such checkpoint, or one that is not before the branch's last step.
    """
    prefix, _, name = branch_from.partition(":")
    path = storage.join(os.path.dirname(workdir.rstrip("/")), name) if prefix == "sibling" else branch_from
    try:
        reader, _, step = open_checkpoint(path)
    except UserError as error:
        raise UserError(f"config.branch_from: {error}") from None
    if step >= steps:
        raise UserError(f"config.branch_from: {path} is step {step}, which is not before config.steps, {steps}")
    return reader, step


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
        console.show(f"init_from {source.path}: {len(taken)} of {len(skeleton.shapes)} parameters taken")
        params |= taken
    if sources:
        console.show(f"{len(skeleton.shapes) - len(params)} parameters start fresh")
    return params


def _take(
    source: InitConfig, skeleton: Skeleton, shardings: Mapping[str, NamedSharding], adapt: Callable, where: str
) -> Params:
    given = _foreign(source, where) if is_foreign(source.path) else _checkpoint(source)
    rules = user_rules(source.take, f"{where}.take") or [Rule(ours, True) for ours, _ in source.rename]
    rules += [Rule(".*", not rules, optional=True)]
    wanted = [path for path, take in resolve_rules(rules, skeleton.shapes, f"{where}.take").items() if take]
    theirs = {path: renamed(path, source.rename, where) for path in wanted}
    for path, name in theirs.items():
        if name not in given.paths:
            raise UserError(f"{where}: {path} is to come from {name}, which {source.path} lacks{nearest(name, given.paths)}")
    if source.check and given.settings:
        _same_settings(given, skeleton, theirs, source.path, where)
    saved = given.read({theirs[path]: shardings[path] for path in wanted})
    params, before = {}, {path: saved[theirs[path]].shape for path in wanted}
    for path in wanted:
        x, shape = adapt(path, saved[theirs[path]]), skeleton.shapes[path].shape
        if is_foreign(source.path):
            x = _more_words(x, shape, skeleton.axes[path])
        if x.shape != shape:
            raise UserError(f"{where}: {path} is of shape {x.shape} in {source.path} and {shape} here")
        params[path] = jax.device_put(x.astype(skeleton.shapes[path].dtype), shardings[path])
    if is_foreign(source.path):
        _account(source.path, skeleton, before)
    return params


def came_with(
    sources: Sequence[InitConfig], task: str, model: Any, tokenizer: Tokenizer | None, preprocess: Preprocess
) -> dict[str, Any] | None:
    """What a model of another library left for the way back (`Source.travel`): its config, small files, dtypes and names.

    Only where all parameters come from it, directly or by way of other runs, and its format can hold the model; None
    otherwise. Words that are no longer its own lose the files of its tokenizer, and a line says where pictures are prepared
    otherwise than it was made for.

    Args:
      task, model, tokenizer, preprocess: of the new run.
    """
    if len(sources) != 1 or sources[0].take or sources[0].rename:
        return None
    path = sources[0].path
    if is_foreign(path):
        opened = Source.open(path)
        travel, vocabulary = opened.travel(), opened.tokenizer and opened.tokenizer.save()
        wanted = {} if opened.processing is None else opened.processing.section()
    else:
        meta = open_checkpoint(path)[1]
        travel, vocabulary, wanted = meta.get("interop"), meta["tokenizer"], meta["preprocess"] or {}
    if travel is None or FAMILIES[travel["family"]].task != task:
        return None
    try:
        FAMILIES[travel["family"]].check(with_words(model, tokenizer))
    except UserError as error:
        console.show(f"note: the names and files of {path} do not travel with this run ({error})")
        return None
    plain = lambda value: tuple(value) if isinstance(value, list) else value  # as JSON has it
    others = [f"{key}={value!r}" for key, value in wanted.items() if plain(value) != getattr(preprocess, key)
              and (key != "fill" or preprocess.resize in ("longest", "square"))]
    if others:
        console.show(f"note: {path} was made for pictures with {', '.join(others)} in config.data")
    if tokenizer is not None and (vocabulary or {}).get("sha256") != tokenizer.save()["sha256"]:
        travel = travel | {"files": {name: x for name, x in travel["files"].items() if name not in words.FILES}}
    return travel


def _checkpoint(source: InitConfig) -> Given:
    """Another run's parameters."""
    reader, meta, step = open_checkpoint(source.path)
    paths = {renames.parameter(name.partition(":")[2]) for name in meta["leaves"] if name.split(":")[0] in ("params", "frozen")}
    paths.discard(None)
    return Given(paths, lambda wanted: reader.restore_params(step, wanted, ema=source.ema, only=set(wanted)), {})


def _foreign(source: InitConfig, where: str) -> Given:
    """Those of another library's model: read from its files one by one, straight to the devices that hold them."""
    try:
        opened = Source.open(source.path)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None

    def one(path: str, sharding: NamedSharding) -> Array:
        x: np.ndarray = opened.reading.read(path)
        try:
            sharding.shard_shape(x.shape)
        except ValueError:  # of another shape than ours: it is resampled first, and laid out then
            return jnp.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

    read = lambda wanted: {path: one(path, sharding) for path, sharding in wanted.items()}
    return Given(opened.reading.paths, read, settings(lambda rngs: opened.family.build(opened.config, rngs)))


def _same_settings(given: Given, skeleton: Skeleton, theirs: Mapping[str, str], path: str, where: str) -> None:
    for module, field, have, want in disagreements(settings(skeleton.build), given.settings, theirs.items()):
        raise UserError(f"{where}: {module or 'the model'} has {field} {have!r}, the weights of {path} were made with {want!r}; "
                        "set it in config.model, or check=False to take them all the same")


def _more_words(x: Array, shape: tuple[int, ...], axes: Sequence[str | None]) -> Array:
    """Pads a vocabulary with its mean row, to a size that a mesh divides."""
    if "vocab" not in axes or len(x.shape) != len(shape):
        return x
    axis = axes.index("vocab")
    missing = shape[axis] - x.shape[axis]
    if missing <= 0 or any(a != b for i, (a, b) in enumerate(zip(x.shape, shape)) if i != axis):
        return x
    return jnp.concatenate([x, jnp.repeat(x.mean(axis, keepdims=True), missing, axis)], axis)


def _account(path: str, skeleton: Skeleton, taken: Mapping[str, tuple[int, ...]]) -> None:
    """What came from a source, part by part: loaded, missing (they start otherwise), reshaped."""
    part_of = lambda path: "/".join(path.split("/")[:2 if path.startswith(("encoders/", "adapters/")) else 1])
    rows = []
    for part in dict.fromkeys(map(part_of, taken)):
        mine = [p for p in skeleton.shapes if part_of(p) == part]
        there = {p: taken[p] for p in mine if p in taken}
        changed = [f"{p} {shape} → {skeleton.shapes[p].shape}" for p, shape in there.items() if shape != skeleton.shapes[p].shape]
        missing = [p for p in mine if p not in taken]
        few = lambda names: ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "-"
        rows.append((part, len(there), few(missing), few(changed)))
    console.show(console.table(path, ("part", "loaded", "missing", "reshaped"), rows))


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
    workdir, step = place.split(path)
    directory = storage.join(workdir, place.CHECKPOINTS)
    reader = Checkpointer(directory, read_only=True)
    steps = reader.steps()
    if not steps or (step is not None and step not in steps):
        known = ", ".join(map(str, steps)) or "none"
        raise UserError(f"{path}: no such checkpoint (complete steps: {known})")
    if step is None:
        step = reader.newest()
    elif reason := reader.damage(step, arrays=False):
        raise UserError(f"{path}: {reason}; take another step (complete: {', '.join(map(str, steps))})")
    return reader, reader.meta(step), step
