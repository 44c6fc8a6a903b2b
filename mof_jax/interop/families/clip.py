"""CLIP as `transformers` stores it (arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.family import Family, activation, their_activation
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import MOST_PIXELS, MOST_WORDS, Values
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


def shape_of(values: Values, width: int, depth: int, heads: int, mlp_dim: int, eps: float, act: str) -> dict[str, Any]:
    """What a tower's section says of its layers; a value that it leaves out is the library's default."""
    values.transformers("attention_dropout", "dropout", "hidden_dropout_prob", "attention_probs_dropout_prob",
                        "tie_word_embeddings")
    return dict(
        width=values.count("hidden_size", width), depth=values.count("num_hidden_layers", depth),
        heads=values.count("num_attention_heads", heads), mlp_dim=values.count("intermediate_size", mlp_dim),
        norm_eps=float(values.number("layer_norm_eps", eps)), activation=activation(values, act))


def patches_of(values: Values, patch: int, size: int = 224) -> dict[str, Any]:
    """What the section of an image tower says of its pictures."""
    values.only("num_channels", 3)
    return dict(patch_size=values.count("patch_size", patch, most=MOST_PIXELS),
                image_size=values.count("image_size", size, most=MOST_PIXELS))


def their_shape(tower: Any) -> dict[str, Any]:
    """The same of a tower of ours."""
    return dict(hidden_size=tower.width, num_hidden_layers=tower.depth, num_attention_heads=tower.heads,
                intermediate_size=tower.mlp_dim, layer_norm_eps=tower.norm_eps, hidden_act=their_activation(tower.activation))


def read_vision(vision: Values) -> dict[str, Any]:
    """Our tower, of its section."""
    vision.free("projection_dim", "vocab_size")  # of the whole model; and what LLaVA's files have there
    return shape_of(vision, 768, 12, 12, 3072, 1e-5, "quick_gelu") | patches_of(vision, 32) | dict(
        pre_norm=True, patch_bias=False)


def write_vision(image: ViTConfig) -> dict[str, Any]:
    """The section of our tower."""
    return their_shape(image) | dict(
        model_type="clip_vision_model", patch_size=image.patch_size, image_size=image.image_size)


def read(theirs: Mapping[str, Any] | Values) -> TwoTowerConfig:
    values = Values.of(theirs)
    image, text = read_vision(_tower(values, "vision")), _tower(values, "text")
    text.free("projection_dim")
    words = dict(vocab_size=text.count("vocab_size", 49408, most=MOST_WORDS),
                 context_length=text.count("max_position_embeddings", 77))
    eos = text.count("eos_token_id", 49407, least=0, most=words["vocab_size"] - 1)
    # The first configs had a wrong 2 there; the library then pools the largest id of each text, and so do we.
    words |= dict(pool="argmax") if eos == 2 else dict(pool="eos", eos_id=eos)
    words |= shape_of(text, 512, 12, 8, 2048, 1e-5, "quick_gelu")
    embed_dim = values.count("projection_dim", 512)
    values.free("logit_scale_init_value", "tie_word_embeddings")
    values.transformers()
    values.close()
    return configs.build(TwoTowerConfig, dict(image=image, text=words, embed_dim=embed_dim), values.where)


def _tower(values: Values, name: str) -> Values:
    """The section of a tower. Older files may have it twice; `*_config_dict` wins, its absent values being the defaults."""
    section, other = values.section(f"{name}_config"), values.section(f"{name}_config_dict")
    if values.get(f"{name}_config_dict") is None:
        return section
    section.free_like(".*")  # overruled
    return other


def write(config: TwoTowerConfig) -> dict[str, Any]:
    image, text = config.image, config.text
    return dict(
        model_type="clip", architectures=["CLIPModel"], projection_dim=config.embed_dim or image.output_dim,
        vision_config=write_vision(image) | dict(projection_dim=image.output_dim),
        text_config=their_shape(text) | dict(
            model_type="clip_text_model", vocab_size=text.vocab_size, max_position_embeddings=text.context_length,
            eos_token_id=2 if text.pool == "argmax" else text.eos_id, projection_dim=text.output_dim))


CLIP = Family("clip", "contrastive", ("clip",), read, write, TwoTower, lambda config: TABLE, lambda config: (BUFFERS,))
