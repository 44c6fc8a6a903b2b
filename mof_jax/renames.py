"""Names that changed: what older files, overrides and checkpoints say is read as what it is called now. The one table.

`config.override` translates a user's file and his overrides and says so; `run.resolve` translates every config, so that a resume
compares what is meant. Checkpoints are read under the names that they were written with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import copy
import dataclasses
import re
from typing import Any

from mof_jax import console
from mof_jax.errors import UserError
from mof_jax.parsing import show


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A dotted config key, or the beginning of one. `to` None: it is gone, and may be left where it has one of `idle`.

    Attributes:
      when: of a whole config (translated so far) that has the key, whether the entry holds for it.
    """

    key: str
    to: str | None
    idle: tuple[Any, ...] = ()
    when: Callable[[Mapping[str, Any]], bool] = lambda config: True


def _loss(config: Mapping[str, Any]) -> str:
    """The kind of a contrastive objective; another task's is not of one of the kinds below."""
    return (config.get("objective") or {}).get("kind", "softmax") if config.get("task", "contrastive") == "contrastive" else ""


def _idle(key: str, values: tuple[Any, ...], *kinds: str, default: str) -> Renamed:
    """A key of a section of `model` that does nothing in some of its kinds; once all kinds had all keys."""
    section = key.split(".")[0]
    return Renamed(f"model.{key}", None, values, lambda config: config["model"][section].get("kind", default) in kinds)


# In the order in which they are applied.
KEYS = (
    Renamed("objective.loss", "objective.kind"),
    Renamed("objective.microbatches", "microbatches"),
    Renamed("objective.max_logit_scale", "model.max_logit_scale"),
    Renamed("objective.strip", "objective.block_size"),
    Renamed("objective.chunk", "objective.block_size"),
    # Every loss had these once, and most did nothing with them.
    Renamed("objective.label_smoothing", None, (0, 0.0), lambda config: _loss(config) in ("sigmoid", "dcl", "decoupled")),
    Renamed("objective.multi_positive", None, (False, True), lambda config: _loss(config) == "decoupled"),
    _idle("connector.tokens", (None,), "linear", "mlp", default="mlp"),
    _idle("connector.width", (0,), "linear", "mlp", "average", default="mlp"),
    _idle("connector.depth", (0,), "linear", "mlp", "average", default="mlp"),
    _idle("connector.heads", (16,), "linear", "mlp", "average", "c_abstractor", default="mlp"),
    _idle("fusion.ssl_ratio", (0.5,), "single", "channel", "interleaved", default="single"),
    _idle("fusion.normalise", ("none",), "single", "channel", "interleaved", default="single"),
)

_TOLD: set[str] = set()

# Parameters by path: (regex, what it is now), None for one that is gone.
PARAMETERS: tuple[tuple[str, str | None], ...] = (
    ("updates", None),  # how many updates DINO's student had seen: the step says it
)


def translate(values: Mapping[str, Any], tell: Callable[[str], None] | None = None) -> dict[str, Any]:
    """A config, staged or not, under the names of today; what is not renamed is the same object.

    Args:
      tell: takes a line for each key that was called otherwise.

    Raises:
      UserError: both names of one key are there, with different values.
    """
    if isinstance(stages := values.get("stages"), (list, tuple)):
        translated = [translate(stage, tell) if isinstance(stage, Mapping) else stage for stage in stages]
        return {**values, "stages": translated}
    found = dict(values)
    for renamed in KEYS:
        parents, leaf = _place(found, renamed.key)
        if leaf is None or not renamed.when(found):
            continue
        if renamed.to is None and parents[-1][leaf] not in renamed.idle:
            continue  # whoever reads the section refuses it
        found = copy.deepcopy(found)
        parents, leaf = _place(found, renamed.key)
        value = parents[-1].pop(leaf)
        if renamed.to is None:
            continue
        _put(found, renamed, value)
        if tell is not None:
            tell(f"config.{renamed.key} is called config.{renamed.to} now")
    return found


def told(line: str) -> None:
    """Shows a line, once."""
    if line not in _TOLD:
        _TOLD.add(line)
        console.show(line)


def key(name: str) -> str:
    """A dotted key, perhaps of a stage, under the name of today."""
    stage = re.match(r"stages\.\d+\.", name)
    prefix = stage[0] if stage else ""
    rest = name[len(prefix):]
    for renamed in KEYS:
        if renamed.to is not None and (rest == renamed.key or rest.startswith(f"{renamed.key}.")):
            rest = renamed.to + rest[len(renamed.key):]
    return prefix + rest


def parameter(path: str) -> str | None:
    """A parameter's path under the name of today, None for one that is gone."""
    for pattern, now in PARAMETERS:
        if match := re.fullmatch(pattern, path):
            return None if now is None else match.expand(now)
    return path


def _place(values: Mapping[str, Any], dotted: str) -> tuple[list[Any], str | None]:
    """The sections above a key, and its last part; None if it is not there."""
    *above, leaf = dotted.split(".")
    parents: list[Any] = [values]
    for part in above:
        inner = parents[-1].get(part)
        if not isinstance(inner, Mapping):
            return parents, None
        parents.append(inner)
    return parents, leaf if leaf in parents[-1] else None


def _put(values: dict[str, Any], renamed: Renamed, value: Any) -> None:
    *above, leaf = renamed.to.split(".")
    node = values
    for part in above:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise UserError(f"config.{part}: expected a section, got {show(node)}")
    if leaf in node and node[leaf] != value:
        raise UserError(f"config.{renamed.key} is called config.{renamed.to} now, and both are there, as {show(value)} and "
                        f"{show(node[leaf])}; take the first one out")
    node[leaf] = value
