"""Laws for a notebook, over tables whose law is known."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax.bench.fit import TRUTH, points
from mof_jax.errors import UserError
from mof_jax.explore import laws


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> str:
    """A table as a sweep leaves it, drawn from a law of Chinchilla's form with 0.2 % of noise."""
    path = tmp_path_factory.mktemp("sweep") / "points.csv"
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(2e8, 2e10, 5), indexing="ij"))
    loss = TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"]
    loss *= np.exp(0.002 * np.random.default_rng(0).standard_normal(len(n)))
    rows = [f"{float(a)!r},{float(b)!r},{6 * float(a) * float(b)!r},{float(y)!r}\n" for a, b, y in zip(n, d, loss)]
    path.write_text("non_embedding_parameters,examples,flops,loss\n" + "".join(rows))
    return str(path)


COLUMNS = {"N": "non_embedding_parameters", "D": "examples"}


def test_laws_that_fit_and_laws_that_say_why_not(sweep):
    found = laws.fit_all(sweep, ["chinchilla", "openclip"], COLUMNS, bootstrap=60, starts=60)
    assert list(found.fits) == ["chinchilla"] and len(found.fits["chinchilla"].points) == 25
    assert "error" in found.refused["openclip"] and sweep not in found.refused["openclip"]
    table = laws.intervals(found)
    assert list(table.columns[1].cells) == ["A", "B", "E", "alpha", "beta", ""]
    assert table.columns[0]._cells[-1].startswith("openclip: ")


def test_the_largest_runs_are_predicted_by_the_others(sweep):
    pytest.importorskip("matplotlib")
    found = laws.extrapolate(laws.load(sweep, "chinchilla", COLUMNS), "chinchilla", share=0.2, bootstrap=60, starts=200)
    compute = 6 * found.points["N"] * found.points["D"]
    assert found.held.sum() == 5 and compute[found.held].min() >= compute[~found.held].max()
    truth = TRUTH["E"] + TRUTH["A"] / found.points["N"] ** TRUTH["alpha"] + TRUTH["B"] / found.points["D"] ** TRUTH["beta"]
    np.testing.assert_allclose(found.predicted, truth[found.held], rtol=0.02)  # ten times the noise
    assert (found.low < found.predicted).all() and (found.predicted < found.high).all()
    assert found.off == pytest.approx(np.mean(np.abs(np.log(found.predicted / found.measured))))
    assert laws.reach(found)._repr_png_().startswith(b"\x89PNG")


def test_a_law_that_predicts_no_run_is_refused(sweep):
    with pytest.raises(UserError, match="predicts no single runs"):
        laws.extrapolate(laws.load(sweep, "envelope", COLUMNS), "envelope", bootstrap=0)


def test_a_recovered_law_is_drawn_over_its_truth():
    pytest.importorskip("matplotlib")
    fit = laws.fit_all(points(60, 0.005, 0), ["chinchilla"], bootstrap=60, starts=60).fits["chinchilla"]
    axes = laws.recovered(fit, TRUTH).axes[0]
    arms, dots = axes.lines[0:10:2], axes.lines[1:10:2]
    for name, arm, dot in zip(TRUTH, arms, dots):
        x = fit.params[name]
        np.testing.assert_allclose(arm.get_xdata(), np.array([x.low, x.high]) / TRUTH[name])
        assert dot.get_xdata()[0] == pytest.approx(x.value / TRUTH[name])


def test_openclips_points_have_its_law():
    found = laws.fit_all(laws.drawn_openclip(noise=0.0), ["openclip"], bootstrap=0).fits["openclip"]
    assert found.params["a"].value == pytest.approx(laws.IMAGENET["a"]) and found.params["b"].value == pytest.approx(-0.1114)
