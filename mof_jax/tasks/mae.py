"""Masked autoencoding (arXiv 2111.06377): the mean squared error of the patches that the encoder did not see."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Key

from mof_jax.models.mae import Mae, MaeConfig
from mof_jax.models.tower import embedding, patch_features
from mof_jax.models.vit import fit_positions
from mof_jax.nn import dropout as drop
from mof_jax.nn.flops import training_factor
from mof_jax.ranges import Count
from mof_jax.rules import Rule
from mof_jax.task import Batch, Loss, Task


@dataclasses.dataclass(frozen=True)
class MaeObjective:
    """Reconstruction.

    Attributes:
      microbatches: gradient accumulation; the loss is a sum over patches, so the gradient is that of the whole batch.
    """

    microbatches: Count = 1


class MaeTask(Task):
    """A batch holds `image` uint8 [batch, views, height, width, 3]; every view is masked on its own.

    The loss is summed over masked patches, and its weight is their number.
    """

    predictors = {"embed/image": lambda model, x: embedding(model.encoder, x, model.config.dtype),
                  "tokens/image": lambda model, x: patch_features(model.encoder, x, model.config.dtype)}
    rules = {"decay": [Rule(r".*(bias|scale|pos_embed|cls|registers|mask_token|scale1|scale2)", 0.0, optional=True)]}

    def __init__(self, model: MaeConfig, objective: MaeObjective, mesh: Mesh | None = None, *, views: int = 1):
        """`views` of a picture are in every example."""
        self.model, self.objective, self.mesh, self.views = model, objective, mesh, views
        self.accumulate = objective.microbatches

    def build(self, rngs: nnx.Rngs) -> Mae:
        return Mae(self.model, rngs)

    def keyed(self, batch: Batch, key: Key[Array, ""] | None) -> Batch:
        return batch if key is None else {**batch, "keys": drop.example_keys(key, batch["image"].shape[0])}

    def loss(self, model: Mae, batch: Batch, key: Key[Array, ""] | None) -> Loss:
        """Without any key (evaluation) there is no dropout, and the masks are the same every time."""
        batch = self.keyed(batch, key)
        keys = batch.get("keys")
        fixed = jax.random.key(0, impl="threefry2x32")
        masks = drop.example_keys(fixed, batch["image"].shape[0]) if keys is None else keys
        views = [self._view(model, batch["image"][:, i], drop.fold(masks, i), drop.fold(keys, i))
                 for i in range(batch["image"].shape[1])]
        return jax.tree.map(lambda *parts: sum(parts), *views)

    def _view(self, model: Mae, images: Array, masks: drop.Keys, keys: drop.Keys | None) -> Loss:
        seen, masked = drop.split_patches(drop.fold(masks, 0), self.model.encoder.grid**2, self.model.kept)
        painted = model.reconstruct(images, seen, masked, keys=drop.fold(keys, 1)).astype(jnp.float32)
        errors = jnp.square(painted - model.targets(images, masked)).mean(-1)
        return Loss(errors.sum(), jnp.float32(errors.size), {})

    def adapt(self, path: str, value: Array) -> Array:
        """Position embeddings of the encoder, resampled to this model's grid."""
        return fit_positions(self.model.encoder, value) if path == "encoder/pos_embed" else value

    def flops(self, batch_size: int, trained: Callable[[str], bool]) -> dict[str, float]:
        """The encoder on what it sees, and the decoder on everything."""
        pictures = batch_size * self.views
        encoder = pictures * self.model.encoder.forward_flops(self.model.kept) * training_factor(trained("encoder/"))
        decoder = pictures * self.model.decoder_flops * training_factor(trained("decoder/"), upstream=trained("encoder/"))
        return {"encoder": encoder, "decoder": decoder}
