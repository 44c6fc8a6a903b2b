"""What a model can do, by capability: one that embeds and answers, one that does a single thing, and its
parameters."""

from __future__ import annotations

import numpy as np
import pytest
from sequence_samples import tokenizer
from small_models import weights
import tiny_mllm

from mof_jax.data.worlds.scenes import Scenes
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import Embedder
from mof_jax.evals.model import Model
from mof_jax.run import Run, resolve
from mof_jax.tasks import TASKS
from mof_jax.tasks.mllm import MllmTask


@pytest.fixture(scope="module")
def run():
    """An MLLM that embeds, too: the mean of a picture's tokens."""
    with pytest.MonkeyPatch.context() as patch:
        embed = {"embed/image": lambda model, x: model.image_tokens(x).mean(axis=1)}
        patch.setattr(MllmTask, "predictors", {**MllmTask.predictors, **embed})
        yield Run(resolve(tiny_mllm.get_config()), tokenizer())


def test_one_model_embeds_and_answers(run):
    model = run.model().bind(weights(run.skeleton))
    assert (
        model.capabilities
        == {"embed/image", "generate"}
        == set(TASKS["mllm"].capabilities(run.config.model))
    )
    pictures = model.embedder.images(Scenes(3, "test", 16))
    assert pictures.shape == (3, 16) and np.isfinite(pictures).all()
    generator = model.generator
    assert (
        len(generator.answer([generator.ask("how many?", [Scenes(3, "test", 16)[0].image])], max_tokens=1))
        == 1
    )
    with pytest.raises(UserError, match="unknown capability of this model 'embed/text'"):
        model.embedder.texts(["a"])


def test_binding_leaves_the_model_as_it_was(run):
    asked = []
    model = run.model(on_batch=lambda: asked.append(1))
    first, second = (model.bind(weights(run.skeleton, seed)) for seed in (0, 1))
    pictures = Scenes(3, "test", 16)
    before = first.embedder.images(pictures)
    assert np.abs(second.embedder.images(pictures) - before).max() > 0
    np.testing.assert_array_equal(first.embedder.images(pictures), before)
    assert model.embedder._params is None and len(asked) == 3


def test_what_a_model_cannot_do_is_said():
    with pytest.raises(
        UserError, match=r"task 'x' does not embed; it can do nothing that evaluators ask for"
    ):
        _ = Model("x").embedder
    embedder = Embedder.__new__(Embedder)
    embedder._predict = {"embed/image": None}
    with pytest.raises(UserError, match="task 'x' answers no questions; it can embed/image"):
        _ = Model("x", embeds=embedder).generator
