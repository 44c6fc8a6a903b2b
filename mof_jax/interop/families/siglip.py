"""SigLIP (arXiv 2303.15343), and SigLIP 2 at a fixed resolution (arXiv 2502.14786), as `transformers` stores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.families.clip import BUFFERS, TOWERS, patches_of, shape_of, their_shape
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.values import MOST_WORDS, Values
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig

TABLE: Table = (
    *TOWERS, *links.map_head("image/pool", "vision_model.head"), *links.linear("text/project", "text_model.head"),
    *links.plain("logit_scale", "logit_scale", ones=1), *links.plain("logit_bias", "logit_bias", ones=1))


def read(theirs: Mapping[str, Any] | Values) -> TwoTowerConfig:
    values = Values.of(theirs)
    vision, text = values.section("vision_config"), values.section("text_config")
    vision.only("vision_use_head", True)  # without its pooling head there is no image feature
    image = shape_of(vision, 768, 12, 12, 3072, 1e-6, "gelu_pytorch_tanh") | patches_of(vision, 16) | dict(
        cls_token=False, pool="map")
    words = shape_of(text, 768, 12, 12, 3072, 1e-6, "gelu_pytorch_tanh") | dict(
        vocab_size=text.count("vocab_size", 32000, most=MOST_WORDS), context_length=text.count("max_position_embeddings", 64),
        causal=False, pool="last", embed_bias=True)
    own = text.get("projection_size") is not None  # null is the width
    words["embed_dim"] = text.count("projection_size", 0) if own else words["width"]
    values.free("tie_word_embeddings")
    values.transformers()
    values.close()
    return configs.build(
        TwoTowerConfig, dict(image=image, text=words, logit_scale_init=10.0, logit_bias_init=-10.0), values.where)


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
