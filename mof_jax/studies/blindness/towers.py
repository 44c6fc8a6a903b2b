"""The encoders: each an ordinary run of the framework, whose features of every picture are computed once and kept."""

from __future__ import annotations

import os
from typing import Any

import jax
from jaxtyping import Float, UInt8
import numpy as np

from mof_jax import run
from mof_jax.models.vit import ViTConfig
from mof_jax.studies.blindness import pictures
from mof_jax.studies.blindness.plan import SPLITS, Study

_BLOCK = 500


def train(study: Study, name: str, folder: str) -> str:
    """Trains tower `KIND-SEED` in `folder/KIND-SEED` ; its work dir."""
    kind, _, seed = name.rpartition("-")
    workdir = os.path.join(folder, name)
    run.train(config(study, kind, int(seed)), workdir)
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


def embed(study: Study, workdir: str, target: str) -> None:
    """Writes `target` (.npz): for every split `<split>/patches` float16 [n, patches, width] and `<split>/pooled` float32 [n, d];
    for a two-tower model also `<split>/texts`, the embeddings of the statements."""
    model = run.restore(workdir)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", *SPLITS):
        lesson = lesson_of(study, split)
        for output, key, dtype in (("patches", "patches", np.float16), ("image", "pooled", np.float32)):
            arrays[f"{split}/{key}"] = _run(model, output, lesson.pixels).astype(dtype)
        if "text" in model.run.task.predict and split != "train":
            captions = [s.caption(int(w)) for s, w in zip(lesson.scenes, lesson.which)]
            arrays[f"{split}/texts"] = model.encoder.texts(captions)
    with open(f"{target}.partial", "wb") as f:
        np.savez(f, **arrays)
    os.replace(f"{target}.partial", target)


def lesson_of(study: Study, split: str) -> pictures.Lesson:
    """The pictures of a split."""
    if split == "train":
        return pictures.training(pictures.Size(study.pictures, study.pixels))
    return pictures.examination(split, study.dev_pairs if split == "dev" else study.pairs, study.pixels)


def load(path: str, split: str, key: str) -> np.ndarray:
    """One array of what `embed` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return found[f"{split}/{key}"]


def _run(model: run.Restored, output: str, pixels: UInt8[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n ..."]:
    function = jax.jit(lambda params, x: model.run.task.predict[output](model.run.skeleton.merge(params), x))
    blocks = []
    for first in range(0, len(pixels), _BLOCK):
        rows = np.arange(first, first + _BLOCK) % len(pixels)  # whole blocks: one compiled program
        blocks.append(np.asarray(function(model.params, pixels[rows])))
    return np.concatenate(blocks)[: len(pixels)]
