"""The plain ViT of `timm`: its tensors. Its checkpoints carry no config of the tower, so there is no `Family` yet."""

from __future__ import annotations

from mof_jax.interop import links
from mof_jax.interop.links import Table

TABLE: Table = (
    *links.patches("encoder/patch_embed", "patch_embed.proj"), *links.plain("encoder/pos_embed", "pos_embed", ones=1),
    *links.plain("encoder/cls", "cls_token", ones=2),
    *links.attention("encoder/blocks/layers/attn", ["blocks.{}.attn.qkv.weight"], ["blocks.{}.attn.qkv.bias"],
                     "blocks.{}.attn.proj"),
    *links.norm("encoder/blocks/layers/norm1", "blocks.{}.norm1"), *links.norm("encoder/blocks/layers/norm2", "blocks.{}.norm2"),
    *links.linear("encoder/blocks/layers/mlp/up", "blocks.{}.mlp.fc1"),
    *links.linear("encoder/blocks/layers/mlp/down", "blocks.{}.mlp.fc2"), *links.norm("encoder/final_norm", "norm"))
