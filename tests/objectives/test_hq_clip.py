"""Own wrong captions and tags beside CLIP's loss: closed forms, rows that count nothing, arms, a few steps; and its evaluator."""

from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mof_jax import config as configs
from mof_jax import evals, run, trainer
from mof_jax.data.worlds.scenes import GROUNDS, THINGS
from mof_jax.data.worlds.things import Things
from mof_jax.errors import UserError
from mof_jax.objectives.hq_clip import OwnNegatives, Tags
from mof_jax.objectives.loss import Context

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "papers" / "hq_clip.py"
ROWS, DIM, SCALE = 6, 8, 5.0


def unit(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((*shape, DIM))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


FEATURES = {"image": unit(0, ROWS, 2), "text": unit(1, ROWS, 1), "negative": unit(2, ROWS, 3), "scale": np.float32(SCALE)}


def mean(term, features):
    loss = term.loss(None, {name: jnp.asarray(features[name]) for name in term.reads}, Context())
    assert float(loss.weight) == float(term.count(features, Context()))
    return loss.sum / loss.weight


def test_one_wrong_caption_is_a_softplus():
    one = FEATURES | {"negative": FEATURES["negative"][:, :1]}
    gap = SCALE * np.einsum("rd,rd->r", FEATURES["image"][:, 0], one["negative"][:, 0] - one["text"][:, 0])
    assert float(mean(OwnNegatives(), one)) == pytest.approx(np.log1p(np.exp(gap)).mean(), rel=1e-5)
    same = FEATURES | {"negative": FEATURES["text"]}
    assert float(mean(OwnNegatives(), same)) == pytest.approx(np.log(2), rel=1e-6)


def test_several_wrong_captions_are_a_softmax_of_the_images_own():
    image, texts = FEATURES["image"][:, 0], np.concatenate([FEATURES["text"], FEATURES["negative"]], 1)
    scores = SCALE * np.einsum("rd,rmd->rm", image, texts).astype(np.float64)
    want = (np.log(np.exp(scores).sum(1)) - scores[:, 0]).mean()
    assert float(mean(OwnNegatives(), FEATURES)) == pytest.approx(want, rel=1e-5)
    slopes = jax.grad(lambda x: mean(OwnNegatives(), FEATURES | {"image": x}))(jnp.asarray(FEATURES["image"]))
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) - np.eye(4)[0]
    np.testing.assert_allclose(slopes[:, 0], SCALE * np.einsum("rm,rmd->rd", share, texts) / ROWS, rtol=1e-4, atol=1e-6)
    assert not np.asarray(slopes[:, 1]).any(), "of the first view"


def test_tags_are_binary_choices_of_the_images_that_have_any():
    logits = np.random.default_rng(3).standard_normal((3, 1, 4)).astype(np.float32)
    labels = np.array([[0, 2, -1], [-1, -1, -1], [3, -1, -1]], np.int32)
    right = np.array([[1, 0, 1, 0], [0, 0, 0, 1]])
    p = 1 / (1 + np.exp(-logits[[0, 2], 0].astype(np.float64)))
    want = -(right * np.log(p) + (1 - right) * np.log(1 - p)).mean()
    assert float(mean(Tags(), {"tagger": logits, "tags": labels})) == pytest.approx(want, rel=1e-5)
    none = Tags().loss(None, {"tagger": jnp.asarray(logits), "tags": jnp.full((3, 3), -1)}, Context())
    assert float(none.sum) == float(none.weight) == 0.0
    slopes = jax.grad(lambda x: mean(Tags(), {"tagger": x, "tags": labels}))(jnp.asarray(logits))
    assert not np.asarray(slopes[1]).any() and np.abs(slopes[0]).min() > 0


def resolved(arm: str):
    return run.resolve(configs.load(f"{CONFIG}:arm={arm}").to_dict())


def test_the_arms():
    assert {arm: set(resolved(arm).objective) for arm in ("clip", "hni", "stc", "both")} == {
        "clip": {"clip"}, "hni": {"clip", "hni"}, "stc": {"clip", "stc"}, "both": {"clip", "hni", "stc"}}
    assert resolved("clip").model.heads["tagger"].width == len(THINGS) + len(GROUNDS)


def small(**changes):
    config = configs.load(str(CONFIG))
    config.steps, config.batch_size, config.log_every, config.evals = 3, 16, 1, []
    config.data.sources[0]["size"] = 64
    config.model.image.width = config.model.text.width = config.model.embed_dim = 16
    config.model.image.depth = 1
    config.optimizer.schedule.warmup = 0
    for name, weight in changes.items():
        config.objective[name]["weight"] = weight
    return config


def test_a_run_with_terms_of_weight_zero_is_clip(tmp_path):
    """Fields, head and terms through the config: with both weights at 0 the image tower learns what CLIP's loss teaches."""
    plain = small()
    plain.objective = {"clip": plain.objective["clip"].to_dict()}
    for name, config in (("none", plain), ("zero", small(hni=0.0, stc=0.0))):
        trainer.train(config, str(tmp_path / name))
    none, zero = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
                  for name in ("none", "zero"))
    assert [line["loss"] for line in none] == pytest.approx([line["loss"] for line in zero], rel=1e-5)
    assert all(line["loss"] == pytest.approx(line["loss/clip"], rel=1e-6) for line in zero)
    assert all(0.3 < line["loss/hni"] < 3 and 0.5 < line["loss/stc"] < 1 for line in zero), "measured all the same"


class Knowing:
    """Embeds a picture as its caption; every wrong caption elsewhere, but for those of picture 1."""

    output_dir = None

    def __init__(self):
        source = Things(8, "test")
        self.texts_of = [source[i].texts for i in range(len(source))]
        self.embedder = self

    def vector(self, text):
        return unit(sum(map(ord, text)) * 31 + len(text))

    def images(self, source):
        return np.stack([self.vector(texts["negative" if i == 1 else "alt"][0]) for i, texts in enumerate(self.texts_of)])

    def texts(self, texts):
        return np.stack([self.vector(text) for text in texts])

    def keep(self, figure, units, values):
        self.kept = figure, len(units), np.asarray(values)


def test_the_evaluator_counts_who_is_nearer_to_the_right_caption():
    model, source = Knowing(), dict(kind="things", split="test", size=8)
    found = evals.build(dict(kind="own_negatives", source=source), "evals.0").run(model)
    assert found == {"images": 8, "acc": 100 * 7 / 8}
    assert model.kept[:2] == ("acc", 8) and model.kept[2].tolist() == [100, 0, *[100] * 6]
    with pytest.raises(UserError, match="record .* has no text of kind 'opposite'"):
        evals.build(dict(kind="own_negatives", negative="opposite", source=source), "evals.0").run(model)
