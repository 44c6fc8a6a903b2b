"""What our model of a folder computes, of any family that is read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mof_jax.interop.source import Source
from mof_jax.nn.module import Skeleton


def ours(folder, given: dict, image_id: int | None = None) -> dict[str, np.ndarray]:
    """Our model of a folder, on the inputs that the library's model of it has.

    Args:
      image_id: that marks a picture's place in a conversation, for a model of task `mllm`.
    """
    source = Source.open(f"hf:{folder}")
    skeleton = Skeleton.of(lambda rngs: source.family.build(source.config, rngs))
    model = skeleton.merge({path: source.reading.read(path) for path in source.reading.paths})
    with jax.default_matmul_precision("highest"):
        if source.family.task == "llm":
            positions = jnp.broadcast_to(jnp.arange(given["tokens"].shape[1]), given["tokens"].shape)
            found = {"logits": model.llm.logits(model.llm(model.llm.embed(given["tokens"]), positions))}
        elif source.family.task == "mllm":
            ids = given["tokens"]
            index = np.where(ids == image_id, np.cumsum(ids == image_id, axis=1) - 1, -1)
            x = model.embed(jnp.asarray(ids), jnp.asarray(index), model.image_tokens(jnp.asarray(given["images"])), len(ids))
            positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
            found = {"logits": model.llm.logits(model(x, positions, jnp.ones_like(positions)))}
        elif source.family.task == "contrastive":
            found = {"image": model.embed_image(given["images"]), "text": model.embed_text(given["tokens"])}
        elif source.family.task == "words":
            found = {"text": model.embed_text(given["tokens"])}
        else:
            found = {"pooled": model.encoder(given["images"]).pooled}
    return {name: np.asarray(x) for name, x in found.items()}
