"""Held-out losses against their closed forms, and over real models."""

from __future__ import annotations

import json

from fake_model import FakeModel
import numpy as np
import pytest
import tiny_mllm
import tiny_run

from mof_jax import config as configs
from mof_jax import evals, trainer
from mof_jax.data.record import Record
from mof_jax.data.sources import open_source
from mof_jax.data.sources.config import SourceConfig
from mof_jax.errors import UserError
from mof_jax.evals.heldout_loss import positives

SCENES = dict(kind="scenes", size=24, skip=8, pixels=16)


class Towers(FakeModel):
    """Known embeddings, by picture and by caption."""

    logit_scale = 3.0

    def __init__(self, captions: list[str], seed: int = 0):
        rng, unit = np.random.default_rng(seed), lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)
        self.pictures = unit(rng.standard_normal((len(captions), 5)))
        self.words = dict(zip(captions, unit(rng.standard_normal((len(captions), 5)))))

    def images(self, source) -> np.ndarray:
        return self.pictures

    def texts(self, texts) -> np.ndarray:
        return np.stack([self.words[text] for text in texts])


def captions_of(section: dict) -> list[str]:
    source = open_source(configs.build(SourceConfig, section))
    return [source[i].texts["alt"][0] for i in range(len(source))]


def test_pairs_of_one_picture_or_of_the_same_words_are_positives():
    rows = [(b"1", "a"), (b"2", "b"), (b"1", "c"), (b"3", "B "), (b"4", "d"), (b"5", "c"), (b"", "e"), (b"", "f")]
    group = positives([Record(str(i), image, {}) for i, (image, _) in enumerate(rows)], [text for _, text in rows])
    joined = [{j for j in range(len(rows)) if group[j] == group[i]} for i in range(len(rows))]
    assert joined == [{0, 2, 5}, {1, 3}, {0, 2, 5}, {1, 3}, {4}, {0, 2, 5}, {6}, {7}]


@pytest.mark.parametrize("candidates", [16, 8, 4])
def test_infonce_in_sets(candidates):
    """Both directions' cross-entropy in each set, in float64 and by hand; copies of a caption share the probability."""
    captions = captions_of(SCENES)
    towers = Towers(captions)
    found = evals.build(dict(kind="contrastive_loss", source=SCENES, candidates=candidates), "e").run(towers)
    assert towers.agrees(found, "loss")
    total = 0.0
    for start in range(0, 16, candidates):
        rows = slice(start, start + candidates)
        names = np.array(captions[rows])
        scores = 3.0 * towers.pictures[rows].astype(np.float64) @ towers.texts(captions[rows]).T.astype(np.float64)
        same = names[:, None] == names[None, :]
        for s in (scores, scores.T):
            log_p = s - np.log(np.exp(s).sum(1, keepdims=True))
            # -log p summed over the positives as one answer, and how evenly they share it
            hit = np.log((np.exp(log_p) * same).sum(1))
            positives = np.log((np.exp(s) * same).sum(1))
            total += (-hit + positives - (s * same).sum(1) / same.sum(1)).sum() / 2
    assert found == {"pairs": 16, "loss": pytest.approx(total / 16, rel=1e-5), "shared": 0}


def test_sets_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="16 records are no whole number of sets of 5"):
        evals.build(dict(kind="contrastive_loss", source=SCENES, candidates=5), "e").run(Towers(captions_of(SCENES)))
    with pytest.raises(UserError, match="no text of kind 'other'; the source has alt"):
        section = dict(kind="contrastive_loss", source=SCENES, candidates=8, texts=["other"])
        evals.build(section, "e").run(Towers(captions_of(SCENES)))
    with pytest.raises(UserError, match="candidates: 1 is not at least 2"):
        evals.build(dict(kind="contrastive_loss", source=SCENES, candidates=1), "e")


class Reader(FakeModel):
    """A model that gives every byte of a document the same probability, one token a word."""

    class tokenizer:
        bos_id: int | None = 1

    def text(self, text: str):
        return text

    def log_probs(self, prompts, answers):
        assert set(prompts) == {""}
        return np.array([-0.5 * len(a.encode()) for a in answers], np.float32), np.array([len(a.split()) for a in answers])


def test_text_loss_by_tokens_and_by_bytes():
    section = dict(kind="glossary", size=30, skip=10)
    source = open_source(configs.build(SourceConfig, section))
    texts = [source[i].texts["text"][0] for i in range(20)]
    size, tokens = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    measure = evals.build(dict(kind="text_loss", source=section), "e", ("generate",))
    model = Reader()
    found = measure.run(model)
    assert model.agrees(found, "loss")
    assert found == {"documents": 20.0, "tokens": float(tokens), "loss": pytest.approx(0.5 * size / tokens),
                     "bits_per_byte": pytest.approx(0.5 / np.log(2))}
    without = Reader()
    without.tokenizer = type("Words", (), {"bos_id": None})
    with pytest.raises(UserError, match="no bos"):
        measure.run(without)


def test_losses_of_real_models(tmp_path):
    """Fresh models guess: ln(candidates) and ln(vocabulary), less what a few steps have taught; the summary has them."""
    c = tiny_run.get_config()
    c.steps, c.eval_every, c.checkpoint = 2, 0, dict(every=0, keep=1)
    c.optimizer.name, c.evals = "adamw", [dict(kind="contrastive_loss", source=SCENES, candidates=8)]
    found = trainer.train(c, str(tmp_path / "clip"))["held_out"]["loss"]
    assert 0.5 * np.log(8) < found < 3 * np.log(8)
    assert json.loads((tmp_path / "clip" / "summary.json").read_text())["evals"]["held_out"]["loss"] == found
    c = tiny_mllm.get_config("words")
    c.steps, c.eval_every, c.checkpoint = 2, 0, dict(every=0, keep=1)
    c.evals = [dict(kind="text_loss", source=dict(kind="glossary", size=220, skip=200))]
    found = trainer.train(c, str(tmp_path / "words"))["held_out"]["loss"]
    assert found == pytest.approx(np.log(400), rel=0.05)
