"""A projection of several layers, as self-supervised learning puts behind a tower."""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar, Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.models.heads.head import Head, HeadModule, Moved
from mof_jax.nn.layers import LayerNorm, Linear
from mof_jax.nn.module import moving, ones, param, zeros
from mof_jax.ranges import Count, PartOf


@dataclasses.dataclass(frozen=True)
class MlpHead(Head):
    """Linear layers, a norm and ReLU between each two.

    SimCLR's (arXiv 2002.05709) has widths (dim, dim) without a norm, that of BYOL and Barlow Twins batch normalisation.

    Attributes:
      widths: of each layer; the last is the feature's.
      norm: between layers: `none`, `layer`, or `batch`, of all rows and views of the global batch.
      momentum: of the running statistics of `batch`, which are kept for whoever uses the head alone later.
      unit: whether the feature has length one, in float32.
    """

    kind: ClassVar[str] = "mlp"
    widths: tuple[Count, ...] = (256, 256)
    norm: Literal["none", "layer", "batch"] = "none"
    momentum: PartOf = 0.9
    unit: bool = False

    def __post_init__(self):
        if not self.widths:
            raise ValueError("widths: at least one layer")

    def dim(self, inputs: int) -> int:
        return self.widths[-1]

    def build(self, rngs: nnx.Rngs, inputs: int) -> HeadModule:
        return _Layers(rngs, inputs, self)

    def flops(self, inputs: int) -> float:
        return sum(2.0 * a * b for a, b in itertools.pairwise((inputs, *self.widths)))


class _Layers(HeadModule):
    def __init__(self, rngs: nnx.Rngs, inputs: int, config: MlpHead):
        self.config = config
        sizes = list(itertools.pairwise((inputs, *config.widths)))
        make = {"none": lambda width: None, "layer": lambda width: LayerNorm(rngs, width),
                "batch": lambda width: BatchNorm(rngs, width, config.momentum)}[config.norm]
        self.layers = nnx.List([Linear(rngs, a, b, ("embed", "mlp") if i % 2 == 0 else ("mlp", "embed"))
                                for i, (a, b) in enumerate(sizes)])
        self.norms = nnx.List([make(b) for _, b in sizes[:-1]])

    def __call__(self, x: Float[Array, "rows views inputs"]) -> tuple[Float[Array, "rows views outputs"], Moved]:
        moved: dict[str, Array] = {}
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == len(self.norms):
                break
            if isinstance(norm := self.norms[i], BatchNorm):
                x, statistics = norm(x)
                moved |= {f"norms/{i}/{name}": value for name, value in statistics.items()}
            elif norm is not None:
                x = norm(x)
            x = jax.nn.relu(x)
        if self.config.unit:
            x = x.astype(jnp.float32)
            x = x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
        return x, moved


class BatchNorm(nnx.Module):
    """Batch normalisation over all rows and views, in float32 (arXiv 1502.03167); its running statistics move."""

    def __init__(self, rngs: nnx.Rngs, width: int, momentum: float, eps: float = 1e-5):
        self.scale = param(rngs, ones, (width,), ("embed",), decay=False)
        self.bias = param(rngs, zeros, (width,), ("embed",), decay=False)
        self.mean, self.var = moving(jnp.zeros(width), ("embed",)), moving(jnp.ones(width), ("embed",))
        self.momentum, self.eps = momentum, eps

    def __call__(self, x: Float[Array, "rows views width"]) -> tuple[Float[Array, "rows views width"], Moved]:
        wide = x.astype(jnp.float32)
        mean = wide.mean((0, 1))
        var = jnp.square(wide - mean).mean((0, 1))
        y = (wide - mean) * jax.lax.rsqrt(var + self.eps) * self.scale[...] + self.bias[...]
        running = {"mean": (self.mean, mean), "var": (self.var, var)}
        moved = {name: self.momentum * kept[...] + (1 - self.momentum) * now for name, (kept, now) in running.items()}
        return y.astype(x.dtype), moved
