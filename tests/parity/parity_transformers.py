"""CLIP, SigLIP, DINOv2 and language models of `transformers`, tiny and random."""

from __future__ import annotations

import json

import numpy as np
from parity_cases import CONTEXT, DEPTH, EMBED, EOS, HEADS, HIDDEN, IMAGE, PATCH, VOCAB, WIDTH, Sample, inputs
from parity_torch import arrays, pixels, randomise, tokens, weights
import torch
import transformers

_TOWER = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
_IMAGE = _TOWER | dict(image_size=IMAGE, patch_size=PATCH)
_TEXT = _TOWER | dict(vocab_size=VOCAB, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=EOS, pad_token_id=EOS)
_DINO = {k: v for k, v in _IMAGE.items() if k != "intermediate_size"} | dict(mlp_ratio=HIDDEN // WIDTH)


def _clip() -> transformers.CLIPModel:
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=_TEXT, vision_config=_IMAGE, projection_dim=EMBED))


def _siglip() -> transformers.SiglipModel:
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=_TEXT, vision_config=_IMAGE))


def _dinov2(**options) -> transformers.Dinov2Model:
    return transformers.Dinov2Model(transformers.Dinov2Config(**_DINO | options))


def _dinov2_registers() -> transformers.Dinov2WithRegistersModel:
    return transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**_DINO, num_register_tokens=3))


def _vit() -> transformers.ViTModel:
    return transformers.ViTModel(transformers.ViTConfig(**_IMAGE), add_pooling_layer=False)


def _vit_mae() -> transformers.ViTMAEModel:
    """Of which no patch is masked."""
    return transformers.ViTMAEModel(transformers.ViTMAEConfig(**_IMAGE, mask_ratio=0.0))


def _bert() -> transformers.BertModel:
    words = dict(vocab_size=VOCAB, max_position_embeddings=CONTEXT, pad_token_id=EOS)
    return transformers.BertModel(transformers.BertConfig(**_TOWER, **words), add_pooling_layer=False)


_LLM = _TOWER | dict(vocab_size=VOCAB, num_attention_heads=4, num_key_value_heads=2,
                     rope_parameters={"rope_type": "default", "rope_theta": 100.0}, attn_implementation="eager")


def _llama() -> transformers.LlamaForCausalLM:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_LLM, rms_norm_eps=1e-5))


def _mistral() -> transformers.MistralForCausalLM:
    return transformers.MistralForCausalLM(
        transformers.MistralConfig(**_LLM, rms_norm_eps=1e-5, head_dim=6, sliding_window=None))


def _qwen2() -> transformers.Qwen2ForCausalLM:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_LLM, tie_word_embeddings=True))


def _qwen3() -> transformers.Qwen3ForCausalLM:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**_LLM, head_dim=WIDTH // 4))


def _llava() -> transformers.LlavaForConditionalGeneration:
    words = transformers.LlamaConfig(**_LLM, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=EOS, pad_token_id=EOS)
    tower = transformers.CLIPVisionConfig(**_IMAGE, projection_dim=EMBED)
    return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(
        vision_config=tower, text_config=words, image_token_id=IMAGE_ID, image_token_index=IMAGE_ID, vision_feature_layer=-2,
        image_seq_length=(IMAGE // PATCH) ** 2))


IMAGE_ID = VOCAB - 2  # stands for a patch in a LLaVA's words
WHOLE = {"llava": _llava}  # models whose parts `MODELS` holds

MODELS = {
    "bert": _bert,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "clip": _clip,
    "vit": _vit,
    "vit_mae": _vit_mae,
    "siglip": _siglip,
    "dinov2": _dinov2,
    "dinov2_registers": _dinov2_registers,
    # Its hidden width is 2/3 of the other's, rounded up to a multiple of 8.
    "dinov2_swiglu": lambda: _dinov2(use_swiglu_ffn=True),
}


def features(model: torch.nn.Module, images: np.ndarray) -> dict[str, torch.Tensor]:
    """Tokens of normalised pictures, and the pooled feature."""
    # A masked autoencoder shuffles its patches by noise; this one leaves them where they are.
    noise = {"noise": torch.arange(images[0, ..., 0].size // PATCH**2).repeat(len(images), 1) / 1e3}
    mae = isinstance(model, transformers.ViTMAEModel)
    out = model(pixel_values=pixels(images), **noise if mae else {})
    pooled = getattr(out, "pooler_output", None)
    return {"tokens": out.last_hidden_state, "pooled": out.last_hidden_state[:, 0] if pooled is None else pooled}


def sentence(model: transformers.BertModel, ids: np.ndarray) -> torch.Tensor:
    """Unit-norm mean over the tokens that are no padding: the feature of sentence-transformers."""
    real = tokens(ids) != model.config.pad_token_id
    found = model(input_ids=tokens(ids), attention_mask=real.long()).last_hidden_state
    mean = (found * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    return mean / mean.norm(dim=-1, keepdim=True)


def sample(kind: str, seed: int) -> Sample:
    """Random weights and what the model makes of random inputs."""
    model, given = randomise(MODELS[kind](), seed), inputs(seed, kind)
    with torch.no_grad():
        if "segment_ids" in given:
            ids, segments = tokens(given["tokens"]), tokens(given["segment_ids"])
            same = torch.tril(segments[:, :, None] == segments[:, None])  # within the document and not later
            never = torch.where(same, 0.0, torch.finfo(torch.float32).min)[:, None]
            packed = model(input_ids=ids, position_ids=tokens(given["positions"]), attention_mask=never)
            want = arrays(logits=model(input_ids=ids).logits, packed=packed.logits)
        elif kind == "bert":
            want = arrays(text=sentence(model, given["tokens"]))
        elif "tokens" in given:
            out = model(input_ids=tokens(given["tokens"]), pixel_values=pixels(given["images"]))
            want = arrays(image=out.image_embeds, text=out.text_embeds, logits=out.logits_per_image)
        else:
            want = arrays(**features(model, given["images"]))
    # The mask token belongs to DINOv2's training; no forward pass without masks reads it.
    return Sample(weights(model, ("embeddings.mask_token",)), given, want)


def configs() -> dict[str, dict]:
    """Every key of the config of each model, as the library writes it with small sizes."""
    return {kind: json.loads(make().config.to_json_string(use_diff=False)) for kind, make in (MODELS | WHOLE).items()}
