"""Terms of a loss; a config names them by `kind`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax.errors import UserError
from mof_jax.objectives.objective import Objective
from mof_jax.parsing import show
from mof_jax.registry import Registry

OBJECTIVES: Registry[Objective] = Registry(__name__, Objective, "objective")


def build(section: Mapping[str, Any] | None, default: str, where: str) -> Objective | dict[str, Objective]:
    """What a config says: one term, `dict(kind="softmax", …)`, or several by name, `dict(clip=dict(kind="softmax"), …)`.

    Args:
      default: kind of a single term that names none.

    Raises:
      UserError: naming `where` and the key.
    """
    values = dict(section or {})
    if "kind" not in values and values and all(isinstance(inner, Mapping) for inner in values.values()):
        for name in values:
            if not isinstance(name, str) or not name.isidentifier():
                raise UserError(f"{where}: {show(name)} is no name of a term (letters, digits, _)")
        return {name: OBJECTIVES.build(inner, f"{where}.{name}") for name, inner in values.items()}
    return OBJECTIVES.build({"kind": default} | values, where)


def terms(objective: Objective | Mapping[str, Objective]) -> dict[str, Objective]:
    """By name; a single one has the name of its kind."""
    return {objective.kind: objective} if isinstance(objective, Objective) else dict(objective)


def check(objective: Objective | Mapping[str, Objective]) -> None:
    """Raises `UserError` where every term weighs nothing."""
    if all(isinstance(term.weight, float) and term.weight == 0 for term in terms(objective).values()):
        raise UserError("config.objective: every term has weight 0")


def following_steps(objective: Objective | Mapping[str, Objective], model: Any) -> list[str]:
    """Config keys of what depends on how many steps a run has: such a run can neither be made longer nor have branches.

    Args:
      model: the model's config, whose teacher follows with a momentum that reaches 1 at the last step, if it has one.
    """
    found = [f"objective.{name}" for name, term in terms(objective).items() if term.follows_steps]
    teacher = getattr(model, "teacher", None)
    return found + (["model.teacher"] if teacher is not None and teacher.momentum < 1 else [])
