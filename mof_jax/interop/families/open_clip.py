"""CLIP as OpenCLIP stores it, DFN's models among them: one class with both towers, or a text tower of its own (`text.`)."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.family import Family
from mof_jax.interop.links import Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import MOST_PIXELS, MOST_WORDS, Values
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


# Switches of the library's own blocks, each with the one value that is built here.
_PLAIN: dict[str, Any] = dict(
    ls_init_value=None, output_tokens=False, qk_norm=False, scaled_cosine_attn=False, scale_heads=False, scale_attn_inner=False,
    scale_attn=False, scale_fc=False)
_EPS = 1e-5  # torch's
TOKENIZER_KEYS = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs")  # that `interop.words` reads


def read(theirs: Mapping[str, Any] | Values) -> TwoTowerConfig:
    values = Values.of(theirs, "open_clip_config.json")
    values.section("preprocess_cfg").free_like(".*")  # `preprocess.read_open_clip` has read it, or will
    model = values.section("model_cfg")
    quick, embed_dim = model.flag("quick_gelu", False), model.count("embed_dim", 512)
    model.only("multimodal_cfg", None)  # CoCa's
    model.only("init_logit_bias", None)
    model.only("nonscalar_logit_scale", False)
    # How the tensors are called shows in their file; the temperature is one of them.
    model.free("custom_text", "init_logit_scale", "cast_dtype", "output_dict")
    image, text = _read_image(model.section("vision_cfg"), quick), _read_text(model.section("text_cfg"), quick)
    values.close()
    return configs.build(TwoTowerConfig, dict(image=image, text=text, embed_dim=embed_dim), values.where)


def _read_image(vision: Values, quick: bool) -> dict[str, Any]:
    for key in ("timm_model_name", "attentional_pool"):
        vision.only(key, None if key == "timm_model_name" else False)
    vision.only("pos_embed_type", "learnable")
    after, pool = vision.flag("final_ln_after_pool", False), vision.choice("pool_type", "tok", {"tok": "cls", "avg": "gap"})
    vision.free("patch_dropout", "attn_pooler_queries", "attn_pooler_heads")
    vision.free_like("timm_(model_pretrained|pool|proj|proj_bias|drop|drop_path)")  # of a tower that it does not have
    return _read_tower(vision, quick, 768) | dict(
        heads=_heads(vision), patch_size=vision.count("patch_size", 16, most=MOST_PIXELS),
        image_size=vision.count("image_size", 224, most=MOST_PIXELS), patch_bias=False,
        pre_norm=not vision.flag("no_ln_pre", False), pool=pool, norm_after_pool=after and pool == "gap")


def _heads(vision: Values) -> int:
    width, each = vision.count("width", 768), vision.count("head_width", 64)
    if width // each < 1:
        raise vision.wrong("head_width", f"is wider than the tower, {width}")
    return width // each


def _read_text(text: Values, quick: bool) -> dict[str, Any]:
    text.only("hf_model_name", None)
    text.only("embed_cls", False)
    text.only("proj_type", "linear")
    text.only("proj_bias", False)
    text.free("pad_id", "final_ln_after_pool", *TOKENIZER_KEYS)  # the first two are not read there either
    text.free_like("hf_(model_pretrained|proj_type|pooler_type)")  # of a tower that it does not have
    pool = text.choice("pool_type", "argmax", {name: name for name in ("argmax", "eos", "last", "first")})
    vocabulary = text.count("vocab_size", 49408, most=MOST_WORDS)
    end = {}
    if pool == "eos":
        end = dict(eos_id=text.count("eos_id", 2, least=0, most=vocabulary - 1))
    text.free("eos_id")
    return _read_tower(text, quick, 512) | end | dict(
        heads=text.count("heads", 8), vocab_size=vocabulary, context_length=text.count("context_length", 77), pool=pool,
        causal=not text.flag("no_causal_mask", False))


def _read_tower(tower: Values, quick: bool, width: int) -> dict[str, Any]:
    """What both towers say in the same words."""
    for key, built in _PLAIN.items():
        tower.only(key, built)
    tower.only("block_type", None, "default")
    width = tower.count("width", width)
    hidden = tower.hidden("mlp_ratio", 4.0, lambda ratio: int(width * ratio))
    norms, acts = tower.section("norm_kwargs"), tower.section("act_kwargs")
    act = acts.choice("approximate", "none", {"none": "gelu", "tanh": "gelu_tanh"})
    if quick and "approximate" in acts:
        raise acts.wrong("approximate", "is of a gelu, and the model has quick_gelu")
    return dict(width=width, depth=tower.count("layers", 12), mlp_dim=hidden, norm_eps=float(norms.number("eps", _EPS)),
                activation="quick_gelu" if quick else act)


def write(config: TwoTowerConfig) -> dict[str, Any]:
    """What has its default there is left out, but for sizes."""
    image, text = config.image, normal(config).text
    return dict(model_cfg=dict(
        embed_dim=config.embed_dim or image.output_dim, quick_gelu=image.activation == "quick_gelu",
        vision_cfg=_write_tower(image) | dict(
            image_size=image.image_size, patch_size=image.patch_size, head_width=image.width // image.heads,
            **_unless("tok", pool_type="avg" if image.pool == "gap" else "tok"),
            **_unless(False, no_ln_pre=not image.pre_norm, final_ln_after_pool=image.norm_after_pool)),
        text_cfg=_write_tower(text) | dict(
            context_length=text.context_length, vocab_size=text.vocab_size, heads=text.heads,
            **_unless("argmax", pool_type=text.pool), **({"eos_id": text.eos_id} if text.pool == "eos" else {}),
            **_unless(False, no_causal_mask=not text.causal))))


def _write_tower(tower: Any) -> dict[str, Any]:
    tanh = {"act_kwargs": {"approximate": "tanh"}} if tower.activation == "gelu_tanh" else {}
    eps = {} if tower.norm_eps == _EPS else {"norm_kwargs": {"eps": tower.norm_eps}}
    ratio = tower.mlp_dim / tower.width
    if int(tower.width * ratio) != tower.mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    return dict(layers=tower.depth, width=tower.width, mlp_ratio=ratio, **tanh, **eps)


def _unless(default: Any, **values: Any) -> dict[str, Any]:
    """The values that are not the default."""
    return {key: value for key, value in values.items() if value != default}


def normal(config: TwoTowerConfig) -> TwoTowerConfig:
    """A first token of the last id is the largest id of a text: what this library looks for when nothing else is said."""
    text = config.text
    if text.pool == "eos" and text.eos_id == text.vocab_size - 1:
        return dataclasses.replace(config, text=dataclasses.replace(text, pool="argmax"))
    return config


OPEN_CLIP = Family(
    "open_clip", "contrastive", (), read, write, TwoTower, lambda config: TABLE, lambda config: (_MASK,), normal=normal,
    config_file="open_clip_config.json", weights_file="open_clip_model.safetensors")
