"""Linear layers, patch by patch or cell by cell."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from mof_jax.models.connectors.connector import Connector, ConnectorModule
from mof_jax.models.connectors.grid import adaptive_average_pool, check_square, to_grid
from mof_jax.nn.layers import ACTIVATIONS, Linear
from mof_jax.nn.module import normal
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class LinearConnector(Connector):
    """One layer, a token a patch (LLaVA, arXiv 2304.08485)."""

    kind: ClassVar[str] = "linear"

    def build(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> ConnectorModule:
        return Projector(rngs, grid, inputs, outputs, layers=1)


@dataclasses.dataclass(frozen=True)
class MlpConnector(Connector):
    """Two layers with GELU between, hidden width that of the language model, a token a patch (LLaVA-1.5, arXiv 2310.03744)."""

    kind: ClassVar[str] = "mlp"

    def build(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> ConnectorModule:
        return Projector(rngs, grid, inputs, outputs, layers=2)


@dataclasses.dataclass(frozen=True)
class AverageConnector(Connector):
    """Adaptive average pooling to √tokens × √tokens, then one layer (MM1, arXiv 2403.09611, §3.1).

    Attributes:
      tokens: how many come out, a square number.
    """

    kind: ClassVar[str] = "average"
    tokens: Count

    def __post_init__(self):
        check_square(self.tokens)

    def output_tokens(self, grid: int) -> int:
        return self.tokens

    def build(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> ConnectorModule:
        return Projector(rngs, grid, inputs, outputs, layers=1, side=math.isqrt(self.tokens))


class Projector(ConnectorModule):
    """Pooling to `side` × `side` cells, if there is a side, then one layer or two."""

    def __init__(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int, *, layers: int, side: int | None = None):
        self.side, self.grid, self.inputs, self.outputs = side, grid, inputs, outputs
        self.fc1 = Linear(rngs, inputs, outputs, (None, "embed"), init=normal(inputs**-0.5))
        self.fc2 = Linear(rngs, outputs, outputs, ("embed", None), init=normal(outputs**-0.5)) if layers == 2 else None

    def __call__(self, x: Float[Array, "batch patches inputs"]) -> Float[Array, "batch tokens outputs"]:
        if self.side is not None:
            x = adaptive_average_pool(to_grid(x, self.grid), self.side).reshape(x.shape[0], self.side**2, -1)
        x = self.fc1(x)
        return x if self.fc2 is None else self.fc2(ACTIVATIONS["gelu"](x))

    def flops(self) -> tuple[float, float]:
        tokens = self.side**2 if self.side else self.grid**2
        first = 2.0 * tokens * self.inputs * self.outputs
        return first + (2.0 * tokens * self.outputs**2 if self.fc2 is not None else 0.0), first
