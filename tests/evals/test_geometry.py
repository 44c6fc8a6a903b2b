"""How embeddings lie on the sphere, against closed forms; weights count rows as copies would."""

from __future__ import annotations

from fake_model import FakeModel
import numpy as np
import pytest
from scipy import stats

from mof_jax import evals
from mof_jax.errors import UserError
from mof_jax.evals.diagnostics.modality_gap import separability
from mof_jax.evals.metrics import geometry
from mof_jax.evals.metrics.statistics import STATISTICS, statistic

RNG = np.random.default_rng(0)


def sphere(rows: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_uniformity():
    corners = np.eye(5)  # any two are √2 apart
    assert geometry.uniformity(corners) == pytest.approx(-4.0)
    assert geometry.uniformity(corners, t=1.0) == pytest.approx(-2.0)
    assert geometry.uniformity(np.ones((4, 3)) / np.sqrt(3)) == pytest.approx(0.0)
    x = sphere(20)
    pairs = [np.exp(-2 * np.square(x[i] - x[j]).sum()) for i in range(20) for j in range(20) if i != j]
    assert geometry.uniformity(x) == pytest.approx(np.log(np.mean(pairs)))


def test_alignment():
    x = np.eye(3)
    np.testing.assert_allclose(geometry.alignment(x, np.roll(x, 1, axis=0)), 2.0)
    np.testing.assert_allclose(geometry.alignment(x, -x, power=1.0), 2.0)


def test_tolerance():
    x = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1.0]])
    assert geometry.tolerance(x, np.array([0, 0, 1, 1])) == pytest.approx((1.0 + 0.8) / 2)
    assert np.isnan(geometry.tolerance(x, np.arange(4)))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_of_equal_singular_values(rank):
    directions = np.linalg.qr(RNG.standard_normal((8, 8)))[0][:rank]
    assert geometry.effective_rank(np.tile(7.0 * directions, (4, 1))) == pytest.approx(rank, rel=1e-4)


def test_effective_rank_of_others():
    p = np.array([0.5, 0.25, 0.25])
    assert geometry.effective_rank(np.diag(p)) == pytest.approx(2**1.5, rel=1e-5)
    assert np.isnan(geometry.effective_rank(np.zeros((3, 2))))


def test_centroid_distance():
    x = sphere(50)
    shift = np.array([3.0, 4.0] + [0.0] * 6)
    assert geometry.centroid_distance(x, x + shift) == pytest.approx(5.0)
    assert geometry.centroid_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-12)


def test_separability():
    x, y = sphere(200, seed=1), sphere(200, seed=2)
    assert separability(x + 2.0, y - 2.0) == 1.0
    assert abs(separability(x, y) - 0.5) < 0.12, "one distribution"


@pytest.mark.parametrize("name, columns", [
    ("mean", 1), ("ratio", 2), ("effective_rank", 8), ("centroid_distance", 8), ("average_precision", 2),
    ("mean_average_precision", 6), ("auc", 2), ("spearman", 2)])
def test_weights_are_copies(name, columns):
    values = RNG.random((12, columns))
    if name in ("average_precision", "auc"):
        values[:, 1] = values[:, 1] > 0.5
    if name == "mean_average_precision":
        values[:, 3:] = values[:, 3:] > 0.5
    weights = RNG.integers(0, 4, 12).astype(float)
    copies = np.repeat(values, weights.astype(int), axis=0)
    statistic = STATISTICS[name]
    assert statistic(values)(weights) == pytest.approx(statistic(copies)(np.ones(len(copies))))


def test_a_statistic_is_known_by_its_name():
    with pytest.raises(ValueError, match="two statistics are called 'mean'"):

        @statistic()
        def mean(values):
            return lambda w: 0.0


def test_rank_statistics():
    x, y = RNG.integers(0, 6, (2, 40)).astype(float)
    ones = np.ones(40)
    rank = STATISTICS["spearman"](np.stack([x, y], axis=1))(ones)
    assert rank == pytest.approx(stats.spearmanr(x, y).statistic)
    right = y > 3
    pairs = [(a > b) + (a == b) / 2 for a in x[right] for b in x[~right]]
    assert STATISTICS["auc"](np.stack([x, right], axis=1))(ones) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("name", ["uniformity", "tolerance"])
def test_a_copy_is_no_pair_with_its_original(name):
    """A resample holds rows twice: pairs of a row with itself would pull every figure to the collapsed
    one."""
    values = sphere(10) if name == "uniformity" else np.column_stack([sphere(10), np.zeros(10)])
    statistic = STATISTICS[name](values)
    assert statistic(np.full(10, 2.0)) == pytest.approx(statistic(np.ones(10)))
    assert statistic(np.array([3.0, 1.0] + [0.0] * 8)) == pytest.approx(
        STATISTICS[name](values[:2])(np.ones(2))
    )


class Known(FakeModel):
    """Pictures on one axis, texts on another: as far apart as a gap can be, and of one dimension each."""

    def images(self, source):
        return np.tile(3.0 * np.eye(4, dtype=np.float32)[0], (len(source), 1))

    def texts(self, texts):
        return np.tile(np.eye(4, dtype=np.float32)[1], (len(texts), 1))


EMOJI = dict(kind="emoji5", split="unseen")


def test_the_evaluators():
    gap = evals.build(dict(kind="modality_gap", source=EMOJI), "e", ("embed/image", "embed/text")).run(
        Known()
    )
    assert gap["centroid_distance"] == pytest.approx(np.sqrt(2)) and gap["separability"] == 100
    assert gap["alignment"] == pytest.approx(2.0) and gap["uniformity_image"] == gap["uniformity_text"] == 0.0
    found = evals.build(
        dict(kind="embedding_geometry", source=EMOJI, label="vendor"), "e", ("embed/image",)
    ).run(Known())
    assert found["effective_rank"] == pytest.approx(1.0, abs=1e-4) and found["uniformity"] == 0.0
    assert found["tolerance"] == pytest.approx(1.0)
    with pytest.raises(UserError, match="'modality_gap' requires embed/text"):
        evals.build(dict(kind="modality_gap", source=EMOJI), "e", ("embed/image",))
