"""Learned queries that read the patches."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.models.connectors.connector import Connector, ConnectorModule
from mof_jax.nn.attention import attention
from mof_jax.nn.layers import LayerNorm, Linear, Mlp
from mof_jax.nn.module import normal, param
from mof_jax.ranges import Count, Whole


@dataclasses.dataclass(frozen=True)
class AttentionConnector(Connector):
    """Learned queries attend to the patches (MM1's attention pooling, arXiv 2403.09611, §3.1).

    Attributes:
      tokens: how many come out: the number of queries.
      width: of the queries; 0 for the features' own. depth: blocks. heads: of each, a divisor of the width.
    """

    kind: ClassVar[str] = "attention"
    tokens: Count
    width: Whole = 0
    depth: Count = 1
    heads: Count = 16

    def output_tokens(self, grid: int) -> int:
        return self.tokens

    def build(self, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int) -> ConnectorModule:
        return Resampler(self, rngs, grid, inputs, outputs)


class Resampler(ConnectorModule):
    """k learned queries read the patches by cross-attention; the queries are the tokens, whatever the resolution.

    MM1 says no more than that, so one block is: queries + MHA(LN(queries), LN(patches)), then a residual MLP. Deeper ones
    follow the resamplers (Flamingo, arXiv 2204.14198): keys are patches and queries together.
    """

    def __init__(self, config: AttentionConnector, rngs: nnx.Rngs, grid: int, inputs: int, outputs: int):
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
