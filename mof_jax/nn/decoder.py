"""The decoder block of today's language models: RMSNorm, rotary grouped-query attention, gated MLP; no biases by default."""

from __future__ import annotations

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.nn import dropout as drop
from mof_jax.nn.attention import Kernel, Mask, attention
from mof_jax.nn.layers import ACTIVATIONS, Linear
from mof_jax.nn.module import normal, ones, param
from mof_jax.nn.rotary import rotate


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """One layer; see `models.llm.LLMConfig` for the meaning of the fields."""

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_dim: int
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0
    kernel: Kernel = "xla"
    depth: int = 1  # of the stack: the branches' last layers start smaller by √(2·depth), as in GPT-2

    @property
    def kernel_parameters(self) -> int:
        """Weights that every token meets, norms and biases left out."""
        attention = self.width * self.head_dim * 2 * (self.heads + self.kv_heads)
        return attention + 3 * self.width * self.mlp_dim


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of what has been read; entries from a row's length on are not read, and written next."""

    k: Float[Array, "*layers batch room kv_heads dim"]
    v: Float[Array, "*layers batch room kv_heads dim"]


class RMSNorm(nnx.Module):
    """x / rms(x) · scale over the last dimension, in float32 (arXiv 1910.07467)."""

    def __init__(self, rngs: nnx.Rngs, width: int, eps: float):
        self.scale = param(rngs, ones, (width,), (None,), decay=False)
        self.eps = eps

    def __call__(self, x: Float[Array, "*dims width"]) -> Float[Array, "*dims width"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


class DecoderBlock(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Weights start from N(0, 0.02), those that write to the residual stream from N(0, 0.02 / √(2·depth)).
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = self.config = config
        inner, write = normal(0.02), normal(0.02 * (2 * c.depth) ** -0.5)
        linear = lambda i, o, axes, init, bias=False: Linear(rngs, i, o, axes, bias=bias, init=init)
        self.norm1, self.norm2 = RMSNorm(rngs, c.width, c.norm_eps), RMSNorm(rngs, c.width, c.norm_eps)
        self.q = linear(c.width, c.heads * c.head_dim, ("embed", "heads"), inner, c.qkv_bias)
        self.k = linear(c.width, c.kv_heads * c.head_dim, ("embed", "heads"), inner, c.qkv_bias)
        self.v = linear(c.width, c.kv_heads * c.head_dim, ("embed", "heads"), inner, c.qkv_bias)
        self.out = linear(c.heads * c.head_dim, c.width, ("heads", "embed"), write)
        self.q_norm = RMSNorm(rngs, c.head_dim, c.norm_eps) if c.qk_norm else None
        self.k_norm = RMSNorm(rngs, c.head_dim, c.norm_eps) if c.qk_norm else None
        self.gate = linear(c.width, c.mlp_dim, ("embed", "mlp"), inner)
        self.up = linear(c.width, c.mlp_dim, ("embed", "mlp"), inner)
        self.down = linear(c.mlp_dim, c.width, ("mlp", "embed"), write)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        angles: Float[Array, "batch tokens half"],
        mask: Mask,
        *,
        keys: drop.Keys | None = None,
    ) -> Float[Array, "batch tokens width"]:
        q, k, v = self._projected(x, angles)
        return self._finish(x, attention(q, k, v, mask, kernel=self.config.kernel), keys)

    def extend(
        self,
        x: Float[Array, "batch tokens width"],
        cache: KVCache,
        angles: Float[Array, "batch tokens half"],
        lengths: Int[Array, "batch"],
        mask: Mask,
    ) -> tuple[Float[Array, "batch tokens width"], KVCache]:
        """The next tokens of rows of which `lengths` have been read: their keys and values are written behind those."""
        q, k, v = self._projected(x, angles)
        write = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice(old, new.astype(old.dtype), (at, 0, 0)))
        cache = KVCache(write(cache.k, k, lengths), write(cache.v, v, lengths))
        return self._finish(x, attention(q, cache.k.astype(q.dtype), cache.v.astype(q.dtype), mask), None), cache

    def _projected(self, x: Array, angles: Array) -> tuple[Array, Array, Array]:
        h = self.norm1(x)
        split = lambda y: y.reshape(*y.shape[:-1], -1, self.config.head_dim)
        q, k, v = split(self.q(h)), split(self.k(h)), split(self.v(h))
        if self.q_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, angles), rotate(k, angles), v

    def _finish(self, x: Array, y: Array, keys: drop.Keys | None) -> Array:
        rate = self.config.dropout
        x = x + drop.dropout(self.out(y.reshape(*x.shape[:-1], -1)), drop.fold(keys, 0), rate)
        h = self.norm2(x)
        y = self.down(ACTIVATIONS["silu"](self.gate(h)) * self.up(h))
        return x + drop.dropout(y, drop.fold(keys, 1), rate)
