"""Rows behind figures: every kept figure is what its rows say, files come back as they were, and nobody
gets them unasked."""

from __future__ import annotations

import dataclasses

from fake_generator import FakeGenerator
import numpy as np
import pytest

from mof_jax import evals
from mof_jax.data.worlds.pattern_world import pair
from mof_jax.errors import UserError
from mof_jax.evals.items import Items, path_of, read_items, write_items
from mof_jax.evals.mmvp.mmvp import Mmvp
from mof_jax.evals.model import Model
from mof_jax.evaluate import run_evaluators
from mof_jax.jsonl import JsonLines
from mof_jax.mesh import make_mesh

TWEMOJI = dict(kind="emoji5", split="unseen")


class Embeds:
    """Noise that knows a little of what a record is."""

    capabilities = frozenset(("embed/image", "embed/text"))

    def __init__(self):
        self.mesh = make_mesh()

    def images(self, source):
        x = np.random.default_rng(0).standard_normal((len(source), 8)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def texts(self, texts):
        x = np.random.default_rng(1).standard_normal((len(texts), 8)).astype(np.float32)
        return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def model(tmp_path):
    return Model("x", embeds=Embeds(), generates=FakeGenerator(lambda asked: "A"), output_dir=str(tmp_path))


@pytest.mark.parametrize(
    "section",
    [
        dict(kind="retrieval", source=TWEMOJI),
        dict(kind="zeroshot", source=TWEMOJI, label="family"),
        dict(kind="modality_gap", source=TWEMOJI),
        dict(kind="embedding_geometry", source=TWEMOJI, label="family"),
        dict(kind="tagging", source=TWEMOJI),
    ],
)
def test_figures_are_what_their_rows_say(section, model, tmp_path):
    evaluator = evals.build(section | dict(name="e", items=True), "e", model.capabilities)
    found = run_evaluators([evaluator], model, 7, JsonLines(str(tmp_path / "evals.jsonl")))["e"]
    items = read_items(path_of(str(tmp_path), "e", 7))
    assert items and set(items) <= set(found)
    for figure, kept in items.items():
        assert kept.figure() == pytest.approx(found[figure], rel=1e-6), figure
    assert "items" not in found


def test_nothing_is_kept_unasked(model, tmp_path):
    run_evaluators([evals.build(dict(kind="retrieval", source=TWEMOJI), "e")], model, 7,
                   JsonLines(str(tmp_path / "evals.jsonl")))
    assert not (tmp_path / "items").exists()


def test_pairs_are_units(model):
    pairs = [pair("colour", n, "test", 16) for n in range(3)]
    asked = dataclasses.replace(model, kept={})
    found = Mmvp("w").measure(asked, pairs)
    assert asked.kept["question_accuracy"].units == [p.id for p in pairs for _ in (0, 1)]
    assert asked.kept["question_accuracy"].figure() == found["question_accuracy"]
    assert asked.kept["pair_accuracy"].figure() == found["pair_accuracy"]


def test_files(tmp_path):
    kept = {"a": Items(["u", "v é"], np.array([[1.0, np.nan], [np.nan, 0.1]])),
            "b": Items(["u"], np.array([[2.0, 4.0]]), "ratio")}
    write_items(str(tmp_path), "e", 3, kept)
    back = read_items(path_of(str(tmp_path), "e", 3))
    assert list(back) == ["a", "b"] and back["a"].units == ["u", "v é"] and back["b"].figure() == 0.5
    np.testing.assert_array_equal(back["a"].values, kept["a"].values)
    assert back["a"].figure() == pytest.approx((1 + 0.1) / 2)


@pytest.mark.parametrize(
    "line, says",
    [
        (
            '{"figure": "a", "statistic": "median", "unit": "u", "values": [1]}',
            "line 2: is no line of a file of items",
        ),
        ('{"figure": "a", "statistic": "mean", "unit": "u", "values": ["1"]}', "are not all numbers"),
        (
            '{"figure": "a", "statistic": "ratio", "unit": "u", "values": [1]}',
            "another statistic or length",
        ),
        (
            '{"figure": "a", "statistic": "mean", "unit": "u", "values": [1, 2]}',
            "another statistic or length",
        ),
    ],
)
def test_damaged_files(line, says, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"figure": "a", "statistic": "mean", "unit": "u", "values": [1.0]}\n' + line + "\n")
    with pytest.raises(UserError, match=says):
        read_items(str(path))


@pytest.mark.parametrize("statistic, values", [
    ("ratio", [1.0]), ("tolerance", [1.0]), ("centroid_distance", [1, 2, 3]), ("effective_rank", [1, None])])
def test_rows_that_a_statistic_cannot_read(statistic, values, tmp_path):
    kept = {"a": Items(["u"], np.array([[np.nan if v is None else v for v in values]]), statistic)}
    write_items(str(tmp_path), "e", 3, kept)
    with pytest.raises(UserError, match=f"the rows of 'a' have other columns than a {statistic} has, or gaps"):
        read_items(path_of(str(tmp_path), "e", 3))


def test_items_need_a_place_and_an_evaluator_that_keeps_some(tmp_path):
    with pytest.raises(UserError, match="e.items: items are written to a local work dir"):
        write_items(None, "e", 1, {"a": Items(["u"], np.ones((1, 1)))})
    with pytest.raises(UserError, match="keeps no items"):
        write_items(str(tmp_path), "e", 1, {})
