"""Linear, LayerNorm, MLPs, multi-head attention and the transformer block.

Parameters are float32; compute follows the dtype of the activations that come in (bfloat16 on a pod), with norms and
softmax in float32.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mof_jax.nn import dropout as drop
from mof_jax.nn.attention import Kernel, Mask, attention
from mof_jax.nn.module import Axes, Initializer, Matrix, lecun, ones, param, xavier, zeros

Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]


def quick_gelu(x: Array) -> Array:
    """x·σ(1.702x), the approximation OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def erf_gelu(x: Array) -> Array:
    """x·Φ(x), the exact Gaussian error linear unit."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": erf_gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "silu": jax.nn.silu,
}


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """A transformer block.

    Attributes:
      width: of the residual stream.
      heads: attention heads; `width` is divisible by it.
      mlp_dim: hidden width of the MLP (of each half for SwiGLU).
      activation: of the MLP; `gelu` is the exact one.
      swiglu: gated MLP (DINOv2 giant); `activation` then gates.
      layer_scale: initial value of a learned per-channel factor on both branches (DINOv2), None for none.
      norm_eps: of the LayerNorms.
      dropout: on both branches' outputs.
      causal: whether a token sees only itself and earlier ones.
      kernel: attention kernel.
      post_norm: norms behind the residual sums instead of in front of the branches (BERT).
    """

    width: int
    heads: int
    mlp_dim: int
    activation: Activation = "gelu"
    swiglu: bool = False
    layer_scale: float | None = None
    norm_eps: float = 1e-6
    dropout: float = 0.0
    causal: bool = False
    kernel: Kernel = "xla"
    post_norm: bool = False

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")


def l2_normalize(x: Float[Array, "*dims"], axis: int = -1) -> Float[Array, "*dims"]:
    """x with unit norm along `axis`, in its dtype; a zero vector stays zero."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis, keepdims=True), 1e-24))


def project(x: Float[Array, "*dims inputs"], kernel: Float[Array, "inputs outputs"]) -> Float[Array, "*dims outputs"]:
    """x·kernel in x's dtype, as a matmul of two matrices.

    Flat on purpose: the kernel's gradient then contracts one dimension, and XLA:CPU does not transpose the activations for it.
    """
    flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nnx.Module):
    """x·kernel + bias over the last dimension."""

    def __init__(
        self, rngs: nnx.Rngs, inputs: int, outputs: int, axes: Axes, *, bias: bool = True, init: Initializer | None = None
    ):
        self.kernel = param(rngs, init or lecun(), (inputs, outputs), axes, matrix=Matrix())
        self.bias = param(rngs, zeros, (outputs,), axes[1:], decay=False) if bias else None

    def __call__(self, x: Float[Array, "*dims inputs"]) -> Float[Array, "*dims outputs"]:
        y = project(x, self.kernel[...])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last dimension, in float32."""

    def __init__(self, rngs: nnx.Rngs, width: int, eps: float = 1e-6):
        self.scale = param(rngs, ones, (width,), ("embed",), decay=False)
        self.bias = param(rngs, zeros, (width,), ("embed",), decay=False)
        self.eps = eps

    def __call__(self, x: Float[Array, "*dims width"]) -> Float[Array, "*dims width"]:
        y = x.astype(jnp.float32)
        mean = y.mean(-1, keepdims=True)
        centred = y - mean
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class Mlp(nnx.Module):
    """Two layers with an activation, or SwiGLU."""

    def __init__(self, rngs: nnx.Rngs, width: int, hidden: int, activation: str = "gelu", swiglu: bool = False):
        self.activation = activation
        # `gate` is None rather than absent, so that both kinds share one forward pass.
        self.gate = Linear(rngs, width, hidden, ("embed", "mlp"), init=xavier()) if swiglu else None
        self.up = Linear(rngs, width, hidden, ("embed", "mlp"), init=xavier())
        self.down = Linear(rngs, hidden, width, ("mlp", "embed"), init=xavier())

    def __call__(self, x: Float[Array, "*dims width"]) -> Float[Array, "*dims width"]:
        act = ACTIVATIONS[self.activation]
        hidden = act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
        return self.down(hidden)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection of shape (embed, 3, heads, dim)."""

    def __init__(self, rngs: nnx.Rngs, width: int, heads: int, *, causal: bool = False, kernel: Kernel = "xla"):
        self.heads, self.causal, self.attention_kernel = heads, causal, kernel
        shape = (width, 3, heads, width // heads)
        init = lambda key, shape, dtype: xavier()(key, (3, width, width), dtype).swapaxes(0, 1).reshape(shape)
        # Query, key and value are three matrices, so "3" is a batch dimension of the parameter.
        self.qkv = param(rngs, init, shape, ("embed", None, "heads", None), matrix=Matrix((-4,), (-2, -1)))
        self.qkv_bias = param(rngs, zeros, shape[1:], (None, "heads", None), decay=False)
        self.out = param(rngs, lambda k, s, d: xavier()(k, (width, width), d).reshape(s), shape[2:] + (width,),
                         ("heads", None, "embed"), matrix=Matrix((-3, -2), (-1,)))
        self.out_bias = param(rngs, zeros, (width,), ("embed",), decay=False)

    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch #tokens tokens"] | None = None
    ) -> Float[Array, "batch tokens width"]:
        width = x.shape[-1]
        shape = x.shape[:-1] + (3, self.heads, width // self.heads)
        qkv = project(x, self.qkv[...].reshape(width, 3 * width))
        qkv = (qkv + self.qkv_bias[...].astype(x.dtype).reshape(-1)).reshape(shape)
        y = attention(qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :], Mask(self.causal, dense=mask),
                      kernel=self.attention_kernel)
        y = project(y.reshape(x.shape), self.out[...].reshape(width, width))
        return y + self.out_bias[...].astype(x.dtype)


