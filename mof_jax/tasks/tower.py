"""A tower on its own: evaluated and mined as it is, taken over by other runs, not trained."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import nnx
from jaxtyping import Array, Key

from mof_jax.errors import UserError
from mof_jax.models.tower import Tower, TowerConfig, Words, WordsConfig, embedding, patch_features
from mof_jax.models.vit import fit_positions
from mof_jax.task import Batch, Loss, Task


@dataclasses.dataclass(frozen=True)
class TowerObjective:
    """There is none."""


class TowerTask(Task):
    """What `mof convert` makes of an encoder without words."""

    predictors = {"embed/image": lambda model, x: embedding(model.encoder, x, model.config.dtype),
                  "tokens/image": lambda model, x: patch_features(model.encoder, x, model.config.dtype)}

    def __init__(self, model: TowerConfig):
        self.model = model

    def build(self, rngs: nnx.Rngs) -> Tower:
        return Tower(self.model, rngs)

    def loss(self, model: Tower, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        raise _untrained("tower")

    def adapt(self, path: str, value: Array) -> Array:
        """Position embeddings, resampled to this model's grid."""
        return fit_positions(self.model.encoder, value) if path == "encoder/pos_embed" else value

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        raise _untrained("tower")


class WordsTask(Task):
    """What `mof convert` makes of an encoder of words alone."""

    predictors = {"embed/text": lambda model, x: model.embed_text(x)}

    def __init__(self, model: WordsConfig):
        self.model = model

    def build(self, rngs: nnx.Rngs) -> Words:
        return Words(self.model, rngs)

    def loss(self, model: Words, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        raise _untrained("words")

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        raise _untrained("words")


def _untrained(task: str) -> UserError:
    return UserError(f"task {task!r} has no objective; train it inside another task, with init_from")
