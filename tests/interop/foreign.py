"""Folders as `transformers` and OpenCLIP write them, made of the recorded weights of tests/parity."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
from parity_cases import CONTEXT, DEPTH, EMBED, EOS, FIXTURES, HEADS, HIDDEN, IMAGE, PATCH, THIN, VOCAB, WIDTH, Sample
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from mof_jax import config as configs
from mof_jax import trainer
from mof_jax.interop import weights
from mof_jax.interop.source import Source
from mof_jax.train.start import open_checkpoint

_LAYERS = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
_IMAGE = _LAYERS | dict(image_size=IMAGE, patch_size=PATCH)
_TEXT = _LAYERS | dict(vocab_size=VOCAB, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=EOS, pad_token_id=EOS)
_DINOV2 = {k: v for k, v in _IMAGE.items() if k != "intermediate_size"} | dict(mlp_ratio=2)
_LLM = _LAYERS | dict(vocab_size=VOCAB, num_attention_heads=4, num_key_value_heads=2, rope_theta=100.0)

# As the library writes them: what has its default value may be left out.
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": dict(model_type="clip", text_config=_TEXT, vision_config=_IMAGE, projection_dim=EMBED),
    "siglip": dict(model_type="siglip", text_config=_TEXT, vision_config=_IMAGE),
    "vit": dict(model_type="vit", **_IMAGE),
    "dinov2": dict(model_type="dinov2", **_DINOV2),
    "dinov2_registers": dict(model_type="dinov2_with_registers", num_register_tokens=3, **_DINOV2),
    "dinov2_swiglu": dict(model_type="dinov2", use_swiglu_ffn=True, **_DINOV2),
    "llama": dict(model_type="llama", rms_norm_eps=1e-5, **_LLM),
    "mistral": dict(model_type="mistral", rms_norm_eps=1e-5, head_dim=6, sliding_window=None, **_LLM),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True, **_LLM),
    "qwen3": dict(model_type="qwen3", head_dim=WIDTH // 4, **_LLM),
    "bert": dict(model_type="bert", vocab_size=VOCAB, max_position_embeddings=CONTEXT, pad_token_id=EOS, **_LAYERS),
    "efficientnet": dict(model_type="efficientnet_lite", width_coefficient=THIN[0], depth_coefficient=THIN[1], image_size=IMAGE),
    "open_clip": dict(
        model_cfg=dict(
            embed_dim=EMBED, quick_gelu=True,
            vision_cfg=dict(image_size=IMAGE, layers=DEPTH, width=WIDTH, patch_size=PATCH, head_width=WIDTH // HEADS,
                            mlp_ratio=2.0),
            text_cfg=dict(context_length=CONTEXT, vocab_size=VOCAB, width=WIDTH, heads=HEADS, layers=DEPTH, mlp_ratio=2.0)),
        preprocess_cfg=dict(mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2], interpolation="bicubic", resize_mode="squash")),
}

CONFIGS["timm_gap"] = dict(
    architecture="vit_base_patch16_siglip_gap_224", num_classes=0, num_features=WIDTH, global_pool="avg", model_args=dict(
        img_size=IMAGE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=2.0),
    pretrained_cfg=dict(input_size=[3, IMAGE, IMAGE], interpolation="bicubic", crop_pct=0.9, crop_mode="center",
                        mean=[0.5, 0.4, 0.3], std=[0.2, 0.2, 0.2]))

CONFIGS["llava"] = dict(
    model_type="llava", vision_config=_IMAGE | dict(model_type="clip_vision_model", projection_dim=EMBED),
    text_config=CONFIGS["llama"], image_token_index=VOCAB - 2, vision_feature_layer=-2)

CONFIGS["llava_parts"] = CONFIGS["llama"] | dict(
    model_type="llava_llama", mm_vision_tower="openai/clip-vit-large-patch14-336", mm_projector_type="mlp2x_gelu",
    mm_hidden_size=WIDTH)

PROCESSOR = dict(
    image_processor_type="CLIPImageProcessor", do_resize=True, size={"shortest_edge": IMAGE}, resample=3, do_center_crop=True,
    crop_size={"height": IMAGE, "width": IMAGE}, do_rescale=True, rescale_factor=1 / 255, do_normalize=True, do_convert_rgb=True,
    image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])


def vocabulary() -> tokenizers.Tokenizer:
    """Forty words, `<s>` 0 and `</s>` the last, put around every text."""
    words = ["<s>", *(f"w{i}" for i in range(1, VOCAB - 1)), "</s>"]
    made = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w1"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", VOCAB - 1)])
    return made


def llava() -> Sample:
    """A LLaVA's weights: CLIP's tower and the Llama that were recorded, and a projector between them."""
    rng = np.random.default_rng(0)
    tower, words = (Sample.load(FIXTURES / f"{kind}.npz").weights for kind in ("clip", "llama"))
    tensors = {f"vision_tower.{name}": x for name, x in tower.items() if name.startswith("vision_model.")}
    tensors |= {f"language_model.{name}": x for name, x in words.items()}
    for layer in ("linear_1", "linear_2"):
        tensors[f"multi_modal_projector.{layer}.weight"] = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        tensors[f"multi_modal_projector.{layer}.bias"] = rng.standard_normal(WIDTH).astype(np.float32)
    return Sample(tensors, {}, {})


def llava_parts() -> Sample:
    """What the code of Interleaved-MoF saves: the recorded Llama, two projectors, and a stray tensor of a tower."""
    rng = np.random.default_rng(0)
    tensors = dict(Sample.load(FIXTURES / "llama.npz").weights)
    for name in ("mm_projector", "dino_mm_projector"):
        for layer in (0, 2):
            tensors[f"model.{name}.{layer}.weight"] = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
            tensors[f"model.{name}.{layer}.bias"] = rng.standard_normal(WIDTH).astype(np.float32)
    return Sample(tensors | {"model.dino_tower.dino.norm.weight": np.ones(WIDTH, np.float32)}, {}, {})


def write(
    folder: pathlib.Path, kind: str, change: dict[str, np.ndarray] | None = None, limit: int = 5 << 30, **config: Any
) -> Sample:
    """A folder with the recorded model; returns the recording.

    Args:
      change: tensors to put in or replace. limit: bytes of a shard. config: keys to replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made, open_clip = {"llava": llava, "llava_parts": llava_parts}, kind == "open_clip"
    sample = made[kind]() if kind in made else Sample.load(FIXTURES / f"{kind}.npz")
    tensors = sample.weights | (change or {})
    name = "open_clip_model.safetensors" if open_clip else "model.safetensors"
    weights.save(str(folder), {k: (x.shape, x.dtype) for k, x in tensors.items()}, tensors.items(), name, limit)
    (folder / ("open_clip_config.json" if open_clip else "config.json")).write_text(json.dumps(CONFIGS[kind] | config))
    if kind in ("clip", "siglip", "bert", "open_clip", "llava"):
        vocabulary().save(str(folder / "tokenizer.json"))
    if kind == "bert":  # whose padding is hidden, so it has a token of its own
        (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "w2"}))
    if kind == "clip":
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return sample


def finetune(path: str, workdir: pathlib.Path, **change: Any) -> None:
    """Two steps of a two-tower model from `path`, `hf:…` or a work dir of ours; pictures and words as it came.

    Args:
      change: sections of the config to replace.
    """
    if path.startswith("hf:"):
        source = Source.open(path)
        model, section = configs.to_dict(source.config), source.processing.section()
    else:
        meta = open_checkpoint(path)[1]
        model, section = meta["config"]["model"], dict(meta["preprocess"])
    data = dict(sources=[dict(kind="emoji5")], threads=0, augment=dict(fill=section.pop("fill")), **section)
    trainer.train(dict(
        task="contrastive", steps=2, batch_size=8, log_every=1, model=model, data=data, tokenizer=dict(kind="run", path=path),
        init_from=dict(path=path), optimizer=dict(name="adamw", lr=1e-3)) | change, str(workdir))
