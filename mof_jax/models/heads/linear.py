"""One linear layer: a projection, or the logits of classes."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from mof_jax.models.heads.head import Head, HeadModule, Moved
from mof_jax.nn.layers import Linear
from mof_jax.nn.module import normal
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class LinearHead(Head):
    """One linear layer.

    Attributes:
      width: of the feature; classes, where it gives their logits.
      bias: whether it has one.
    """

    kind: ClassVar[str] = "linear"
    width: Count = 256
    bias: bool = True

    def dim(self, inputs: int) -> int:
        return self.width

    def build(self, rngs: nnx.Rngs, inputs: int) -> HeadModule:
        return _Layer(rngs, inputs, self)

    def flops(self, inputs: int) -> float:
        return 2.0 * inputs * self.width


class _Layer(HeadModule):
    def __init__(self, rngs: nnx.Rngs, inputs: int, config: LinearHead):
        self.layer = Linear(rngs, inputs, config.width, ("embed", None), bias=config.bias, init=normal(inputs**-0.5))

    def __call__(self, x: Float[Array, "rows views inputs"]) -> tuple[Float[Array, "rows views outputs"], Moved]:
        return self.layer(x), {}
