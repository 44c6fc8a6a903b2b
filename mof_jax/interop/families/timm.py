"""The plain ViT of `timm`, CLIP's and SigLIP's image towers among them: `config.json` with an `architecture`, and one file.

An architecture stands for the arguments of a model, and `model_args` for those that differ from it.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
import re
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError, lookup
from mof_jax.interop import links
from mof_jax.interop.family import Family, section
from mof_jax.interop.links import Link, Table
from mof_jax.interop.preprocess import Processing
from mof_jax.interop.transfer import Ignored
from mof_jax.models.tower import Tower, TowerConfig

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
_FREE = {"num_classes", "in_chans", "dynamic_img_size", "dynamic_img_pad", "drop_rate", "pos_drop_rate", "patch_drop_rate",
         "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "weight_init", "fix_init"}
# Arguments that are not built here, and the one value that is.
_FIXED: dict[str, Any] = dict(
    in_chans=3, qkv_bias=True, qk_norm=False, scale_attn_norm=False, scale_mlp_norm=False, proj_bias=True, pos_embed="learn",
    no_embed_class=False, reg_tokens=0, final_norm=True, pool_include_prefix=False)
_PLAIN, _CLIP = "vit_base_patch16_224", "vit_base_patch16_clip_224"  # epsilon 1e-6 and 1e-5


def _arguments(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a model: those that its architecture stands for, and its own."""
    name = str(theirs["architecture"]).partition(".")[0]
    found = NAME.fullmatch(name)
    if found is None:
        raise UserError(f"config.json: architecture {name!r} is not read here; of timm, plain vit_SIZE_patchN_SIZE are, and "
                        "those with clip or siglip in their name")
    size, patch, kind, quick, pixels = found.groups()
    width, depth, heads, ratio = _SIZES[size]
    values: dict[str, Any] = dict(
        img_size=int(pixels), patch_size=int(patch), embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=ratio,
        act_layer="quick_gelu" if quick else "gelu_tanh" if _TANH.search(name) else "gelu",
        eps=1e-5 if kind == "clip" else 1e-6, pre_norm=kind == "clip",
        class_token=kind in (None, "clip"), init_values=None, fc_norm=False if kind == "siglip_gap" else None,
        global_pool={"siglip": "map", "siglip_gap": "avg"}.get(kind, "token"))
    cfg, own = section(theirs, "pretrained_cfg"), section(theirs, "model_args")
    if "input_size" in cfg:
        values["img_size"] = _square(cfg["input_size"][1:])
    values["global_pool"] = theirs.get("global_pool", values["global_pool"])
    for key, value in own.items():
        if key in _FIXED and value != _FIXED[key]:
            raise UserError(f"config.json: model_args.{key} {value!r} is not built here, {_FIXED[key]!r} is")
        if key not in values and key not in _FIXED and key not in _FREE:
            raise UserError(f"config.json: model_args.{key} is not known here")
    return values | {key: value for key, value in own.items() if key in values}


def read(theirs: Mapping[str, Any]) -> TowerConfig:
    a = _arguments(theirs)
    pool = lookup(_POOLS, a["global_pool"], "global_pool")
    if pool == "gap" and a["fc_norm"] is not False:
        raise UserError("config.json: the norm of this architecture stands behind the mean of the patches (fc_norm); here it "
                        "stands before it")
    encoder = dict(
        width=a["embed_dim"], depth=a["depth"], heads=a["num_heads"], mlp_dim=int(a["embed_dim"] * a["mlp_ratio"]),
        patch_size=_square(a["patch_size"]), image_size=_square(a["img_size"]), cls_token=a["class_token"], pool=pool,
        pre_norm=a["pre_norm"], patch_bias=not a["pre_norm"], norm_eps=a["eps"], layer_scale=a["init_values"],
        activation=lookup(_ACTIVATIONS, a["act_layer"] or "gelu", "act_layer"))
    return configs.build(TowerConfig, dict(encoder=encoder), "config.json")


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


def read_processing(theirs: Mapping[str, Any], image_size: int) -> Processing:
    """What becomes of a picture, by `pretrained_cfg`; what it leaves out is the library's default.

    Raises:
      UserError: steps that have no counterpart here.
    """
    cfg = section(theirs, "pretrained_cfg")
    mode, resample, share = cfg.get("crop_mode") or "center", cfg.get("interpolation") or "bicubic", cfg.get("crop_pct") or 0.875
    if mode not in ("center", "squash") or resample not in ("bilinear", "bicubic"):
        raise UserError(f"config.json: crop_mode {mode!r}, interpolation {resample!r}: not known here")
    triple = lambda key, default: tuple(float(x) for x in cfg.get(key) or default)
    side = math.floor(image_size / share)
    # torchvision's crop, as OpenCLIP's.
    return Processing(image_size, "squash" if mode == "squash" else "crop", resample, triple("mean", (0.485, 0.456, 0.406)),
                      triple("std", (0.229, 0.224, 0.225)), resize_side=None if side == image_size else side, pixels="open_clip")


def write_processing(p: Processing) -> dict[str, Any]:
    """The same as values of `pretrained_cfg`.

    Raises:
      UserError: `longest`, which pads, has no counterpart that keeps its grey.
    """
    if p.resize == "longest":
        raise UserError("preprocessing resize='longest' (padding) cannot be said in timm's config.json")
    side = p.resize_side or p.image_size
    share = p.image_size / side
    if math.floor(p.image_size / share) != side:  # a quotient that rounds down past its whole number
        share = math.nextafter(share, 0)
    return dict(mean=list(p.mean), std=list(p.std), interpolation=p.resample, crop_pct=share,
                crop_mode="squash" if p.resize == "squash" else "center")


def _square(size: Any) -> int:
    """The side of a square that is given as a number or a pair."""
    if isinstance(size, int):
        return size
    rows, columns = size
    if rows != columns:
        raise UserError(f"config.json: {rows}×{columns}; towers here take squares")
    return rows


TIMM = Family("timm", "tower", (), read, write, Tower, lambda config: TABLE, lambda config: (_HEAD,))
