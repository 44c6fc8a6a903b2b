"""Every law finds what its table was drawn from, says when it cannot, and keeps edges out by rule."""

from __future__ import annotations

import numpy as np
import pytest
import samples

from mof_jax.bench.fit import value_and_gradient
from mof_jax.errors import UserError
from mof_jax.scaling import chinchilla, lr
from mof_jax.scaling.fit import fit
from mof_jax.scaling.registry import LAWS

RNG = np.random.default_rng


@pytest.mark.parametrize("name", LAWS)
def test_without_noise_a_law_is_found(name):
    draw, truth = samples.DRAWS[name]
    fewer = {"n": 60} if name in ("chinchilla", "repeats") else {}
    found = fit(draw(RNG(0), noise=0.0, **fewer), LAWS[name], bootstrap=0, starts=24)
    assert {k: x.value for k, x in found.params.items()} == pytest.approx(truth, rel=1e-4)
    assert all(np.isnan((x.low, x.high)).all() for x in found.params.values())


class TestChinchilla:
    @pytest.fixture(scope="class")
    @staticmethod
    def found():
        """240 points, hardly any noise."""
        return fit(samples.chinchilla(RNG(0), noise=1e-5), chinchilla.LAW, bootstrap=0, starts=200)

    @pytest.mark.slow
    def test_from_the_whole_grid(self, found):
        whole = fit(found.points, chinchilla.LAW, bootstrap=0)
        assert len(whole.problem.minima.objective) == 4500
        assert whole.objective == pytest.approx(found.objective, rel=1e-6)
        assert np.mean(whole.problem.minima.objective < 1.001 * whole.objective) > 0.4

    def test_coefficients_within_half_a_percent(self, found):
        assert {k: x.value for k, x in found.params.items()} == pytest.approx(samples.CHINCHILLA, rel=5e-3)

    def test_the_grid_is_the_papers(self, found):
        grid = found.problem.starts
        assert len(grid) == 4500 == len(np.unique(grid, axis=0)) 
        assert [sorted(set(column)) for column in grid.T.tolist()] == [
            [0, 5, 10, 15, 20, 25], [0, 5, 10, 15, 20, 25], [-1, -0.5, 0, 0.5, 1], [0, 0.5, 1, 1.5, 2], [0, 0.5, 1, 1.5, 2]]

    def test_the_objective_is_the_sum_of_huber_of_log_residuals(self, found):
        p = found.points
        x, y = np.log([p["N"], p["D"]]), np.log(p["L"])
        assert found.objective == pytest.approx(value_and_gradient(found.theta, x, y, gradient=False), rel=1e-9)
        assert found.objective == pytest.approx(np.sum(found.residuals**2) / 2, rel=1e-6)  # all within δ

    def test_held_out_and_no_warning(self, found):
        assert found.held_out.count == 48 and found.held_out.worst < 1e-4
        assert found.warnings == ()


def test_one_size_alone_does_not_determine_chinchilla():
    d = samples.chinchilla(RNG(0), n=60)["D"]
    p = samples.table(N=np.full(60, 1e9), D=d, L=samples.noisy(samples.chinchilla_loss(1e9, d), RNG(1), 0.003))
    warnings = fit(p, chinchilla.LAW, 60, starts=60).warnings
    assert any("do not determine all parameters" in w for w in warnings)
    assert any("several basins" in w for w in warnings)


def test_few_points_are_warned_of_and_too_few_refused():
    p = samples.chinchilla(RNG(0), n=8)
    assert any("8 points for 5 parameters: too few to trust" in w for w in fit(p, chinchilla.LAW, 0, starts=30).warnings)
    with pytest.raises(UserError, match="synthetic: 5 points for 5 parameters"):
        fit(samples.chinchilla(RNG(0), n=5), chinchilla.LAW, 0)
    with pytest.raises(UserError, match="no usable points"):
        fit(p.keep(np.zeros(8, bool), "all bad"), chinchilla.LAW, 0)


@pytest.mark.parametrize("truth", [samples.IMAGENET, samples.COCO])
def test_openclips_lines(truth):
    """From tables drawn from the published lines, the lowest error of every bin at its centre."""
    exact = fit(samples.openclip(RNG(0), 0.0, truth), LAWS["openclip"], bootstrap=0)
    assert {k: round(x.value, 4) for k, x in exact.params.items()} == {"a": round(truth["a"], 4), "b": round(truth["b"], 4)}
    noisy = fit(samples.openclip(RNG(1), 0.01, truth), LAWS["openclip"], bootstrap=400)
    assert all(x.low < truth[k] < x.high for k, x in noisy.params.items())


