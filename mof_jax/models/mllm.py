"""A multimodal language model: encoders → mixture of features → connector → decoder-only LLM.

    images uint8 [N, H, W, 3] ─ encoder i: normalise, resize, ViT ─▶ patches [N, Lᵢ, Cᵢ] ─ fusion + adapters ─▶ [N, K, d]
    tokens int32 [B, S] ─ embed ─▶ [B, S, d] ─ image tokens in their places ─▶ LLM ─▶ hidden [B, S, d]

B rows come in V streams of R; N = V·I images, I a stream. `image_index` [B, S] says which of the I·K image tokens of its
row's stream stands at a position (-1: a word), so images never cross a shard and the encoders' work is N pictures, spread
over all data devices, whatever the images per sequence. Without encoders it is a language model.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import zlib

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mof_jax.errors import UserError
from mof_jax.mesh import by_rows
from mof_jax.models.connectors.connector import Connector, connector_flops
from mof_jax.models.connectors.projector import MlpConnector
from mof_jax.models.fusion.fusion import Fusion, Patches
from mof_jax.models.fusion.single import Single
from mof_jax.models.llm import LLM, LLMConfig
from mof_jax.models.vit import ViT, ViTConfig, normalise
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """One vision encoder.

    Attributes:
      name: in parameter paths, `encoders/<name>/…`.
      vit: the tower as it was trained; its head and final projection are left out here.
      layer: which block's output is the feature: -1 the last, -2 the one before (LLaVA). Blocks above it are not built.
      norm: apply the tower's final norm; only the last block's output has one (the released I-MoF leaves it out for DINOv2).
      pixels_of: normalise pixels as this other encoder does. The released I-MoF feeds DINOv2 pixels that were normalised for
        CLIP; set it for parity with those weights.
    """

    name: str
    vit: ViTConfig
    layer: int = -1
    norm: bool = True
    pixels_of: str | None = None

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"name {self.name!r}: letters, digits and _ only, it becomes a part of parameter paths")
        if not -self.vit.depth <= self.layer <= -1:
            raise ValueError(f"layer {self.layer}: counted from the end, -1 to {-self.vit.depth}")

    @property
    def tower(self) -> ViTConfig:
        """The part of the tower that is used."""
        last = self.layer == -1
        norm = self.vit.final_norm and not self.vit.norm_after_pool and self.norm and last
        return dataclasses.replace(self.vit, variant=None, depth=self.vit.depth + 1 + self.layer, pool="none", embed_dim=None,
                                   final_norm=norm, norm_after_pool=False, patch_dropout=0.0)


@dataclasses.dataclass(frozen=True)
class MllmConfig:
    """An MLLM. Encoders, adapters and LLM each start from a key of their own, folded from their name: two models that differ
    in their mixture share the rest of their initial values.

    Attributes:
      encoders: none for a model of text alone.
      blind: pictures are tokens of zeros: a model that can only read, to compare with.
      dtype: of the computation; parameters are float32.
    """

    encoders: tuple[EncoderConfig, ...]
    llm: LLMConfig
    fusion: Fusion = Single()
    connector: Connector = MlpConnector()
    blind: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        names = [e.name for e in self.encoders]
        if len(set(names)) != len(names):
            raise ValueError(f"encoders need names of their own, got {', '.join(names)}")
        if names or self.fusion != Single():
            self.fusion.check(self.patches)
        for encoder in self.encoders:
            if encoder.pixels_of is not None and encoder.pixels_of not in names:
                raise ValueError(f"encoders.{encoder.name}.pixels_of: {encoder.pixels_of!r} is not one of {', '.join(names)}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype {self.dtype!r} is not float32 or bfloat16")

    def with_vocabulary(self, size: int) -> MllmConfig:
        """This config with the tokenizer's vocabulary, where the language model leaves it open."""
        have = self.llm.vocab_size
        if 0 < have < size:
            raise UserError(f"config.model.llm.vocab_size: {have} is less than the tokenizer's {size}")
        return dataclasses.replace(self, llm=dataclasses.replace(self.llm, vocab_size=have or size))

    @property
    def image_size(self) -> int:
        """Side of the pictures that come in; smaller encoders resize on the device."""
        return max((e.vit.image_size for e in self.encoders), default=1)

    @property
    def tokens_per_image(self) -> int:
        """K: positions that one picture takes in a sequence."""
        if not self.encoders:
            return 1
        return self.fusion.tokens(self.patches)

    @property
    def patches(self) -> tuple[Patches, ...]:
        """What each encoder gives."""
        return tuple(Patches(e.name, e.vit.grid, e.vit.width, self.connector.output_tokens(e.vit.grid)) for e in self.encoders)

    @property
    def adapters(self) -> dict[str, tuple[int, int]]:
        """Adapters by name, `adapters/<name>/…`, each with its grid and the width of its inputs."""
        return self.fusion.adapters(self.patches) if self.encoders else {}


