"""A-MoF: features added up, patch by patch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.models.fusion.fusion import Features, Fusion, Patches, Tokens, match_grid
from mof_jax.nn.layers import l2_normalize
from mof_jax.ranges import Share

Normalise = Literal["none", "l2", "layernorm"]


@dataclasses.dataclass(frozen=True)
class Additive(Fusion):
    """A-MoF, a weighted sum of two encoders' features (arXiv 2401.06209, §5.1).

    (1 - r)·F₁ + r·F₂, patch by patch on the first encoder's grid; one adapter.

    Attributes:
      ssl_ratio: share r of the second encoder, 1 - α in the paper's formula.
      normalise: of each encoder's patches before they are added: as they are (the literal formula), to unit length, or to
        mean 0 and variance 1. The paper does not say; what the ratio means depends on it.
    """

    kind: ClassVar[str] = "additive"
    most: ClassVar[int | None] = 2
    ssl_ratio: Share = 0.5
    normalise: Normalise = "none"

    def check(self, encoders: Sequence[Patches]) -> None:
        super().check(encoders)
        if len({e.width for e in encoders}) > 1:
            raise ValueError(f"fusion 'additive' adds features of one width, the encoders have {[e.width for e in encoders]}")

    def adapters(self, encoders: Sequence[Patches]) -> dict[str, tuple[int, int]]:
        return {"shared": (encoders[0].grid, encoders[0].width)}

    def mix(
        self, features: Sequence[Features], encoders: Sequence[Patches], adapters: Mapping[str, Callable[[Features], Tokens]]
    ) -> Tokens:
        first, second = (match_grid(x, encoders[0].grid) for x in features)
        return adapters["shared"](self.add(first, second))

    def add(
        self, first: Float[Array, "batch patches width"], second: Float[Array, "batch patches width"]
    ) -> Float[Array, "batch patches width"]:
        """At `ssl_ratio=0` the first encoder's features, bit for bit."""
        norm = {"none": lambda x: x, "l2": _in_f32(l2_normalize), "layernorm": _in_f32(_standard)}[self.normalise]
        return (1.0 - self.ssl_ratio) * norm(first) + self.ssl_ratio * norm(second)


def _in_f32(norm: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: norm(x.astype(jnp.float32)).astype(x.dtype)


def _standard(x: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
