"""A model that reads cached features is the multimodal model: the same loss and gradients as from pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import loss_of, weights

from mof_jax.data.worlds.pattern_world import scene
from mof_jax.models.fusion import FUSIONS
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.objectives.next_token import NextToken
from mof_jax.studies.blindness import exam
from mof_jax.studies.blindness.pictures import Size, examination, training
from mof_jax.studies.blindness.reader import Reader, choose
from mof_jax.tasks.mllm import MllmTask
from mof_jax.train.optim import OptimizerConfig
from mof_jax.train.schedule import ScheduleConfig

VIT = ViTConfig(width=16, depth=1, heads=2, patch_size=8, image_size=16, cls_token=False, pool="none")


@pytest.fixture(scope="module")
def words():
    return exam.Vocabulary()


def reader_of(words, kind: str = "interleaved", steps: int = 4) -> Reader:
    encoders = (EncoderConfig("a", VIT), EncoderConfig("b", VIT))[: 1 if kind == "single" else 2]
    model = MllmConfig(encoders, LLMConfig(width=16, depth=1, heads=2, vocab_size=len(words)), FUSIONS[kind]())
    return Reader(model, steps, 8, OptimizerConfig(lr=1e-2, schedule=ScheduleConfig(warmup=0), freeze=(("encoders/.*", True),)))


@pytest.mark.parametrize("kind", ["single", "additive", "interleaved"])
def test_features_give_the_loss_and_gradients_of_pixels(words, kind):
    reader = reader_of(words, kind)
    params = weights(reader.skeleton)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    texts = exam.stack([exam.texts(words, scene("orientation", n), 0, True) for n in range(6)])[:, 2]
    rows = exam.rows(texts, reader.slots)
    pixels = MllmTask(reader.model, NextToken(), context=rows["tokens"].shape[1], rows=1, images=1)
    names = [e.name for e in reader.model.encoders]

    def from_pixels(params):
        loss = loss_of(pixels, reader.skeleton.merge(params), {**rows, "images": images})
        return loss.sum / loss.weight

    def from_features(params, features):
        loss = loss_of(reader.task, reader.skeleton.merge(params), reader.batch(features, texts, np.arange(6)))
        return loss.sum / loss.weight

    with jax.default_matmul_precision("highest"):
        features = {name: np.asarray(reader.skeleton.merge(params).features(name, images)) for name in names}
        value, grads = jax.jit(jax.value_and_grad(from_pixels))(params)
        cached, ours = jax.jit(jax.value_and_grad(lambda p: from_features(p, features)))(params)
    np.testing.assert_allclose(cached, value, rtol=1e-5)
    for path, g in grads.items():
        if not path.startswith("encoders/"):
            np.testing.assert_allclose(ours[path], g, atol=1e-5 * float(jnp.abs(g).max()), err_msg=path)


def test_training_moves_adapters_and_llm_is_repeatable_and_starts_where_it_is_told(words):
    reader = reader_of(words)
    lesson = training(Size(90, 16, 1.0))
    rng = np.random.default_rng(1)
    features = {name: rng.standard_normal((90, 4, 16)).astype(np.float16) for name in "ab"}
    params, losses = reader.train(features, lesson.texts, 0)
    again, same = reader.train(features, lesson.texts, 0)
    assert losses == same and len(losses) == 4 and losses[-1] < losses[0]
    assert not any(path.startswith("encoders/") for path in params)
    other, _ = reader.train(features, lesson.texts, 1)
    assert any(not np.array_equal(params[path], other[path]) for path in params)
    start = {path: np.asarray(x) for path, x in params.items() if path.startswith("llm/")}
    _, later = reader.train(features, lesson.texts, 0, start)
    assert later[0] < losses[0]


def test_a_reader_that_sees_nothing_always_answers_alike(words):
    reader = reader_of(words)
    asked = examination("known", 3, 16)
    scenes = asked.scenes[::2]
    params = {path: x for path, x in weights(reader.skeleton).items() if not path.startswith("encoders/")}
    logits = choose(reader, params, {}, asked.texts, exam.choices(words, scenes))
    np.testing.assert_allclose(logits[:, 0], logits[:, 1], rtol=1e-5)
    constant = {name: np.ones((len(asked.scenes), 4, 16), np.float32) for name in "ab"}
    logits = choose(reader, params, constant, asked.texts, exam.choices(words, scenes))
    assert not exam.right_choices(logits, scenes).all(1).any()


def test_greedy_captions_are_the_argmax_of_every_prefix(words):
    reader = reader_of(words)
    asked = examination("known", 1, 16)
    params = {path: x for path, x in weights(reader.skeleton).items() if not path.startswith("encoders/")}
    rng = np.random.default_rng(2)
    features = {name: rng.standard_normal((len(asked.scenes), 4, 16)).astype(np.float32) for name in "ab"}
    texts, rows = asked.texts[:, 2], np.arange(len(asked.scenes))
    said = reader.captions(params, features, texts, rows)
    tokens, begins = texts.tokens.copy(), texts.begins.copy()
    for step in range(3):
        now = exam.Texts(tokens, begins, begins)
        np.testing.assert_array_equal(reader.next_logits(params, features, now, rows).argmax(-1), said[:, step])
        tokens[rows, begins] = said[:, step]
        begins = begins + 1
