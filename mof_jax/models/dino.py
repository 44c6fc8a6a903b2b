"""Student and teacher of self-distillation (DINO, arXiv 2104.14294): two networks of one shape, the second follows the first.

    crops [N, H, W, 3] ─ ViT ─▶ pooled [N, width] ─ MLP of three layers ─▶ [N, bottleneck] ─ unit norm ─▶
        cosines with the prototypes [N, prototypes]

The teacher lives in the model under `teacher/`; no gradient trains it, and after each update it follows (`models.teacher`).
"""

from __future__ import annotations

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from mof_jax.models.teacher import follower
from mof_jax.models.vit import ViT, ViTConfig
from mof_jax.nn import dropout as drop
from mof_jax.nn.layers import ACTIVATIONS, Linear, l2_normalize, project
from mof_jax.nn.module import Matrix, lecun, normal, param
from mof_jax.ranges import Count


@dataclasses.dataclass(frozen=True)
class DinoConfig:
    """A tower and its projection head.

    Attributes:
      encoder: the tower; its pooled feature goes into the head.
      hidden: width of the head's two hidden layers. bottleneck: width in which prototypes are compared.
      prototypes: DINO and DINOv2 use 65,536 and 131,072; a small data set wants fewer than it has pictures.
      dtype: of the computation; parameters are float32, and so are the scores.
    """

    encoder: ViTConfig
    hidden: Count = 2048
    bottleneck: Count = 256
    prototypes: Count = 65_536
    dtype: str = "float32"

    def __post_init__(self):
        if self.encoder.pool == "none":
            raise ValueError("encoder.pool: distillation needs a pooled feature")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r} is not float32 or bfloat16")

    @property
    def head_flops(self) -> float:
        """Forward FLOPs of the head on one crop."""
        d, h, b = self.encoder.output_dim, self.hidden, self.bottleneck
        return 2.0 * (d * h + h * h + h * b + b * self.prototypes)


class Head(nnx.Module):
    """From a feature to its cosines with the prototypes, in float32."""

    def __init__(self, config: DinoConfig, rngs: nnx.Rngs):
        c, init = config, lecun()  # N(0, 0.02²), the papers', is this at their width of 2048
        self.fc1 = Linear(rngs, c.encoder.output_dim, c.hidden, ("embed", "mlp"), init=init)
        self.fc2 = Linear(rngs, c.hidden, c.hidden, ("embed", "mlp"), init=init)
        self.fc3 = Linear(rngs, c.hidden, c.bottleneck, ("mlp", None), init=init)
        self.prototypes = param(rngs, normal(c.bottleneck**-0.5), (c.bottleneck, c.prototypes), (None, "vocab"), matrix=Matrix())

    def __call__(
        self, x: Float[Array, "*rows dim"], frozen: Bool[Array, ""] | bool = False
    ) -> Float[Array, "*rows prototypes"]:
        """Scores; while `frozen` no gradient reaches the prototypes."""
        act, prototypes = ACTIVATIONS["gelu"], self.prototypes[...]
        x = self.fc3(act(self.fc2(act(self.fc1(x))))).astype(jnp.float32)
        prototypes = jnp.where(frozen, jax.lax.stop_gradient(prototypes), prototypes)
        return project(l2_normalize(x), l2_normalize(prototypes, axis=0))


class Network(nnx.Module):
    """A tower and its head."""

    def __init__(self, config: DinoConfig, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ViT(config.encoder, rngs)
        self.head = Head(config, rngs)

    def features(
        self, images: UInt8[Array, "rows height width 3"], *, keys: drop.Keys | None = None
    ) -> Float[Array, "rows dim"]:
        """Pooled features of pictures of one size."""
        return self.encoder(images, dtype=jnp.dtype(self.config.dtype), keys=keys).pooled

    def __call__(
        self, images: UInt8[Array, "rows height width 3"], *, keys: drop.Keys | None = None
    ) -> Float[Array, "rows prototypes"]:
        """Cosines of the pictures' features with the prototypes."""
        return self.head(self.features(images, keys=keys))


class Dino(nnx.Module):
    """Student and teacher."""

    def __init__(self, config: DinoConfig, rngs: nnx.Rngs):
        self.config = config
        self.student = Network(config, rngs)
        self.teacher = follower(self.student)
