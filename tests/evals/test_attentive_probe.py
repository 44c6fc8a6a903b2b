"""The attentive probe finds a class that no mean over tokens holds, and a broken feature is no hit."""

from __future__ import annotations

from fake_model import FakeModel
import numpy as np

from mof_jax import evals
from mof_jax.data.worlds.scenes import KINDS
from mof_jax.evals.embed import attentive_probe

SCENES = dict(kind="scenes", size=60, pixels=16)


class Tokens(FakeModel):
    """One of nine tokens says what a record's class is; the others say the opposite, so that their mean is
    0."""

    def __init__(self, broken: bool = False):
        self.broken = broken

    def embed_images(self, record, name, count, which):
        assert which == "tokens/image"
        kinds = [record(i).attributes["kind"] for i in range(count)]
        x = np.random.default_rng(count).standard_normal((count, 9, 6)).astype(np.float32) / 4
        for row, kind in zip(x, kinds):
            row[3, sorted(KINDS).index(kind)] += 8.0
        return x * np.nan if self.broken else x - x.mean(axis=1, keepdims=True)


def test_the_evaluator():
    section = dict(
        kind="attentive_probe",
        train=SCENES | dict(split="train"),
        test=SCENES | dict(split="test"),
        label="kind",
        steps=60,
        batch_size=32,
    )
    probe = evals.build(section, "e", ("tokens/image",))
    found = probe.run(Tokens())
    assert found["images"] == 60 and found["acc@1"] > 90
    assert probe.run(Tokens(broken=True))["acc@1"] == 0.0


def test_place_is_read():
    """Two classes with the same tokens in another order: only a probe that knows places tells them apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    x = rng.standard_normal((200, 4, 8)).astype(np.float32) / 4
    x[np.arange(200), np.where(y, 0, 3), 0] += 3.0
    params = attentive_probe.fit(x[:150], y[:150], 2, how=attentive_probe.Fit(steps=300, lr=1e-2))
    assert np.mean(attentive_probe.scores(params, x[150:]).argmax(1) == y[150:]) > 0.95
