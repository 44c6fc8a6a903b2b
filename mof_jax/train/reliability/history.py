"""A resume never becomes another run: what a run was in all of its processes, and what the next one may have otherwise.

A run is a function of (config, seed, step), so one that goes on under another config is none that any config describes. A
checkpoint holds its config; whatever in it decides data, rate or arithmetic has to be the same when the run goes on, or is
changed knowingly (`--allow-change KEY`) and kept, with the step, in every later checkpoint, in `config.json` and in
`summary.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import itertools
import os
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from mof_jax import config as configs
from mof_jax import renames, storage
from mof_jax.data.orders.shuffled import follows_steps
from mof_jax.errors import UserError, nearest
from mof_jax.objectives import following_steps
from mof_jax.parsing import is_count, is_number, show
from mof_jax.rules import Rule
from mof_jax.train.reliability.rollback import Rollback, behind
from mof_jax.train.schedule import ScheduleConfig, make_schedule

KEY = "changes"  # of a checkpoint's meta, of config.json and summary.json

FREE, NOTED, REFUSED = "free", "noted", "refused"
# Of every key of a config: `free` changes nothing that is computed but for the order of sums; `noted` what happens only where
# something goes wrong. The first rule that matches counts.
RULES = (
    Rule(r"(mesh|hardware|checkpoint|watchdog|evals)(\..*)?", FREE),
    Rule(r"eval_every|eval_ema|eval_batch_size|log_every|profile(\..*)?|compilation_cache", FREE),
    Rule(r"plugins\.\d+\.path", FREE),  # its hash says what it is
    Rule(r"data\.(threads|prefetch|workers|chunk|cache|cache_gb)", FREE),
    Rule(r"(data|data\.kinds\.[^.]+)\.sources\.\d+\.(name|cache_dir)", FREE),
    Rule(r"model\.(.*\.)?(remat|unroll|kernel)", FREE),
    Rule(r"microbatches|objective\.([^.]+\.)?block_size", FREE),
    Rule(r"spikes\..*|data\.on_error", NOTED),
    Rule(r".*", REFUSED),
)
# What the leaves of the state are.
_MAY_RESHAPE = re.compile(r"model\.|tokenizer\.|objective\.(.*\.)?kind|optimizer\.(name|ema)$|task$")
_PLACE = re.compile(r"(.*\.)?(path|image_root|sidecar|manifest|branch_from)")  # where something lies, not what it is
_CONTENT = re.compile(r"data\.((kinds\.[^.]+\.)?sources\.\d+|fields\.[^.]+|order)\.content\..*")
_PLACE_OF_DATA = re.compile(r"data\.((kinds\.[^.]+\.)?sources\.\d+\.(path|image_root|filter\.sidecar|filter\.manifest)"
                            r"|(fields\.[^.]+|order)\.path(\..*)?)")


@dataclasses.dataclass(frozen=True)
class Change:
    """From a step on, a run's config was another.

    Attributes:
      step: the last one before. examples, flops: seen and computed by then.
      keys: dotted key to (before, after).
    """

    step: int
    examples: int
    flops: float
    keys: Mapping[str, tuple[Any, Any]]


def saved(meta: Mapping[str, Any] | None) -> list[Change]:
    """The changes in what a checkpoint, or `config.json`, says.

    Raises:
      UserError: they are none.
    """
    try:
        found = [Change(**{**change, "keys": {key: (old, new) for key, (old, new) in change["keys"].items()}})
                 for change in (meta or {}).get(KEY, ())]
        if all(is_count(c.step) and c.step and is_count(c.examples) and is_number(c.flops) for c in found) and all(
                before.step <= after.step for before, after in itertools.pairwise(found)):
            return found
    except (TypeError, ValueError, KeyError, AttributeError):
        pass
    raise UserError(f"{KEY!r}, what the config was otherwise before, is damaged there")


def examples(changes: Sequence[Change], step: int, batch_size: int) -> int:
    """How many examples a run has seen after `step` steps; `batch_size` is that of the last of them."""
    since = changes[-1] if changes else Change(0, 0, 0.0, {})
    return since.examples + (step - since.step) * batch_size


def flops(changes: Sequence[Change], step: int, per_step: float) -> float:
    """Model FLOPs of a run after `step` steps; `per_step` are those of the last of them."""
    since = changes[-1] if changes else Change(0, 0, 0.0, {})
    return since.flops + (step - since.step) * per_step


def written(changes: Sequence[Change]) -> dict[str, Any]:
    """Changes as JSON, under `KEY`; nothing for a run that has none."""
    return {KEY: [dataclasses.asdict(change) for change in changes]} if changes else {}


def config_of(meta: Mapping[str, Any], resolve: Callable[[Mapping[str, Any]], Any], config: Any) -> dict[str, Any]:
    """The config that a checkpoint holds, by dotted key, and what its sources held. Of an older version's, the keys that it lacks
    have the defaults of today.

    Args:
      resolve: from a config's values to a typed one. config: of today.
    """
    there = meta["config"]
    try:
        found = configs.flatten(configs.to_dict(resolve(there)))
    except UserError:  # not all of its keys are known today
        after = configs.flatten(configs.to_dict(config))
        found = after | {key: value for key, value in configs.flatten(there).items() if key in after}
    return found | (configs.flatten({"data": meta["content"]}) if meta.get("content") else {})


def go_on(
    before: Mapping[str, Any], config: Any, step: int, workdir: str, content: Mapping[str, Any] | None = None,
    allowed: Collection[str] = (), branch: bool = False, was: str | None = None,
) -> dict[str, tuple[Any, Any]]:
    """What differs between the run of a checkpoint and the config under which it is to go on, of all that has to be kept.

    Args:
      before: the config that the checkpoint holds, by dotted key, see `config_of`. config: a resolved `run.RunConfig`.
      step: of the checkpoint. workdir: of the run. was: the work dir at that time, if it is known.
      content: what the config's sources hold now, see `data.identity`. None, before they are opened, leaves them out.
      allowed: keys, or sections, that may differ. branch: this is another run, which begins there: anything may.

    Raises:
      UserError: a key that differs and is not allowed, or one that is allowed and does not exist.
    """
    after = configs.flatten(configs.to_dict(config))
    check_allowed(allowed, [*before, *after])
    before, after = _with_content(before, after, content)
    if config.steps < step:
        raise UserError(f"config.steps: {workdir} is after step {step} already, and {config.steps} would end before; use another "
                        "work dir")
    kept = {key: (before.get(key), after.get(key)) for key in {**before, **after}
            if verdict(key) != FREE and _differs(key, before, after, workdir, was)}
    # Of a section that is of another kind now, the kind says it for the keys that only one of them has.
    others = tuple(key.removesuffix("kind") for key in kept if key.endswith(".kind"))
    kept = {key: pair for key, pair in kept.items()
            if not key.startswith(others) or key.endswith(".kind") or (key in before and key in after)}
    # A teacher, and an order by shares of the run, follow the number of steps.
    bound = follows_steps(after) or bool(following_steps(config.objective, config.model))
    if _same_schedule(before, after, step) and not bound:
        kept = {key: pair for key, pair in kept.items()
                if key != "steps" and not (branch and key.startswith("optimizer.schedule."))}
    refused = {key: pair for key, pair in kept.items() if verdict(key) == REFUSED and not _covered(key, allowed)}
    if refused and not branch:
        raise UserError(_refusal(refused, step, workdir))
    return {key: pair for key, pair in kept.items() if not (branch and key.startswith(("branch_from", "init_from")))}


def verdict(key: str) -> str:
    """`free`, `noted` or `refused`."""
    return next(rule.value for rule in RULES if re.fullmatch(rule.pattern, key))


def changed(
    kept: Mapping[str, tuple[Any, Any]], changes: Sequence[Change], rollbacks: Sequence[Rollback], step: int, per_step: float,
    batch_size: int, counted: bool = True,
) -> tuple[list[Change], list[Rollback]]:
    """The changes of a run with those that take effect after `step`, and its rollbacks with the place in the data where another
    batch size goes on: behind the last example that was seen, rounded up to a whole batch.

    Args:
      kept: what differs. per_step: FLOPs of a step until now. batch_size: from now on.
      counted: whether the place in the data is a number of batches; a pipeline that packs has a cursor of its own.
    """
    if not kept:
        return list(changes), list(rollbacks)
    old = kept.get("batch_size", (batch_size,))[0]
    change = Change(step, examples(changes, step, old), flops(changes, step, per_step), kept)
    if old != batch_size and counted:
        seen = behind(rollbacks, step)
        number, until = rollbacks[-1].number if rollbacks else 0, -(-seen * old // batch_size)
        if rollbacks and rollbacks[-1].step == step:  # the process before went back to here: what it skipped stays skipped
            until = max(until, rollbacks[-1].until)
        rollbacks = [*rollbacks, Rollback(number, step, seen, until, f"batch_size {old} → {batch_size}")]
    return [*changes, change], list(rollbacks)


def _with_content(
    before: Mapping[str, Any], after: Mapping[str, Any], content: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Both configs, with what their sources hold in the place of where it lies: that decides."""
    if not any(_CONTENT.fullmatch(key) for key in before):
        return before, after
    before, after = ({key: value for key, value in values.items() if not _PLACE_OF_DATA.fullmatch(key)}
                     for values in (before, after))
    if content is None:
        return {key: value for key, value in before.items() if not _CONTENT.fullmatch(key)}, after
    return before, after | configs.flatten({"data": content})


