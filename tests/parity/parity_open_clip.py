"""Towers and losses of `open_clip`, and the plain ViT of `timm`, tiny and random."""

from __future__ import annotations

import dataclasses

import numpy as np
import open_clip
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from parity_cases import CONTEXT, DEPTH, EMBED, GRIDS, HEADS, HIDDEN, IMAGE, PATCH, VOCAB, WIDTH, Sample, inputs, loss_inputs
from parity_torch import arrays, pixels, randomise, tokens, weights
import timm
from timm.layers import resample_abs_pos_embed
import torch

_RATIO = HIDDEN / WIDTH
_IMAGE = CLIPVisionCfg(
    layers=DEPTH, width=WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, image_size=IMAGE, mlp_ratio=_RATIO)
_TEXT = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCAB, width=WIDTH, heads=HEADS, layers=DEPTH, mlp_ratio=_RATIO)
_TIMM = dict(img_size=IMAGE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=_RATIO, num_classes=0)

MODELS = {
    "open_clip": lambda: CLIP(EMBED, _IMAGE, _TEXT, quick_gelu=True),
    "open_clip_custom_text": lambda: CustomTextCLIP(EMBED, _IMAGE, _TEXT, quick_gelu=True),
    "timm": lambda: timm.models.VisionTransformer(**_TIMM),
    "timm_gap": lambda: timm.models.VisionTransformer(**_TIMM, class_token=False, global_pool="avg", fc_norm=False),
}
LOSSES = ("softmax", "sigmoid")


def sample(kind: str, seed: int) -> Sample:
    """Random weights and what the model makes of random inputs."""
    model, given = randomise(MODELS[kind](), seed), inputs(seed, kind)
    with torch.no_grad():
        if "tokens" in given:
            image, text, scale = model(pixels(given["images"]), tokens(given["tokens"]))[:3]
            want = arrays(image=image, text=text, logits=scale * image @ text.T)
        else:
            features = model.forward_features(pixels(given["images"]))
            want = arrays(tokens=features, pooled=model.forward_head(features))
    return Sample(weights(model), given, want)


def loss_sample(kind: str, seed: int) -> Sample:
    """The loss of random features, and its gradient in every input."""
    given = loss_inputs(seed)
    t = {name: torch.tensor(x, requires_grad=True) for name, x in given.items()}
    if kind == "softmax":
        value = open_clip.loss.ClipLoss()(t["image"], t["text"], t["scale"])
    else:
        value = open_clip.loss.SigLipLoss()(t["image"], t["text"], t["scale"], t["bias"])
    value.backward()
    gradient = {f"d_{name}": (torch.zeros_like(x) if x.grad is None else x.grad) for name, x in t.items()}
    return Sample({}, given, arrays(value=value, **gradient) | {"value": np.float32(value.item())})


def positions_sample(seed: int) -> Sample:
    """`timm`'s bicubic resampling of position embeddings, which OpenCLIP shares."""
    pos = np.random.default_rng(seed).standard_normal((17, 6)).astype(np.float32)
    resized = {name: resample_abs_pos_embed(torch.from_numpy(pos)[None], list(grid), num_prefix_tokens=1)[0]
               for name, grid in GRIDS.items()}
    return Sample({}, {"pos": pos}, arrays(**resized))


def configs() -> dict[str, dict]:
    """Every key that the libraries have for these models."""
    cfg = dataclasses.asdict(timm.models.PretrainedCfg(input_size=(3, IMAGE, IMAGE), fixed_input_size=True))
    towers = dict(vision_cfg=dataclasses.asdict(_IMAGE), text_cfg=dataclasses.asdict(_TEXT))
    gap = dict(_TIMM, class_token=False, global_pool="avg", fc_norm=False) | dict(
        qkv_bias=True, qk_norm=False, scale_attn_norm=False, scale_mlp_norm=False, proj_bias=True, init_values=None,
        pos_embed="learn", no_embed_class=False, reg_tokens=0, pre_norm=False, final_norm=True, pool_include_prefix=False,
        dynamic_img_size=False, dynamic_img_pad=False, drop_rate=0.0, pos_drop_rate=0.0, patch_drop_rate=0.0, proj_drop_rate=0.0,
        attn_drop_rate=0.0, drop_path_rate=0.0, weight_init="", fix_init=False, act_layer="gelu", in_chans=3)
    return {
        "open_clip": dict(model_cfg=dict(
            embed_dim=EMBED, quick_gelu=True, custom_text=False, init_logit_scale=2.6, init_logit_bias=None,
            nonscalar_logit_scale=False, **towers), preprocess_cfg=dataclasses.asdict(open_clip.transform.PreprocessCfg(IMAGE))),
        "timm_gap": dict(architecture="vit_base_patch16_siglip_gap_224", num_classes=0, num_features=WIDTH, global_pool="avg",
                         model_args=gap, pretrained_cfg={k: x for k, x in cfg.items() if k != "state_dict"})}
