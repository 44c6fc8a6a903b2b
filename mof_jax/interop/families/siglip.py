"""SigLIP (arXiv 2303.15343), and SigLIP 2 at a fixed resolution (arXiv 2502.14786), as `transformers` stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.families.clip import BUFFERS, TOWERS, shape_of, their_shape
from mof_jax.interop.family import Family, section
from mof_jax.interop.links import Table
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig

TABLE: Table = (
    *TOWERS, *links.map_head("image/pool", "vision_model.head"), *links.linear("text/project", "text_model.head"),
    *links.plain("logit_scale", "logit_scale", ones=1), *links.plain("logit_bias", "logit_bias", ones=1))


def read(theirs: Mapping[str, Any]) -> TwoTowerConfig:
    vision, text = section(theirs, "vision_config"), section(theirs, "text_config")
    if not vision.get("vision_use_head", True):
        raise UserError("config.json: a SigLIP without its pooling head (vision_use_head false) has no image feature")
    image = shape_of(vision, 768, 12, 12, 3072, 1e-6, "gelu_pytorch_tanh") | dict(
        patch_size=vision.get("patch_size", 16), image_size=vision.get("image_size", 224), cls_token=False, pool="map")
    words = shape_of(text, 768, 12, 12, 3072, 1e-6, "gelu_pytorch_tanh") | dict(
        vocab_size=text.get("vocab_size", 32000), context_length=text.get("max_position_embeddings", 64), causal=False,
        pool="last", embed_bias=True)
    words["embed_dim"] = text.get("projection_size") or words["width"]
    values = dict(image=image, text=words, logit_scale_init=10.0, logit_bias_init=-10.0)
    return configs.build(TwoTowerConfig, values, "config.json")


def write(config: TwoTowerConfig) -> dict[str, Any]:
    image, text = config.image, config.text
    return dict(
        model_type="siglip", architectures=["SiglipModel"],
        vision_config=their_shape(image) | dict(
            model_type="siglip_vision_model", patch_size=image.patch_size, image_size=image.image_size),
        text_config=their_shape(text) | dict(
            model_type="siglip_text_model", vocab_size=text.vocab_size, max_position_embeddings=text.context_length,
            projection_size=text.output_dim))


SIGLIP = Family("siglip", "contrastive", ("siglip",), read, write, TwoTower, lambda config: TABLE, lambda config: (BUFFERS,))