class Mllm(nnx.Module):
    """The model; see the module's docstring for its shape diagram."""

    def __init__(self, config: MllmConfig, rngs: nnx.Rngs):
        c = self.config = config
        key = rngs.params()
        own = lambda name: nnx.Rngs(jax.random.fold_in(key, zlib.crc32(name.encode())))
        self.encoders = nnx.Dict({e.name: ViT(e.tower, own(f"encoders/{e.name}")) for e in c.encoders})
        self.adapters = nnx.Dict({
            name: c.connector.build(own(f"adapters/{name}"), grid, width, c.llm.width)
            for name, (grid, width) in c.adapters.items()})
        self.llm = LLM(c.llm, own("llm"))

    def features(
        self, name: str, images: UInt8[Array, "images height width 3"], keys: drop.Keys | None = None
    ) -> Float[Array, "images patches width"]:
        """Patch features of one encoder, class token and registers left out."""
        configs = {e.name: e for e in self.config.encoders}
        encoder = configs[name]
        pixels = configs[encoder.pixels_of or name].vit
        x = normalise(images, pixels.mean, pixels.std)
        size = encoder.vit.image_size
        if x.shape[1] != size:
            x = jax.image.resize(x, (x.shape[0], size, size, 3), "bicubic", antialias=True)
        tokens = self.encoders[name](x, dtype=jnp.dtype(self.config.dtype), keys=keys).tokens
        return tokens[:, int(encoder.vit.cls_token) + encoder.vit.registers:]

    def mix(self, features: dict[str, Float[Array, "images patches _"]]) -> Float[Array, "images tokens width"]:
        """Image tokens from each encoder's features (which an experiment may have computed before)."""
        c = self.config
        return c.fusion.mix([features[e.name] for e in c.encoders], c.patches, self.adapters)

    def image_tokens(
        self, images: UInt8[Array, "images height width 3"], keys: drop.Keys | None = None
    ) -> Float[Array, "images tokens width"]:
        """What the language model sees of pictures: [N, K, d]."""
        if self.config.blind:
            return jnp.zeros((images.shape[0], self.config.tokens_per_image, self.config.llm.width), self.config.dtype)
        return self.mix({e.name: self.features(e.name, images, drop.fold(keys, i)) for i, e in enumerate(self.config.encoders)})

    def embed(
        self,
        tokens: Int[Array, "rows context"],
        image_index: Int[Array, "rows context"],
        image_tokens: Float[Array, "images tokens width"] | None,
        streams: int,
    ) -> Float[Array, "rows context width"]:
        """The sequence that the language model reads: words' embeddings, with each stream's image tokens in their places."""
        x = by_rows(self.llm.embed(tokens).astype(jnp.dtype(self.config.dtype)))
        if image_tokens is None:
            return x
        rows, context, width = x.shape
        buffer = image_tokens.reshape(streams, -1, width).astype(x.dtype)
        index = image_index.reshape(streams, -1, 1)
        seen = jnp.take_along_axis(buffer, jnp.maximum(index, 0), axis=1)
        return jnp.where(index >= 0, seen, x.reshape(streams, -1, width)).reshape(rows, context, width)

    def __call__(
        self,
        x: Float[Array, "rows context width"],
        positions: Int[Array, "rows context"],
        segment_ids: Int[Array, "rows context"],
        keys: drop.Keys | None = None,
    ) -> Float[Array, "rows context width"]:
        """Hidden states of the last layer."""
        return self.llm(x, positions, segment_ids, dtype=jnp.dtype(self.config.dtype), keys=keys)


def mllm_flops(config: MllmConfig, rows: int, context: int, images: int, trained: Callable[[str], bool]) -> dict[str, float]:
    """Model FLOPs of a step by part: what is laid out is counted (padding too, the fill is logged beside it), causal attention
    as causal over the row, a frozen tower forward only, a frozen LLM with its activations' gradients (in attention, which has
    no weights, those are all there is)."""
    skeleton = nnx.eval_shape(lambda: Mllm(config, nnx.Rngs(0)))
    flops = {f"encoders/{e.name}": images * e.tower.flops * training_factor(trained(f"encoders/{e.name}/"))
             for e in config.encoders}
    upstream = False
    for name in config.adapters:
        part = f"adapters/{name}"
        names = [e.name for e in config.encoders]
        below = any(trained(f"encoders/{e}/") for e in ([name] if name in names else names))
        flops[part] = images * connector_flops(skeleton.adapters[name], trained(part + "/"), below)
        upstream |= below or trained(part + "/")
    llm, attention = trained("llm/"), config.llm.attention_flops(context)
    flops["llm"] = rows * ((config.llm.flops(context) - attention) * training_factor(llm, upstream)
                           + attention * training_factor(llm or upstream))
    return flops
