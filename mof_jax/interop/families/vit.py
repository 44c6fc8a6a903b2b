"""The plain vision transformer (arXiv 2010.11929) and the masked autoencoder's encoder (2111.06377), as `transformers` has them.

What stands behind the encoder (a classifier, a pooler, the decoder that reconstructs pictures) is left aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.family import Family, activation, their_activation
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.models.tower import Tower, TowerConfig

_OURS = "encoder/blocks/layers"


def _table(prefix: str) -> Table:
    layer = f"{prefix}encoder.layer.{{}}"
    return (
        *links.patches("encoder/patch_embed", f"{prefix}embeddings.patch_embeddings.projection"),
        *links.plain("encoder/pos_embed", f"{prefix}embeddings.position_embeddings", ones=1),
        *links.plain("encoder/cls", f"{prefix}embeddings.cls_token", ones=2),
        *links.separate(f"{_OURS}/attn", [f"{layer}.attention.attention.{x}" for x in ("query", "key", "value")],
                        f"{layer}.attention.output.dense"),
        *links.norm(f"{_OURS}/norm1", f"{layer}.layernorm_before"), *links.norm(f"{_OURS}/norm2", f"{layer}.layernorm_after"),
        *links.linear(f"{_OURS}/mlp/up", f"{layer}.intermediate.dense"),
        *links.linear(f"{_OURS}/mlp/down", f"{layer}.output.dense"), *links.norm("encoder/final_norm", f"{prefix}layernorm"))


def _in_memory(prefix: str) -> Table:
    """The names that the library's fifth version has in memory, and not in its files, where they differ."""
    layer = f"{prefix}layers.{{}}"
    return (
        *links.separate(f"{_OURS}/attn", [f"{layer}.attention.{x}_proj" for x in "qkv"], f"{layer}.attention.o_proj"),
        *links.norm(f"{_OURS}/norm1", f"{layer}.layernorm_before"), *links.norm(f"{_OURS}/norm2", f"{layer}.layernorm_after"),
        *links.linear(f"{_OURS}/mlp/up", f"{layer}.mlp.fc1"), *links.linear(f"{_OURS}/mlp/down", f"{layer}.mlp.fc2"))


# A bare model, and one with a head.
TABLE: Table = (*_table(""), *_table("vit."), *_in_memory(""), *_in_memory("vit."))

_BEHIND = (
    Ignored(r"classifier\..*", "the classifier: it is behind the features", keep=True),
    Ignored(r"(vit\.)?pooler\..*", "the pooler: it is behind the features", keep=True),
    Ignored(r"decoder\..*", "the decoder that reconstructs pictures", keep=True),
    Ignored(r"(vit\.)?embeddings\.mask_token", "of its own training; no forward pass without masks reads it", keep=True))


def read(theirs: Mapping[str, Any]) -> TowerConfig:
    if not theirs.get("qkv_bias", True):
        raise UserError("config.json: qkv_bias false; our attention has biases")
    return configs.build(TowerConfig, dict(encoder=dict(
        width=theirs.get("hidden_size", 768), depth=theirs.get("num_hidden_layers", 12),
        heads=theirs.get("num_attention_heads", 12), mlp_dim=theirs.get("intermediate_size", 3072),
        patch_size=theirs.get("patch_size", 16), image_size=theirs.get("image_size", 224), pos_antialias=False,
        norm_eps=theirs.get("layer_norm_eps", 1e-12), activation=activation(theirs.get("hidden_act", "gelu")))), "config.json")


def write(config: TowerConfig) -> dict[str, Any]:
    e = config.encoder
    return dict(
        model_type="vit", architectures=["ViTModel"], hidden_size=e.width, num_hidden_layers=e.depth, num_attention_heads=e.heads,
        intermediate_size=e.mlp_dim, patch_size=e.patch_size, image_size=e.image_size, layer_norm_eps=e.norm_eps,
        hidden_act=their_activation(e.activation))


VIT = Family("vit", "tower", ("vit", "vit_mae"), read, write, Tower, lambda config: TABLE, lambda config: _BEHIND)
