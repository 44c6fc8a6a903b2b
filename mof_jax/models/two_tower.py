"""Two towers, or more, and what lies between them: unit-norm embeddings, a temperature and, for the sigmoid loss, a bias.

    image ─ image/… ─▶ unit norm ─┐
    text  ─ text/…  ─▶ unit norm ─┼─ heads/NAME/… ─▶ further features        teacher/… has copies of some, which follow
    NAME  ─ towers/NAME/… ────────┘
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import math
from typing import Annotated

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.models.heads import Head
from mof_jax.models.heads.head import Moved
from mof_jax.models.image_tower import ImageTowerConfig
from mof_jax.models.teacher import follower
from mof_jax.models.text import TextConfig, TextTower
from mof_jax.models.tower import check_dtype, unit
from mof_jax.nn import dropout as drop
from mof_jax.nn.module import param
from mof_jax.ranges import Count, Positive, Range, Share

# Names of features that a model or a batch has anyway.
_TAKEN = {"image", "text", "group", "local", "scale", "bias", "cursor", "teacher", "sums", "objective", "heads", "towers"}


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """Which parts have a running average, see `models.teacher`.

    Attributes:
      of: names of towers and heads; the features of the copies are called `teacher/NAME`.
      momentum: at the first step; a cosine takes it to 1 at the last. 1 keeps the copies as they began.
    """

    of: tuple[str, ...] = ("image",)
    momentum: Share = 0.996


@dataclasses.dataclass(frozen=True)
class TwoTowerConfig:
    """An image tower, a text tower and the shared space.

    Attributes:
      embed_dim: of the shared space; a tower whose width differs gets a projection. None: both towers end in this width.
      logit_scale_init: initial multiplier of the cosines (CLIP 1/0.07, SigLIP 10); stored as its logarithm.
      logit_bias_init: initial bias (SigLIP -10), None for no bias parameter.
      max_logit_scale: upper bound of the multiplier, applied after each update (CLIP: 100); None leaves it free.
      towers: further image towers by name; each reads the batch field of its name, and ends in the shared space.
      heads: further features made of others, see `models.heads`.
      teacher: running averages of towers and heads, whose features are called `teacher/…`; None for none.
      dtype: of both towers' computation; parameters are float32.
    """

    image: ImageTowerConfig
    text: TextConfig
    embed_dim: Count | None = None
    logit_scale_init: Positive = 1 / 0.07
    logit_bias_init: float | None = None
    max_logit_scale: Annotated[float, Range(1)] | None = 100.0
    towers: dict[str, ImageTowerConfig] = dataclasses.field(default_factory=dict)
    heads: dict[str, Head] = dataclasses.field(default_factory=dict)
    teacher: TeacherConfig | None = None
    dtype: str = "float32"

    def __post_init__(self):
        if self.embed_dim is not None:
            towers = {name: tower if tower.embed_dim else dataclasses.replace(tower, embed_dim=self.embed_dim)
                      for name, tower in self.towers.items()}
            object.__setattr__(self, "towers", towers)
            for name in ("image", "text"):
                tower = getattr(self, name)
                if tower.embed_dim is None:
                    object.__setattr__(self, name, dataclasses.replace(tower, embed_dim=self.embed_dim))
        if not self.image.pools:
            raise ValueError("image.pool: a two-tower model needs a pooled image feature")
        if self.image.output_dim != self.text.output_dim:
            raise ValueError(
                f"image tower ends in {self.image.output_dim}, text tower in {self.text.output_dim}: set embed_dim")
        self._check_parts()
        check_dtype(self.dtype)
        if self.logit_scale_init <= 0:
            raise ValueError("logit_scale_init must be positive")

    def _check_parts(self) -> None:
        names = [*self.towers, *self.heads]
        for name in names:
            if not name.isidentifier() or name in _TAKEN or names.count(name) > 1:
                raise ValueError(f"{name!r} is no name of a tower or head (letters, digits, _; a name of its own, and not one of "
                                 f"{', '.join(sorted(_TAKEN))})")
        for name, tower in self.towers.items():
            if tower.output_dim != self.text.output_dim:
                raise ValueError(f"towers.{name} ends in {tower.output_dim}, the text tower in {self.text.output_dim}: set "
                                 "embed_dim")
        _ = self.head_dims
        for name in self.teacher.of if self.teacher else ():
            if name not in ("image", "text", *names):
                raise ValueError(f"teacher.of: {name!r} is no tower or head (there are image, text"
                                 f"{''.join(f', {other}' for other in names)})")

    @property
    def head_dims(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each head. What is no head's ends in the shared space.

        Raises:
          ValueError: a head that reads one that comes after it.
        """
        found: dict[str, tuple[int, int]] = {}
        for name, head in self.heads.items():
            if head.reads in self.heads and head.reads not in found:
                raise ValueError(f"heads.{name} reads {head.reads!r}, which comes after it")
            inputs = found[head.reads][1] if head.reads in found else self.text.output_dim
            found[name] = inputs, head.dim(inputs)
        return found

    def with_tokenizer(self, tokenizer: Tokenizer) -> TwoTowerConfig:
        """See `TextConfig.with_tokenizer`."""
        return dataclasses.replace(self, text=self.text.with_tokenizer(tokenizer))


