"""A teacher is a rule: parameters under one prefix are running averages of those under another."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.nn.module import Moving, Params


@dataclasses.dataclass(frozen=True)
class Teacher:
    """teacher ← m · teacher + (1 - m) · student after every update, m from `momentum` to 1 along a half cosine.

    As in BYOL (arXiv 2006.07733) and DINO (arXiv 2104.14294). A momentum of 1 leaves the teacher as it began: a frozen reference.

    Attributes:
      prefix: of the teacher's paths. student: what stands in its place in the paths that it follows.
      momentum: at the first step. steps: of the run.
    """

    prefix: str
    student: str
    momentum: float
    steps: int

    def at(self, step: Float[Array, ""]) -> Float[Array, ""]:
        """The momentum of a step, counted from 0."""
        return 1.0 - (1.0 - self.momentum) * 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(step / self.steps, 0.0, 1.0)))

    def follow(self, step: Int[Array, ""], params: Params, frozen: Params) -> Params:
        """The teacher's parameters among `frozen` after the update of `step` that gave `params`.

        A student's parameter that is frozen itself is followed, too.
        """
        momentum = self.at(step.astype(jnp.float32))
        every = {**frozen, **params}
        return {path: momentum * value + (1.0 - momentum) * every[self.student + path.removeprefix(self.prefix)]
                for path, value in frozen.items() if path.startswith(self.prefix)}


def follower(module: nnx.Module) -> nnx.Module:
    """A copy of a module whose parameters all change without gradient."""
    copy = nnx.merge(*nnx.split(module))
    for _, node in nnx.iter_modules(copy):
        for name, value in vars(node).items():
            if isinstance(value, nnx.Param):
                # A copy of the array: two leaves of one buffer could not both be donated to the step.
                setattr(node, name, Moving(jnp.copy(value[...]), **_kept(value.get_metadata())))
    return copy


def _kept(metadata: Mapping[str, object]) -> dict[str, object]:
    return {**{name: metadata[name] for name in ("axes", "matrix", "resample")}, "decay": False, "bounds": None}
