"""Mixture of Features: how the patches of several encoders become one sequence of tokens.

    kind           tokens        adapters        source
    single         K             one             -
    additive       K             one, shared     A-MoF: (1 - r)·F₁ + r·F₂, patch by patch (arXiv 2401.06209, §5.1)
    channel        K             one, wider      features side by side (Prismatic, arXiv 2402.07865; Eagle, arXiv 2408.15998)
    interleaved    n·K           one an encoder  I-MoF: token n·k + i is patch k of encoder i (arXiv 2401.06209, §5.2)
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.ranges import Share

Fusion = Literal["single", "additive", "channel", "interleaved"]
Normalise = Literal["none", "l2", "layernorm"]


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """A mixture.

    Attributes:
      kind: see the module's table.
      ssl_ratio: share r of the second encoder in `additive`, 1 - α in the paper's formula.
      normalise: of each encoder's patches before they are added: as they are (the literal formula), to unit length, or to
        mean 0 and variance 1. The paper does not say; what the ratio means depends on it.
    """

    kind: Fusion = "single"
    ssl_ratio: Share = 0.5
    normalise: Normalise = "none"

    def __post_init__(self):
        if not 0.0 <= self.ssl_ratio <= 1.0:
            raise ValueError(f"ssl_ratio must lie in [0, 1], got {self.ssl_ratio}")
        if self.normalise != "none" and self.kind != "additive":
            raise ValueError(f"normalise: only 'additive' adds features; {self.kind!r} needs none")

    def check(self, encoders: int) -> None:
        """Refuses a number of encoders that the kind has no meaning for."""
        needs = {"single": 1, "additive": 2}.get(self.kind)
        if (needs and encoders != needs) or (not needs and encoders < 2):
            raise ValueError(f"fusion {self.kind!r} needs {needs or 'at least two'} encoder{'s' * (needs != 1)}, got {encoders}")


def add_features(
    first: Float[Array, "batch patches width"], second: Float[Array, "batch patches width"], config: FusionConfig
) -> Float[Array, "batch patches width"]:
    """A-MoF. At `ssl_ratio=0` the first encoder's features, bit for bit."""
    norm = {"none": lambda x: x, "l2": _unit, "layernorm": _standard}[config.normalise]
    return (1.0 - config.ssl_ratio) * norm(first) + config.ssl_ratio * norm(second)


def interleave(parts: Sequence[Float[Array, "batch tokens width"]]) -> Float[Array, "batch mixed width"]:
    """I-MoF: tokens n·k + i from part i. No scatter: a new axis and a reshape."""
    x = jnp.stack(parts, axis=2)
    return x.reshape(x.shape[0], -1, x.shape[-1])


def match_grid(x: Float[Array, "batch patches width"], grid: int) -> Float[Array, "batch resized width"]:
    """Patches of another grid, resampled bilinearly to `grid` × `grid`."""
    side = math.isqrt(x.shape[1])
    if side == grid:
        return x
    x = jax.image.resize(x.reshape(x.shape[0], side, side, -1), (x.shape[0], grid, grid, x.shape[-1]), "bilinear")
    return x.reshape(x.shape[0], grid * grid, -1)


def _unit(x: Array) -> Array:
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.maximum(jnp.square(y).sum(-1, keepdims=True), 1e-24))).astype(x.dtype)


def _standard(x: Array) -> Array:
    y = x.astype(jnp.float32)
    centred = y - y.mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)
