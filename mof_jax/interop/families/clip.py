"""CLIP as `transformers` stores it (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.family import Family, activation, section, their_activation
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig
from mof_jax.models.vit import ViTConfig

_EMBED = "vision_model.embeddings"


def blocks(ours: str, theirs: str) -> Table:
    """The layers of both towers, SigLIP's too."""
    return (
        *links.separate(f"{ours}/attn", [f"{theirs}.self_attn.{x}_proj" for x in "qkv"], f"{theirs}.self_attn.out_proj"),
        *links.norm(f"{ours}/norm1", f"{theirs}.layer_norm1"), *links.norm(f"{ours}/norm2", f"{theirs}.layer_norm2"),
        *links.linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1"), *links.linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"))


# What CLIP and SigLIP share.
TOWERS: Table = (
    *links.patches("image/patch_embed", f"{_EMBED}.patch_embedding"),
    *links.plain("image/pos_embed", f"{_EMBED}.position_embedding.weight"),
    *blocks("image/blocks/layers", "vision_model.encoder.layers.{}"),
    *links.norm("image/final_norm", "vision_model.post_layernorm"),
    *links.plain("text/embed", "text_model.embeddings.token_embedding.weight"),
    *links.plain("text/pos_embed", "text_model.embeddings.position_embedding.weight"),
    *blocks("text/blocks/layers", "text_model.encoder.layers.{}"),
    *links.norm("text/final_norm", "text_model.final_layer_norm"))

TABLE: Table = (
    *TOWERS, *links.plain("image/cls", f"{_EMBED}.class_embedding"),
    *links.norm("image/pre_norm", "vision_model.pre_layrnorm"),  # their spelling
    *links.linear("image/project", "visual_projection"), *links.linear("text/project", "text_projection"),
    *links.plain("logit_scale", "logit_scale"))

BUFFERS = Ignored(r"(text|vision)_model\.embeddings\.position_ids", "a buffer: 0, 1, 2, …")


def shape_of(theirs: Mapping[str, Any], width: int, depth: int, heads: int, mlp_dim: int, eps: float, act: str) -> dict[str, Any]:
    """What a tower's section says of its layers; a value that it leaves out is the library's default."""
    return dict(
        width=theirs.get("hidden_size", width), depth=theirs.get("num_hidden_layers", depth),
        heads=theirs.get("num_attention_heads", heads), mlp_dim=theirs.get("intermediate_size", mlp_dim),
        norm_eps=theirs.get("layer_norm_eps", eps), activation=activation(theirs.get("hidden_act", act)))


def their_shape(tower: Any) -> dict[str, Any]:
    """The same of a tower of ours."""
    return dict(hidden_size=tower.width, num_hidden_layers=tower.depth, num_attention_heads=tower.heads,
                intermediate_size=tower.mlp_dim, layer_norm_eps=tower.norm_eps, hidden_act=their_activation(tower.activation))


def read_vision(vision: Mapping[str, Any]) -> dict[str, Any]:
    """Our tower, of its section."""
    return shape_of(vision, 768, 12, 12, 3072, 1e-5, "quick_gelu") | dict(
        patch_size=vision.get("patch_size", 32), image_size=vision.get("image_size", 224), pre_norm=True, patch_bias=False)


def write_vision(image: ViTConfig) -> dict[str, Any]:
    """The section of our tower."""
    return their_shape(image) | dict(
        model_type="clip_vision_model", patch_size=image.patch_size, image_size=image.image_size)


def read(theirs: Mapping[str, Any]) -> TwoTowerConfig:
    image, text = read_vision(section(theirs, "vision_config")), section(theirs, "text_config")
    vocabulary = text.get("vocab_size", 49408)
    eos = text.get("eos_token_id", 49407)
    words = shape_of(text, 512, 12, 8, 2048, 1e-5, "quick_gelu") | dict(
        vocab_size=vocabulary, context_length=text.get("max_position_embeddings", 77),
        # The first configs had a wrong 2 there; the library then pools the largest id, which is the last one.
        eos_id=vocabulary - 1 if eos == 2 else eos)
    values = dict(image=image, text=words, embed_dim=theirs.get("projection_dim", 512))
    return configs.build(TwoTowerConfig, values, "config.json")


def write(config: TwoTowerConfig) -> dict[str, Any]:
    image, text = config.image, config.text
    return dict(
        model_type="clip", architectures=["CLIPModel"], projection_dim=config.embed_dim or image.output_dim,
        vision_config=write_vision(image) | dict(projection_dim=image.output_dim),
        text_config=their_shape(text) | dict(
            model_type="clip_text_model", vocab_size=text.vocab_size, max_position_embeddings=text.context_length,
            eos_token_id=text.eos_id, projection_dim=text.output_dim))


CLIP = Family("clip", "contrastive", ("clip",), read, write, TwoTower, lambda config: TABLE, lambda config: (BUFFERS,))
