"""Two towers and what lies between them: unit-norm embeddings, a temperature and, for the sigmoid loss, a bias."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.models.text import TextConfig, TextTower
from mof_jax.models.tower import ImageConfig, check_dtype, image_tower, unit
from mof_jax.models.vit import ViTConfig
from mof_jax.nn import dropout as drop
from mof_jax.nn.module import param
from mof_jax.ranges import Count, Positive, Range


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
    """An image tower, a text tower and the shared space.

    Attributes:
      embed_dim: of the shared space; a tower whose width differs gets a projection. None: both towers end in this width.
      logit_scale_init: initial multiplier of the cosines (CLIP 1/0.07, SigLIP 10); stored as its logarithm.
      logit_bias_init: initial bias (SigLIP -10), None for no bias parameter.
      max_logit_scale: upper bound of the multiplier, applied after each update (CLIP: 100); None leaves it free.
      dtype: of both towers' computation; parameters are float32.
    """

    image: ImageConfig
    text: TextConfig
    embed_dim: Count | None = None
    logit_scale_init: Positive = 1 / 0.07
    logit_bias_init: float | None = None
    max_logit_scale: Annotated[float, Range(1)] | None = 100.0
    dtype: str = "float32"

    def __post_init__(self):
        if self.embed_dim is not None:
            for name in ("image", "text"):
                tower = getattr(self, name)
                if tower.embed_dim is None:
                    object.__setattr__(self, name, dataclasses.replace(tower, embed_dim=self.embed_dim))
        if isinstance(self.image, ViTConfig) and self.image.pool == "none":
            raise ValueError("image.pool: a two-tower model needs a pooled image feature")
        if self.image.output_dim != self.text.output_dim:
            raise ValueError(
                f"image tower ends in {self.image.output_dim}, text tower in {self.text.output_dim}: set embed_dim")
        check_dtype(self.dtype)
        if self.logit_scale_init <= 0:
            raise ValueError("logit_scale_init must be positive")

    def with_tokenizer(self, tokenizer: Tokenizer) -> TwoTowerConfig:
        """See `TextConfig.with_tokenizer`."""
        return dataclasses.replace(self, text=self.text.with_tokenizer(tokenizer))


class TwoTower(nnx.Module):
    """CLIP and SigLIP. Embeddings come out in float32 with unit norm."""

    def __init__(self, config: TwoTowerConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.image = image_tower(c.image, rngs)
        self.text = TextTower(c.text, rngs)
        constant = nnx.initializers.constant
        bounds = None if c.max_logit_scale is None else (0.0, math.log(c.max_logit_scale))
        self.logit_scale = param(rngs, constant(math.log(c.logit_scale_init)), (), (), decay=False, bounds=bounds)
        self.logit_bias = None if c.logit_bias_init is None else param(
            rngs, constant(c.logit_bias_init), (), (), decay=False)

    def embed_image(
        self, images: UInt8[Array, "batch height width 3"], *, keys: drop.Keys | None = None
    ) -> Float[Array, "batch dim"]:
        """Unit-norm image embeddings."""
        return unit(self.image(images, dtype=jnp.dtype(self.config.dtype), keys=drop.fold(keys, 0)).pooled)

    def embed_text(
        self, tokens: Int[Array, "batch context"], *, keys: drop.Keys | None = None
    ) -> Float[Array, "batch dim"]:
        """Unit-norm text embeddings."""
        return unit(self.text(tokens, dtype=jnp.dtype(self.config.dtype), keys=drop.fold(keys, 1)))

    @property
    def scale(self) -> Float[Array, ""]:
        """The multiplier of the cosines, exp(logit_scale)."""
        return jnp.exp(self.logit_scale[...])
