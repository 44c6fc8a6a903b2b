"""Text transformer: CLIP's causal tower, SigLIP's bidirectional one and BERT by config.

    int32 [B, T] ─ embed + pos ─▶ blocks ─▶ norm ─▶ pool ─▶ [B, width] ─ project? ─▶ [B, embed_dim]

BERT's norms are elsewhere: one behind the embeddings, none behind the last block, whose own last step is a norm.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.errors import UserError, lookup
from mof_jax.mesh import by_rows
from mof_jax.models.vit import SIZES
from mof_jax.nn import dropout as drop
from mof_jax.nn.attention import Kernel
from mof_jax.nn.flops import attention_pool_flops, block_flops
from mof_jax.nn.layers import Activation, AttentionPool, Block, BlockConfig, LayerNorm, Linear
from mof_jax.nn.module import normal, param
from mof_jax.nn.stack import Remat, Stack
from mof_jax.ranges import Count, NotNegative, PartOf, Whole


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A text tower.

    Attributes:
      variant: a size of `vit.SIZES`; sets width, depth, heads and mlp_dim unless given.
      vocab_size, context_length: of the tokenizer; 0 lets the run fill them in.
      pool: `eos` (first end-of-text token), `argmax` (the first of the largest id, which ends CLIP's texts), `last` and `first`
        (columns), `gap` (mean of the real tokens), `max` (their largest value in each channel) or `map`.
      eos_id, pad_id: token ids; -1 lets the run fill them in from the tokenizer.
      mask_padding: hide pad tokens from bidirectional attention (SigLIP does not).
      embed_dim: width of the final projection, None for none; `embed_bias`: its bias (SigLIP has one).
      post_norm: norms behind the branches and the embeddings, as in BERT (arXiv 1810.04805).
      token_types: rows of BERT's table that tells two joined texts apart; every token here is of the first.
    """

    variant: str | None = None
    width: Whole = 0
    depth: Whole = 0
    heads: Whole = 0
    mlp_dim: Whole = 0
    vocab_size: Whole = 0
    context_length: Whole = 0
    causal: bool = True
    pool: Literal["eos", "argmax", "last", "first", "gap", "max", "map"] = "eos"
    eos_id: int = -1
    pad_id: int = -1
    mask_padding: bool = False
    embed_dim: Count | None = None
    embed_bias: bool = False
    activation: Activation = "gelu"
    norm_eps: NotNegative = 1e-6
    dropout: PartOf = 0.0
    kernel: Kernel = "xla"
    remat: Remat = "none"
    unroll: Count = 1
    post_norm: bool = False
    token_types: Whole = 0

    def __post_init__(self):
        if self.variant:
            width, depth, heads, mlp_dim = lookup(SIZES, self.variant, "text tower size")
            for key, value in dict(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim).items():
                object.__setattr__(self, key, getattr(self, key) or value)
        object.__setattr__(self, "mlp_dim", self.mlp_dim or 4 * self.width)
        for key in ("width", "heads"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive: set it, or a variant such as 'B'")
        _ = self.block  # runs its own checks now, rather than when the model is built

    @property
    def block(self) -> BlockConfig:
        """The layers of the stack."""
        return BlockConfig(self.width, self.heads, self.mlp_dim, self.activation, norm_eps=self.norm_eps,
                           dropout=self.dropout, causal=self.causal, kernel=self.kernel, post_norm=self.post_norm)

    @property
    def output_dim(self) -> int:
        return self.embed_dim or self.width

    @property
    def flops(self) -> float:
        """Forward FLOPs of one text, padding included."""
        head = attention_pool_flops(self.block, self.context_length) if self.pool == "map" else 0.0
        return self.depth * block_flops(self.block, self.context_length) + head + 2.0 * self.width * (self.embed_dim or 0)

    def with_tokenizer(self, tokenizer: Tokenizer) -> TextConfig:
        """This config with what the tower takes from the tokenizer, where it is left open.

        Raises:
          UserError: the tower cannot hold the tokenizer's ids or context, or pools a token with which it does not end texts.
        """
        if self.pool in ("eos", "argmax"):
            self._check_end(tokenizer)
        for key in ("vocab_size", "context_length"):
            have, want = getattr(self, key), getattr(tokenizer, key)
            if 0 < have < want:
                raise UserError(f"config.model.text.{key}: {have} is less than the tokenizer's {want}")
        eos = -1 if tokenizer.eos_id is None else tokenizer.eos_id
        return dataclasses.replace(
            self, vocab_size=self.vocab_size or tokenizer.vocab_size,
            context_length=self.context_length or tokenizer.context_length,
            eos_id=self.eos_id if self.eos_id >= 0 else eos, pad_id=self.pad_id if self.pad_id >= 0 else tokenizer.pad_id)

    def _check_end(self, tokenizer: Tokenizer) -> None:
        """Refuses a tokenizer whose texts lack the token that is pooled: all of them would be their first token."""
        end = tokenizer.end_id
        if end is None:
            raise UserError(f"config.model.text.pool: {self.pool!r} needs a tokenizer that ends texts with an end-of-text token")
        if self.pool == "eos" and 0 <= self.eos_id != end:
            raise UserError(f"config.model.text.eos_id: {self.eos_id} is pooled, and the tokenizer ends texts with {end}")


class TextTower(nnx.Module):
    """The tower; see the module's docstring for its shape diagram."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.embed = param(rngs, normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"))
        self.pos_embed = param(rngs, normal(0.01), (c.context_length, c.width), (None, "embed"), decay=False)
        self.type_embed = None if not c.token_types else param(
            rngs, normal(0.02), (c.token_types, c.width), (None, "embed"), decay=False)
        self.embed_norm = LayerNorm(rngs, c.width, c.norm_eps) if c.post_norm else None
        self.blocks = Stack(lambda r: Block(c.block, r), c.depth, rngs, remat=c.remat, unroll=c.unroll)
        self.final_norm = None if c.post_norm else LayerNorm(rngs, c.width, c.norm_eps)
        self.pool = AttentionPool(rngs, c.block) if c.pool == "map" else None
        self.project = None if c.embed_dim is None else Linear(
            rngs, c.width, c.embed_dim, ("embed", None), bias=c.embed_bias, init=normal(c.width**-0.5))

    def __call__(
        self, tokens: Int[Array, "batch context"], *, dtype: jnp.dtype = jnp.float32, keys: drop.Keys | None = None
    ) -> Float[Array, "batch dim"]:
        """Pooled features of `tokens`; one key per example turns dropout on."""
        c = self.config
        real = tokens != c.pad_id
        x = by_rows(self.embed[...][tokens].astype(dtype)) + self.pos_embed[: tokens.shape[1]].astype(dtype)
        if self.type_embed is not None:
            x = x + self.type_embed[0].astype(dtype)
        if self.embed_norm is not None:
            x = self.embed_norm(x)
        x = self.blocks(x, real[:, None] if c.mask_padding else None, keys=keys)
        if self.final_norm is not None:
            x = self.final_norm(x)
        pooled = self._pooled(x, tokens, real)
        return pooled if self.project is None else self.project(pooled)

    def _pooled(self, x: Array, tokens: Array, real: Array) -> Array:
        c = self.config
        if c.pool == "map":
            return self.pool(x, real if c.mask_padding else None)
        if c.pool == "gap":
            weight = real.astype(x.dtype)[..., None]
            return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
        if c.pool == "max":
            return jnp.where(real[..., None], x, jnp.finfo(x.dtype).min).max(1)
        if c.pool in ("eos", "argmax"):  # the first one: CLIP may pad with the same id
            position = jnp.argmax(tokens == c.eos_id if c.pool == "eos" else tokens, axis=-1)
            return jnp.take_along_axis(x, position[:, None, None], axis=1)[:, 0]
        return x[:, -1] if c.pool == "last" else x[:, 0]
