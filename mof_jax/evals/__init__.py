"""Evaluators behind one interface; a config names them by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.evals.evaluator import Evaluator
from mof_jax.parsing import is_text, show
from mof_jax.registry import Registry

EVALUATORS: Registry[Evaluator] = Registry(__name__, Evaluator, "evaluator")

_LONGEST = 200  # letters of an evaluator's name
_ASKS = {"encoder": "for embeddings", "responder": "questions"}


def build(section: Mapping[str, Any], where: str, face: str = "encoder") -> Evaluator:
    """The evaluator of a config section.

    Raises:
      UserError: no such evaluator or field, or one that asks another `face` of a model than the task has.
    """
    cls, values = EVALUATORS.parse(section, where)
    if cls.needs != face:
        known = ", ".join(name for name, other in EVALUATORS.items() if other.needs == face)
        raise UserError(f"{where}.kind: {cls.kind!r} asks a model {_ASKS[cls.needs]}; this task's models can be asked by {known}")
    return _named(configs.build(cls, values, where), where)


def _named(evaluator: Evaluator, where: str) -> Evaluator:
    """The evaluator, whose name becomes that of files in the work dir.

    Raises:
      UserError: a name that would lead elsewhere, or is none.
    """
    name = evaluator.name
    odd = not is_text(name) or not name.isprintable() or not name.strip() or len(name) > _LONGEST
    if odd or name.startswith(".") or any(c in name for c in "/\\"):
        raise UserError(f"{where}.name: {show(name)} cannot be the name of a file; give one of at most {_LONGEST} printable "
                        "letters, without / and \\ and no . in front")
    return evaluator
