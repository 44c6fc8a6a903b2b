"""Self-distillation without labels (DINO, arXiv 2104.14294).

A teacher, the running average of the student, sees the large crops of an image; the student sees all of its crops and predicts
from each what the teacher says of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mof_jax.data.config import LocalViews
from mof_jax.errors import UserError
from mof_jax.models.dino import Dino, DinoConfig, Network
from mof_jax.models.teacher import Teacher
from mof_jax.models.tower import embedding, patch_features
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.objectives import dino as objectives
from mof_jax.objectives.loss import Context, Features
from mof_jax.objectives.objective import Objective
from mof_jax.task import Batch, StackInfo, Task


class DinoTask(Task):
    """A batch holds `image` uint8 [batch, views, H, W, 3], the large crops, and with local views `local` uint8
    [batch, local views, h, h, 3].

    Features: the student's `scores` [batch, crops, prototypes], the large crops first, and the teacher's of the large ones,
    `teacher/scores` [batch, views, prototypes], float32 cosines.
    """

    predictors = {"embed/image": lambda model, x: embedding(model.teacher.encoder, x, model.config.dtype),
                  "tokens/image": lambda model, x: patch_features(model.teacher.encoder, x, model.config.dtype)}

    def __init__(
        self, model: DinoConfig, objective: Objective | Mapping[str, Objective], *, steps: int, views: int = 2,
        local: LocalViews | None = None,
    ):
        """A run of `steps` on images with `views` large and `local` small crops.

        Raises:
          UserError: fewer than two crops, small crops that are no whole number of patches, another objective than `dino`.
        """
        if views < 1 or views + (local.views if local else 0) < 2:
            raise UserError("config.data: distillation compares crops; set views=2, or local views")
        if local and local.image_size % model.encoder.patch_size:
            raise UserError(f"config.data.local.image_size: {local.image_size} is not divisible by patch_size "
                            f"{model.encoder.patch_size}")
        if not isinstance(objective, objectives.Dino):
            raise UserError("config.objective: task 'dino' has one term, of kind 'dino'")
        self.model, self.objective, self.terms = model, objective, {objective.kind: objective}
        self.views, self.local = views, local
        self.teacher = Teacher("teacher/", "student/", objective.momentum, steps)

    def make(self, rngs: nnx.Rngs) -> Dino:
        return Dino(self.model, rngs)

    @property
    def dims(self) -> Mapping[str, int]:
        return dict.fromkeys(("scores", "teacher/scores"), self.model.prototypes)

    def teach(self, model: Dino, batch: Batch, context: Context) -> Features:
        """What the teacher says of every large crop; no gradient, no dropout."""
        images = jax.lax.stop_gradient(batch["image"])
        return {"teacher/scores": context.in_parts(lambda x: (in_rows(model.teacher, x), {}), images)[0]}

    def forward(
        self, model: Dino, batch: Batch, wanted: Collection[str], context: Context
    ) -> tuple[Features, Mapping[str, Array]]:
        network, images = model.student, [batch[name] for name in ("image", "local") if name in batch]
        features = [in_rows(network.features, x, drop.fold(context.keys, i)) for i, x in enumerate(images)]
        frozen = context.step < self.objective.frozen_prototypes
        return {"scores": network.head(jnp.concatenate(features, axis=1), frozen)}, {}

    def stacks(self, batch_size: int) -> list[StackInfo]:
        e, large = self.model.encoder, self.model.encoder.grid**2
        seen = lambda patches: max(1, round(patches * (1 - e.patch_dropout))) + e.prefix
        found = [StackInfo("teacher/encoder", e, batch_size * self.views, large + e.prefix),
                 StackInfo("student/encoder", e, batch_size * self.views, seen(large))]
        if self.local:
            small = (self.local.image_size // e.patch_size) ** 2
            found.append(StackInfo("student/encoder", e, batch_size * self.local.views, seen(small)))
        return found

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """The student on every crop and the teacher, forward only, on the large ones."""
        e = self.model.encoder
        tower = lambda patches: e.forward_flops(max(1, round(patches * (1 - e.patch_dropout))))
        small = self.local.views * tower((self.local.image_size // e.patch_size) ** 2) if self.local else 0.0
        crops = self.views + (self.local.views if self.local else 0)
        encoder = batch_size * (self.views * tower(e.grid**2) + small)
        head = batch_size * crops * self.model.head_flops
        return {
            "student/encoder": encoder * training_factor(trained("student/encoder/")),
            "student/head": head * training_factor(trained("student/head/"), upstream=trained("student/encoder/")),
            "teacher/encoder": batch_size * self.views * e.forward_flops(e.grid**2),
            "teacher/head": batch_size * self.views * self.model.head_flops,
        }


def in_rows(
    network: Network | Callable[..., Array], images: Array, keys: drop.Keys | None = None
) -> Float[Array, "batch crops dim"]:
    """`network` of [batch, crops, …] images; the crops of a row stay together, and have keys of their own."""
    rows, crops = images.shape[:2]
    if keys is not None:
        keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(crops)))(keys).reshape(-1)
    return network(images.reshape(rows * crops, *images.shape[2:]), keys=keys).reshape(rows, crops, -1)
