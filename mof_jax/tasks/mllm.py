"""Multimodal language modelling on packed sequences: pretraining, both stages of LLaVA, and instruction tuning.

What is trained is the optimizer's rules' business (`freeze`, `lr_factors`); stages are runs that start from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mof_jax.mesh import batch_sharding
from mof_jax.models.mllm import Mllm, MllmConfig, mllm_flops
from mof_jax.nn import dropout as drop
from mof_jax.objectives import terms
from mof_jax.objectives.loss import Context, Features, Mean
from mof_jax.objectives.objective import Objective
from mof_jax.task import Batch, StackInfo, Task


class MllmTask(Task):
    """A batch as `data.packing.sequence_pipeline` packs it.

    Features: the last hidden states, `hidden` [rows, context, width], and the vocabulary's matrix, `unembed` [width, vocab].
    """

    predictors = {"generate": lambda model: model}

    def __init__(
        self, model: MllmConfig, objective: Objective | Mapping[str, Objective], mesh: Mesh | None = None, *, context: int,
        rows: int, images: int,
    ):
        """`context` tokens a row; `rows` and `images` are those of one of the packer's streams."""
        self.model, self.terms, self.mesh = model, terms(objective), mesh
        self.context, self.rows, self.images = context, rows, images

    def make(self, rngs: nnx.Rngs) -> Mllm:
        return Mllm(self.model, rngs)

    @property
    def dims(self) -> Mapping[str, int]:
        return {"hidden": self.model.llm.width, "unembed": self.model.llm.vocab_size}

    def keys(self, batch: Batch, key: Key[Array, ""]) -> dict[str, drop.Keys]:
        """Of the rows, and of the images."""
        return {name: drop.example_keys(jax.random.fold_in(key, i), batch[name].shape[0])
                for i, name in enumerate(("tokens", "images")) if name in batch}

    def forward(
        self, model: Mllm, batch: Batch, wanted: Collection[str], context: Context
    ) -> tuple[Features, Mapping[str, Array]]:
        return {"hidden": self.hidden(model, batch, context.keys or {})}, {}

    def hidden(self, model: Mllm, batch: Batch, keys: Mapping[str, Any]) -> Float[Array, "rows context width"]:
        """Last hidden states; keys turn dropout on."""
        seen = model.image_tokens(batch["images"], keys.get("images")) if "images" in batch else None
        x = model.embed(batch["tokens"], batch["image_index"], seen, streams=batch["tokens"].shape[0] // self.rows)
        if self.mesh is not None:
            x = jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))
        return model(x, batch["positions"], batch["segment_ids"], keys.get("tokens"))

    def shared(self, model: Mllm) -> Features:
        return {"unembed": model.llm.head}

    def figures(self, batch: Batch) -> Mapping[str, Mean]:
        """The shares of positions and images that are used, and of positions that are learned."""
        shares = {name: batch[name] for name in ("fill_tokens", "fill_images") if name in batch}
        shares["supervised"] = (batch["loss_weight"] > 0).mean(axis=1)
        return {name: Mean(x.sum(), float(x.size)) for name, x in shares.items()}

    def adapt(self, path: str, value: Array) -> Array:
        """Stacks of encoders, cut above the layer whose features are used."""
        part, _, rest = path.partition("/")
        name, _, rest = rest.partition("/")
        if part != "encoders" or not rest.startswith("blocks/"):
            return value
        return value[:next(e.tower for e in self.model.encoders if e.name == name).depth]

    def stacks(self, batch_size: int) -> list[StackInfo]:
        model, images = self.model, batch_size // self.rows * self.images
        encoders = [StackInfo(f"encoders/{e.name}", e.tower, images, e.tower.grid**2 + e.tower.prefix) for e in model.encoders]
        return [*encoders, StackInfo("llm", model.llm, batch_size, self.context, ("encoders/", "adapters/"))]

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        return mllm_flops(self.model, batch_size, self.context, batch_size // self.rows * self.images, trained)
