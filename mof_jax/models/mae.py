"""Masked autoencoder (arXiv 2111.06377): an encoder that sees few patches, a small decoder that paints the others.

    patches [B, N, p·p·3] ─ keep a quarter ─▶ ViT ─▶ tokens [B, prefix + kept, width] ─ project, mask tokens in the gaps, (+pos)
        ─▶ blocks ─▶ norm ─ the masked ones ─▶ [B, N - kept, p·p·3] ─▶ squared error against the patches
"""

from __future__ import annotations

import dataclasses

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mof_jax.models.vit import ViT, ViTConfig, normalise, patchify, sincos_positions
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import block_flops
from mof_jax.nn.layers import Block, BlockConfig, LayerNorm, Linear
from mof_jax.nn.module import normal, param, xavier
from mof_jax.nn.stack import Stack
from mof_jax.ranges import Count, PartOf


@dataclasses.dataclass(frozen=True)
class MaeConfig:
    """An encoder, which is what the training is for, and a decoder, which is thrown away.

    Attributes:
      encoder: an ordinary tower; `remat`, `unroll` and the attention kernel are the decoder's, too.
      mask_ratio: share of the patches that the encoder does not see.
      decoder_width, decoder_depth, decoder_heads: the paper's are 512, 8, 16 for every encoder.
      norm_targets: a patch's target is its pixels minus their mean, over their standard deviation.
      dtype: of the computation; parameters are float32.
    """

    encoder: ViTConfig
    mask_ratio: PartOf = 0.75
    decoder_width: Count = 512
    decoder_depth: Count = 8
    decoder_heads: Count = 16
    norm_targets: bool = True
    dtype: str = "float32"

    def __post_init__(self):
        if self.encoder.pool not in ("cls", "gap") or self.encoder.embed_dim is not None:
            raise ValueError("encoder: reconstruction trains neither a pooling head nor a projection; pool='cls' or 'gap', "
                             "embed_dim=None")
        if self.encoder.patch_dropout:
            raise ValueError("encoder.patch_dropout: mask_ratio decides which patches are seen")
        if not 0 < self.kept < self.encoder.grid**2:
            raise ValueError(f"mask_ratio {self.mask_ratio} leaves {self.kept} of {self.encoder.grid**2} patches; "
                             "some must be seen and some must not")
        if self.decoder_width % 4:
            raise ValueError(f"decoder_width {self.decoder_width} is not divisible by 4 (sine-cosine positions)")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r} is not float32 or bfloat16")
        _ = self.decoder

    @property
    def kept(self) -> int:
        """Patches that the encoder sees."""
        return round(self.encoder.grid**2 * (1 - self.mask_ratio))

    @property
    def decoder(self) -> BlockConfig:
        """The layers of the decoder."""
        e = self.encoder
        return BlockConfig(self.decoder_width, self.decoder_heads, 4 * self.decoder_width, e.activation, norm_eps=e.norm_eps,
                           kernel=e.kernel)

    @property
    def decoder_flops(self) -> float:
        """Forward FLOPs of the decoder on one picture; only masked patches reach its last layer."""
        e, d, prefix = self.encoder, self.decoder_width, int(self.encoder.cls_token) + self.encoder.registers
        entry = 2.0 * (prefix + self.kept) * e.width * d
        pixels = 2.0 * (e.grid**2 - self.kept) * d * e.patch_size**2 * 3
        return entry + self.decoder_depth * block_flops(self.decoder, prefix + e.grid**2) + pixels


class Decoder(nnx.Module):
    """From the tokens of some patches to the pixels of the others."""

    def __init__(self, config: MaeConfig, rngs: nnx.Rngs):
        c, e = config, config.encoder
        self.grid, self.prefix = e.grid, int(e.cls_token) + e.registers
        self.entry = Linear(rngs, e.width, c.decoder_width, ("embed", None), init=xavier())
        self.mask_token = param(rngs, normal(0.02), (c.decoder_width,), ("embed",), decay=False)
        self.blocks = Stack(lambda r: Block(c.decoder, r), c.decoder_depth, rngs, remat=e.remat, unroll=e.unroll)
        self.norm = LayerNorm(rngs, c.decoder_width, e.norm_eps)
        self.pixels = Linear(rngs, c.decoder_width, e.patch_size**2 * 3, ("embed", None), init=xavier())

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        seen: Int[Array, "batch kept"],
        masked: Int[Array, "batch rest"],
    ) -> Float[Array, "batch rest pixels"]:
        """The masked patches, in the order of `masked`; `tokens` are the encoder's, in the order of `seen`."""
        x = self.entry(tokens)
        prefix, patches = x[:, :self.prefix], x[:, self.prefix:]
        gaps = jnp.broadcast_to(self.mask_token[...].astype(x.dtype), (*masked.shape, x.shape[-1]))
        # Where each patch of the grid is among "the seen ones, then the masked ones".
        place = jnp.argsort(jnp.concatenate([seen, masked], axis=1), axis=1)
        patches = drop.take_patches(jnp.concatenate([patches, gaps], axis=1), place)
        patches = patches + jnp.asarray(sincos_positions(self.grid, x.shape[-1]), x.dtype)
        x = self.blocks(jnp.concatenate([prefix, patches], axis=1), None)
        return self.pixels(self.norm(drop.take_patches(x[:, self.prefix:], masked)))


class Mae(nnx.Module):
    """Encoder and decoder."""

    def __init__(self, config: MaeConfig, rngs: nnx.Rngs):
        self.config = config
        self.encoder = ViT(config.encoder, rngs)
        self.decoder = Decoder(config, rngs)

    def reconstruct(
        self,
        images: UInt8[Array, "batch height width 3"],
        seen: Int[Array, "batch kept"],
        masked: Int[Array, "batch rest"],
        *,
        keys: drop.Keys | None = None,
    ) -> Float[Array, "batch rest pixels"]:
        """The patches `masked`, from the patches `seen`, as `targets` has them."""
        tokens = self.encoder(images, dtype=jnp.dtype(self.config.dtype), keys=keys, keep=seen).tokens
        return self.decoder(tokens, seen, masked)

    def targets(
        self, images: UInt8[Array, "batch height width 3"], masked: Int[Array, "batch rest"]
    ) -> Float[Array, "batch rest pixels"]:
        """What is to be reconstructed, in float32: the normalised pixels of the patches `masked`."""
        e = self.config.encoder
        x = drop.take_patches(patchify(normalise(images, e.mean, e.std), e.patch_size), masked)
        if not self.config.norm_targets:
            return x
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
