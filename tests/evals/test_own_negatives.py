"""Whether an image is nearer to its caption than to wrong ones of its own: counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax import evals
from mof_jax.data.worlds.things import Things
from mof_jax.errors import UserError


def unit(seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(8)
    return (x / np.linalg.norm(x)).astype(np.float32)


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