class TwoTower(nnx.Module):
    """CLIP and SigLIP. Embeddings come out in float32 with unit norm."""

    def __init__(self, config: TwoTowerConfig, rngs: nnx.Rngs):
        c = self.config = config
        self.image = c.image.build(rngs)
        self.text = TextTower(c.text, rngs)
        if c.towers:
            self.towers = nnx.Dict({name: tower.build(rngs) for name, tower in c.towers.items()})
        constant = nnx.initializers.constant
        bounds = None if c.max_logit_scale is None else (0.0, math.log(c.max_logit_scale))
        self.logit_scale = param(rngs, constant(math.log(c.logit_scale_init)), (), (), decay=False, bounds=bounds)
        self.logit_bias = None if c.logit_bias_init is None else param(
            rngs, constant(c.logit_bias_init), (), (), decay=False)
        if c.heads:
            self.heads = nnx.Dict({name: head.build(rngs, c.head_dims[name][0]) for name, head in c.heads.items()})
        if c.teacher is not None:
            self.teacher = nnx.Module()
            for group, module in self._followed(c.teacher.of):
                setattr(self.teacher, group, module)

    def _followed(self, of: Sequence[str]) -> Iterator[tuple[str, nnx.Module]]:
        """Copies, under the names that they have in the model, so that their paths differ by `teacher/` alone."""
        for name in ("image", "text"):
            if name in of:
                yield name, follower(getattr(self, name))
        for group in ("towers", "heads"):
            if mine := {name: follower(module) for name, module in getattr(self, group, {}).items() if name in of}:
                yield group, nnx.Dict(mine)

    def embed(
        self, name: str, x: Array, *, keys: drop.Keys | None = None, teacher: bool = False
    ) -> Float[Array, "batch dim"]:
        """Unit-norm embeddings by the tower of a name, the model's own or its teacher's."""
        of, dtype = self.teacher if teacher else self, jnp.dtype(self.config.dtype)
        if name == "text":
            return unit(of.text(x, dtype=dtype, keys=drop.fold(keys, 1)))
        tower = of.image if name == "image" else of.towers[name]
        return unit(tower(x, dtype=dtype, keys=drop.fold(keys, 0)).pooled)

    def embed_image(
        self, images: UInt8[Array, "batch height width 3"], *, keys: drop.Keys | None = None
    ) -> Float[Array, "batch dim"]:
        """Unit-norm image embeddings."""
        return self.embed("image", images, keys=keys)

    def embed_text(
        self, tokens: Int[Array, "batch context"], *, keys: drop.Keys | None = None
    ) -> Float[Array, "batch dim"]:
        """Unit-norm text embeddings."""
        return self.embed("text", tokens, keys=keys)

    def head(self, name: str, x: Float[Array, "rows views dim"], *, teacher: bool = False) -> tuple[Array, Moved]:
        """The feature of a head from all rows of the one that it reads, and what moves in it, by path in the model."""
        y, moved = (self.teacher if teacher else self).heads[name](x)
        return y, {f"heads/{name}/{path}": value for path, value in moved.items()}

    @property
    def scale(self) -> Float[Array, ""]:
        """The multiplier of the cosines, exp(logit_scale)."""
        return jnp.exp(self.logit_scale[...])
