"""An image tower on its own: what a foreign encoder becomes before a model takes it."""

from __future__ import annotations

import dataclasses

from flax import nnx

from mof_jax.models.vit import ViT, ViTConfig


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """A tower.

    Attributes:
      encoder: its shape. dtype: of the computation; parameters are float32.
    """

    encoder: ViTConfig
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r} is not float32 or bfloat16")


class Tower(nnx.Module):
    """`encoder/…`, as in a model that was trained here."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ViT(config.encoder, rngs)