def _differs(key: str, before: Mapping[str, Any], after: Mapping[str, Any], workdir: str, was: str | None) -> bool:
    old, new = (None if values.get(key) in ([], {}) else values.get(key) for values in (before, after))
    if old == new:  # of a section that is None or empty, the keys are None
        return False
    if key.endswith(".content.file") and None in (old, new):  # a table that went to a store has no such digest
        return False
    if re.fullmatch(_PLACE, key) and isinstance(old, str) and isinstance(new, str) and not storage.is_remote(new):
        moved = was is not None and (beside := _beside(new, workdir)) is not None and beside == _beside(old, was)
        return not moved and os.path.abspath(old) != os.path.abspath(new)
    return True


def _beside(path: str, workdir: str) -> str | None:
    """A path from the folder that a work dir lies in, None for one that lies elsewhere: what lies there moves with it."""
    found = os.path.relpath(os.path.abspath(path), os.path.dirname(os.path.abspath(workdir)))
    return None if found.startswith("..") else found


def _same_schedule(before: Mapping[str, Any], after: Mapping[str, Any], step: int) -> bool:
    """Whether both take the same shares of the peak learning rate over the steps that are done."""
    shares, deciding = [], lambda values: {
        key: value for key, value in values.items() if key == "steps" or key.startswith("optimizer.schedule.")}
    if deciding(before) == deciding(after):
        return True
    for values in (before, after):
        section = {key.rpartition(".")[2]: value for key, value in values.items() if key.startswith("optimizer.schedule.")}
        try:
            schedule = make_schedule(configs.build(ScheduleConfig, section, "config.optimizer.schedule"), values["steps"])
        except ValueError as error:
            raise UserError(f"config.optimizer.schedule: {error}") from None
        shares.append(np.asarray(schedule(jnp.arange(step))))
    return bool((shares[0] == shares[1]).all())


