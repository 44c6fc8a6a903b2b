"""Evaluators behind one interface; a config names them by `kind`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.evals.evaluator import Evaluator
from mof_jax.parsing import is_text, show
from mof_jax.registry import Registry

EVALUATORS: Registry[Evaluator] = Registry(__name__, Evaluator, "evaluator")

_LONGEST = 200  # letters of an evaluator's name


def build(section: Mapping[str, Any], where: str, capabilities: Collection[str] | None = None) -> Evaluator:
    """The evaluator of a config section.

    Args:
      capabilities: of the models that it will be asked about, see `tasks.TaskKind`; None for those of any
        model.

    Raises:
      UserError: no such evaluator or field, or one that requires a capability that is missing.
    """
    cls, values = EVALUATORS.parse(section, where)
    if capabilities is not None and (missing := [name for name in cls.requires if name not in capabilities]):
        suit = ", ".join(
            name for name, other in EVALUATORS.items() if set(other.requires) <= set(capabilities)
        )
        raise UserError(
            f"{where}.kind: {cls.kind!r} requires {', '.join(missing)}; this task's models can "
            f"{', '.join(sorted(capabilities)) or 'do nothing of the kind'}, which suits "
            f"{suit or 'no evaluator'}"
        )
    return _named(configs.build(cls, values, where), where)


def _named(evaluator: Evaluator, where: str) -> Evaluator:
    """The evaluator, whose name becomes that of files in the work dir.

    Raises:
      UserError: a name that would lead elsewhere, or is none.
    """
    name = evaluator.name
    odd = not is_text(name) or not name.isprintable() or not name.strip() or len(name) > _LONGEST
    if odd or name.startswith(".") or any(c in name for c in "/\\"):
        raise UserError(
            f"{where}.name: {show(name)} cannot be the name of a file; give one of at most {_LONGEST} "
            "printable letters, without / and \\ and no . in front"
        )
    return evaluator
