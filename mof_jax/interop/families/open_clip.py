"""CLIP as OpenCLIP stores it, DFN's models among them: one class with both towers, or a text tower of its own (`text.`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.family import Family, section
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig


def _blocks(ours: str, theirs: str) -> Table:
    return (
        *links.attention(f"{ours}/attn", [f"{theirs}.attn.in_proj_weight"], [f"{theirs}.attn.in_proj_bias"],
                         f"{theirs}.attn.out_proj"),
        *links.norm(f"{ours}/norm1", f"{theirs}.ln_1"), *links.norm(f"{ours}/norm2", f"{theirs}.ln_2"),
        *links.linear(f"{ours}/mlp/up", f"{theirs}.mlp.c_fc"), *links.linear(f"{ours}/mlp/down", f"{theirs}.mlp.c_proj"))


def _text(prefix: str) -> Table:
    return (
        *links.plain("text/embed", f"{prefix}token_embedding.weight"),
        *links.plain("text/pos_embed", f"{prefix}positional_embedding"),
        *_blocks("text/blocks/layers", f"{prefix}transformer.resblocks.{{}}"),
        *links.norm("text/final_norm", f"{prefix}ln_final"), *links.plain("text/project/kernel", f"{prefix}text_projection"))


TABLE: Table = (
    *links.patches("image/patch_embed", "visual.conv1"), *links.plain("image/cls", "visual.class_embedding"),
    *links.plain("image/pos_embed", "visual.positional_embedding"), *links.norm("image/pre_norm", "visual.ln_pre"),
    *_blocks("image/blocks/layers", "visual.transformer.resblocks.{}"),
    *links.norm("image/final_norm", "visual.ln_post"), *links.plain("image/project/kernel", "visual.proj"),
    *_text(""), *_text("text."), *links.plain("logit_scale", "logit_scale"))

_MASK = Ignored(r"(text\.)?attn_mask", "a buffer: the causal mask")


def read(theirs: Mapping[str, Any]) -> TwoTowerConfig:
    model = section(theirs, "model_cfg")
    vision, text = section(model, "vision_cfg"), section(model, "text_cfg")
    strangers = [key for key in ("timm_model_name", "attentional_pool", "hf_model_name", "ls_init_value", "pos_embed_type")
                 if vision.get(key) or text.get(key)]
    if strangers or not isinstance(vision.get("layers", 12), int):
        raise UserError(f"open_clip_config.json: {strangers[0] if strangers else 'vision_cfg.layers'} is of a model that is no "
                        "plain CLIP")
    act = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
    width, words = vision.get("width", 768), text.get("width", 512)
    vocabulary = text.get("vocab_size", 49408)
    image = dict(
        width=width, depth=vision.get("layers", 12), heads=width // vision.get("head_width", 64),
        mlp_dim=int(width * vision.get("mlp_ratio", 4.0)), patch_size=vision.get("patch_size", 16),
        image_size=vision.get("image_size", 224), pre_norm=True, patch_bias=False, norm_eps=1e-5, activation=act)
    language = dict(
        width=words, depth=text.get("layers", 12), heads=text.get("heads", 8), mlp_dim=int(words * text.get("mlp_ratio", 4.0)),
        vocab_size=vocabulary, context_length=text.get("context_length", 77), norm_eps=1e-5, activation=act,
        eos_id=vocabulary - 1)  # the library pools the largest id
    return configs.build(TwoTowerConfig, dict(image=image, text=language, embed_dim=model.get("embed_dim", 512)),
                         "open_clip_config.json")


def write(config: TwoTowerConfig) -> dict[str, Any]:
    image, text = config.image, config.text
    return dict(model_cfg=dict(
        embed_dim=config.embed_dim or image.output_dim, quick_gelu=image.activation == "quick_gelu",
        vision_cfg=dict(image_size=image.image_size, layers=image.depth, width=image.width, patch_size=image.patch_size,
                        head_width=image.width // image.heads, mlp_ratio=image.mlp_dim / image.width),
        text_cfg=dict(context_length=text.context_length, vocab_size=text.vocab_size, width=text.width, heads=text.heads,
                      layers=text.depth, mlp_ratio=text.mlp_dim / text.width)))


OPEN_CLIP = Family(
    "open_clip", "contrastive", (), read, write, TwoTower, lambda config: TABLE, lambda config: (_MASK,),
    config_file="open_clip_config.json", weights_file="open_clip_model.safetensors")
