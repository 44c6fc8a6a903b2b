"""Contrastive image-text pretraining: CLIP, SigLIP, LiT and what is a target or a reducer on the same scores."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from typing import Annotated, Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mof_jax.mesh import BATCH_AXES, batch_shards, join_rows, part_of_rows
from mof_jax.models.tower import patch_features
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig
from mof_jax.models.vit import fit_positions
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.objectives import contrastive as objectives
from mof_jax.ranges import Count, PartOf, Range
from mof_jax.rules import Rule
from mof_jax.task import Batch, Loss, Task


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """The objective.

    Attributes:
      loss: `softmax` (InfoNCE), `sigmoid` (SigLIP), `dcl` or `decoupled`; see `objectives.contrastive`.
      label_smoothing: of the softmax targets.
      multi_positive: pictures that share a caption (the batch's `group`) are positives of each other.
      max_logit_scale: upper bound of exp(logit_scale), applied after each update (CLIP: 100); None leaves it free.
      microbatches: exact gradient accumulation. Towers run on 1/microbatches of the rows at a time and are recomputed
        in the backward pass; the loss sees the whole batch.
      strip: rows of the score matrix held at a time.
    """

    loss: Literal["softmax", "sigmoid", "dcl", "decoupled"] = "softmax"
    label_smoothing: PartOf = 0.0
    multi_positive: bool = False
    max_logit_scale: Annotated[float, Range(1)] | None = 100.0
    microbatches: Count = 1
    strip: Count = 512

    def __post_init__(self):
        if self.label_smoothing and self.loss != "softmax":
            raise ValueError(f"label_smoothing: the targets of loss={self.loss!r} are not smoothed; softmax's are")


class ContrastiveTask(Task):
    """Two towers and one loss over the global batch.

    A batch holds `image` uint8 [batch, views, height, width, 3], `text` int32 [batch, captions, tokens] and `group` int32
    [batch]. Every (view, caption) combination gives one loss; they are added.
    """

    predictors = {"embed/image": lambda model, x: model.embed_image(x),
                  "embed/text": lambda model, x: model.embed_text(x),
                  "tokens/image": lambda model, x: patch_features(model.image, x, model.config.dtype)}

    def __init__(self, model: TwoTowerConfig, objective: ContrastiveConfig, mesh: Mesh | None = None):
        if objective.loss == "sigmoid" and model.logit_bias_init is None:
            model = dataclasses.replace(model, logit_bias_init=-10.0)
        self.model, self.objective, self.mesh = model, objective, mesh
        limit = objective.max_logit_scale
        self.rules = {
            "decay": [Rule(r".*(bias|scale|pos_embed|type_embed|cls|registers|probe|scale1|scale2)", 0.0, optional=True)],
            "freeze": [Rule("image/.*/norm/(mean|var)", True, optional=True)],  # statistics are no weights
            "bounds": [] if limit is None else [Rule("logit_scale", (0.0, math.log(limit)))],
        }

    def build(self, rngs: nnx.Rngs) -> TwoTower:
        return TwoTower(self.model, rngs)

    def loss(self, model: TwoTower, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        images, texts = self.embed(model, batch, key)
        group = batch["group"] if self.objective.multi_positive or self.objective.loss == "decoupled" else None
        losses = [self._pair_loss(model, image, text, group) for image in images for text in texts]
        total = jax.tree.map(lambda *parts: sum(parts), *losses)
        scalars = {"logit_scale": model.scale}
        if model.logit_bias is not None:
            scalars["logit_bias"] = model.logit_bias[...]
        return total._replace(metrics=total.metrics | {name: x * total.weight for name, x in scalars.items()})

    def embed(
        self, model: TwoTower, batch: Batch, key: Key[Array, ""] | None
    ) -> tuple[list[Float[Array, "batch dim"]], list[Float[Array, "batch dim"]]]:
        """Embeddings of each view and each caption, micro-batch by micro-batch if so configured."""
        rows = batch["image"].shape[0]
        keys = None if key is None else drop.example_keys(key, rows)

        def towers(inputs: dict[str, Any]) -> tuple[list[Array], list[Array]]:
            image, text, keys = inputs["image"], inputs["text"], inputs.get("keys")
            views = [model.embed_image(image[:, i], keys=drop.fold(keys, i)) for i in range(image.shape[1])]
            captions = [model.embed_text(text[:, i], keys=drop.fold(keys, i)) for i in range(text.shape[1])]
            return views, captions

        inputs = {"image": batch["image"], "text": batch["text"]} | ({} if keys is None else {"keys": keys})
        shards = 1 if self.mesh is None else batch_shards(self.mesh)
        return microbatched(towers, inputs, self.objective.microbatches, shards)

    def _pair_loss(self, model: TwoTower, image: Array, text: Array, group: Array | None) -> Loss:
        o = self.objective
        where: dict[str, Any] = dict(strip=o.strip, group=group)
        if self.mesh is not None:
            where |= dict(mesh=self.mesh, batch_axes=BATCH_AXES)
        if o.loss == "sigmoid":
            return objectives.sigmoid_loss(image, text, model.scale, model.logit_bias[...], **where)
        if o.loss == "softmax":
            return objectives.softmax_loss(image, text, model.scale, label_smoothing=o.label_smoothing, **where)
        loss = {"dcl": objectives.decoupled_loss, "decoupled": objectives.decoupled_softmax_loss}[o.loss]
        return loss(image, text, model.scale, **where)

    def adapt(self, path: str, value: Array) -> Array:
        """Position embeddings of the image tower, resampled to this model's grid."""
        return fit_positions(self.model.image, value) if path == "image/pos_embed" else value

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """Per tower and for the scores; a frozen tower counts its forward pass only, whatever is learned behind its blocks."""
        image, text = self.model.image, self.model.text
        return {
            "image": batch_size * image.flops * training_factor(trained("image/blocks/")),
            "text": batch_size * text.flops * training_factor(trained("text/")),
            "scores": 3.0 * 2.0 * batch_size**2 * image.output_dim,
        }


def microbatched(fn: Callable[[Any], Any], inputs: Any, steps: int, shards: int = 1) -> Any:
    """`fn(inputs)` over rows, `steps` micro-batches at a time, recomputed in the backward pass.

    The rows of micro-batch i are the i-th part of every device's own rows (`shards` of them), so that no row moves between
    devices. Results come back in the rows' order. With keys per example in `inputs`, the result and every gradient equal
    those of one call on all rows.
    """
    if steps == 1:
        return fn(inputs)

    # Cut inside the loop: parts that a scan goes over would be a second copy of all pictures, in another order.
    body = jax.checkpoint(lambda i: fn(jax.tree.map(lambda x: part_of_rows(x, i, steps, shards), inputs)))
    _, outputs = jax.lax.scan(lambda _, i: (None, body(i)), None, jnp.arange(steps))
    return jax.tree.map(lambda x: join_rows(x, shards), outputs)
