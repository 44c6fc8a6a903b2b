"""Self-distillation without labels (DINO, arXiv 2104.14294), with the Sinkhorn-Knopp targets of SwAV and DINOv2.

A teacher, the running average of the student, sees the large crops of a picture; the student sees all of its crops and
predicts from each what the teacher says of the others.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from mof_jax.data.config import LocalViews
from mof_jax.errors import UserError
from mof_jax.mesh import batch_shards
from mof_jax.models.dino import Dino, DinoConfig, Network
from mof_jax.models.tower import embedding, patch_features
from mof_jax.models.vit import fit_positions
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.nn.module import Params
from mof_jax.objectives import distillation
from mof_jax.ranges import Count, Positive, Share, Whole
from mof_jax.rules import Rule
from mof_jax.task import Batch, Loss, Task
from mof_jax.tasks.contrastive import microbatched


@dataclasses.dataclass(frozen=True)
class DinoObjective:
    """Targets, temperatures and the teacher.

    Attributes:
      student_temperature: of the student's scores.
      teacher_temperature: of the targets, (at the first step, after `warmup` steps); linear between.
      warmup: steps until the teacher's temperature is reached.
      sinkhorn: iterations of Sinkhorn-Knopp over the large crops of the whole batch.
      momentum: of the teacher at the first step; a cosine takes it to 1 at the last.
      frozen_prototypes: first steps in which the prototypes have no gradient (the papers: one epoch).
      microbatches: exact gradient accumulation. The targets of the whole batch come first; the student runs on
        1/microbatches of the rows at a time and is recomputed in the backward pass.
    """

    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    warmup: Whole = 0
    sinkhorn: Count = 3
    momentum: Share = 0.996
    frozen_prototypes: Whole = 0
    microbatches: Count = 1


class DinoTask(Task):
    """A batch holds `image` uint8 [batch, views, H, W, 3], the large crops, and with local views `local` uint8
    [batch, local views, h, h, 3].

    The loss is summed over (picture, teacher's crop, other crop of the student), and its weight is their number.
    """

    predict = {"image": lambda model, x: embedding(model.teacher.encoder, x, model.config.dtype),
               "patches": lambda model, x: patch_features(model.teacher.encoder, x, model.config.dtype)}
    rules = {
        "freeze": [Rule(r"teacher/.*|updates", True)],
        "decay": [Rule(r".*(bias|scale|pos_embed|cls|registers|probe|scale1|scale2)", 0.0, optional=True)],
    }

    def __init__(
        self, model: DinoConfig, objective: DinoObjective, mesh: Mesh | None = None, *, steps: int, views: int = 2,
        local: LocalViews | None = None,
    ):
        """A run of `steps` on pictures with `views` large and `local` small crops.

        Raises:
          UserError: fewer than two crops, or small crops that are no whole number of patches.
        """
        if views < 1 or views + (local.views if local else 0) < 2:
            raise UserError("config.data: distillation compares crops; set views=2, or local views")
        if local and local.image_size % model.encoder.patch_size:
            raise UserError(f"config.data.local.image_size: {local.image_size} is not divisible by patch_size "
                            f"{model.encoder.patch_size}")
        self.model, self.objective, self.mesh = model, objective, mesh
        self.steps, self.views, self.local = steps, views, local

    def build(self, rngs: nnx.Rngs) -> Dino:
        return Dino(self.model, rngs)

    def loss(self, model: Dino, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        o, rows = self.objective, batch["image"].shape[0]
        temperature = distillation.teacher_temperature(model.updates[...], *o.teacher_temperature, o.warmup)
        shards = 1 if self.mesh is None else batch_shards(self.mesh)
        targets = self.targets(model, batch["image"], temperature, shards)

        def student(inputs: dict[str, Any]) -> Float[Array, "rows"]:
            scores = self.student_scores(model, inputs["images"], inputs.get("keys"))
            return distillation.cross_entropy_of_crops(scores, inputs["targets"], o.student_temperature)

        images = {name: batch[name] for name in ("image", "local") if name in batch}
        keys = {} if key is None else {"keys": drop.example_keys(key, rows)}
        losses = microbatched(student, {"images": images, "targets": targets, **keys}, o.microbatches, shards)
        crops = sum(x.shape[1] for x in images.values())
        weight = jnp.float32(rows * targets.shape[1] * (crops - 1))
        metrics = {"target_entropy": distillation.entropy(targets).mean(), "teacher_temperature": temperature}
        return Loss(losses.sum(), weight, {name: x * weight for name, x in metrics.items()})

    def targets(
        self, model: Dino, images: Array, temperature: Array, shards: int = 1
    ) -> Float[Array, "batch views prototypes"]:
        """What the teacher says of every large crop; no gradient, no dropout."""
        inputs = jax.lax.stop_gradient(images)
        scores = microbatched(lambda x: in_rows(model.teacher, x), inputs, self.objective.microbatches, shards)
        flat = scores.reshape(-1, scores.shape[-1])
        return distillation.sinkhorn_knopp(flat, temperature, self.objective.sinkhorn).reshape(scores.shape)

    def student_scores(
        self, model: Dino, images: Batch, keys: drop.Keys | None
    ) -> Float[Array, "batch crops prototypes"]:
        """The student's scores of all crops, the large ones first."""
        network = model.student
        features = [in_rows(network.features, x, drop.fold(keys, i)) for i, x in enumerate(images.values())]
        features = jnp.concatenate(features, axis=1)
        frozen = model.updates[...] < self.objective.frozen_prototypes
        return network.head(features, frozen)

    def advance(self, step: Int[Array, ""], params: Params, frozen: Params) -> Params:
        """teacher ← m·teacher + (1 - m)·student, after every update."""
        momentum = distillation.teacher_momentum(step.astype(jnp.float32), self.objective.momentum, self.steps)
        every = {**frozen, **params}
        moved = {"updates": (step + 1).astype(jnp.float32)}
        for path, value in frozen.items():
            if path.startswith("teacher/"):
                moved[path] = momentum * value + (1.0 - momentum) * every[path.replace("teacher", "student", 1)]
        return {**frozen, **moved}

    def adapt(self, path: str, value: Array) -> Array:
        """Position embeddings of both towers, resampled to this model's grid."""
        return fit_positions(self.model.encoder, value) if path.endswith("/encoder/pos_embed") else value

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
    """`network` of [batch, crops, …] pictures; the crops of a row stay together, and have keys of their own."""
    rows, crops = images.shape[:2]
    if keys is not None:
        keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(crops)))(keys).reshape(-1)
    return network(images.reshape(rows * crops, *images.shape[2:]), keys=keys).reshape(rows, crops, -1)
