"""One encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import ClassVar

from mof_jax.models.fusion.fusion import Features, Fusion, Patches, Tokens


@dataclasses.dataclass(frozen=True)
class Single(Fusion):
    """One encoder, nothing to mix."""

    kind: ClassVar[str] = "single"
    least: ClassVar[int] = 1
    most: ClassVar[int | None] = 1

    def adapters(self, encoders: Sequence[Patches]) -> dict[str, tuple[int, int]]:
        return {e.name: (e.grid, e.width) for e in encoders}

    def mix(
        self, features: Sequence[Features], encoders: Sequence[Patches], adapters: Mapping[str, Callable[[Features], Tokens]]
    ) -> Tokens:
        return adapters[encoders[0].name](features[0])
