"""Decoder-only language model: Llama, Mistral, Qwen2 and MM1's study differ by config.

    int32 [B, S] ─ embed ─▶ [B, S, d] ─ blocks (rotary, grouped queries, SwiGLU) ─▶ norm ─▶ hidden [B, S, d] ─ head ─▶ logits
"""

from __future__ import annotations

import dataclasses
from typing import Any

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mof_jax.errors import lookup
from mof_jax.nn import dropout as drop
from mof_jax.nn.attention import Kernel, Mask
from mof_jax.nn.decoder import DecoderBlock, DecoderConfig, KVCache, RMSNorm
from mof_jax.nn.module import normal, param
from mof_jax.nn.rotary import rotary_angles
from mof_jax.nn.stack import Remat, Stack
from mof_jax.ranges import Count, NotNegative, PartOf, Positive, Whole


def _size(width: int, depth: int, heads: int, kv_heads: int, mlp_dim: int, **more: Any) -> dict[str, Any]:
    return dict(width=width, depth=depth, heads=heads, kv_heads=kv_heads, mlp_dim=mlp_dim) | more


# MM1 (arXiv 2403.09611) publishes names, not layers. `mm1-*` are readings: 12·depth·width² is the name, with a gated MLP of
# 8/3 · width (rounded); `mm1-3b` has the layers of AXLearn's 3B, the closest public config, with full heads (2.9 B).
# Llama 2 and Vicuna: arXiv 2307.09288; Llama 3: 2407.21783; Mistral (its first version, without the window of 4,096 tokens):
# 2310.06825; Qwen2: 2407.10671; Qwen2.5: 2412.15115; Qwen3: 2505.09388.
SIZES: dict[str, dict[str, Any]] = {
    "mm1-9m": _size(256, 12, 4, 4, 688),
    "mm1-85m": _size(768, 12, 12, 12, 2048),
    "mm1-302m": _size(1024, 24, 16, 16, 2752),
    "mm1-1.2b": _size(2048, 24, 16, 16, 5440),
    "mm1-3b": _size(3072, 26, 24, 24, 8064),
    "mm1-7b": _size(4096, 32, 32, 32, 10944),
    "mm1-13b": _size(5120, 40, 40, 40, 13632),
    "mm1-30b": _size(7168, 48, 56, 56, 19136),
    "llama2-7b": _size(4096, 32, 32, 32, 11008, vocab_size=32000),
    "llama2-13b": _size(5120, 40, 40, 40, 13824, vocab_size=32000),
    "llama3-8b": _size(4096, 32, 32, 8, 14336, vocab_size=128256, rope_theta=500000.0),
    "mistral-7b": _size(4096, 32, 32, 8, 14336, vocab_size=32000),
    "qwen2-0.5b": _size(896, 24, 14, 2, 4864, vocab_size=151936, rope_theta=1e6, qkv_bias=True, tied=True, norm_eps=1e-6),
    "qwen2-1.5b": _size(1536, 28, 12, 2, 8960, vocab_size=151936, rope_theta=1e6, qkv_bias=True, tied=True, norm_eps=1e-6),
    "qwen3-4b": _size(2560, 36, 32, 8, 9728, vocab_size=151936, head_dim=128, rope_theta=1e6, qk_norm=True, tied=True,
                      norm_eps=1e-6),
    "qwen2-7b": _size(3584, 28, 28, 4, 18944, vocab_size=152064, rope_theta=1e6, qkv_bias=True, norm_eps=1e-6),
}
SIZES |= {name.replace("qwen2", "qwen2.5"): size for name, size in SIZES.items() if name.startswith("qwen2-")}
SIZES |= {"vicuna-7b": SIZES["llama2-7b"], "vicuna-13b": SIZES["llama2-13b"]}


