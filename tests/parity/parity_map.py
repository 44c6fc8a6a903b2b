"""Weights of other libraries as ours, said as tables: our path -> their names.

Tables hold what a family can have; `convert` takes what a model does have, and refuses weights that nobody took.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mof_jax.nn.module import Skeleton


class Source(NamedTuple):
    """Where a parameter comes from.

    Attributes:
      names: of their arrays, joined along the first dimension; `{}` stands for the layer.
      how: `plain`, `linear` ([out, in] -> [in, out]) or `conv` ([out, channel, row, column] -> [row·column·channel, out]).
      third: which third of the joined array, for fused query-key-value projections.
    """

    names: tuple[str, ...]
    how: str = "plain"
    third: int | None = None


Table = dict[str, Source]


def plain(ours: str, theirs: str) -> Table:
    return {ours: Source((theirs,))}


def norm(ours: str, theirs: str) -> Table:
    return plain(f"{ours}/scale", f"{theirs}.weight") | plain(f"{ours}/bias", f"{theirs}.bias")


def linear(ours: str, theirs: str, how: str = "linear") -> Table:
    return {f"{ours}/kernel": Source((f"{theirs}.weight",), how)} | plain(f"{ours}/bias", f"{theirs}.bias")


def attention(ours: str, weights: tuple[str, ...], biases: tuple[str, ...], out: str) -> Table:
    """Self-attention; one fused name or three for query, key and value."""
    return {
        f"{ours}/qkv": Source(weights, "linear"),
        f"{ours}/qkv_bias": Source(biases),
        f"{ours}/out": Source((f"{out}.weight",), "linear"),
        f"{ours}/out_bias": Source((f"{out}.bias",)),
    }


def map_head(ours: str, theirs: str) -> Table:
    """`torch.nn.MultiheadAttention` with a learned probe, then a residual MLP."""
    table = plain(f"{ours}/probe", f"{theirs}.probe") | linear(f"{ours}/out", f"{theirs}.attention.out_proj")
    for i, name in enumerate("qkv"):
        table[f"{ours}/{name}/kernel"] = Source((f"{theirs}.attention.in_proj_weight",), "linear", i)
        table[f"{ours}/{name}/bias"] = Source((f"{theirs}.attention.in_proj_bias",), "plain", i)
    table |= norm(f"{ours}/norm", f"{theirs}.layernorm")
    return table | linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1") | linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2")


def _hf_blocks(ours: str, theirs: str) -> Table:
    q = [f"{theirs}.self_attn.{x}_proj" for x in "qkv"]
    return (
        attention(f"{ours}/attn", tuple(f"{x}.weight" for x in q), tuple(f"{x}.bias" for x in q),
                  f"{theirs}.self_attn.out_proj")
        | norm(f"{ours}/norm1", f"{theirs}.layer_norm1") | norm(f"{ours}/norm2", f"{theirs}.layer_norm2")
        | linear(f"{ours}/mlp/up", f"{theirs}.mlp.fc1") | linear(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"))


def _dinov2_blocks(ours: str, theirs: str) -> Table:
    q = [f"{theirs}.attention.{x}_proj" for x in "qkv"]
    return (
        attention(f"{ours}/attn", tuple(f"{x}.weight" for x in q), tuple(f"{x}.bias" for x in q),
                  f"{theirs}.attention.o_proj")
        | norm(f"{ours}/norm1", f"{theirs}.norm1") | norm(f"{ours}/norm2", f"{theirs}.norm2")
        | plain(f"{ours}/scale1", f"{theirs}.layer_scale1.lambda1")
        | plain(f"{ours}/scale2", f"{theirs}.layer_scale2.lambda1"))


def _open_clip_blocks(ours: str, theirs: str) -> Table:
    return (
        attention(f"{ours}/attn", (f"{theirs}.attn.in_proj_weight",), (f"{theirs}.attn.in_proj_bias",),
                  f"{theirs}.attn.out_proj")
        | norm(f"{ours}/norm1", f"{theirs}.ln_1") | norm(f"{ours}/norm2", f"{theirs}.ln_2")
        | linear(f"{ours}/mlp/up", f"{theirs}.mlp.c_fc") | linear(f"{ours}/mlp/down", f"{theirs}.mlp.c_proj"))


_HF_EMBED = "vision_model.embeddings"
_HF_SHARED = (
    linear("image/patch_embed", f"{_HF_EMBED}.patch_embedding", "conv")
    | plain("image/pos_embed", f"{_HF_EMBED}.position_embedding.weight")
    | _hf_blocks("image/blocks/layers", "vision_model.encoder.layers.{}")
    | norm("image/final_norm", "vision_model.post_layernorm")
    | plain("text/embed", "text_model.embeddings.token_embedding.weight")
    | plain("text/pos_embed", "text_model.embeddings.position_embedding.weight")
    | _hf_blocks("text/blocks/layers", "text_model.encoder.layers.{}")
    | norm("text/final_norm", "text_model.final_layer_norm")
    | plain("logit_scale", "logit_scale"))

HF_CLIP: Table = (
    _HF_SHARED
    | plain("image/cls", f"{_HF_EMBED}.class_embedding")
    | norm("image/pre_norm", "vision_model.pre_layrnorm")  # their spelling
    | linear("image/project", "visual_projection") | linear("text/project", "text_projection"))

HF_SIGLIP: Table = (
    _HF_SHARED | map_head("image/pool", "vision_model.head") | linear("text/project", "text_model.head")
    | plain("logit_bias", "logit_bias"))

_HF_DINOV2_SHARED = (
    linear("patch_embed", "embeddings.patch_embeddings.projection", "conv")
    | plain("pos_embed", "embeddings.position_embeddings") | plain("cls", "embeddings.cls_token")
    | plain("registers", "embeddings.register_tokens")
    | _dinov2_blocks("blocks/layers", "encoder.layer.{}") | norm("final_norm", "layernorm"))
HF_DINOV2: Table = (
    _HF_DINOV2_SHARED
    | linear("blocks/layers/mlp/up", "encoder.layer.{}.mlp.fc1")
    | linear("blocks/layers/mlp/down", "encoder.layer.{}.mlp.fc2"))
HF_DINOV2_SWIGLU: Table = _HF_DINOV2_SHARED
for _name in ("gate", "up", "down"):
    HF_DINOV2_SWIGLU = HF_DINOV2_SWIGLU | linear(f"blocks/layers/mlp/{_name}", f"encoder.layer.{{}}.mlp.{_name}_proj")

# Llama's names are Mistral's, Qwen2's (with biases on query, key and value) and Qwen3's (with a norm on each head), too.
_LLAMA = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm",
          "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
HF_LLAMA: Table = (
    plain("embedding", "model.embed_tokens.weight") | plain("final_norm/scale", "model.norm.weight")
    | {"output": Source(("lm_head.weight",), "linear")})
for _ours, _name in _LLAMA.items():
    HF_LLAMA = HF_LLAMA | plain(f"blocks/layers/{_ours}/scale", f"model.layers.{{}}.{_name}.weight")
for _ours, _name in [(x, f"self_attn.{x[0]}_proj") for x in ("q", "k", "v", "out")] + [
        (x, f"mlp.{x}_proj") for x in ("gate", "up", "down")]:
    HF_LLAMA = HF_LLAMA | linear(f"blocks/layers/{_ours}", f"model.layers.{{}}.{_name}")


def open_clip(text: str) -> Table:
    """`text` prefixes the text tower's names: "" in `CLIP`, "text." in `CustomTextCLIP`."""
    return (
        linear("image/patch_embed", "visual.conv1", "conv") | plain("image/cls", "visual.class_embedding")
        | plain("image/pos_embed", "visual.positional_embedding") | norm("image/pre_norm", "visual.ln_pre")
        | _open_clip_blocks("image/blocks/layers", "visual.transformer.resblocks.{}")
        | norm("image/final_norm", "visual.ln_post") | plain("image/project/kernel", "visual.proj")
        | plain("text/embed", f"{text}token_embedding.weight") | plain("text/pos_embed", f"{text}positional_embedding")
        | _open_clip_blocks("text/blocks/layers", f"{text}transformer.resblocks.{{}}")
        | norm("text/final_norm", f"{text}ln_final") | plain("text/project/kernel", f"{text}text_projection")
        | plain("logit_scale", "logit_scale"))


