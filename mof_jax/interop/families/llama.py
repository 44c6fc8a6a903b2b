"""Llama and what shares its names: Vicuna, Mistral, Qwen2 (biases on query, key and value), Qwen3 (a norm on each head).

Mistral, Qwen2 and Qwen3 may look back over a window of some thousand tokens (arXiv 2310.06825); all layers alike are built here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mof_jax import config as configs
from mof_jax.interop import links
from mof_jax.interop.family import Family, activation
from mof_jax.interop.links import Link, Table
from mof_jax.interop.transfer import Ignored
from mof_jax.interop.values import MOST_WORDS, Values
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
    "mistral": dict(vocab_size=32000, intermediate_size=14336, num_key_value_heads=8),
    "qwen2": dict(vocab_size=151936, intermediate_size=22016, num_key_value_heads=32),
    "qwen3": dict(vocab_size=151936, intermediate_size=22016, num_key_value_heads=32, head_dim=128),
}
KINDS = tuple(_DEFAULTS)
_WINDOW, _SLIDING_FROM = 4096, 28  # Mistral's and both Qwens' default; the first layer of a Qwen's that has one
_FULL, _SLIDING = "full_attention", "sliding_attention"


def read(theirs: Mapping[str, Any] | Values) -> LLMConfig:
    values = Values.of(theirs)
    config = read_words(values, values.choice("model_type", "llama", {kind: kind for kind in KINDS}))
    values.close()
    return config


def read_words(values: Values, kind: str) -> LLMConfig:
    """A language model of a kind of `_DEFAULTS`; the section is left open for the keys of a larger model."""
    given = _DEFAULTS[kind]
    if activation(values, "silu") != "silu":
        raise values.wrong("hidden_act", "is not built here; the gated layer is silu")
    values.only("attention_bias", False)
    values.only("mlp_bias", False)
    # Lengths beyond the first are the user's affair, as there; the shares of a tensor-parallel run compute the same.
    values.transformers("max_position_embeddings", "attention_dropout", "pretraining_tp")
    heads, depth = values.count("num_attention_heads", 32), values.count("num_hidden_layers", 32)
    optional = lambda key, default: values.count(key, default) if values.get(key, default) not in (None, 0) else 0
    return configs.build(LLMConfig, dict(
        vocab_size=values.count("vocab_size", given["vocab_size"], most=MOST_WORDS), width=values.count("hidden_size", 4096),
        depth=depth, heads=heads, kv_heads=optional("num_key_value_heads", given.get("num_key_value_heads", 0)) or heads,
        head_dim=optional("head_dim", given.get("head_dim", 0)),
        mlp_dim=values.count("intermediate_size", given["intermediate_size"]), rope_theta=_theta(values),
        norm_eps=float(values.number("rms_norm_eps", 1e-6)), qkv_bias=kind == "qwen2", qk_norm=kind == "qwen3",
        tied=values.flag("tie_word_embeddings", False), window=_window(values, kind, depth)), values.where)


def _theta(values: Values) -> float:
    """The base of the rotary frequencies, where the fifth version of the library has it or where the earlier ones did."""
    now, before = values.section("rope_parameters"), values.section("rope_scaling")
    if now.get("rope_theta", before.get("rope_theta")) != before.get("rope_theta", now.get("rope_theta")):
        raise before.wrong("rope_theta", "goes against that of rope_parameters; leave one of them")
    base = 10000.0
    for rope in (values, before, now):
        if rope is not values:
            rope.only("rope_type", "default")
            rope.only("type", "default")
        rope.only("partial_rotary_factor", 1.0, None)
        if rope.get("rope_theta") is not None:
            base = rope.number("rope_theta", base, least=1e-6, most=1e15)
    return float(base)


def _window(values: Values, kind: str, depth: int) -> int:
    """How many tokens each looks back over, itself among them; 0 for all."""
    if kind == "llama":  # that has none, whatever its file says
        values.free("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
        return 0
    if kind == "mistral":
        used, layers = True, [_SLIDING] * depth
    else:
        used = values.flag("use_sliding_window", False)
        values.free(*([] if used else ["sliding_window"]))
        first = values.count("max_window_layers", _SLIDING_FROM, least=0)
        layers = [_SLIDING if used and i >= first else _FULL for i in range(depth)]
        if values.get("layer_types") is not None:
            layers = values.get("layer_types")
            if not isinstance(layers, list) or len(layers) != depth or not all(x in (_FULL, _SLIDING) for x in layers):
                raise values.wrong("layer_types", f"is no list of {_FULL!r} or {_SLIDING!r} for each of {depth} layers")
    none = not used or values.get("sliding_window", _WINDOW) is None
    window = 0 if none else values.count("sliding_window", _WINDOW, most=1 << 30)
    if none and kind != "mistral" and _SLIDING in layers:
        if values.get("layer_types") is not None:
            raise values.wrong("layer_types", f"has {_SLIDING!r} layers, and there is no sliding_window that is used")
        return 0
    if len(set(layers)) > 1:
        key = "max_window_layers" if values.get("layer_types") is None else "layer_types"
        raise values.wrong(key, "gives some layers a window and others none; here all layers are alike")
    return window if layers[0] == _SLIDING else 0


def write(config: LLMConfig) -> dict[str, Any]:
    c = config
    kind = "qwen3" if c.qk_norm else "qwen2" if c.qkv_bias else "llama"
    windows: dict[str, Any] = {}
    if kind != "llama":
        windows = dict(use_sliding_window=c.window > 0)
    if c.window:
        kind = "mistral" if kind == "llama" else kind
        windows |= dict(sliding_window=c.window)
        windows |= {} if kind == "mistral" else dict(max_window_layers=0, layer_types=[_SLIDING] * c.depth)
    return windows | dict(
        model_type=kind, architectures=[f"{kind.capitalize()}ForCausalLM"], vocab_size=c.vocab_size, hidden_size=c.width,
        num_hidden_layers=c.depth,
        num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim, intermediate_size=c.mlp_dim,
        rope_theta=c.rope_theta, rms_norm_eps=c.norm_eps, hidden_act="silu", tie_word_embeddings=c.tied)


LLAMA = Family("llama", "llm", KINDS, read, write, LLMAlone, lambda config: TABLE,
               lambda config: (_FREQUENCIES, _HEAD) if config.tied else (_FREQUENCIES,))
