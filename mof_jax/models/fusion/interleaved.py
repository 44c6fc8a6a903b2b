"""I-MoF: the tokens of each encoder in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.models.fusion.fusion import Features, Fusion, Patches, Tokens


@dataclasses.dataclass(frozen=True)
class Interleaved(Fusion):
    """I-MoF, the encoders' tokens in turn, an adapter each (arXiv 2401.06209, §5.2).

    Of n encoders, token n·k + i is token k of encoder i.
    """

    kind: ClassVar[str] = "interleaved"

    def check(self, encoders: Sequence[Patches]) -> None:
        super().check(encoders)
        if len({e.tokens for e in encoders}) > 1:
            grids = [e.grid for e in encoders]
            raise ValueError(f"fusion 'interleaved' needs as many tokens from each encoder; the grids are {grids}")

    def adapters(self, encoders: Sequence[Patches]) -> dict[str, tuple[int, int]]:
        return {e.name: (e.grid, e.width) for e in encoders}

    def mix(
        self, features: Sequence[Features], encoders: Sequence[Patches], adapters: Mapping[str, Callable[[Features], Tokens]]
    ) -> Tokens:
        return interleave([adapters[e.name](x) for e, x in zip(encoders, features)])

    def tokens(self, encoders: Sequence[Patches]) -> int:
        return encoders[0].tokens * len(encoders)


def interleave(parts: Sequence[Float[Array, "batch tokens width"]]) -> Float[Array, "batch mixed width"]:
    """Tokens n·k + i from part i. No scatter: a new axis and a reshape."""
    x = jnp.stack(parts, axis=2)
    return x.reshape(x.shape[0], -1, x.shape[-1])
