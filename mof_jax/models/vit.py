"""Vision transformer. CLIP, SigLIP, DINOv2 and plain ViT differ by config, not by copy.

    uint8 [B, H, W, 3] ─ normalise ─▶ patches [B, h·w, p·p·3] ─ drop ─▶ embed ─▶ (+pos) ─▶ [cls | registers | patches]
        ─ pre-norm? ─▶ blocks ─▶ norm ─▶ tokens [B, T, width] ─ pool ─▶ [B, width] ─ project? ─▶ [B, embed_dim]
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8
import numpy as np

from mof_jax.errors import lookup
from mof_jax.mesh import by_rows
from mof_jax.models.image_tower import ImageTowerConfig, TowerOutput
from mof_jax.nn import dropout as drop
from mof_jax.nn.attention import Kernel
from mof_jax.nn.flops import attention_pool_flops, block_flops
from mof_jax.nn.layers import Activation, AttentionPool, Block, BlockConfig, LayerNorm, Linear
from mof_jax.nn.module import lecun, normal, param, zeros
from mof_jax.nn.stack import Remat, Stack
from mof_jax.ranges import Count, NotNegative, PartOf, Positive, Share, Whole

# width, depth, heads, mlp_dim: ViT (arXiv 2010.11929, 2106.04560), So400m (arXiv 2305.13035), H and g as OpenCLIP has them.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "M": (512, 12, 8, 2048),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "So400m": (1152, 27, 16, 4304),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
}

Pool = Literal["cls", "gap", "map", "none"]
PosInit = Literal["normal", "sincos"]


@dataclasses.dataclass(frozen=True)
class ViTConfig(ImageTowerConfig):
    """A vision transformer (arXiv 2010.11929).

    Attributes:
      variant: a size of `SIZES`, optionally with the patch size ("L/14"); sets the five fields below unless given.
      image_size: height and width in pixels, divisible by `patch_size`.
      mean, std: normalisation of pixels in [0, 1], applied on the device; CLIP's by default.
      cls_token: a learned token in front of the patches.
      pos_antialias: resample position embeddings to a smaller grid with antialiasing (timm, OpenCLIP), or as DINOv2 does.
      pos_init: position embeddings start from N(0, 1/width) or from 2-D sines and cosines (MAE); both are learned unless frozen.
      registers: learned tokens after `cls` that no output reads (arXiv 2309.16588).
      pool: `cls`, `gap` (mean of patches), `map` (attention pooling) or `none`.
      pre_norm: LayerNorm before the first block (CLIP).
      patch_bias: bias of the patch embedding (CLIP has none).
      final_norm: LayerNorm after the last block. norm_after_pool: of the mean of the patches (`gap`) instead of each token, as
        CLIPA's; `tokens` then have not seen it.
      embed_dim: width of a final linear projection, None for none. `embed_bias`: its bias.
      patch_dropout: share of patches dropped in training (FLIP).
      remat, unroll: see `mof_jax.nn.stack.Stack`.
    """

    kind: ClassVar[str] = "vit"
    variant: str | None = None
    width: Whole = 0
    depth: Whole = 0
    heads: Whole = 0
    mlp_dim: Whole = 0
    patch_size: Whole = 0
    image_size: Count = 224
    mean: tuple[Share, Share, Share] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[Positive, Positive, Positive] = (0.26862954, 0.26130258, 0.27577711)
    cls_token: bool = True
    pos_antialias: bool = True
    pos_init: PosInit = "normal"
    registers: Whole = 0
    pool: Pool = "cls"
    pre_norm: bool = False
    patch_bias: bool = True
    final_norm: bool = True
    norm_after_pool: bool = False
    embed_dim: Count | None = None
    embed_bias: bool = False
    activation: Activation = "gelu"
    swiglu: bool = False
    layer_scale: NotNegative | None = None
    norm_eps: NotNegative = 1e-6
    dropout: PartOf = 0.0
    patch_dropout: PartOf = 0.0
    kernel: Kernel = "xla"
    remat: Remat = "none"
    unroll: Count = 1

    def __post_init__(self):
        if self.variant:
            size, _, patch = self.variant.partition("/")
            width, depth, heads, mlp_dim = lookup(SIZES, size, "ViT size")
            preset = dict(width=width, depth=depth, heads=heads, mlp_dim=mlp_dim, patch_size=int(patch or 0))
            for key, value in preset.items():
                object.__setattr__(self, key, getattr(self, key) or value)
        object.__setattr__(self, "mlp_dim", self.mlp_dim or 4 * self.width)
        for key in ("width", "depth", "heads", "patch_size"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key} must be positive: set it, or a variant such as 'B/16'")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}")
        if self.pool == "cls" and not self.cls_token:
            raise ValueError("pool='cls' needs cls_token=True")
        if self.norm_after_pool and (self.pool != "gap" or not self.final_norm):
            raise ValueError("norm_after_pool: only for pool='gap' with final_norm")
        _ = self.block  # runs its own checks now, rather than when the model is built

    @property
    def grid(self) -> int:
        """Patches a side."""
        return self.image_size // self.patch_size

    @property
    def block(self) -> BlockConfig:
        """The layers of the stack."""
        return BlockConfig(self.width, self.heads, self.mlp_dim, self.activation, self.swiglu, self.layer_scale,
                           self.norm_eps, self.dropout, causal=False, kernel=self.kernel)

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches."""
        return int(self.cls_token) + self.registers

    @property
    def output_dim(self) -> int:
        return self.embed_dim or self.width

    @property
    def flops(self) -> float:
        """Forward FLOPs of one picture in training (with its patch dropout)."""
        return self.forward_flops(max(1, round(self.grid**2 * (1 - self.patch_dropout))))

    @property
    def pools(self) -> bool:
        return self.pool != "none"

    def stack_tokens(self, size: int | None = None) -> int:
        patches = (size // self.patch_size) ** 2 if size else self.grid**2
        return max(1, round(patches * (1 - self.patch_dropout))) + self.prefix

    def build(self, rngs: nnx.Rngs) -> ViT:
        return ViT(self, rngs)

    def forward_flops(self, patches: int) -> float:
        """Forward FLOPs of one image of which `patches` patches are seen."""
        tokens = patches + self.prefix
        embed = 2.0 * patches * self.patch_size**2 * 3 * self.width
        head = attention_pool_flops(self.block, tokens) if self.pool == "map" else 0.0
        return embed + self.depth * block_flops(self.block, tokens) + head + 2.0 * self.width * (self.embed_dim or 0)


class Grid(NamedTuple):
    """A square grid of learned positions, behind `prefix` that are no patch's: resamples another model's to its own."""

    side: int
    prefix: int = 0
    antialias: bool = True

    @classmethod
    def of(cls, config: ViTConfig) -> Grid:
        """That of a tower."""
        return cls(config.grid, int(config.cls_token), config.pos_antialias)

    def __call__(self, pos: Float[Array, "positions width"]) -> Float[Array, "resampled width"]:
        if pos.shape[0] == self.side**2 + self.prefix:
            return pos
        return resample_pos_embed(pos, (self.side, self.side), self.prefix, self.antialias)


class ViT(nnx.Module):
    """The tower; see the module's docstring for its shape diagram."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        c = self.config = config
        pixels = c.patch_size**2 * 3
        self.patch_embed = Linear(rngs, pixels, c.width, (None, "embed"), bias=c.patch_bias, init=lecun())
        positions = c.grid**2 + int(c.cls_token)
        init = normal(c.width**-0.5) if c.pos_init == "normal" else lambda key, shape, dtype: jnp.asarray(
            sincos_positions(c.grid, c.width, positions - c.grid**2), dtype)
        self.pos_embed = param(rngs, init, (positions, c.width), (None, "embed"), decay=False, resample=Grid.of(c))
        self.cls = param(rngs, zeros, (c.width,), ("embed",), decay=False) if c.cls_token else None
        self.registers = None if not c.registers else param(
            rngs, normal(0.02), (c.registers, c.width), (None, "embed"), decay=False)
        self.pre_norm = LayerNorm(rngs, c.width, c.norm_eps) if c.pre_norm else None
        self.blocks = Stack(lambda r: Block(c.block, r), c.depth, rngs, remat=c.remat, unroll=c.unroll)
        self.final_norm = LayerNorm(rngs, c.width, c.norm_eps) if c.final_norm else None
        self.pool = AttentionPool(rngs, c.block) if c.pool == "map" else None
        self.project = None if c.embed_dim is None else Linear(
            rngs, c.width, c.embed_dim, ("embed", None), bias=c.embed_bias, init=normal(c.width**-0.5))

    def __call__(
        self,
        images: UInt8[Array, "batch height width 3"] | Float[Array, "batch height width 3"],
        *,
        dtype: jnp.dtype = jnp.float32,
        keys: drop.Keys | None = None,
        keep: Int[Array, "batch kept"] | None = None,
    ) -> TowerOutput:
        """Features of `images`.

        Args:
          images: uint8 pixels, normalised here; float images are taken as normalised already. Sides other than
            `image_size` resample the position embeddings.
          dtype: of the computation; parameters stay float32.
          keys: one key per example turns patch dropout and dropout on.
          keep: the patches to look at (row-major numbers); by default those that patch dropout keeps. `tokens` then holds
            these alone.
        """
        c = self.config
        x = patchify(normalise(images, c.mean, c.std), c.patch_size)
        pos = self._positions(images.shape[1] // c.patch_size, images.shape[2] // c.patch_size)
        if keep is None:
            keep = drop.kept_patches(drop.fold(keys, 0), x.shape[1], c.patch_dropout)
        if keep is not None:  # before the embedding: no work on what is not seen
            x, pos = drop.take_patches(x, keep), drop.take_patches(pos[None], keep)
        x = by_rows(self.patch_embed(x.astype(dtype))) + pos.astype(dtype)
        prefix = [] if self.cls is None else [(self.cls[...] + self.pos_embed[0])[None].astype(dtype)]
        prefix += [] if self.registers is None else [self.registers[...].astype(dtype)]
        if prefix:
            prefix = jnp.concatenate(prefix)
            x = jnp.concatenate([jnp.broadcast_to(prefix, (x.shape[0], *prefix.shape)), x], axis=1)
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        x = self.blocks(x, None, keys=drop.fold(keys, 1))
        if self.final_norm is not None and not c.norm_after_pool:
            x = self.final_norm(x)
        return TowerOutput(self._pooled(x), x)

    def _positions(self, rows: int, columns: int) -> Float[Array, "patches width"]:
        """Position embeddings of a grid of patches."""
        c, prefix = self.config, int(self.config.cls_token)
        pos = self.pos_embed[...]
        same = (rows, columns) == (c.grid, c.grid)
        return (pos if same else resample_pos_embed(pos, (rows, columns), prefix, c.pos_antialias))[prefix:]

    def _pooled(self, x: Array) -> Array | None:
        c = self.config
        if c.pool == "none":
            return None
        if c.pool == "cls":
            pooled = x[:, 0]
        elif c.pool == "gap":
            pooled = x[:, c.prefix:].mean(axis=1)
            pooled = self.final_norm(pooled) if c.norm_after_pool else pooled
        else:
            pooled = self.pool(x)
        return pooled if self.project is None else self.project(pooled)


def normalise(
    images: Array, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float[Array, "batch height width 3"]:
    """uint8 pixels to (x/255 - mean)/std in float32; float images pass through."""
    if images.dtype != jnp.uint8:
        return images
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    return images.astype(jnp.float32) * (1 / (255 * std)) - mean / std


def patchify(images: Float[Array, "batch height width 3"], patch: int) -> Float[Array, "batch patches pixels"]:
    """Non-overlapping patches in row-major order, each flattened as (row, column, channel).

    Raises:
      ValueError: the sides are not multiples of `patch`.
    """
    b, h, w, c = images.shape
    if h % patch or w % patch:
        raise ValueError(f"pictures of {h}x{w} pixels are not divisible by patch_size {patch}")
    x = images.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, (h // patch) * (w // patch), patch * patch * c)


def resample_pos_embed(
    pos: Float[Array, "positions width"], grid: tuple[int, int], prefix: int = 0, antialias: bool = True
) -> Float[Array, "resampled width"]:
    """Position embeddings for another resolution: the square grid is resized bicubically, `prefix` tokens are kept.

    Without antialiasing the cubic is the one of `torch` (a = -0.75), and edges are repeated.
    """
    side = round((pos.shape[0] - prefix) ** 0.5)
    if side**2 != pos.shape[0] - prefix:
        raise ValueError(f"{pos.shape[0] - prefix} positions are not a square grid")
    patches = pos[prefix:].reshape(side, side, -1)
    if antialias:
        patches = jax.image.resize(patches, (*grid, pos.shape[1]), method="bicubic", antialias=True)
    else:
        rows, columns = (jnp.asarray(_cubic(side, n), jnp.float32) for n in grid)
        patches = jnp.einsum("ir,jc,rcw->ijw", rows, columns, patches.astype(jnp.float32), precision="highest")
    return jnp.concatenate([pos[:prefix], patches.reshape(grid[0] * grid[1], -1).astype(pos.dtype)])


def _cubic(size: int, wanted: int) -> Float[np.ndarray, "wanted size"]:
    """The matrix of a cubic interpolation along one axis, centres aligned as in pictures."""
    a, matrix = -0.75, np.zeros((wanted, size))
    for i in range(wanted):
        at = (i + 0.5) * size / wanted - 0.5
        for k in range(math.floor(at) - 1, math.floor(at) + 3):
            x = abs(at - k)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[i, min(max(k, 0), size - 1)] += near if x <= 1 else far
    return matrix


def sincos_positions(grid: int, width: int, prefix: int = 0) -> Float[np.ndarray, "positions width"]:
    """Fixed positions of a square grid (MAE): half of the channels for the row and half for the column, each half the sines and
    cosines of x · 10000^(-i/n) for i < n = width/4; `prefix` rows of zeros in front.

    Raises:
      ValueError: the width is not divisible by 4.
    """
    if width % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, got {width}")
    angles = np.arange(grid)[:, None] * 10000.0 ** (-np.arange(width // 4) / (width // 4))
    line = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    rows, columns = np.repeat(line, grid, axis=0), np.tile(line, (grid, 1))
    return np.concatenate([np.zeros((prefix, width)), np.concatenate([rows, columns], axis=1)]).astype(np.float32)
