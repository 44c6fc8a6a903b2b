"""The encoders: each an ordinary run of the framework, whose features of every picture are computed once and kept."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from mof_jax import run, trainer
from mof_jax.data.record import Record
from mof_jax.models.vit import ViTConfig
from mof_jax.restore import restore
from mof_jax.studies.blindness import pictures
from mof_jax.studies.blindness.plan import SPLITS, Study


def train(study: Study, name: str, folder: str) -> str:
    """Trains tower `KIND-SEED` in `folder/KIND-SEED`; its work dir."""
    kind, _, seed = name.rpartition("-")
    workdir = os.path.join(folder, name)
    trainer.train(config(study, kind, int(seed)), workdir)
    return workdir


def config(study: Study, kind: str, seed: int) -> dict[str, Any]:
    """The run's config."""
    return {**study.towers[kind], "seed": seed}


def vit(study: Study) -> ViTConfig:
    """The shape that all towers share: a reader's encoders are built from it.

    Raises:
      ValueError: towers of different shapes, which would not compare what they have learnt.
    """
    shapes = {}
    for kind in study.towers:
        model = run.resolve(study.towers[kind]).model
        found = getattr(model, "image", None) or model.encoder
        shapes[kind] = (found.width, found.depth, found.heads, found.mlp_dim, found.patch_size, found.image_size)
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the towers differ in (width, depth, heads, mlp_dim, patch_size, image_size): {shapes}")
    model = run.resolve(next(iter(study.towers.values()))).model
    return getattr(model, "image", None) or model.encoder


def embed(study: Study, workdir: str) -> dict[str, np.ndarray]:
    """For every split `<split>/patches` float16 [n, patches, width] and `<split>/pooled` float32 [n, d]; for a two-tower model
    also `<split>/texts`, the embeddings of the statements."""
    model = restore(workdir)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", *SPLITS):
        lesson = pictures.lesson(study, split)
        record = lambda i, pixels=lesson.pixels: Record(str(i), pixels[i], {})
        for which, key, dtype in (
            ("tokens/image", "patches", np.float16),
            ("embed/image", "pooled", np.float32),
        ):
            arrays[f"{split}/{key}"] = model.embedder.embed_images(
                record, split, len(lesson.pixels), which=which).astype(dtype)
        if "embed/text" in model.embedder.capabilities and split != "train":
            captions = [s.caption(int(w)) for s, w in zip(lesson.scenes, lesson.which)]
            arrays[f"{split}/texts"] = model.embedder.texts(captions)
    return arrays