def _covered(key: str, allowed: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in map(_name, allowed))


def _name(key: str) -> str:
    return renames.key(key.removeprefix("config."))


def of_run(allowed: Collection[str], config: Any) -> list[str]:
    """Those of the keys that a run has, of all that a staged config's stages may have."""
    known = configs.flatten(configs.to_dict(config))
    return [key for key in allowed if _is_known(_name(key), known) or ".content" in key]


def _is_known(key: str, known: Collection[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for name in known)


def check_allowed(allowed: Collection[str], known: Collection[str]) -> None:
    """Raises `UserError` for a key that is to be allowed and does not exist."""
    for key in map(_name, allowed):
        if not key or not _is_known(key, known):
            raise UserError(f"--allow-change {key}: no such key of this config{nearest(key, known)}")


def _refusal(refused: Mapping[str, tuple[Any, Any]], step: int, workdir: str) -> str:
    (key, (old, new)), *others = sorted(refused.items(), key=lambda item: item[0] == "steps")  # which often follows from others
    also = "; and so do " + ", ".join(f"{k} ({show(a, 24)} → {show(b, 24)})" for k, (a, b) in others[:4]) if others else ""
    also += f" and {len(others) - 4} more" if len(others) > 4 else ""
    why = " (its schedule would have had other rates in the steps that are done)" if key == "steps" else ""
    form = ", if the saved arrays keep their shapes" if any(map(_MAY_RESHAPE.match, refused)) else ""
    return (f"config.{key}: {workdir} was trained with {show(old)} until step {step} and would go on with {show(new)}{why}{also}"
            f"; give back what it had, use another work dir, or take the change from here on with --allow-change {key}{form}")
