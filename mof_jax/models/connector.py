"""Connectors: from a grid of vision features to the tokens that a language model reads.

    patches [B, L, C] ─ pool to k tokens? ─▶ [B, k, ·] ─ project ─▶ [B, k, d_llm]

`linear` and `mlp` keep every patch (LLaVA, LLaVA-1.5); `average`, `attention` and `c_abstractor` are MM1's three families
(arXiv 2403.09611, §3.1), the last as Honeybee defines it (arXiv 2312.06742).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from mof_jax.models.vit import Grid
from mof_jax.nn.attention import attention
from mof_jax.nn.flops import training_factor
from mof_jax.nn.layers import ACTIVATIONS, LayerNorm, Linear, Mlp, shifted
from mof_jax.nn.module import normal, param
from mof_jax.ranges import Count, Whole

Kind = Literal["linear", "mlp", "average", "attention", "c_abstractor"]


@dataclasses.dataclass(frozen=True)
class ConnectorConfig:
    """A connector.

    Attributes:
      kind: `linear`: one layer. `mlp`: two with GELU between, hidden width that of the language model. `average`: adaptive
        average pooling to √tokens × √tokens, then one layer. `attention`: learned queries attend to the patches.
        `c_abstractor`: convolutions, adaptive pooling, convolutions, two layers.
      tokens: how many come out, None for one a patch; a square number for `average` and `c_abstractor`.
      width: hidden width of `c_abstractor` and of the queries of `attention` (0: the features' own).
      depth: blocks of `attention`; convolutions in each of the two stages of `c_abstractor`.
      heads: of `attention`.
    """

    kind: Kind = "mlp"
    tokens: Count | None = None
    width: Whole = 0
    depth: Whole = 0
    heads: Count = 16

    def __post_init__(self):
        pools = self.kind in ("average", "attention", "c_abstractor")
        if pools and not self.tokens:
            raise ValueError(f"tokens: a {self.kind!r} connector needs the number of tokens that come out")
        if not pools and self.tokens is not None:
            raise ValueError(f"tokens: a {self.kind!r} connector keeps one token a patch; leave it out")
        if self.kind in ("average", "c_abstractor") and math.isqrt(self.tokens) ** 2 != self.tokens:
            raise ValueError(f"tokens: {self.tokens} is not a square number, which {self.kind!r} needs")
        if self.width < 0 or self.depth < 0 or self.heads < 1:
            raise ValueError("width and depth must not be negative, heads must be positive")
        if self.kind == "c_abstractor":
            object.__setattr__(self, "width", self.width or 1024)
            object.__setattr__(self, "depth", self.depth or 3)
        elif self.kind == "attention":
            object.__setattr__(self, "depth", self.depth or 1)

    def output_tokens(self, grid: int) -> int:
        """Tokens an image of `grid` × `grid` patches becomes."""
        return self.tokens or grid * grid


class Projector(nnx.Module):
    """`linear`, `mlp` and `average`."""

    def __init__(self, config: ConnectorConfig, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int):
        self.side = None if config.tokens is None else math.isqrt(config.tokens)
        self.grid, self.inputs, self.outputs = grid, inputs, outputs
        self.fc1 = Linear(rngs, inputs, outputs, (None, "embed"), init=normal(inputs**-0.5))
        self.fc2 = Linear(rngs, outputs, outputs, ("embed", None), init=normal(outputs**-0.5)) if config.kind == "mlp" else None

    def __call__(self, x: Float[Array, "batch patches inputs"]) -> Float[Array, "batch tokens outputs"]:
        if self.side is not None:
            x = adaptive_average_pool(to_grid(x, self.grid), self.side).reshape(x.shape[0], self.side**2, -1)
        x = self.fc1(x)
        return x if self.fc2 is None else self.fc2(ACTIVATIONS["gelu"](x))

    def flops(self) -> tuple[float, float]:
        """Forward FLOPs of one image, and how many of them act on the features themselves."""
        tokens = self.side**2 if self.side else self.grid**2
        first = 2.0 * tokens * self.inputs * self.outputs
        return first + (2.0 * tokens * self.outputs**2 if self.fc2 is not None else 0.0), first


class AttentionConnector(nnx.Module):
    """k learned queries read the patches by cross-attention; the queries are the tokens, whatever the resolution.

    MM1 says no more than that, so one block is: queries + MHA(LN(queries), LN(patches)), then a residual MLP. Deeper ones
    follow the resamplers (Flamingo, arXiv 2204.14198): keys are patches and queries together.
    """

    def __init__(self, config: ConnectorConfig, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int):
        width = config.width or inputs
        if width % config.heads:
            raise ValueError(f"connector: width {width} is not divisible by {config.heads} heads")
        self.config, self.grid, self.inputs, self.width, self.outputs = config, grid, inputs, width, outputs
        self.query = param(rngs, normal(0.02), (config.tokens, width), (None, "embed"), decay=False)
        self.project = None if width == inputs else Linear(rngs, inputs, width, (None, "embed"))
        self.norm = LayerNorm(rngs, width)
        self.blocks = nnx.List([CrossBlock(rngs, width, config.heads, config.depth > 1) for _ in range(config.depth)])
        self.out = Linear(rngs, width, outputs, ("embed", None), init=normal(width**-0.5))

    def __call__(self, x: Float[Array, "batch patches inputs"]) -> Float[Array, "batch tokens outputs"]:
        x = self.norm(x if self.project is None else self.project(x))
        query = jnp.broadcast_to(self.query[...].astype(x.dtype), (x.shape[0], *self.query.shape))
        for block in self.blocks:
            query = block(query, x)
        return self.out(query)

    def flops(self) -> tuple[float, float]:
        patches, tokens, width = self.grid**2, self.config.tokens, self.width
        keys = patches + (tokens if self.config.depth > 1 else 0)
        block = 2.0 * (2 * tokens * width**2 + 2 * keys * width**2 + 2 * tokens * keys * width + 8 * tokens * width**2)
        project = 0.0 if self.project is None else 2.0 * patches * self.inputs * width
        # Without a projection the norm's own parameters still need the gradient in what the keys are made of.
        return project + self.config.depth * block + 2.0 * tokens * width * self.outputs, project


class CrossBlock(nnx.Module):
    """queries + MHA(LN(queries), keys), then + MLP(LN(·))."""

    def __init__(self, rngs: nnx.Rngs, width: int, heads: int, self_keys: bool):
        self.heads, self.self_keys = heads, self_keys
        self.norm1, self.norm2 = LayerNorm(rngs, width), LayerNorm(rngs, width)
        self.q = Linear(rngs, width, width, ("embed", "heads"))
        self.k = Linear(rngs, width, width, ("embed", "heads"))
        self.v = Linear(rngs, width, width, ("embed", "heads"))
        self.out = Linear(rngs, width, width, ("heads", "embed"))
        self.mlp = Mlp(rngs, width, 4 * width)

    def __call__(
        self, query: Float[Array, "batch queries width"], x: Float[Array, "batch patches width"]
    ) -> Float[Array, "batch queries width"]:
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        q = self.norm1(query)
        keys = jnp.concatenate([x, q], axis=1) if self.self_keys else x
        y = attention(split(self.q(q)), split(self.k(keys)), split(self.v(keys)))
        query = query + self.out(y.reshape(q.shape))
        return query + self.mlp(self.norm2(query))


class CAbstractor(nnx.Module):
    """Honeybee's C-Abstractor: positions, `depth` RegNet bottlenecks, adaptive pooling, `depth` more, two linear layers."""

    def __init__(self, config: ConnectorConfig, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int):
        width, depth = config.width, config.depth
        self.grid, self.side, self.width, self.outputs = grid, math.isqrt(config.tokens), width, outputs
        self.pos_embed = param(rngs, nnx.initializers.truncated_normal(0.02), (grid * grid, inputs), (None, "embed"), decay=False,
                               resample=Grid(grid))
        self.before = nnx.List([Bottleneck(rngs, inputs if i == 0 else width, width) for i in range(depth)])
        self.after = nnx.List([Bottleneck(rngs, width, width) for _ in range(depth)])
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


class Bottleneck(nnx.Module):
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


CONNECTORS: dict[str, type] = {
    "linear": Projector, "mlp": Projector, "average": Projector, "attention": AttentionConnector, "c_abstractor": CAbstractor}


def make_connector(config: ConnectorConfig, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> nnx.Module:
    """The connector of a config, for `grid` × `grid` patches of width `inputs`."""
    return CONNECTORS[config.kind](config, rngs, grid, inputs, outputs)


def connector_flops(connector: nnx.Module, trained: bool, upstream: bool) -> float:
    """Training FLOPs of one image; features below which nothing trains need no gradient of their own."""
    total, first = connector.flops()
    return total * training_factor(trained, upstream) - (first if trained and not upstream else 0.0)


def to_grid(x: Float[Array, "batch patches width"], grid: int) -> Float[Array, "batch grid grid width"]:
    """Patches in row-major order as a picture of features."""
    return x.reshape(x.shape[0], grid, grid, x.shape[-1])


def adaptive_average_pool(x: Float[Array, "batch height width dim"], side: int) -> Float[Array, "batch side side dim"]:
    """Average pooling to `side` × `side` cells of any grid: cell i averages ⌊i·n/side⌋ … ⌈(i+1)·n/side⌉ - 1, bins may overlap."""
    rows, columns = (jnp.asarray(_pool_matrix(n, side), x.dtype) for n in x.shape[1:3])
    return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x)


def _pool_matrix(size: int, side: int) -> np.ndarray:
    matrix = np.zeros((side, size))
    for i in range(side):
        first, last = i * size // side, -(-(i + 1) * size // side)
        matrix[i, first:last] = 1 / (last - first)
    return matrix
