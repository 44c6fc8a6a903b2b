"""A task is a value: how to build the model, its features, the terms of its loss, and what evaluators may ask of it.

    batch ─ teach ─▶ + what the whole batch says without gradient (a teacher's features, targets)
          ─ forward ─▶ features, row by row: may be cut into micro-batches
          ─ heads ─▶ more features, from all rows
          ─ losses ─▶ {term: Loss}, each divided by what `weights` counted before anything was cut

The step (`train.step`) knows nothing else.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping
import dataclasses
from typing import Any, ClassVar, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from mof_jax.errors import UserError, nearest
from mof_jax.models.teacher import Teacher
from mof_jax.nn import dropout as drop
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective

Batch = Mapping[str, Array]
Predictor = Callable[..., Any]


class StackInfo(NamedTuple):
    """A stack of layers at work in a step; what formulas of memory and time are made of.

    Attributes:
      part: of the model, as `Task.flops` calls it; its layers' parameters are under `PART/blocks/`.
      config: of the stack: its width, depth, heads, `mlp_dim`, kernel and rematerialisation.
      sequences: a step, on all devices. tokens: of one.
      upstream: prefixes of parameters in front of it: where one is trained, a gradient runs through the stack.
    """

    part: str
    config: Any
    sequences: int
    tokens: int
    upstream: tuple[str, ...] = ()


class Task(abc.ABC):
    """What training and evaluation need to know of a paper.

    Attributes:
      terms: of the loss, by name.
      teacher: which parameters follow others, and how; None if none do.
      head_reads: features that `heads` makes others from. late: those that it makes: they are there once all rows are.
      rows: rows of a batch that share a buffer and stay together on a device and in a micro-batch.
      predictors: what evaluators may ask of the model, by capability. `embed/NAME` and `tokens/NAME` are functions
        `(model, inputs)` to [rows, dim] and [rows, tokens, dim]; `generate` is `(model)` to the `Mllm` in it that answers.
    """

    terms: Mapping[str, Objective] = {}
    teacher: Teacher | None = None
    head_reads: tuple[str, ...] = ()
    late: Collection[str] = ()
    rows: int = 1
    predictors: ClassVar[Mapping[str, Predictor]] = {}

    @abc.abstractmethod
    def make(self, rngs: nnx.Rngs) -> nnx.Module:
        """A freshly initialised model, without what terms own."""

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """A freshly initialised model, the terms' own parameters under `objective/<term>/`."""
        model = self.make(rngs)
        made = {name: term.build(rngs, self.dims) for name, term in self.terms.items()}
        if owned := {name: module for name, module in made.items() if module is not None}:
            model.objective = nnx.Dict(owned)
        return model

    @property
    @abc.abstractmethod
    def dims(self) -> Mapping[str, int]:
        """The features that terms may read besides the batch's fields, and the length of their last axis (0: a scalar)."""

    def keys(self, batch: Batch, key: Key[Array, ""]) -> Any:
        """One key a row of what `forward` cuts, or a pytree of such."""
        return drop.example_keys(key, next(iter(batch.values())).shape[0])

    def teach(self, model: nnx.Module, batch: Batch, context: Context) -> Features:
        """Features [rows, …] that need the whole batch and no gradient: a teacher's (`teacher/…`, which are dropped once terms
        have made their targets of them, unless some term reads them), choices of what `forward` does.
        """
        return {}

    @abc.abstractmethod
    def forward(
        self, model: nnx.Module, batch: Batch, wanted: Collection[str], context: Context
    ) -> tuple[Features, Mapping[str, Array]]:
        """Features [rows, …] of a part of the rows, and what layers add up over rows (read as `sums/<name>`).

        Args:
          batch: fields and what `teach` gave. wanted: names that somebody reads. context: its `keys` are those of these rows.
        """

    def shared(self, model: nnx.Module) -> Features:
        """Features that are no row's: a temperature, the matrix of a vocabulary."""
        return {}

    def heads(self, model: nnx.Module, features: Features, context: Context) -> tuple[Features, Mapping[str, Array]]:
        """Further features from all rows, and new values of moving variables (statistics of a batch)."""
        return {}, {}

    def losses(
        self, model: nnx.Module, features: Features, context: Context, names: Collection[str], present: Mapping[str, Array] = {}
    ) -> dict[str, Loss]:
        """The terms of some names, over the rows of `features`.

        Args:
          present: where a term may have nothing to count in a batch, whether it has: if not, it adds nothing to any gradient.
        """
        owned, found = getattr(model, "objective", {}), {}
        for name in names:
            own = owned[name] if name in owned else None
            mine = {key: features[key] for key in self.terms[name].reads}
            if name in present:
                own, mine = cut((own, mine), present[name])
            loss = self.terms[name].loss(own, mine, context.of(name))
            loss = loss._replace(moved={f"objective/{name}/{path}": value for path, value in loss.moved.items()})
            found[name] = loss if name not in present else loss._replace(sum=jnp.where(present[name], loss.sum, 0.0))
        return found

    def weights(self, batch: Batch, context: Context) -> dict[str, float | Float[Array, ""]]:
        """What each term's sum is divided by, from the whole batch and what `teach` gave."""
        return {name: term.count(batch, context) for name, term in self.terms.items()}

    def figures(self, batch: Batch) -> Mapping[str, Mean]:
        """What the log says about a batch."""
        return {}

    @property
    def couples_rows(self) -> bool:
        """Whether anything needs all rows at once; else the gradient is taken inside each micro-batch."""
        return bool(self.head_reads) or any(term.couples_rows for term in self.terms.values())

    def check(self, fields: Collection[str]) -> None:
        """Raises `UserError` for a term that reads what neither the model nor the data gives.

        Args:
          fields: of a batch.
        """
        known = {*self.dims, *fields, *(name for term in self.terms.values() for name in term.gives)}
        for name, term in self.terms.items():
            for feature in term.reads:
                if feature not in known and not feature.startswith("sums/"):
                    raise UserError(f"config.objective: {name} reads {feature!r}, which neither the model nor the data gives"
                                    f"{nearest(feature, known)} (they give {', '.join(sorted(known))})")

    def stacks(self, batch_size: int) -> list[StackInfo]:
        """The stacks of a training step, the ones that work first in front; empty where no formula knows them."""
        return []

    @abc.abstractmethod
    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """Model FLOPs of one training step, by part; `trained(prefix)` says whether a part has trainable parameters."""

    def adapt(self, path: str, value: Array) -> Array:
        """A parameter of another run as this model needs it, e.g. position embeddings resampled; `value` if nothing is to do."""
        return value


