"""Cosines with learned prototypes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.models.heads.head import Head, HeadModule, Moved
from mof_jax.nn.layers import l2_normalize, project
from mof_jax.nn.module import Matrix, normal, param
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class PrototypesHead(Head):
    """Cosines with learned prototypes, in float32 (SwAV, arXiv 2006.09882; DINO, arXiv 2104.14294).

    Attributes:
      count: of the prototypes.
    """

    kind: ClassVar[str] = "prototypes"
    count: Count = 4096

    def dim(self, inputs: int) -> int:
        return self.count

    def build(self, rngs: nnx.Rngs, inputs: int) -> HeadModule:
        return _Prototypes(rngs, inputs, self.count)

    def flops(self, inputs: int) -> float:
        return 2.0 * inputs * self.count


class _Prototypes(HeadModule):
    def __init__(self, rngs: nnx.Rngs, inputs: int, count: int):
        self.prototypes = param(rngs, normal(inputs**-0.5), (inputs, count), (None, "vocab"), matrix=Matrix())

    def __call__(self, x: Float[Array, "rows views inputs"]) -> tuple[Float[Array, "rows views outputs"], Moved]:
        return project(l2_normalize(x.astype(jnp.float32)), l2_normalize(self.prototypes[...], axis=0)), {}
