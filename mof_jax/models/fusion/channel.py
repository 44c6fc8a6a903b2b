"""Features side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from mof_jax.models.fusion.fusion import Features, Fusion, Patches, Tokens, match_grid


@dataclasses.dataclass(frozen=True)
class Channel(Fusion):
    """Features side by side on the first encoder's grid, one adapter (Prismatic, arXiv 2402.07865; Eagle, arXiv 2408.15998)."""

    kind: ClassVar[str] = "channel"

    def adapters(self, encoders: Sequence[Patches]) -> dict[str, tuple[int, int]]:
        return {"shared": (encoders[0].grid, sum(e.width for e in encoders))}

    def mix(
        self, features: Sequence[Features], encoders: Sequence[Patches], adapters: Mapping[str, Callable[[Features], Tokens]]
    ) -> Tokens:
        return adapters["shared"](jnp.concatenate([match_grid(x, encoders[0].grid) for x in features], -1))