def taught(task: Task, model: nnx.Module, batch: Batch, context: Context) -> Batch:
    """The batch and what it says as a whole, without gradient: a teacher's features, and targets that terms make of them."""
    features = task.teach(model, batch, context)
    unread = {name for name in features if name.startswith("teacher/")} - reading(task)
    found = {name: x for name, x in features.items() if name not in unread}
    for term in task.terms.values():
        found |= term.teach({**batch, **features}, context)
    return {**batch, **jax.lax.stop_gradient(found)}


def evaluate(
    task: Task, model: nnx.Module, batch: Batch, context: Context, present: Mapping[str, Array] = {}
) -> tuple[dict[str, Loss], dict[str, Array]]:
    """Every term over a whole batch, and what moves; differentiable in the model.

    Rows go through the model in `context.microbatches` parts and are recomputed in the backward pass; terms that couple rows see
    them all, and so do those that read a head or a sum over rows. The others are summed inside each part.

    Args:
      batch: see `taught`. present: see `Task.losses`.
    """
    behind = lambda term: any(name in task.late or name.startswith("sums/") for name in term.reads)
    inside = [name for name, term in task.terms.items() if not term.couples_rows and not behind(term)]
    coupled = [name for name in task.terms if name not in inside]
    wanted, kept = reading(task), reading(task, coupled) | set(task.head_reads)
    shared = task.shared(model)

    def rows(inputs: dict[str, Any]) -> tuple[Any, Any]:
        own = dataclasses.replace(context, keys=inputs["keys"])
        features, sums = task.forward(model, inputs["batch"], wanted, own)
        given = {**inputs["batch"], **features, **shared}
        losses = task.losses(model, given, context, inside, present)
        return {name: x for name, x in features.items() if name in kept}, (sums, losses)

    features, (sums, losses) = context.in_parts(rows, {"batch": batch, "keys": context.keys}, recomputed=True)
    features = {**batch, **features, **shared, **{f"sums/{name}": x for name, x in sums.items()}}
    more, moved = task.heads(model, features, context)
    losses = losses | task.losses(model, {**features, **more}, context, coupled, present)
    return losses, _united([moved, *(loss.moved for loss in losses.values())])


def reading(task: Task, names: Collection[str] | None = None) -> frozenset[str]:
    """What the terms read, all of them or some."""
    chosen = task.terms if names is None else names
    return frozenset(feature for name in chosen for feature in task.terms[name].reads)


@jax.custom_vjp
def cut(tree: Any, on: Bool[Array, ""]) -> Any:
    """The tree; its gradient where `on`, and 0 elsewhere, whatever it is: 0 times infinity would be nan."""
    return tree


def _cut_forward(tree: Any, on: Array) -> tuple[Any, Array]:
    return tree, on


def _cut_backward(on: Array, gradient: Any) -> tuple[Any, None]:
    return jax.tree.map(lambda g: g if g.dtype == jax.dtypes.float0 else jnp.where(on, g, 0), gradient), None


cut.defvjp(_cut_forward, _cut_backward)


def _united(parts: list[Mapping[str, Array]]) -> dict[str, Array]:
    """One dictionary of what moves.

    Raises:
      ValueError: two that write one path.
    """
    found: dict[str, Array] = {}
    for part in parts:
        if twice := sorted(found.keys() & part.keys()):
            raise ValueError(f"two parts of the loss move {twice[0]}")
        found |= part
    return found
