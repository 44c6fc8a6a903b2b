"""The plain vision transformer (arXiv 2010.11929) and the masked autoencoder's encoder (2111.06377), as `transformers` has them.

What stands behind the encoder (a classifier, a pooler, the decoder that reconstructs pictures) is left aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.families.clip import patches_of, shape_of, their_shape
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import Values
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


# Of the pooler, of masked pretraining and of its decoder, which are left aside.
_ASIDE = "pooler_output_size|pooler_act|encoder_stride|decoder_.*|mask_ratio|norm_pix_loss"


def read(theirs: Mapping[str, Any] | Values) -> TowerConfig:
    values = Values.of(theirs)
    values.only("qkv_bias", True)
    values.free_like(_ASIDE)
    encoder = shape_of(values, 768, 12, 12, 3072, 1e-12, "gelu") | patches_of(values, 16) | dict(pos_antialias=False)
    values.close()
    return configs.build(TowerConfig, dict(encoder=encoder), values.where)


def write(config: TowerConfig) -> dict[str, Any]:
    e = config.encoder
    return their_shape(e) | dict(
        model_type="vit", architectures=["ViTModel"], patch_size=e.patch_size, image_size=e.image_size)


VIT = Family("vit", "tower", ("vit", "vit_mae"), read, write, Tower, lambda config: TABLE, lambda config: _BEHIND)
