"""Multimodal language modelling on packed sequences: pretraining, both stages of LLaVA, and instruction tuning.

What is trained is the optimizer's rules' business (`freeze`, `lr_factors`); stages are runs that start from each other.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mof_jax.mesh import batch_sharding
from mof_jax.models.mllm import Mllm, MllmConfig, mllm_flops
from mof_jax.models.vit import fit_positions, resample_pos_embed
from mof_jax.nn import dropout as drop
from mof_jax.objectives.language import cross_entropy
from mof_jax.ranges import Count, NotNegative
from mof_jax.rules import Rule
from mof_jax.task import Batch, Loss, Task

SHARES = ("fill_tokens", "fill_images", "supervised")  # of positions and pictures that are used, of positions that are learned


@dataclasses.dataclass(frozen=True)
class MllmObjective:
    """Next-token prediction.

    Attributes:
      chunk: logits held at once, in tokens per row; the whole [batch, context, vocab] never exists.
      z_loss: weight of (log Σ exp logits)², which keeps logits from drifting (PaLM uses 1e-4).
      microbatches: gradient accumulation; losses are sums, so the gradient is that of the whole batch.
    """

    chunk: Count = 2048
    z_loss: NotNegative = 0.0
    microbatches: Count = 1


class MllmTask(Task):
    """A batch as `data.packing.sequence_pipeline` packs it; the loss is a mean over supervised tokens."""

    predictors = {"generate": lambda model: model}
    rules = {"decay": [Rule(r".*(bias|scale|pos_embed|cls|registers|probe|query|scale1|scale2)", 0.0, optional=True)]}

    def __init__(
        self, model: MllmConfig, objective: MllmObjective, mesh: Mesh | None, *, context: int, rows: int, images: int
    ):
        """`context` tokens a row; `rows` and `images` are those of one of the packer's streams."""
        self.model, self.objective, self.mesh = model, objective, mesh
        self.context, self.rows, self.images = context, rows, images
        self.accumulate = objective.microbatches

    def build(self, rngs: nnx.Rngs) -> Mllm:
        return Mllm(self.model, rngs)

    def loss(self, model: Mllm, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        batch = self.keyed(batch, key)
        hidden = self.hidden(model, batch)
        labels = jnp.roll(batch["tokens"], -1, axis=1)
        # A document's first position has no weight, so nothing is predicted across documents, nor around the row's end.
        weight = jnp.roll(batch["loss_weight"], -1, axis=1)
        loss = cross_entropy(hidden, model.llm.head, labels, weight, chunk=self.objective.chunk, z_loss=self.objective.z_loss)
        shares = {name: batch[name].mean() * loss.weight for name in SHARES if name in batch}
        return loss._replace(metrics=loss.metrics | shares)

    def keyed(self, batch: Batch, key: Key[Array, ""] | None) -> Batch:
        if key is None:
            return batch
        keys = {f"{name}_keys": drop.example_keys(jax.random.fold_in(key, i), batch[of].shape[0])
                for i, (name, of) in enumerate((("row", "tokens"), ("image", "images"))) if of in batch}
        batch = {**batch, **keys, "supervised": (batch["loss_weight"] > 0).mean(axis=1)}
        # The log weighs micro-batches by their supervised tokens: each of them says what the whole batch's share is.
        return batch | {name: jnp.full_like(batch[name], batch[name].mean()) for name in SHARES if name in batch}

    def hidden(self, model: Mllm, batch: Batch) -> Float[Array, "rows context width"]:
        """Last hidden states; a batch that `keyed` has seen turns dropout on."""
        seen = model.image_tokens(batch["images"], batch.get("image_keys")) if "images" in batch else None
        x = model.embed(batch["tokens"], batch["image_index"], seen, streams=batch["tokens"].shape[0] // self.rows)
        if self.mesh is not None:
            x = jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))
        return model(x, batch["positions"], batch["segment_ids"], batch.get("row_keys"))

    def adapt(self, path: str, value: Array) -> Array:
        """Position embeddings of encoders and adapters resampled to their grid here; stacks cut above the feature layer."""
        part, _, rest = path.partition("/")
        name, _, rest = rest.partition("/")
        if part == "adapters" and rest == "pos_embed":
            grid = self.model.adapters[name][0]
            return value if value.shape[0] == grid**2 else resample_pos_embed(value, (grid, grid))
        if part != "encoders":
            return value
        vit = next(e.tower for e in self.model.encoders if e.name == name)
        if rest.startswith("blocks/"):
            return value[:vit.depth]
        return fit_positions(vit, value) if rest == "pos_embed" else value

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        return mllm_flops(self.model, batch_size, self.context, batch_size // self.rows * self.images, trained)
