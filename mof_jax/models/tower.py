"""Towers on their own: what a foreign encoder becomes before a model takes it."""

from __future__ import annotations

import dataclasses

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.models.image_tower import ImageTowerConfig
from mof_jax.models.text import TextConfig, TextTower
from mof_jax.nn.layers import l2_normalize


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """An image tower.

    Attributes:
      encoder: its shape. dtype: of the computation; parameters are float32.
    """

    encoder: ImageTowerConfig
    dtype: str = "float32"

    def __post_init__(self):
        check_dtype(self.dtype)


class Tower(nnx.Module):
    """`encoder/…`, as in a model that was trained here."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        self.config = config
        self.encoder = config.encoder.build(rngs)


@dataclasses.dataclass(frozen=True)
class WordsConfig:
    """A text tower.

    Attributes:
      text: its shape. dtype: of the computation; parameters are float32.
    """

    text: TextConfig
    dtype: str = "float32"

    def __post_init__(self):
        check_dtype(self.dtype)

    def with_tokenizer(self, tokenizer: Tokenizer) -> WordsConfig:
        """See `TextConfig.with_tokenizer`."""
        return dataclasses.replace(self, text=self.text.with_tokenizer(tokenizer))


class Words(nnx.Module):
    """`text/…`, as in a two-tower model."""

    def __init__(self, config: WordsConfig, rngs: nnx.Rngs):
        self.config = config
        self.text = TextTower(config.text, rngs)

    def embed_text(self, tokens: Int[Array, "batch context"]) -> Float[Array, "batch dim"]:
        """Unit-norm text embeddings, float32."""
        return unit(self.text(tokens, dtype=jnp.dtype(self.config.dtype)))


def check_dtype(name: str) -> None:
    """Refuses a dtype that towers do not compute in."""
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {name!r} is not float32 or bfloat16")


def unit(x: Float[Array, "batch dim"]) -> Float[Array, "batch dim"]:
    """Rows of length one, in float32."""
    return l2_normalize(x.astype(jnp.float32))


def embedding(
    tower: nnx.Module, images: UInt8[Array, "batch height width 3"], dtype: str = "float32"
) -> Float[Array, "batch dim"]:
    """The tower's pooled feature with unit norm, in float32: what evaluators of frozen features ask for."""
    return unit(tower(images, dtype=jnp.dtype(dtype)).pooled)


def patch_features(
    tower: nnx.Module, images: UInt8[Array, "batch height width 3"], dtype: str = "float32"
) -> Float[Array, "batch patches width"]:
    """The tower's patch tokens in float32, without what is in front of them."""
    return tower(images, dtype=jnp.dtype(dtype)).tokens[:, tower.config.prefix:].astype(jnp.float32)
