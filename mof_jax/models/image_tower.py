"""What an image tower is: a frozen dataclass that says its sizes and builds a module; a config names each by `kind`.

A tower takes uint8 images [B, H, W, 3], normalises them on the device, and returns `pooled` [B, output_dim] and `tokens`
[B, prefix + patches, width], of which the first `prefix` are no patches.
"""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from mof_jax.errors import UserError
from mof_jax.registry import Registry


class TowerOutput(NamedTuple):
    """`pooled` [batch, output_dim]; `tokens` [batch, prefix + patches, width] after the final norm, if each has one."""

    pooled: Float[Array, "batch dim"] | None
    tokens: Float[Array, "batch tokens width"]


class ImageTowerConfig(abc.ABC):
    """An image tower. Every kind is a frozen dataclass, and has these as fields.

    Attributes:
      kind: its name in a config.
      image_size: height and width in pixels that it is made for.
      mean, std: normalisation of pixels in [0, 1].
      embed_dim: width of a final linear projection, None for none.
    """

    kind: ClassVar[str]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embed_dim: int | None

    @property
    def pools(self) -> bool:
        """Whether it gives one feature an image, beside the tokens."""
        return True

    @property
    @abc.abstractmethod
    def prefix(self) -> int:
        """Tokens in front of the patches."""

    @property
    @abc.abstractmethod
    def output_dim(self) -> int:
        """Width of the pooled feature."""

    @property
    @abc.abstractmethod
    def flops(self) -> float:
        """Forward FLOPs of one image in training."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Its parameters: a module of uint8 [B, H, W, 3] to `TowerOutput`."""

    def stack_tokens(self, size: int | None = None) -> int:
        """Tokens of one image that its stack sees in training, at another side in pixels if one is given.

        Raises:
          UserError: it is no stack, so that nothing says what its layers keep.
        """
        raise UserError(f"no formula for the memory of an image tower of kind {self.kind!r}")


TOWERS: Registry[ImageTowerConfig] = Registry("mof_jax.models", ImageTowerConfig, "image tower", default="vit")
