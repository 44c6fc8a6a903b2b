"""Contrastive pretraining: towers that embed the fields of a batch, and any terms over their features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple
import zlib

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from mof_jax.errors import UserError, nearest
from mof_jax.models.teacher import Teacher
from mof_jax.models.text import TextConfig
from mof_jax.models.tower import patch_features
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.objectives import terms
from mof_jax.objectives.loss import Context, Features
from mof_jax.objectives.objective import Objective
from mof_jax.task import Batch, Predictor, StackInfo, Task, reading


class Shown(NamedTuple):
    """A field of a batch that a tower embeds: which tower, how many views (or captions) of an example, and pixels a side."""

    tower: str
    count: int = 1
    size: int = 0


FIELDS = {"image": Shown("image"), "text": Shown("text")}


class ContrastiveTask(Task):
    """Two towers, further ones, heads and a teacher, as the model has them.

    A batch holds `image` uint8 [batch, views, height, width, 3], `text` int32 [batch, captions, tokens] and `group` int32
    [batch]; any other field of views goes through the image tower, or through the tower of its own name, and any other field of
    captions through the text tower. Features, float32 of unit norm: a field's embeddings under its name, [batch, views or
    captions, dim]; heads; `teacher/…`; the model's `scale` and, if it has one, `bias`.
    """

    predictors = {"embed/image": lambda model, x: model.embed_image(x),
                  "embed/text": lambda model, x: model.embed_text(x),
                  "tokens/image": lambda model, x: patch_features(model.image, x, model.config.dtype)}

    @classmethod
    def predictors_of(cls, model: TwoTowerConfig) -> dict[str, Predictor]:
        """What a model can be asked: a further tower is `embed/NAME`, if it takes images of the first one's size."""
        asked = lambda name: lambda module, x: module.embed(name, x)
        return {**cls.predictors, **{f"embed/{name}": asked(name) for name, tower in model.towers.items()
                                     if tower.image_size == model.image.image_size}}

    def __init__(
        self, model: TwoTowerConfig, objective: Objective | Mapping[str, Objective], fields: Mapping[str, Shown] = FIELDS,
        *, steps: int = 1,
    ):
        """Of a batch with `fields`; `steps` of the run are the teacher's.

        Raises:
          UserError: a head that reads what is not there, is called as a field, or has a teacher where what it reads has none.
        """
        self.terms, self.fields = terms(objective), fields
        for term in self.terms.values():
            model = term.prepare(model)
        self.model, self.predictors = model, self.predictors_of(model)
        if model.teacher is not None:
            self.teacher = Teacher("teacher/", "", model.teacher.momentum, steps)
        self._check_heads()

    def _check_heads(self) -> None:
        heads, of = self.model.heads, self.model.teacher.of if self.model.teacher else ()
        for name, head in heads.items():
            where = f"config.model.heads.{name}"
            if name in self.fields:
                raise UserError(f"{where}: a field of config.data has this name; call the head otherwise")
            if head.reads not in heads and head.reads not in self.fields:
                known = [*self.fields, *heads]
                raise UserError(f"{where}.reads: {head.reads!r} is no field that a tower embeds and no head"
                                f"{nearest(head.reads, known)} (there are {', '.join(known)})")
            if name in of and (maker := self._maker(head.reads)) not in of:
                raise UserError(f"config.model.teacher.of: {name!r} reads {head.reads!r}; add {maker!r}, which makes it")

    def make(self, rngs: nnx.Rngs) -> TwoTower:
        return TwoTower(self.model, rngs)

    @property
    def dims(self) -> Mapping[str, int]:
        own = dict.fromkeys(self.fields, self.model.text.output_dim) | {
            name: outputs for name, (_, outputs) in self.model.head_dims.items()}
        of = self.model.teacher.of if self.model.teacher else ()
        followed = {f"teacher/{name}": dim for name, dim in own.items() if self._maker(name) in of}
        biased = {} if self.model.logit_bias_init is None else {"bias": 0}
        return own | followed | {"scale": 0} | biased

    def _maker(self, feature: str) -> str:
        """The tower or head that a feature comes from."""
        return self.fields[feature].tower if feature in self.fields else feature

    @property
    def head_reads(self) -> tuple[str, ...]:
        """What the heads that some term reads are made of."""
        needed = [name for name in self._needed("") if name in self.model.heads]
        return tuple(sorted({self.model.heads[name].reads for name in needed} - self.model.heads.keys()))

    @property
    def late(self) -> Collection[str]:
        return self.model.heads

    def _needed(self, prefix: str) -> set[str]:
        """Features under a prefix that some term reads, directly or behind heads; without the prefix."""
        found = {name.removeprefix(prefix) for name in reading(self) if name.startswith(prefix)}
        while more := {self.model.heads[name].reads for name in found if name in self.model.heads} - found:
            found |= more
        return found

    def teach(self, model: TwoTower, batch: Batch, context: Context) -> Features:
        """The teacher's features, of all rows; no gradient, no dropout."""
        wanted = self._needed("teacher/") if self.model.teacher is not None else set()
        names = sorted(wanted & self.fields.keys())
        if not wanted:
            return {}
        rows = {name: batch[name] for name in names}
        embed = lambda part: ({name: self._embed(model, name, x, None, teacher=True) for name, x in part.items()}, {})
        found = jax.lax.stop_gradient(context.in_parts(embed, rows)[0])
        for name in self.model.heads:
            if name in wanted:
                found[name] = model.head(name, found[self.model.heads[name].reads], teacher=True)[0]
        return {f"teacher/{name}": x for name, x in found.items()}

    def _embed(self, model: TwoTower, name: str, x: Array, keys: drop.Keys | None, teacher: bool = False) -> Array:
        """Every view of a field, [rows, views, dim]."""
        if keys is not None and name not in FIELDS:  # else two fields of one tower would drop the same
            keys = drop.fold(keys, zlib.crc32(name.encode()))
        tower = self.fields[name].tower
        views = [model.embed(tower, x[:, i], keys=drop.fold(keys, i), teacher=teacher) for i in range(x.shape[1])]
        return jnp.stack(views, axis=1)

    def forward(
        self, model: TwoTower, batch: Batch, wanted: Collection[str], context: Context
    ) -> tuple[Features, Mapping[str, Array]]:
        names = sorted((set(wanted) | set(self.head_reads)) & self.fields.keys())
        return {name: self._embed(model, name, batch[name], context.keys) for name in names}, {}

    def heads(self, model: TwoTower, features: Features, context: Context) -> tuple[Features, Mapping[str, Array]]:
        wanted, found, moved = self._needed(""), {}, {}
        for name, head in self.model.heads.items():
            if name in wanted:
                x = found[head.reads] if head.reads in found else features[head.reads]
                found[name], statistics = model.head(name, x)
                moved |= statistics
        return found, {} if context.key is None else moved

    def shared(self, model: TwoTower) -> Features:
        return {"scale": model.scale} | ({} if model.logit_bias is None else {"bias": model.logit_bias[...]})

    def _views(self, tower: str, names: Collection[str] | None = None) -> int:
        """Views or captions of an example that go through a tower."""
        return sum(shown.count for name, shown in self.fields.items()
                   if shown.tower == tower and (names is None or name in names))

    def stacks(self, batch_size: int) -> list[StackInfo]:
        """Raises `UserError` for an image tower that is no stack."""
        found, read = [], self._needed("")
        for name, shown in self.fields.items():
            config = {"image": self.model.image, "text": self.model.text, **self.model.towers}[shown.tower]
            part = shown.tower if shown.tower in ("image", "text") else f"towers/{shown.tower}"
            if name not in read:
                continue
            if isinstance(config, TextConfig):
                found.append(StackInfo(part, config, batch_size * shown.count, config.context_length))
                continue
            found.append(StackInfo(part, config, batch_size * shown.count, config.stack_tokens(shown.size)))
        return found

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """Per tower and for the scores; a frozen tower counts its forward pass only, whatever is learned behind its blocks."""
        image, text, read = self.model.image, self.model.text, self._needed("")
        found = {
            "image": self._views("image", read) * batch_size * image.flops * training_factor(trained("image/blocks/")),
            "text": self._views("text", read) * batch_size * text.flops * training_factor(trained("text/")),
            "scores": 3.0 * 2.0 * batch_size**2 * image.output_dim,
        }
        for name, tower in self.model.towers.items():
            found[f"towers/{name}"] = self._views(name, read) * batch_size * tower.flops * training_factor(
                trained(f"towers/{name}/"))
        for name, head in self.model.heads.items():
            if name in read:
                factor = training_factor(trained(f"heads/{name}/"), upstream=True)
                found[f"heads/{name}"] = factor * batch_size * head.flops(self.model.head_dims[name][0])
        return found
