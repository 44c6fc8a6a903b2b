"""A tower on its own: evaluated and mined as it is, taken over by other runs, not trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

from flax import nnx

from mof_jax.errors import UserError
from mof_jax.models.tower import Tower, TowerConfig, Words, WordsConfig, embedding, patch_features
from mof_jax.objectives.loss import Context
from mof_jax.task import Batch, Task


class Untrained(Task):
    """A task without a loss: every question about training is refused."""

    name: str

    @property
    def dims(self) -> Mapping[str, int]:
        return {}

    def forward(self, model: nnx.Module, batch: Batch, wanted: Collection[str], context: Context) -> NoReturn:
        self._refuse()

    def weights(self, batch: Batch, context: Context) -> NoReturn:
        self._refuse()

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(f"task {self.name!r} has no objective; train it inside another task, with init_from")


class TowerTask(Untrained):
    """What `mof convert` makes of an encoder without text."""

    name = "tower"
    predictors = {"embed/image": lambda model, x: embedding(model.encoder, x, model.config.dtype),
                  "tokens/image": lambda model, x: patch_features(model.encoder, x, model.config.dtype)}

    def __init__(self, model: TowerConfig):
        self.model = model

    def make(self, rngs: nnx.Rngs) -> Tower:
        return Tower(self.model, rngs)


class WordsTask(Untrained):
    """What `mof convert` makes of an encoder of text alone."""

    name = "words"
    predictors = {"embed/text": lambda model, x: model.embed_text(x)}

    def __init__(self, model: WordsConfig):
        self.model = model

    def make(self, rngs: nnx.Rngs) -> Words:
        return Words(self.model, rngs)
