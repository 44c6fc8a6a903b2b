"""Several right answers a query: values of scikit-learn's documentation, ties as the mean over orders, and
the evaluator."""

from __future__ import annotations

import itertools

from fake_model import FakeModel
import numpy as np
import pytest

from mof_jax import evals
from mof_jax.errors import UserError
from mof_jax.evals.metrics.multilabel import average_precision, mean_average_precision, ndcg_at, precision_at


def test_average_precision():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], bool)
    assert average_precision(scores, labels) == pytest.approx(0.8333, abs=1e-4)  # scikit-learn's example
    assert average_precision(np.zeros(4), labels) == 0.5  # one threshold passes all of them
    assert average_precision(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1, 1, 0, 0], bool)) == pytest.approx(
        0.5 + 0.5 * 2 / 3
    )
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))
    both = np.stack([labels, np.zeros(4, bool)], axis=1)
    assert mean_average_precision(np.stack([scores, scores], axis=1), both) == pytest.approx(0.8333, abs=1e-4)


def test_ndcg_is_scikit_learns():
    """`ndcg_score`'s documentation: plain values, k, and ties."""
    relevance = np.array([[10, 0, 0, 1, 5]])
    assert ndcg_at(np.array([[0.1, 0.2, 0.3, 4, 70]]), relevance, 5)[0] == pytest.approx(0.6957, abs=1e-4)
    scores = np.array([[0.05, 1.1, 1.0, 0.5, 0.0]])
    assert ndcg_at(scores, relevance, 5)[0] == pytest.approx(0.495, abs=5e-3)
    assert ndcg_at(scores, relevance, 4)[0] == pytest.approx(0.355, abs=5e-3)
    assert ndcg_at(np.array([[1, 0, 0, 0, 1]]), relevance, 1)[0] == pytest.approx(0.75)
    assert ndcg_at(scores, np.zeros((1, 5)), 5)[0] == 0.0


@pytest.mark.parametrize("k", [1, 2, 4, 9])
def test_ties_are_the_mean_over_their_orders(k):
    scores, gain = np.array([0.2, 0.5, 0.5, 0.5, 0.1]), np.array([1.0, 0, 3, 1, 2])
    orders = [[*middle, 0, 4] for middle in itertools.permutations((1, 2, 3))]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    dcg = [sum(d * gain[i] for d, i in zip(discounts, order)) for order in orders]
    best = sum(d * g for d, g in zip(discounts, sorted(gain, reverse=True)))
    assert ndcg_at(scores[None], gain[None], k)[0] == pytest.approx(np.mean(dcg) / best)
    right = gain > 0
    share = np.mean([sum(right[i] for i in order[:k]) / k for order in orders])
    assert precision_at(scores[None], right[None], k)[0] == pytest.approx(share)


class Tags(FakeModel):
    """An image is the sum of its tags' axes, or nothing that anybody learned."""

    def __init__(self, right: bool = True):
        self.axes, self.right = {}, right

    def texts(self, texts):
        return np.stack(
            [np.eye(64, dtype=np.float32)[self.axes.setdefault(t.lower(), len(self.axes))] for t in texts]
        )

    def images(self, source):
        tags = [[t for t in source[i].texts.get("tags", ()) if t.strip()] for i in range(len(source))]
        if not self.right:
            return np.ones((len(tags), 64), np.float32)
        return np.stack([self.texts(of).sum(0) if of else np.zeros(64, np.float32) for of in tags])


@pytest.fixture
def source(tmp_path):
    import json

    from mof_jax.data.image import images

    rows = [("red", "round"), ("Red",), ("round", "small"), ()]
    lines = []
    for n, tags in enumerate(rows):
        (tmp_path / f"{n}.png").write_bytes(images.encode(np.full((8, 8, 3), n, np.uint8)))
        lines.append(json.dumps({"id": str(n), "image": f"{n}.png", "texts": {"tags": list(tags)}}))
    (tmp_path / "pool.jsonl").write_text("\n".join(lines))
    return dict(kind="jsonl", path=str(tmp_path / "pool.jsonl"))


def test_the_evaluator(source):
    section = dict(kind="tagging", source=source, at=(1, 2))
    found = evals.build(section, "e", ("embed/image", "embed/text")).run(Tags())
    assert (found["images"], found["tags"], found["untagged"], found["map"]) == (3, 3, 1, 100.0)
    assert (
        found["p@1"] == 100.0
        and found["p@2"] == pytest.approx(100 * (1 + 1 + 0.5) / 3)
        and found["ndcg@2"] == 100.0
    )
    by_image = evals.build(section | dict(query="image"), "e").run(Tags())
    assert by_image["p@2"] == pytest.approx(100 * (1 + 0.5 + 1) / 3)
    alike = evals.build(section, "e").run(Tags(right=False))
    assert alike["map"] == pytest.approx(100 * (2 + 2 + 1) / 12) == alike["p@1"]
    with pytest.raises(UserError, match="belongs to 5 image"):
        evals.build(section | dict(least=5), "e").run(Tags())
