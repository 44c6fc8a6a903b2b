"""Every task by name, and the config sections it reads: the one registry of papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import dataclasses
from typing import Any, Literal

from jax.sharding import Mesh

from mof_jax.data.config import DataConfig
from mof_jax.data.packing.sequence_pipeline import SequenceConfig, SequencePipeline
from mof_jax.data.packing.sequence_pipeline import texts as sequence_texts
from mof_jax.data.pipeline import Pipeline, texts
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.models.dino import DinoConfig
from mof_jax.models.mae import MaeConfig
from mof_jax.models.mllm import MllmConfig
from mof_jax.models.tower import TowerConfig, WordsConfig
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.task import Task
from mof_jax.tasks.contrastive import ContrastiveConfig, ContrastiveTask
from mof_jax.tasks.dino import DinoObjective, DinoTask
from mof_jax.tasks.mae import MaeObjective, MaeTask
from mof_jax.tasks.mllm import MllmObjective, MllmTask
from mof_jax.tasks.tower import TowerObjective, TowerTask, WordsTask


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """How a config names a task.

    Attributes:
      make: `(config, mesh, tokenizer) -> Task`, the config a `run.RunConfig`; the tokenizer is None where `texts` is.
      model, objective, data: types of the config sections.
      decides: keys of the data section that a model config decides (the size of the pictures).
      suggests: keys that it decides where the config says nothing.
      pipeline: from the data section to batches, see `data.pipeline.Pipeline`.
      texts: `(section, records)` to the texts of that many records of each source, to train a vocabulary on; None for a task
        that reads none.
      face: what evaluators find: an `encoder` of pictures and texts, or a `responder` that answers.
    """

    make: Callable[[Any, Mesh, Tokenizer | None], Task]
    model: type
    objective: type
    decides: Callable[[Any], dict[str, int]]
    data: type = DataConfig
    pipeline: type = Pipeline
    texts: Callable[[Any, int], Iterable[str]] | None = texts
    face: Literal["encoder", "responder"] = "encoder"
    suggests: Callable[[Any], dict[str, int]] = lambda model: {}


def pictures_only(model: MaeConfig | DinoConfig | TowerConfig) -> dict[str, int]:
    """The data of a task that learns from pictures alone: of the encoder's size, without captions."""
    return {"image_size": model.encoder.image_size, "captions": 0}


TASKS: dict[str, TaskKind] = {
    "contrastive": TaskKind(
        lambda config, mesh, tokenizer: ContrastiveTask(config.model.with_tokenizer(tokenizer), config.objective, mesh),
        TwoTowerConfig, ContrastiveConfig, lambda model: {"image_size": model.image.image_size}),
    "mllm": TaskKind(
        lambda config, mesh, tokenizer: MllmTask(
            config.model.with_vocabulary(tokenizer.vocab_size), config.objective, mesh, context=config.data.context_length,
            rows=config.data.rows_per_stream, images=config.data.images_per_stream),
        MllmConfig, MllmObjective,
        lambda model: {"image_size": model.image_size, "tokens_per_image": model.tokens_per_image} | (
            {} if model.encoders else {"images_per_stream": 0, "max_images": 0}),
        SequenceConfig, SequencePipeline, sequence_texts, face="responder"),
    "mae": TaskKind(
        lambda config, mesh, _: MaeTask(config.model, config.objective, mesh, views=config.data.views),
        MaeConfig, MaeObjective, pictures_only, texts=None),
    "dino": TaskKind(
        lambda config, mesh, _: DinoTask(config.model, config.objective, mesh, steps=config.steps, views=config.data.views,
                                         local=config.data.local),
        DinoConfig, DinoObjective, pictures_only, texts=None),
    # Its positions are resampled to what pictures it is shown: DINOv2 came with those of 518 pixels, and is shown 224.
    "tower": TaskKind(
        lambda config, mesh, _: TowerTask(config.model), TowerConfig, TowerObjective, lambda model: {"captions": 0}, texts=None,
        suggests=lambda model: {"image_size": model.encoder.image_size}),
    "words": TaskKind(lambda config, mesh, tokenizer: WordsTask(config.model.with_tokenizer(tokenizer)), WordsConfig,
                      TowerObjective, lambda model: {"views": 0}),
}