TIMM: Table = (
    linear("patch_embed", "patch_embed.proj", "conv") | plain("pos_embed", "pos_embed") | plain("cls", "cls_token")
    | attention("blocks/layers/attn", ("blocks.{}.attn.qkv.weight",), ("blocks.{}.attn.qkv.bias",), "blocks.{}.attn.proj")
    | norm("blocks/layers/norm1", "blocks.{}.norm1") | norm("blocks/layers/norm2", "blocks.{}.norm2")
    | linear("blocks/layers/mlp/up", "blocks.{}.mlp.fc1") | linear("blocks/layers/mlp/down", "blocks.{}.mlp.fc2")
    | norm("final_norm", "norm"))


def convert(table: Table, weights: Mapping[str, np.ndarray], skeleton: Skeleton) -> dict[str, np.ndarray]:
    """Our parameters by path; KeyError for a weight that is missing, ValueError for one that nothing reads."""
    used: set[str] = set()

    def one(source: Source, shape: tuple[int, ...], layer: int | None) -> np.ndarray:
        names = [name.format(layer) for name in source.names]
        used.update(names)
        x = np.concatenate([weights[name] for name in names]) if len(names) > 1 else weights[names[0]]
        x = x if source.third is None else np.split(x, 3)[source.third]
        x = {"plain": lambda: x, "linear": lambda: x.T, "conv": lambda: x.transpose(2, 3, 1, 0)}[source.how]()
        return x.reshape(shape)

    params = {}
    for path, abstract in skeleton.shapes.items():
        source, shape = table[path], abstract.shape
        if "{}" in source.names[0]:
            params[path] = np.stack([one(source, shape[1:], layer) for layer in range(shape[0])])
        else:
            params[path] = one(source, shape, None)
    if unread := set(weights) - used:
        raise ValueError(f"weights that nothing reads: {sorted(unread)}")
    return params