@dataclasses.dataclass(frozen=True)
class LLMConfig:
    """A decoder-only language model.

    Attributes:
      variant: a name of `SIZES`; sets what it knows unless given.
      vocab_size: rows of the embedding; 0 lets the run take the tokenizer's. May exceed it (to divide by a mesh axis).
      width, depth, heads, mlp_dim: of the stack; `mlp_dim` is the hidden width of the gated MLP (0: 8/3·width, to 64).
      kv_heads: heads of keys and values, 0 for as many as query heads.
      head_dim: width of a head, 0 for width / heads.
      rope_theta: base of the rotary frequencies.
      qkv_bias: biases on query, key and value (Qwen2). qk_norm: RMSNorm of each head's query and key.
      tied: the output head is the embedding.
      window: how many tokens each looks back over, itself among them (Mistral); 0 for all.
      dropout: on both branches' outputs.
      kernel, remat, unroll: see `nn.attention` and `nn.stack.Stack`.
    """

    variant: str | None = None
    vocab_size: Whole = 0
    width: Whole = 0
    depth: Whole = 0
    heads: Whole = 0
    kv_heads: Whole = 0
    head_dim: Whole = 0
    mlp_dim: Whole = 0
    rope_theta: Positive = 10000.0
    norm_eps: NotNegative = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    window: Whole = 0
    dropout: PartOf = 0.0
    kernel: Kernel = "xla"
    remat: Remat = "none"
    unroll: Count = 1

    def __post_init__(self):
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for key, value in (lookup(SIZES, self.variant, "language model size") if self.variant else {}).items():
            if getattr(self, key) == defaults[key]:
                object.__setattr__(self, key, value)
        for key in ("width", "depth", "heads"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive: set it, or a variant such as 'mm1-3b'")
        derived = dict(kv_heads=self.heads, head_dim=self.width // self.heads, mlp_dim=-(-8 * self.width // 3 // 64) * 64)
        for key, value in derived.items():
            object.__setattr__(self, key, getattr(self, key) or value)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} are not a multiple of kv_heads {self.kv_heads}")
        if self.window < 0:
            raise ValueError(f"window {self.window}: at least 1, or 0 for none")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, rotary embeddings turn pairs of channels")

    @property
    def block(self) -> DecoderConfig:
        """The layers of the stack."""
        return DecoderConfig(self.width, self.heads, self.kv_heads, self.head_dim, self.mlp_dim, self.norm_eps, self.qkv_bias,
                             self.qk_norm, self.dropout, self.kernel, self.depth)

    def flops(self, tokens: int) -> float:
        """Forward FLOPs of one sequence, the head's included: 2 a weight and token, and attention's. Norms, rotations and
        activations are left out."""
        weights = self.depth * self.block.kernel_parameters + self.width * self.vocab_size
        return 2.0 * tokens * weights + self.attention_flops(tokens)

    def attention_flops(self, tokens: int) -> float:
        """The part of `flops` without weights: 2·tokens²·heads·head_dim a layer, as it is causal (half of both products), and
        less in a window: the triangle of what each token looks back over."""
        beyond = max(tokens - self.window, 0) if self.window else 0
        return self.depth * 2.0 * (tokens**2 - beyond**2) * self.heads * self.head_dim


class LLM(nnx.Module):
    """The model; see the module's docstring for its shape diagram."""

    def __init__(self, config: LLMConfig, rngs: nnx.Rngs):
        c = self.config = config
        if c.vocab_size <= 0:
            raise ValueError("llm.vocab_size must be positive")
        self.embedding = param(rngs, normal(0.02), (c.vocab_size, c.width), ("vocab", "embed"))
        self.blocks = Stack(lambda r: DecoderBlock(c.block, r), c.depth, rngs, remat=c.remat, unroll=c.unroll)
        self.final_norm = RMSNorm(rngs, c.width, c.norm_eps)
        self.output = None if c.tied else param(rngs, normal(0.02), (c.width, c.vocab_size), ("embed", "vocab"))

    def embed(self, tokens: Int[Array, "*dims"]) -> Float[Array, "*dims width"]:
        """Embeddings of words, float32."""
        return self.embedding[...][tokens]

    @property
    def head(self) -> Float[Array, "width vocab"]:
        """Logits are hidden · head."""
        return self.embedding[...].T if self.output is None else self.output[...]

    def logits(self, hidden: Float[Array, "*dims width"]) -> Float[Array, "*dims vocab"]:
        """Unnormalised log-probabilities of the next token, float32. For a few positions: training never makes them all."""
        return jnp.matmul(hidden, self.head.astype(hidden.dtype), preferred_element_type=jnp.float32)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        positions: Int[Array, "batch tokens"],
        segment_ids: Int[Array, "batch tokens"] | None = None,
        prefix: Bool[Array, "batch tokens"] | None = None,
        *,
        dtype: jnp.dtype = jnp.float32,
        keys: drop.Keys | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Hidden states after the final norm.

        Args:
          positions: of each token in its document. segment_ids: which document; None for one a row.
          prefix: tokens that all of their document may see (prefix-LM).
          keys: one key a row turns dropout on.
        """
        mask = Mask(True, segment_ids, segment_ids, prefix, window=self.config.window)
        angles = rotary_angles(positions, self.config.head_dim, self.config.rope_theta)
        return self.final_norm(self.blocks(x.astype(dtype), angles, mask, keys=keys))

    def empty_cache(self, batch: int, room: int, dtype: jnp.dtype = jnp.float32) -> KVCache:
        """Room for `room` tokens a row."""
        shape = (self.config.depth, batch, room, self.config.kv_heads, self.config.head_dim)
        return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def extend(
        self, x: Float[Array, "batch tokens width"], cache: KVCache, lengths: Int[Array, "batch"], *,
        dtype: jnp.dtype = jnp.float32,
    ) -> tuple[Float[Array, "batch tokens width"], KVCache]:
        """Reads more tokens of rows that hold `lengths` tokens so far: a prompt into an empty cache, or one token.

        Rows may be ragged: what is behind a row's end is written over by its next tokens and never seen by them.
        """
        positions = lengths[:, None] + jnp.arange(x.shape[1])
        back = positions[:, :, None] - jnp.arange(cache.k.shape[2])[None, None]
        seen = back >= 0
        if self.config.window:
            seen &= back < self.config.window
        angles = rotary_angles(positions, self.config.head_dim, self.config.rope_theta)
        x, cache = self.blocks.carry(x.astype(dtype), cache, angles, lengths, Mask(dense=seen), method=DecoderBlock.extend)
        return self.final_norm(x), cache


class LLMAlone(nnx.Module):
    """`llm/…`, as in a multimodal model: what a foreign language model becomes before a model takes it."""

    def __init__(self, config: LLMConfig, rngs: nnx.Rngs):
        self.config = config
        self.llm = LLM(config, rngs)
