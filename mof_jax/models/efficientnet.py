"""EfficientNet-Lite: a convolutional image tower (arXiv 1905.11946, without squeeze-excitation and with ReLU6).

    uint8 [B, H, W, 3] ─ normalise ─▶ stem [B, H/2, W/2, 32] ─ 7 stages of inverted bottlenecks ─▶ [B, H/32, W/32, C]
        ─ head ─▶ tokens [B, h·w, 1280] ─ mean ─▶ [B, 1280] ─ project? ─▶ [B, embed_dim]

Batch norms keep the statistics they came with: they are part of the convolution in front of them, at training time too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from mof_jax.errors import lookup
from mof_jax.models.image_tower import ImageTowerConfig, TowerOutput
from mof_jax.models.vit import normalise
from mof_jax.nn import dropout as drop
from mof_jax.nn.layers import Linear, project, shifted
from mof_jax.nn.module import Axes, Matrix, lecun, moving, normal, ones, param, zeros
from mof_jax.ranges import Count, NotNegative, Positive, Share, Whole

# width factor, depth factor, image size: the published sizes.
SIZES: dict[str, tuple[float, float, int]] = {
    "lite0": (1.0, 1.0, 224), "lite1": (1.0, 1.1, 240), "lite2": (1.1, 1.2, 260), "lite3": (1.2, 1.4, 280),
    "lite4": (1.4, 1.8, 300)}

STEM, HEAD = 32, 1280  # of every size

# repeats, kernel side, stride of the first, expansion, channels; of lite0.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))


class Bottleneck(NamedTuple):
    """One block: channels in and out, those between, and its depthwise convolution."""

    inputs: int
    hidden: int
    outputs: int
    side: int
    stride: int


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig(ImageTowerConfig):
    """An EfficientNet-Lite (arXiv 1905.11946).

    Attributes:
      variant: a size of `SIZES`; sets the three fields below unless given.
      width_factor, depth_factor: of the channels and the repeats of a stage; stem, head and the repeats of the first and the
        last stage stay.
      image_size: height and width in pixels that the tower was made for; it takes any.
      mean, std: normalisation of pixels in [0, 1], applied on the device; by default (x - 127) / 128 of bytes.
      norm_eps: of the batch norms.
      embed_dim: width of a final linear projection, None for none. `embed_bias`: its bias.
    """

    kind: ClassVar[str] = "efficientnet"
    variant: str | None = None
    width_factor: NotNegative = 0.0
    depth_factor: NotNegative = 0.0
    image_size: Whole = 0
    mean: tuple[Share, Share, Share] = (127 / 255, 127 / 255, 127 / 255)
    std: tuple[Positive, Positive, Positive] = (128 / 255, 128 / 255, 128 / 255)
    norm_eps: NotNegative = 1e-3
    embed_dim: Count | None = None
    embed_bias: bool = False

    def __post_init__(self):
        preset = lookup(SIZES, self.variant, "EfficientNet size") if self.variant else (0.0, 0.0, 0)
        for key, value in zip(("width_factor", "depth_factor", "image_size"), preset):
            object.__setattr__(self, key, getattr(self, key) or value)
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"{key} must be positive: set it, or a variant such as 'lite0'")

    @property
    def blocks(self) -> tuple[Bottleneck, ...]:
        """Every block, in order."""
        found, inputs = [], STEM
        for stage, (repeats, side, stride, expansion, channels) in enumerate(_STAGES):
            outputs = rounded(channels * self.width_factor)
            repeats = repeats if stage in (0, len(_STAGES) - 1) else math.ceil(repeats * self.depth_factor)
            for i in range(repeats):
                found.append(Bottleneck(inputs, inputs * expansion, outputs, side, 1 if i else stride))
                inputs = outputs
        return tuple(found)

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: none."""
        return 0

    @property
    def output_dim(self) -> int:
        return self.embed_dim or HEAD

    @property
    def flops(self) -> float:
        """Forward FLOPs of one picture: convolutions and the projection."""
        side = -(-self.image_size // 2)
        total = side**2 * 27 * STEM
        for block in self.blocks:
            expand = block.inputs * block.hidden if block.hidden != block.inputs else 0
            total += side**2 * expand
            side = -(-side // block.stride)
            total += side**2 * block.hidden * (block.side**2 + block.outputs)
        return 2.0 * (total + side**2 * self.blocks[-1].outputs * HEAD + HEAD * (self.embed_dim or 0))

    def build(self, rngs: nnx.Rngs) -> EfficientNet:
        return EfficientNet(self, rngs)


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, and never less than 90 % of what was asked for."""
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * channels else near


class BatchNorm(nnx.Module):
    """x·factor + shift a channel, of statistics that no gradient and no batch changes."""

    def __init__(self, rngs: nnx.Rngs, channels: int, axis: str, eps: float):
        vector = lambda init: param(rngs, init, (channels,), (axis,), decay=False)
        running = lambda init: moving(init(rngs.params(), (channels,), jnp.float32), (axis,))
        self.scale, self.bias, self.mean, self.var = vector(ones), vector(zeros), running(zeros), running(ones)
        self.eps = eps

    def affine(self) -> tuple[Float[Array, "channels"], Float[Array, "channels"]]:
        """(factor, shift), float32."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        return factor, self.bias[...] - self.mean[...] * factor


class Conv(nnx.Module):
    """A convolution with "same" padding and its batch norm, as one: the kernel is scaled, not the activations.

    The kernel is [side·side·inputs, outputs], positions row by row; [side·side, channels] if it is depthwise.
    """

    def __init__(self, rngs: nnx.Rngs, inputs: int, outputs: int, axes: Axes, eps: float, *, side: int = 1, stride: int = 1,
                 depthwise: bool = False):
        self.side, self.stride, self.depthwise = side, stride, depthwise
        rows = side**2 * (1 if depthwise else inputs)
        self.kernel = param(rngs, lecun(), (rows, outputs), axes, matrix=None if depthwise else Matrix())
        self.norm = BatchNorm(rngs, outputs, axes[-1], eps)

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        factor, shift = self.norm.affine()
        kernel = self.kernel[...] * factor
        if self.side == 1:
            return project(x, kernel) + shift.astype(x.dtype)
        kernel = kernel.reshape(self.side, self.side, -1, kernel.shape[-1]).astype(x.dtype)
        if self.depthwise:  # XLA:CPU has no fast kernel for grouped convolutions
            y = jax.lax.platform_dependent(x, kernel, cpu=functools.partial(shifted, stride=self.stride),
                                           default=functools.partial(convolved, stride=self.stride, groups=x.shape[-1]))
        else:
            y = convolved(x, kernel, stride=self.stride)
        return y + shift.astype(x.dtype)


def convolved(
    x: Float[Array, "batch height width inputs"], kernel: Float[Array, "side side _ outputs"], *, stride: int, groups: int = 1
) -> Float[Array, "batch rows columns outputs"]:
    """A convolution, padded so that every `stride`-th pixel has an output; of an odd padding the larger half lies behind."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)


class Block(nnx.Module):
    """Inverted bottleneck: expand, depthwise, project, and the input added where the shapes allow it."""

    def __init__(self, rngs: nnx.Rngs, shape: Bottleneck, eps: float):
        s = self.shape = shape
        # Names that no mesh axis has by default: channels are too few to be worth splitting, and seldom divisible.
        self.expand = None if s.hidden == s.inputs else Conv(rngs, s.inputs, s.hidden, ("channels", "expanded"), eps)
        self.depthwise = Conv(rngs, s.hidden, s.hidden, (None, "expanded"), eps, side=s.side, stride=s.stride, depthwise=True)
        self.project = Conv(rngs, s.hidden, s.outputs, ("expanded", "channels"), eps)

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows columns outputs"]:
        y = x if self.expand is None else jax.nn.relu6(self.expand(x))
        y = self.project(jax.nn.relu6(self.depthwise(y)))
        return x + y if x.shape == y.shape else y


class EfficientNet(nnx.Module):
    """The tower; see the module's docstring for its shape diagram."""

    def __init__(self, config: EfficientNetConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.stem = Conv(rngs, 3, STEM, (None, "channels"), c.norm_eps, side=3, stride=2)
        self.blocks = nnx.List([Block(rngs, shape, c.norm_eps) for shape in c.blocks])
        self.head = Conv(rngs, c.blocks[-1].outputs, HEAD, ("channels", "embed"), c.norm_eps)
        self.project = None if c.embed_dim is None else Linear(
            rngs, HEAD, c.embed_dim, ("embed", None), bias=c.embed_bias, init=normal(HEAD**-0.5))

    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"],
        *,
        dtype: jnp.dtype = jnp.float32,
        keys: drop.Keys | None = None,
    ) -> TowerOutput:
        """Features of `images`: the pooled one, and [batch, h·w, 1280] in front of the pooling.

        Args:
          images: uint8 pixels, normalised here; float images are taken as normalised already.
          dtype: of the computation; parameters stay float32.
          keys: taken as other towers take them; nothing here is random.
        """
        x = normalise(images, self.config.mean, self.config.std).astype(dtype)
        x = jax.nn.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu6(self.head(x))
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        pooled = tokens.astype(jnp.float32).mean(axis=1).astype(dtype)
        return TowerOutput(pooled if self.project is None else self.project(pooled), tokens)