class TestLr:
    def test_mm1s_table(self):
        """The rates that MM1 used: 6e-5, 4e-5 and 2e-5 at 3, 7 and 30 billion."""
        assert [f"{lr.rate(n):.3e}" for n in (9e6, 3e9, 7e9, 3e10)] == ["6.747e-04", "5.834e-05", "4.082e-05", "2.211e-05"]

    def test_optima_on_the_edge_are_named_and_left_out(self):
        """Of five sizes two have their optimum beyond the grid: the line is the others'."""
        sizes = (9e6, 30e6, 85e6, 302e6, 1.2e9)
        shift = (0.1, 2.6, -0.2, 0.0, -2.6)
        found = fit(samples.lr_grid(RNG(0), 0.003, sizes, 9, shift), lr.LAW, bootstrap=200)
        edges = [w for w in found.warnings if "left out of the line" in w]
        assert len(edges) == 2
        assert "N = 3e+07: its best run has the smallest lr of its grid" in edges[0]
        assert "N = 1.2e+09: its best run has the largest lr of its grid" in edges[1]
        assert all(x.low < samples.LR[k] < x.high for k, x in found.params.items())

    def test_no_line_without_two_optima(self):
        with pytest.raises(UserError, match="1 of 2 groups have an optimum inside their grid"):
            fit(samples.lr_grid(RNG(0), 0.001, (9e6, 85e6), 7, (0.0, 3.0)), lr.LAW, 0)

    def test_weight_decay_by_its_ratio_to_the_rate(self):
        """A grid of rates and weight decays whose loss is lowest at the law's rate and at a tenth of it."""
        n = np.repeat((9e6, 85e6, 302e6), 49)
        star = lr.MM1[0] * np.log(n) + lr.MM1[1]
        steps = np.log(1.8) * np.arange(-3, 4)
        u, v = (np.tile(x.ravel(), 3) for x in np.meshgrid(steps + 0.1, steps - 0.15))
        loss = 3 + 0.05 * u**2 + 0.03 * v**2 + 0.01 * u * v
        columns = {"N": n, "lr": np.exp(star + u), "wd": 0.1 * np.exp(star + v)}
        exact = fit(samples.table(L=loss, **columns), lr.LAW, 0)
        truth = {**samples.LR, "wd_per_lr": 0.1}
        assert {k: x.value for k, x in exact.params.items()} == pytest.approx(truth, rel=1e-6)
        noisy = fit(samples.table(L=loss + 0.001 * RNG(1).standard_normal(len(n)), **columns), lr.LAW, 200)
        assert all(x.low < truth[k] < x.high for k, x in noisy.params.items())

    def test_missing_rates_of_a_size_are_reported(self):
        p = samples.lr_grid(RNG(0))
        kept = np.arange(len(p)) != 12
        warnings = fit(p.keep(kept, "lost"), lr.LAW, 0).warnings
        assert any("N = 8.5e+07 has 8 runs where another group has 9" in w for w in warnings)

    def test_optima_off_their_line_are_told(self):
        p = samples.lr_grid(RNG(0), 0.001)
        bent = np.where(p["N"] == 85e6, 1.6, 1.0) * p["lr"]
        assert any("scatter about their line more than the noise" in w
                   for w in fit(samples.table(N=p["N"], lr=bent, L=p["L"]), lr.LAW, 0).warnings)
        assert fit(p, lr.LAW, 0).warnings == ()


def test_isoflop_warns_of_edges_and_of_few_runs():
    p = samples.parabolas(RNG(0), 0.001)
    largest = p["C"] == p["C"].max()
    kept = ~largest | (np.cumsum(largest) <= 4)  # the smallest sizes of the largest budget alone
    found = fit(p.keep(kept, "lost"), LAWS["isoflop"], 100)
    assert any("C = 1e+21 FLOP: its best run has the largest N" in w for w in found.warnings)
    assert any("C = 1e+21 FLOP: 4 runs for a parabola of 3 terms: too few" in w for w in found.warnings)
    assert found.params["a"].low < 0.5 < found.params["a"].high


def test_where_nothing_repeats_its_worth_is_not_determined():
    p = samples.chinchilla(RNG(0), 0.002, 60)
    found = fit(samples.table(N=p["N"], D=p["D"], U=p["D"], L=p["L"]), LAWS["repeats"], 40, starts=12)
    assert any("R_D" in w or "do not determine" in w for w in found.warnings)
