"""Contrastive image-text pretraining: two towers, and any terms over their features."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from flax import nnx
import jax.numpy as jnp
from jaxtyping import Array

from mof_jax.errors import UserError
from mof_jax.models.tower import patch_features
from mof_jax.models.two_tower import TwoTower, TwoTowerConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.objectives import terms
from mof_jax.objectives.loss import Context, Features
from mof_jax.objectives.objective import Objective
from mof_jax.task import Batch, StackInfo, Task


class ContrastiveTask(Task):
    """Two towers.

    A batch holds `image` uint8 [batch, views, height, width, 3], `text` int32 [batch, captions, tokens] and `group` int32
    [batch]. Features: `image` and `text` [batch, views or captions, dim], float32 of unit norm; the model's `scale` and, if it
    has one, `bias`.
    """

    predictors = {"embed/image": lambda model, x: model.embed_image(x),
                  "embed/text": lambda model, x: model.embed_text(x),
                  "tokens/image": lambda model, x: patch_features(model.image, x, model.config.dtype)}

    def __init__(
        self, model: TwoTowerConfig, objective: Objective | Mapping[str, Objective], *, views: int = 1, captions: int = 1
    ):
        """`views` and `captions` are in every example."""
        self.terms, self.views, self.captions = terms(objective), views, captions
        for term in self.terms.values():
            model = term.prepare(model)
        self.model = model

    def make(self, rngs: nnx.Rngs) -> TwoTower:
        return TwoTower(self.model, rngs)

    @property
    def dims(self) -> Mapping[str, int]:
        biased = {} if self.model.logit_bias_init is None else {"bias": 0}
        return {"image": self.model.image.output_dim, "text": self.model.text.output_dim, "scale": 0, **biased}

    def forward(
        self, model: TwoTower, batch: Batch, wanted: Collection[str], context: Context
    ) -> tuple[Features, Mapping[str, Array]]:
        embed, found = {"image": model.embed_image, "text": model.embed_text}, {}
        for name in sorted(wanted & embed.keys()):
            views = [embed[name](batch[name][:, i], keys=drop.fold(context.keys, i)) for i in range(batch[name].shape[1])]
            found[name] = jnp.stack(views, axis=1)
        return found, {}

    def shared(self, model: TwoTower) -> Features:
        return {"scale": model.scale} | ({} if model.logit_bias is None else {"bias": model.logit_bias[...]})

    def stacks(self, batch_size: int) -> list[StackInfo]:
        """Raises `UserError` for an image tower that is no stack."""
        image, text = self.model.image, self.model.text
        if not isinstance(image, ViTConfig):
            raise UserError(f"no formula for the memory of an image tower of kind {image.kind!r}")
        kept = max(1, round(image.grid**2 * (1 - image.patch_dropout)))
        return [StackInfo("image", image, batch_size * self.views, kept + image.prefix),
                StackInfo("text", text, batch_size * self.captions, text.context_length)]

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """Per tower and for the scores; a frozen tower counts its forward pass only, whatever is learned behind its blocks."""
        image, text = self.model.image, self.model.text
        return {
            "image": batch_size * image.flops * training_factor(trained("image/blocks/")),
            "text": batch_size * text.flops * training_factor(trained("text/")),
            "scores": 3.0 * 2.0 * batch_size**2 * image.output_dim,
        }
