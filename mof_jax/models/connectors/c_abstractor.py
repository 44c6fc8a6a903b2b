"""Honeybee's C-Abstractor (arXiv 2312.06742): convolutions before and behind a pooling."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from flax import nnx
import jax
from jaxtyping import Array, Float

from mof_jax.models.connectors.connector import Connector, ConnectorModule
from mof_jax.models.connectors.grid import adaptive_average_pool, check_square, to_grid
from mof_jax.models.vit import Grid
from mof_jax.nn.layers import ACTIVATIONS, LayerNorm, Linear, shifted
from mof_jax.nn.module import normal, param
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class CAbstractor(Connector):
    """Honeybee's C-Abstractor, convolutions before and behind a pooling (arXiv 2312.06742).

    RegNet bottlenecks, adaptive average pooling, bottlenecks, two layers.

    Attributes:
      tokens: how many come out, a square number.
      width: of the bottlenecks. depth: bottlenecks in each of the two stages.
    """

    kind: ClassVar[str] = "c_abstractor"
    tokens: Count
    width: Count = 1024
    depth: Count = 3

    def __post_init__(self):
        check_square(self.tokens)

    def output_tokens(self, grid: int) -> int:
        return self.tokens

    def build(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> ConnectorModule:
        return Abstractor(self, rngs, grid, inputs, outputs)


class Abstractor(ConnectorModule):
    """Positions, `depth` bottlenecks, adaptive pooling, `depth` more, two linear layers."""

    def __init__(self, config: CAbstractor, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int):
        width, depth = config.width, config.depth
        self.grid, self.side, self.width, self.outputs = grid, math.isqrt(config.tokens), width, outputs
        self.pos_embed = param(rngs, nnx.initializers.truncated_normal(0.02), (grid * grid, inputs), (None, "embed"), decay=False,
                               resample=Grid(grid))
        self.before = nnx.List([RegNetBlock(rngs, inputs if i == 0 else width, width) for i in range(depth)])
        self.after = nnx.List([RegNetBlock(rngs, width, width) for _ in range(depth)])
        self.fc1 = Linear(rngs, width, outputs, (None, "embed"), init=normal(0.02))
        self.fc2 = Linear(rngs, outputs, outputs, ("embed", None), init=normal(0.02))

    def __call__(self, x: Float[Array, "batch patches inputs"]) -> Float[Array, "batch tokens outputs"]:
        x = to_grid(x + self.pos_embed[...].astype(x.dtype), self.grid)
        for block in self.before:
            x = block(x)
        x = adaptive_average_pool(x, self.side)
        for block in self.after:
            x = block(x)
        x = x.reshape(x.shape[0], self.side**2, -1)
        return self.fc2(ACTIVATIONS["silu"](self.fc1(x)))

    def flops(self) -> tuple[float, float]:
        """Squeeze-and-excitation works on one vector an image and is left out."""
        tokens = self.side**2
        work = sum(block.flops(self.grid**2) for block in self.before) + sum(block.flops(tokens) for block in self.after)
        return work + 2.0 * tokens * (self.width * self.outputs + self.outputs**2), 0.0


class RegNetBlock(nnx.Module):
    """A RegNet-Y bottleneck: 1×1, depthwise 3×3, squeeze-and-excitation, 1×1; LayerNorm over channels (eps 1e-5), SiLU."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, width: int):
        squeezed = round(0.25 * inputs)
        conv = lambda i, o, bias=False, axes=("embed", None): Linear(rngs, i, o, axes, bias=bias, init=normal(0.02))
        self.conv1, self.norm1 = conv(inputs, width), LayerNorm(rngs, width, 1e-5)
        self.depthwise = param(rngs, normal(0.02), (3, 3, 1, width), (None, None, None, "embed"))
        self.norm2 = LayerNorm(rngs, width, 1e-5)
        self.squeeze, self.excite = conv(width, squeezed, True), conv(squeezed, width, True, (None, "embed"))
        self.conv3, self.norm3 = conv(width, width), LayerNorm(rngs, width, 1e-5)
        change = inputs != width
        self.shortcut = conv(inputs, width) if change else None
        self.shortcut_norm = LayerNorm(rngs, width, 1e-5) if change else None
        self.inputs, self.width = inputs, width

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width outputs"]:
        silu = ACTIVATIONS["silu"]
        y = silu(self.norm1(self.conv1(x)))
        y = shifted(y, self.depthwise[...], stride=1).astype(y.dtype)  # summed in float32
        y = silu(self.norm2(y))
        gate = self.excite(silu(self.squeeze(y.mean((1, 2), keepdims=True))))
        y = self.norm3(self.conv3(y * jax.nn.sigmoid(gate)))
        return silu(y + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x))))

    def flops(self, positions: int) -> float:
        shortcut = 0 if self.shortcut is None else self.inputs * self.width
        return 2.0 * positions * (self.inputs * self.width + 9 * self.width + self.width**2 + shortcut)
