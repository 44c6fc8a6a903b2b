"""Every task by name, and the config sections it reads: the one registry of papers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from mof_jax.data.config import DataConfig
from mof_jax.data.fields.captions import Captions
from mof_jax.data.fields.views import Views
from mof_jax.data.packing.sequence_pipeline import SequenceConfig, SequencePipeline
from mof_jax.data.packing.sequence_pipeline import texts as sequence_texts
from mof_jax.data.pipeline import Pipeline, texts
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.errors import UserError
from mof_jax.models.dino import DinoConfig
from mof_jax.models.mae import MaeConfig
from mof_jax.models.mllm import MllmConfig
from mof_jax.models.tower import TowerConfig, WordsConfig
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.task import Task
from mof_jax.tasks.contrastive import ContrastiveTask, Shown
from mof_jax.tasks.dino import DinoTask
from mof_jax.tasks.mae import MaeTask
from mof_jax.tasks.mllm import MllmTask
from mof_jax.tasks.tower import TowerTask, WordsTask


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """How a config names a task.

    Attributes:
      make: `(config, mesh, tokenizer) -> Task`, the config a `run.RunConfig`; the tokenizer is None where `texts` is.
      model, data: types of the config sections.
      objective: kind of the term that a config means which names none; None for a task that is not trained.
      decides: keys of the data section that a model config decides (the size of the pictures).
      suggests: keys that it decides where the config says nothing.
      pipeline: from the data section to batches, see `data.pipeline.Pipeline`.
      texts: `(section, records)` to the texts of that many records of each source, to train a vocabulary on; None for a task
        that reads none.
      capabilities: from the model config to what evaluators can ask of such a model, the names of `Task.predictors`.
    """

    make: Callable[[Any, Mesh, Tokenizer | None], Task]
    model: type
    objective: str | None
    decides: Callable[[Any], dict[str, int]]
    capabilities: Callable[[Any], Collection[str]]
    data: type = DataConfig
    pipeline: type = Pipeline
    texts: Callable[[Any, int], Iterable[str]] | None = texts
    suggests: Callable[[Any], dict[str, int]] = lambda model: {}


def shown(data: DataConfig, model: TwoTowerConfig) -> dict[str, Shown]:
    """The fields that towers embed: views by the tower of their name or the image tower, captions by the text tower.

    Raises:
      UserError: a tower without a field.
    """
    found = {}
    for name, field in data.batch_fields.items():
        if isinstance(field, Captions):
            found[name] = Shown("text", field.shape(1, 1).shape[1])
        elif isinstance(field, Views):
            found[name] = Shown(name if name in model.towers else "image", field.count, field.size)
    for name in model.towers:
        if name not in found:
            raise UserError(f"config.model.towers.{name}: a tower embeds the field of its name, and config.data.fields has none "
                            "that is called so, of kind 'views'")
    return found


def pictures_only(model: MaeConfig | DinoConfig | TowerConfig) -> dict[str, int]:
    """The data of a task that learns from pictures alone: of the encoder's size, without captions."""
    return {"image_size": model.encoder.image_size, "captions": 0}


TASKS: dict[str, TaskKind] = {
    "contrastive": TaskKind(
        lambda config, mesh, tokenizer: ContrastiveTask(
            config.model.with_tokenizer(tokenizer), config.objective, shown(config.data, config.model), steps=config.steps),
        TwoTowerConfig, "softmax", lambda model: {"image_size": model.image.image_size},
        capabilities=ContrastiveTask.predictors_of),
    "mllm": TaskKind(
        lambda config, mesh, tokenizer: MllmTask(
            config.model.with_vocabulary(tokenizer.vocab_size), config.objective, mesh, context=config.data.context_length,
            rows=config.data.rows_per_stream, images=config.data.images_per_stream),
        MllmConfig, "next_token",
        lambda model: {"image_size": model.image_size, "tokens_per_image": model.tokens_per_image} | (
            {} if model.encoders else {"images_per_stream": 0, "max_images": 0}),
        data=SequenceConfig, pipeline=SequencePipeline, texts=sequence_texts,
        capabilities=lambda model: MllmTask.predictors),
    "mae": TaskKind(
        lambda config, mesh, _: MaeTask(config.model, config.objective, views=config.data.views),
        MaeConfig, "pixels", pictures_only, capabilities=lambda model: MaeTask.predictors, texts=None),
    "dino": TaskKind(
        lambda config, mesh, _: DinoTask(config.model, config.objective, steps=config.steps, views=config.data.views,
                                         local=config.data.local),
        DinoConfig, "dino", pictures_only, capabilities=lambda model: DinoTask.predictors, texts=None),
    # Its positions are resampled to what pictures it is shown: DINOv2 came with those of 518 pixels, and is shown 224.
    "tower": TaskKind(
        lambda config, mesh, _: TowerTask(config.model), TowerConfig, None, lambda model: {"captions": 0},
        capabilities=lambda model: TowerTask.predictors, texts=None,
        suggests=lambda model: {"image_size": model.encoder.image_size}),
    "words": TaskKind(lambda config, mesh, tokenizer: WordsTask(config.model.with_tokenizer(tokenizer)), WordsConfig,
                      None, lambda model: {"views": 0}, capabilities=lambda model: WordsTask.predictors),
}


def make(config: Any, mesh: Mesh, tokenizer: Tokenizer | None) -> Task:
    """The task of a resolved `run.RunConfig`."""
    return TASKS[config.task].make(config, mesh, tokenizer)


def shapes(config: Any, context_length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a batch of such a config, whose texts have so many tokens."""
    return TASKS[config.task].pipeline.shapes(config.data, config.batch_size, context_length)
