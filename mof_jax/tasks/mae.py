"""Masked autoencoding (arXiv 2111.06377): patches that the encoder did not see, painted from those that it did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from mof_jax.models.mae import Mae, MaeConfig
from mof_jax.models.tower import embedding, patch_features
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.objectives import terms
from mof_jax.objectives.loss import Context, Features
from mof_jax.objectives.objective import Objective
from mof_jax.task import Batch, StackInfo, Task


class MaeTask(Task):
    """A batch holds `image` uint8 [batch, views, height, width, 3]; every view is masked on its own.

    Features: the masked patches, `painted` and as they are, `pixels`, both [batch, views, masked, values of a patch], float32.
    """

    predictors = {"embed/image": lambda model, x: embedding(model.encoder, x, model.config.dtype),
                  "tokens/image": lambda model, x: patch_features(model.encoder, x, model.config.dtype)}

    def __init__(self, model: MaeConfig, objective: Objective | Mapping[str, Objective], *, views: int = 1):
        """`views` of an image are in every example."""
        self.model, self.terms, self.views = model, terms(objective), views

    def make(self, rngs: nnx.Rngs) -> Mae:
        return Mae(self.model, rngs)

    @property
    def dims(self) -> Mapping[str, int]:
        return dict.fromkeys(("painted", "pixels"), 3 * self.model.encoder.patch_size**2)

    def teach(self, model: Mae, batch: Batch, context: Context) -> Features:
        """Which patches of each view are `seen` and `masked` [batch, views, …]; without keys (evaluation) the same every time."""
        rows, views = batch["image"].shape[:2]
        keys = context.keys if context.keys is not None else drop.example_keys(jax.random.key(0, impl="threefry2x32"), rows)
        pick = lambda i: drop.split_patches(drop.fold(drop.fold(keys, i), 0), self.model.encoder.grid**2, self.model.kept)
        seen, masked = (jnp.stack(parts, axis=1) for parts in zip(*map(pick, range(views))))
        return {"seen": seen, "masked": masked}

    def forward(
        self, model: Mae, batch: Batch, wanted: Collection[str], context: Context
    ) -> tuple[Features, Mapping[str, Array]]:
        """Without keys (evaluation) there is no dropout."""
        painted, pixels = [], []
        for i in range(batch["image"].shape[1]):
            images, seen, masked = (batch[name][:, i] for name in ("image", "seen", "masked"))
            keys = drop.fold(drop.fold(context.keys, i), 1)
            painted.append(model.reconstruct(images, seen, masked, keys=keys).astype(jnp.float32))
            pixels.append(model.targets(images, masked))
        return {"painted": jnp.stack(painted, axis=1), "pixels": jnp.stack(pixels, axis=1)}, {}

    def stacks(self, batch_size: int) -> list[StackInfo]:
        model, e, images = self.model, self.model.encoder, batch_size * self.views
        decoder = dataclasses.replace(e, variant=None, width=model.decoder_width, depth=model.decoder_depth,
                                      heads=model.decoder_heads, mlp_dim=model.decoder.mlp_dim)
        return [StackInfo("encoder", e, images, model.kept + e.prefix),
                StackInfo("decoder", decoder, images, e.grid**2 + e.prefix, ("encoder/",))]

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """The encoder on what it sees, and the decoder on everything."""
        images = batch_size * self.views
        encoder = images * self.model.encoder.forward_flops(self.model.kept) * training_factor(trained("encoder/"))
        decoder = images * self.model.decoder_flops * training_factor(trained("decoder/"), upstream=trained("encoder/"))
        return {"encoder": encoder, "decoder": decoder}
