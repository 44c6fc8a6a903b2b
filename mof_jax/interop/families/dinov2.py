"""DINOv2 (arXiv 2304.07193), with registers (arXiv 2309.16588) and SwiGLU (giant) too, as `transformers` stores them.

Its files have the names of the library's first versions; the fifth has others in memory. Both are read, the first written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.families.clip import patches_of
from mof_jax.interop.family import Family, activation, their_activation
from mof_jax.interop.links import Link, Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import Values
from mof_jax.models.tower import Tower, TowerConfig

_OURS, _LAYER = "encoder/blocks/layers", "encoder.layer.{}"
_GATED = [f"{_OURS}/mlp/gate", f"{_OURS}/mlp/up"]

_SHARED: Table = (
    *links.patches("encoder/patch_embed", "embeddings.patch_embeddings.projection"),
    *links.plain("encoder/pos_embed", "embeddings.position_embeddings", ones=1),
    *links.plain("encoder/cls", "embeddings.cls_token", ones=2),
    *links.plain("encoder/registers", "embeddings.register_tokens", ones=1),
    *links.separate(f"{_OURS}/attn", [f"{_LAYER}.attention.attention.{x}" for x in ("query", "key", "value")],
                    f"{_LAYER}.attention.output.dense"),
    *links.separate(f"{_OURS}/attn", [f"{_LAYER}.attention.{x}_proj" for x in "qkv"], f"{_LAYER}.attention.o_proj"),
    *links.norm(f"{_OURS}/norm1", f"{_LAYER}.norm1"), *links.norm(f"{_OURS}/norm2", f"{_LAYER}.norm2"),
    *links.plain(f"{_OURS}/scale1", f"{_LAYER}.layer_scale1.lambda1"),
    *links.plain(f"{_OURS}/scale2", f"{_LAYER}.layer_scale2.lambda1"),
    *links.norm("encoder/final_norm", "layernorm"))

_MLP: Table = (*links.linear(f"{_OURS}/mlp/up", f"{_LAYER}.mlp.fc1"), *links.linear(f"{_OURS}/mlp/down", f"{_LAYER}.mlp.fc2"))

_SWIGLU: Table = (
    Link(tuple(f"{x}/kernel" for x in _GATED), (f"{_LAYER}.mlp.weights_in.weight",), "linear"),
    Link(tuple(f"{x}/bias" for x in _GATED), (f"{_LAYER}.mlp.weights_in.bias",)),
    *links.linear(f"{_OURS}/mlp/down", f"{_LAYER}.mlp.weights_out"),
    *(link for x in ("gate", "up", "down") for link in links.linear(f"{_OURS}/mlp/{x}", f"{_LAYER}.mlp.{x}_proj")))

_MASK_TOKEN = Ignored(r"embeddings\.mask_token", "of its own training; no forward pass without masks reads it", keep=True)


# Of training, and of the library's backbone, whose features are not the model's.
_FREE = ("attention_probs_dropout_prob", "hidden_dropout_prob", "drop_path_rate", "use_mask_token", "apply_layernorm",
         "reshape_hidden_states", "stage_names", "out_features", "out_indices", "tie_word_embeddings")


def read(theirs: Mapping[str, Any] | Values) -> TowerConfig:
    values = Values.of(theirs)
    registered = values.get("model_type") == "dinov2_with_registers"
    registers = values.count("num_register_tokens", 4, least=1) if registered else 0
    width, swiglu = values.count("hidden_size", 768), values.flag("use_swiglu_ffn", False)
    values.only("qkv_bias", True)
    encoder = patches_of(values, 16 if registered else 14) | dict(
        width=width, depth=values.count("num_hidden_layers", 12), heads=values.count("num_attention_heads", 12),
        mlp_dim=values.hidden("mlp_ratio", 4, lambda ratio: _hidden(width, ratio, swiglu)),
        # The library resamples positions with antialiasing where there are registers, as each was trained.
        registers=registers, pos_antialias=registered,
        layer_scale=float(values.number("layerscale_value", 1.0, least=-1e9)), swiglu=swiglu,
        norm_eps=float(values.number("layer_norm_eps", 1e-6)), activation="silu" if swiglu else activation(values, "gelu"))
    values.transformers(*_FREE, *(["hidden_act"] if swiglu else []))
    values.close()
    return configs.build(TowerConfig, dict(encoder=encoder), values.where)


def _hidden(width: int, ratio: float, swiglu: bool) -> int:
    """Hidden width of the MLP: two thirds of it, rounded up to a multiple of 8, where there are two halves."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden


def write(config: TowerConfig) -> dict[str, Any]:
    e = config.encoder
    ratio = next((ratio for ratio in (4, *range(1, 65)) if _hidden(e.width, ratio, e.swiglu) == e.mlp_dim), None)
    if ratio is None:
        raise UserError(f"format 'dinov2' cannot hold mlp_dim {e.mlp_dim}: a whole multiple of the width {e.width} is needed")
    with_registers = dict(num_register_tokens=e.registers) if e.registers else {}
    return dict(
        model_type="dinov2_with_registers" if e.registers else "dinov2",
        architectures=["Dinov2WithRegistersModel" if e.registers else "Dinov2Model"],
        hidden_size=e.width, num_hidden_layers=e.depth, num_attention_heads=e.heads,
        mlp_ratio=ratio, patch_size=e.patch_size, image_size=e.image_size,
        use_swiglu_ffn=e.swiglu, layer_norm_eps=e.norm_eps, hidden_act="gelu" if e.swiglu else their_activation(e.activation),
        **with_registers)


DINOV2 = Family(
    "dinov2", "tower", ("dinov2", "dinov2_with_registers"), read, write, Tower,
    lambda config: _SHARED + (_SWIGLU if config.encoder.swiglu else _MLP), lambda config: (_MASK_TOKEN,),
    constants=lambda config: {"embeddings.mask_token": (1, config.encoder.width)})
