"""Self-distillation between crops: the loss of DINO (arXiv 2104.14294), with the targets of SwAV and DINOv2."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mof_jax.objectives import distillation
from mof_jax.objectives.loss import Context, Features, Loss, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.ranges import Count, Positive, Share, Whole


@dataclasses.dataclass(frozen=True)
class Dino(Objective):
    """What a teacher says of one crop, predicted from another (DINO, arXiv 2104.14294); Sinkhorn-Knopp targets.

    Reads the student's scores of all crops, `scores` [rows, crops, prototypes], and makes `targets` [rows, views, prototypes] of
    the teacher's, `teacher/scores`. A sum over (image, teacher's crop, other crop of the student); its weight is their number.

    Attributes:
      student_temperature: of the student's scores.
      teacher_temperature: of the targets, (at the first step, after `warmup` steps); linear between.
      warmup: steps until the teacher's temperature is reached.
      sinkhorn: iterations of Sinkhorn-Knopp over the large crops of the whole batch.
      momentum: of the teacher at the first step; a cosine takes it to 1 at the last.
      frozen_prototypes: first steps in which the prototypes have no gradient (the papers: one epoch).
    """

    kind: ClassVar[str] = "dino"
    couples_rows: ClassVar[bool] = False  # rows meet in the targets, which have no gradient
    follows_steps: ClassVar[bool] = True  # the teacher's momentum
    reads = ("scores", "targets")
    gives = ("targets",)
    student_temperature: Positive = 0.1
    teacher_temperature: tuple[Positive, Positive] = (0.04, 0.07)
    warmup: Whole = 0
    sinkhorn: Count = 3
    momentum: Share = 0.996
    frozen_prototypes: Whole = 0

    def temperature(self, step: Int[Array, ""] | int) -> Float[Array, ""]:
        """The teacher's, at a step counted from 0."""
        return distillation.teacher_temperature(jnp.asarray(step, jnp.float32), *self.teacher_temperature, self.warmup)

    def teach(self, features: Features, context: Context) -> Features:
        scores = features["teacher/scores"]
        flat = scores.reshape(-1, scores.shape[-1])
        targets = distillation.sinkhorn_knopp(flat, self.temperature(context.step), self.sinkhorn)
        return {"targets": targets.reshape(scores.shape)}

    def count(self, batch: Features, context: Context) -> float:
        """Pairs of a view and another crop."""
        crops = sum(batch[name].shape[1] for name in ("image", "local") if name in batch)
        rows, views = batch["targets"].shape[:2]
        return float(rows * views * (crops - 1))

    def loss(self, own: nnx.Module | None, features: Features, context: Context) -> Loss:
        scores, targets = features["scores"], features["targets"]
        rows = distillation.cross_entropy_of_crops(scores, targets, self.student_temperature)
        count = float(targets.shape[0] * targets.shape[1] * (scores.shape[1] - 1))
        entropies = distillation.entropy(targets)
        metrics = {"target_entropy": Mean(entropies.sum(), float(entropies.size)),
                   "teacher_temperature": Mean(self.temperature(context.step))}
        return Loss(rows.sum(), count, metrics)
