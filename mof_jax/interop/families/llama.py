"""Llama and what shares its names: Vicuna, Mistral, Qwen2 (biases on query, key and value), Qwen3 (a norm on each head)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.errors import UserError
from mof_jax.interop import links
from mof_jax.interop.family import Family, activation
from mof_jax.interop.links import Link, Table
from mof_jax.interop.transfer import Ignored
from mof_jax.models.llm import LLMAlone, LLMConfig

_OURS, _LAYER = "llm/blocks/layers", "model.layers.{}"
_LAYERS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "out": "self_attn.o_proj",
           "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "q_norm": "self_attn.q_norm",
          "k_norm": "self_attn.k_norm"}

TABLE: Table = (
    *links.plain("llm/embedding", "model.embed_tokens.weight"), *links.plain("llm/final_norm/scale", "model.norm.weight"),
    Link(("llm/output",), ("lm_head.weight",), "linear"),
    *(link for ours, theirs in _NORMS.items() for link in links.plain(f"{_OURS}/{ours}/scale", f"{_LAYER}.{theirs}.weight")),
    *(link for ours, theirs in _LAYERS.items() for link in links.linear(f"{_OURS}/{ours}", f"{_LAYER}.{theirs}")))

_FREQUENCIES = Ignored(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", "a buffer: the rotary frequencies")
_HEAD = Ignored(r"lm_head\.weight", "tied: the embedding once more", same_as="model.embed_tokens.weight")

# What each kind takes for a value that its config.json leaves out.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": dict(vocab_size=32000, intermediate_size=11008),
    "mistral": dict(vocab_size=32000, intermediate_size=14336, num_key_value_heads=8, sliding_window=4096),
    "qwen2": dict(vocab_size=151936, intermediate_size=22016, num_key_value_heads=32),
    "qwen3": dict(vocab_size=151936, intermediate_size=22016, num_key_value_heads=32, head_dim=128),
}


def read(theirs: Mapping[str, Any]) -> LLMConfig:
    kind = theirs["model_type"]
    shared = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, rms_norm_eps=1e-6, hidden_act="silu")
    given = shared | _DEFAULTS[kind] | dict(theirs)
    if activation(given["hidden_act"]) != "silu":
        raise UserError(f"config.json: hidden_act {given['hidden_act']!r}; the gated layer here is silu")
    if given.get("attention_bias") or given.get("mlp_bias"):
        raise UserError("config.json: attention_bias or mlp_bias; this model has no biases there")
    heads = given["num_attention_heads"]
    return configs.build(LLMConfig, dict(
        vocab_size=given["vocab_size"], width=given["hidden_size"], depth=given["num_hidden_layers"], heads=heads,
        kv_heads=given.get("num_key_value_heads") or heads, head_dim=given.get("head_dim") or 0,
        mlp_dim=given["intermediate_size"], rope_theta=_theta(given), norm_eps=given["rms_norm_eps"], qkv_bias=kind == "qwen2",
        qk_norm=kind == "qwen3", tied=given.get("tie_word_embeddings", False)), "config.json")


def _theta(theirs: Mapping[str, Any]) -> float:
    """The base of the rotary frequencies, where the fifth version of the library has it or where the earlier ones did."""
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise UserError(f"config.json: rotary positions of type {kind!r} are not built here; only the plain ones are")
    return float(rope.get("rope_theta") or theirs.get("rope_theta") or 10000.0)


def write(config: LLMConfig) -> dict[str, Any]:
    c = config
    kind = "qwen3" if c.qk_norm else "qwen2" if c.qkv_bias else "llama"
    names = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
    return dict(
        model_type=kind, architectures=[names[kind]], vocab_size=c.vocab_size, hidden_size=c.width, num_hidden_layers=c.depth,
        num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim, intermediate_size=c.mlp_dim,
        rope_theta=c.rope_theta, rms_norm_eps=c.norm_eps, hidden_act="silu", tie_word_embeddings=c.tied)


def notes(theirs: Mapping[str, Any]) -> list[str]:
    window = (_DEFAULTS[theirs["model_type"]] | dict(theirs)).get("sliding_window")
    if theirs["model_type"] != "mistral" and not theirs.get("use_sliding_window"):
        window = None
    return [f"its attention looks back {window:,} tokens at most; ours looks back over all, so contexts up to that length are "
            "equal"] if window else []


LLAMA = Family("llama", "llm", tuple(_DEFAULTS), read, write, LLMAlone, lambda config: TABLE,
               lambda config: (_FREQUENCIES, _HEAD) if config.tied else (_FREQUENCIES,), notes=notes)
