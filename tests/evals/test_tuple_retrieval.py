"""Retrieval of tuples by volume and by cosine, over embeddings that are known."""

from __future__ import annotations

from fake_model import FakeModel
import numpy as np
import pytest

from mof_jax import evals
from mof_jax.data.fields.field import Example, Setting
from mof_jax.data.fields.views import OpenViews, Views
from mof_jax.data.image import images
from mof_jax.data.image.preprocess import Preprocess
from mof_jax.data.worlds.things import Things
from mof_jax.errors import UserError
from mof_jax.evals.embed.embedder import picture
from mof_jax.evals.embed.retrieval import same_words
from mof_jax.evals.embed.tuple_retrieval import Parts, ranks_of
from mof_jax.objectives.gram import volume_scores
from mof_jax.objectives.scores import scores

SOURCE = dict(kind="things", split="test", size=40)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


class Plane(FakeModel):
    """Knows the halves of a picture by its caption, which lies in their plane: their sum or difference."""

    def __init__(self, sign: float = 1.0, source: Things | None = None):
        self.sign, self.source = sign, source or Things(40, "test")

    def parts(self, text):
        return unit(np.random.default_rng(len(text) * 999 + sum(map(ord, text))).standard_normal((2, 16)))

    def images(self, source):
        which = ("left", "right").index(source.part)
        return np.stack([self.parts(source[i].texts["alt"][0])[which] for i in range(len(source))])

    def texts(self, texts):
        return np.stack([unit(self.parts(t)[0] + self.sign * self.parts(t)[1]) for t in texts])


class Same(FakeModel):
    """Sees no difference, or no number at all."""

    def __init__(self, number):
        self.number = number

    def images(self, source):
        return np.full((len(source), 16), self.number, np.float32)

    def texts(self, texts):
        return np.full((len(texts), 16), self.number, np.float32)


def evaluator(**more):
    return evals.build(dict(kind="tuple_retrieval", source=SOURCE, text="alt", **more), "e")


def test_a_plane_is_found_by_volume_and_not_by_cosines_unless_it_is_between():
    """What GRAM trains may lie anywhere in the plane of its tuple: ranked by cosines it is not found."""
    between, beside = Plane(1.0), Plane(-1.0)
    found, other = evaluator().run(between), evaluator(by=("mean", "sum")).run(beside)
    assert found["volume_r@1"] == found["sum_r@1"] == found["r@1"] == 100.0
    assert other["volume_r@1"] == 100.0 and other["mean_r@1"] < 20 and other["sum_r@1"] < 20
    assert other["r@1"] == max(other["mean_r@1"], other["sum_r@1"])
    assert found["pictures"] == 40 > found["different_captions"], "some captions say the same"
    assert between.agrees(found, "r@1", "r@5", "r@10", "volume_r@1")
    words = {same_words(record.texts["alt"][0]) for record in map(Things(40, "test").__getitem__, range(40))}
    assert len(set(between.kept["r@1"].units)) == len(words) == found["different_captions"]


@pytest.mark.parametrize("number", [0.25, np.nan])
def test_a_model_that_sees_no_difference_finds_nothing(number):
    found = evaluator(by=("volume", "mean", "sum")).run(Same(number))
    assert {value for figure, value in found.items() if "r@" in figure} == {0.0}


@pytest.mark.parametrize("how", ["volume", "cosine"])
def test_ranks_are_those_of_the_whole_matrix(how):
    rng = np.random.default_rng(0)
    text, left, right = (unit(rng.standard_normal((23, 6))) for _ in range(3))
    words = rng.integers(0, 17, 23).astype(np.int32)
    if how == "volume":
        make = lambda **more: volume_scores(text, left, right, block_size=4, **more)
        whole = volume_scores(text, left, right, how="dense").matrix
    else:
        make, whole = lambda **more: scores(text, left, block_size=4, **more), text @ left.T
    whole, right_answer = np.asarray(whole, np.float64), words[:, None] == words
    for s, found in zip((whole, whole.T), ranks_of(make, words)):
        best = np.where(right_answer, s, -np.inf).max(1, keepdims=True)
        np.testing.assert_array_equal(found, (~right_answer & (s >= best)).sum(1))


@pytest.mark.parametrize("part", ["left", "bottom"])
def test_parts_are_what_a_field_shows_in_training(part):
    source, preprocess = Things(3, pixels=50), Preprocess(16)
    field = OpenViews(Views(16, part=part), Setting("x", 0, [source], [], preprocess, None))
    for i in range(3):
        example = Example(source[i], 0, i, 0, 0, lambda example: images.decode(example.record.image))
        want = field.collate([field.load(example)])[0, 0]
        np.testing.assert_array_equal(picture(Parts(source, part)[i], "things", preprocess), want)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="alt"):
        evals.build(dict(kind="tuple_retrieval", source=SOURCE, text="altt"), "e").run(Plane())
    with pytest.raises(UserError, match="parts, by and at"):
        evaluator(by=())