class Block(nnx.Module):
    """x + attn(norm(x)), then x + mlp(norm(x)); or norm(x + attn(x)), then norm(x + mlp(x))."""

    def __init__(self, config: BlockConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.norm1 = LayerNorm(rngs, c.width, c.norm_eps)
        self.attn = SelfAttention(rngs, c.width, c.heads, causal=c.causal, kernel=c.kernel)
        self.norm2 = LayerNorm(rngs, c.width, c.norm_eps)
        self.mlp = Mlp(rngs, c.width, c.mlp_dim, c.activation, c.swiglu)
        scale = lambda: None if c.layer_scale is None else param(
            rngs, nnx.initializers.constant(c.layer_scale), (c.width,), ("embed",), decay=False)
        self.scale1, self.scale2 = scale(), scale()

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        mask: Bool[Array, "batch #tokens tokens"] | None = None,
        keys: drop.Keys | None = None,
    ) -> Float[Array, "batch tokens width"]:
        if self.config.post_norm:
            x = self.norm1(x + self._branch(self.attn(x, mask), self.scale1, drop.fold(keys, 0)))
            return self.norm2(x + self._branch(self.mlp(x), self.scale2, drop.fold(keys, 1)))
        x = x + self._branch(self.attn(self.norm1(x), mask), self.scale1, drop.fold(keys, 0))
        return x + self._branch(self.mlp(self.norm2(x)), self.scale2, drop.fold(keys, 1))

    def _branch(self, y: Array, scale: nnx.Param | None, keys: drop.Keys | None) -> Array:
        y = drop.dropout(y, keys, self.config.dropout)
        return y if scale is None else y * scale[...].astype(y.dtype)


class AttentionPool(nnx.Module):
    """MAP head: a learned probe attends to all tokens, then a residual MLP (SigLIP, arXiv 2303.15343)."""

    def __init__(self, rngs: nnx.Rngs, config: BlockConfig):
        width, heads = config.width, config.heads
        self.heads = heads
        self.probe = param(rngs, xavier(), (1, width), (None, "embed"), decay=False)
        self.q = Linear(rngs, width, width, ("embed", "heads"), init=xavier())
        self.k = Linear(rngs, width, width, ("embed", "heads"), init=xavier())
        self.v = Linear(rngs, width, width, ("embed", "heads"), init=xavier())
        self.out = Linear(rngs, width, width, ("heads", "embed"), init=xavier())
        self.norm = LayerNorm(rngs, width, config.norm_eps)
        self.mlp = Mlp(rngs, width, config.mlp_dim, config.activation)

    def __call__(
        self, x: Float[Array, "batch tokens width"], mask: Bool[Array, "batch tokens"] | None = None
    ) -> Float[Array, "batch width"]:
        split = lambda y: y.reshape(y.shape[:-1] + (self.heads, -1))
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        y = attention(split(self.q(probe)), split(self.k(x)), split(self.v(x)),
                      Mask(dense=None if mask is None else mask[:, None]))
        y = self.out(y.reshape(probe.shape))
        return (y + self.mlp(self.norm(y)))[:, 0]


def shifted(
    x: Float[Array, "batch height width channels"], kernel: Float[Array, "side side 1 channels"], *, stride: int
) -> Float[Array, "batch rows columns channels"]:
    """A depthwise convolution as a sum of shifted pictures, which XLA makes one loop of. "SAME" padding; of an odd one the larger
    half lies behind.

    XLA does not split the gradient of a grouped convolution by pictures: every device of a pod would compute all of them.
    """
    side, sizes = kernel.shape[0], x.shape[1:3]
    rows, columns = (-(-size // stride) for size in sizes)
    total = [max((n - 1) * stride + side - size, 0) for n, size in zip((rows, columns), sizes)]
    x = jnp.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in total), (0, 0)))
    part = lambda i, j: jax.lax.slice(x, (0, i, j, 0), (x.shape[0], i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1,
                                                        x.shape[3]), (1, stride, stride, 1))
    return sum(part(i, j) * kernel[i, j, 0] for i in range(side) for j in range(side))
