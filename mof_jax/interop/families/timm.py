"""The plain ViT of `timm`, CLIP's and SigLIP's image towers among them: `config.json` with an `architecture`, and one file.

An architecture stands for the arguments of a model, and `model_args` for those that differ from it.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
import re
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.family import Family
from mof_jax.interop.links import Link, Table
from mof_jax.interop.preprocess import Processing
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import MOST_PIXELS, Values, triple
from mof_jax.models.tower import Tower, TowerConfig
from mof_jax.parsing import is_count, show

TABLE: Table = (
    *links.patches("encoder/patch_embed", "patch_embed.proj"), *links.plain("encoder/pos_embed", "pos_embed", ones=1),
    *links.plain("encoder/cls", "cls_token", ones=2), *links.norm("encoder/pre_norm", "norm_pre"),
    *links.attention("encoder/blocks/layers/attn", ["blocks.{}.attn.qkv.weight"], ["blocks.{}.attn.qkv.bias"],
                     "blocks.{}.attn.proj"),
    *links.norm("encoder/blocks/layers/norm1", "blocks.{}.norm1"), *links.norm("encoder/blocks/layers/norm2", "blocks.{}.norm2"),
    *links.plain("encoder/blocks/layers/scale1", "blocks.{}.ls1.gamma"),
    *links.plain("encoder/blocks/layers/scale2", "blocks.{}.ls2.gamma"),
    *links.linear("encoder/blocks/layers/mlp/up", "blocks.{}.mlp.fc1"),
    *links.linear("encoder/blocks/layers/mlp/down", "blocks.{}.mlp.fc2"), *links.norm("encoder/final_norm", "norm"),
    *links.plain("encoder/pool/probe", "attn_pool.latent", ones=1), *links.linear("encoder/pool/q", "attn_pool.q"),
    Link(("encoder/pool/k/kernel", "encoder/pool/v/kernel"), ("attn_pool.kv.weight",), "linear"),
    Link(("encoder/pool/k/bias", "encoder/pool/v/bias"), ("attn_pool.kv.bias",)),
    *links.linear("encoder/pool/out", "attn_pool.proj"), *links.norm("encoder/pool/norm", "attn_pool.norm"),
    *links.linear("encoder/pool/mlp/up", "attn_pool.mlp.fc1"), *links.linear("encoder/pool/mlp/down", "attn_pool.mlp.fc2"))

_HEAD = Ignored(r"head\..*", "the classifier or projection: it is behind the features", keep=True)

NAME = re.compile(r"vit_(tiny|small|base|large|huge|so400m)_patch(\d+)_(?:(clip|siglip|siglip_gap)_)?(quickgelu_)?(\d+)")
# SigLIP 2 brought new sizes, and these alone have the approximation with which all of them were trained.
_TANH = re.compile(r"_(base_patch32|large_patch16(?=_siglip_(gap_)?512)|so400m_patch16)_siglip_")
_SIZES = {  # width, layers, heads, hidden width over width
    "tiny": (192, 12, 3, 4.0), "small": (384, 12, 6, 4.0), "base": (768, 12, 12, 4.0), "large": (1024, 24, 16, 4.0),
    "huge": (1280, 32, 16, 4.0), "so400m": (1152, 27, 16, 3.7362)}
_POOLS = {"token": "cls", "avg": "gap", "map": "map", "": "none"}
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
# Of training, or without a difference at the size of the weights.
_FREE = ("num_classes", "dynamic_img_size", "dynamic_img_pad", "drop_rate", "pos_drop_rate", "patch_drop_rate",
         "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "fix_init")
# Arguments that are not built here, and the one value that is.
_FIXED: dict[str, Any] = dict(
    in_chans=3, qkv_bias=True, qk_norm=False, scale_attn_norm=False, scale_mlp_norm=False, proj_bias=True, pos_embed="learn",
    no_embed_class=False, reg_tokens=0, final_norm=True, pool_include_prefix=False)
# Of `pretrained_cfg`: where it came from, what its classes are called, and what is read of other sizes than its own.
_ORIGIN = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load", "test_input_size",
           "min_input_size", "test_crop_pct", "num_classes", "label_offset", "label_names", "label_descriptions", "pool_size",
           "test_pool_size", "first_conv", "classifier", "license", "description", "origin_url", "paper_name", "paper_ids",
           "notes")
_PLAIN, _CLIP = "vit_base_patch16_224", "vit_base_patch16_clip_224"  # epsilon 1e-6 and 1e-5


def _architecture(values: Values) -> dict[str, Any]:
    """The arguments that the architecture stands for."""
    name = str(values.get("architecture")).partition(".")[0]
    found = NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{values.where}: architecture {show(name)} is not read here; of timm, plain vit_SIZE_patchN_SIZE are, "
                        "and those with clip or siglip in their name")
    size, patch, kind, quick, pixels = found.groups()
    width, depth, heads, ratio = _SIZES[size]
    return dict(
        img_size=int(pixels), patch_size=int(patch), embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=ratio,
        act_layer="quick_gelu" if quick else "gelu_tanh" if _TANH.search(name) else "gelu",
        eps=1e-5 if kind == "clip" else 1e-6, pre_norm=kind == "clip",
        class_token=kind in (None, "clip"), init_values=None, fc_norm=False if kind == "siglip_gap" else None,
        global_pool={"siglip": "map", "siglip_gap": "avg"}.get(kind, "token"))


def read(theirs: Mapping[str, Any] | Values) -> TowerConfig:
    values = Values.of(theirs)
    a, own, cfg = _architecture(values), values.section("model_args"), values.section("pretrained_cfg")
    for key, built in _FIXED.items():
        own.only(key, built)
    own.free(*_FREE)
    size = _input_size(cfg)
    if own.get("global_pool") is None and cfg.get("global_pool") is not None:
        a["global_pool"] = cfg.choice("global_pool", "", {name: name for name in _POOLS})
    pool = own.choice("global_pool", a["global_pool"], _POOLS)
    if values.get("global_pool") is not None and values.choice("global_pool", "", _POOLS) != pool:
        raise values.wrong("global_pool", "is not what architecture and model_args say, which the library reads")
    norm = own.get("fc_norm", a["fc_norm"])
    if pool == "gap" and norm is not False:
        raise UserError(f"{values.where}: the norm of this architecture stands behind the mean of the patches (fc_norm); here it "
                        "stands before it")
    if norm not in (None, False):
        raise own.wrong("fc_norm", "is not built here; null and false are")
    # A file that fixes its size builds the model for it; another one has to have pictures of the model's.
    a["img_size"] = size if size is not None and cfg.flag("fixed_input_size", False) else a["img_size"]
    image_size = _square(own, "img_size", a["img_size"])
    if size not in (None, image_size):
        raise cfg.wrong("input_size", f"goes against a model of {image_size} pixels (model_args.img_size)")
    width = own.count("embed_dim", a["embed_dim"])
    act = "gelu" if own.get("act_layer", a["act_layer"]) is None else own.choice("act_layer", a["act_layer"], _ACTIVATIONS)
    scaled = own.get("init_values", a["init_values"]) is not None
    pre_norm = own.flag("pre_norm", a["pre_norm"])
    encoder = dict(
        width=width, depth=own.count("depth", a["depth"]), heads=own.count("num_heads", a["num_heads"]),
        mlp_dim=own.hidden("mlp_ratio", a["mlp_ratio"], lambda ratio: int(width * ratio)),
        patch_size=_square(own, "patch_size", a["patch_size"]), image_size=image_size,
        cls_token=own.flag("class_token", a["class_token"]), pool=pool, pre_norm=pre_norm, patch_bias=not pre_norm,
        norm_eps=a["eps"], layer_scale=float(own.number("init_values", 0.0, least=-1e9)) if scaled else None, activation=act)
    values.free("num_classes", "num_features", "label_names", "label_descriptions", "license", "tag")
    cfg.free(*_ORIGIN, "interpolation", "crop_pct", "crop_mode", "mean", "std")  # `read_processing` reads the last five
    values.close()
    return configs.build(TowerConfig, dict(encoder=encoder), values.where)


def _input_size(cfg: Values) -> int | None:
    """The side of its pictures, if the file says it."""
    size = cfg.get("input_size")
    if size is None:
        return None
    if not isinstance(size, (list, tuple)) or len(size) != 3 or not all(is_count(n, MOST_PIXELS + 1) and n for n in size):
        raise cfg.wrong("input_size", "is no list of channels, rows and columns")
    if size[1] != size[2]:
        raise cfg.wrong("input_size", f"has {size[1]}×{size[2]} pixels; towers here take squares")
    if size[0] != 3:
        raise cfg.wrong("input_size", "has other channels than three")
    return size[1]


def write(config: TowerConfig) -> dict[str, Any]:
    e = config.encoder
    ratio = e.mlp_dim / e.width
    if int(e.width * ratio) != e.mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    name = next((name for name, ours in _POOLS.items() if ours == e.pool), None)
    values: dict[str, Any] = dict(
        img_size=e.image_size, patch_size=e.patch_size, embed_dim=e.width, depth=e.depth, num_heads=e.heads, mlp_ratio=ratio,
        act_layer=e.activation, pre_norm=e.pre_norm, class_token=e.cls_token, global_pool=name)
    values |= {"fc_norm": False} if name == "avg" else {}
    values |= {} if e.layer_scale is None else {"init_values": e.layer_scale}
    return dict(architecture=_CLIP if e.norm_eps == 1e-5 else _PLAIN, num_classes=0, num_features=e.width, global_pool=name,
                model_args=values, pretrained_cfg=dict(
                    input_size=[3, e.image_size, e.image_size], first_conv="patch_embed.proj", classifier="head"))


def read_processing(theirs: Mapping[str, Any], image_size: int, where: str = "config.json") -> Processing:
    """What becomes of a picture, by `pretrained_cfg`; what it leaves out, or says null of, is the library's default.

    Raises:
      UserError: steps that have no counterpart here.
    """
    cfg = Values(theirs, where).section("pretrained_cfg")
    default = lambda key, value: value if cfg.get(key) is None else None
    named = lambda key, value, known: value if cfg.get(key) is None else cfg.choice(key, value, {x: x for x in known})
    mode = named("crop_mode", "center", ("center", "squash"))
    resample = named("interpolation", "bicubic", ("bilinear", "bicubic"))
    share = default("crop_pct", 0.875) or cfg.number("crop_pct", 0.875, least=0.01, most=100)
    colours = lambda key, value, least=None: default(key, value) or triple(
        cfg.get(key), f"{where}: pretrained_cfg.{key}", least)
    side = math.floor(image_size / share)
    if side < 1:
        raise cfg.wrong("crop_pct", "leaves no picture")
    # torchvision's crop, as OpenCLIP's.
    return Processing(image_size, "squash" if mode == "squash" else "crop", resample, colours("mean", (0.485, 0.456, 0.406)),
                      colours("std", (0.229, 0.224, 0.225), 1e-6), resize_side=None if side == image_size else side,
                      pixels="open_clip")


def write_processing(p: Processing) -> dict[str, Any]:
    """The same as values of `pretrained_cfg`.

    Raises:
      UserError: `longest`, which pads, has no counterpart that keeps its grey.
    """
    if p.resize in ("longest", "square"):
        raise UserError(f"preprocessing resize={p.resize!r} (padding) cannot be said in timm's config.json")
    side = p.resize_side or p.image_size
    share = p.image_size / side
    if math.floor(p.image_size / share) != side:  # a quotient that rounds down past its whole number
        share = math.nextafter(share, 0)
    return dict(mean=list(p.mean), std=list(p.std), interpolation=p.resample, crop_pct=share,
                crop_mode="squash" if p.resize == "squash" else "center")


def _square(own: Values, key: str, default: int) -> int:
    """The side of a square that is given as a number or a pair."""
    size = own.get(key, default)
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(is_count(n, MOST_PIXELS + 1) and n for n in size):
        if size[0] != size[1]:
            raise own.wrong(key, "is no square")
        return size[0]
    return own.count(key, default, most=MOST_PIXELS)


TIMM = Family("timm", "tower", (), read, write, Tower, lambda config: TABLE, lambda config: (_HEAD,))
