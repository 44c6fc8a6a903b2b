"""95 % intervals hold the truth about 95 times in a hundred, whatever the law."""

from __future__ import annotations

import numpy as np
import pytest
import samples

from mof_jax.errors import UserError
from mof_jax.scaling.fit import fit
from mof_jax.scaling.law import bounds
from mof_jax.scaling.registry import LAWS

QUICK = ("isoflop", "envelope", "openclip", "lr")
CURVES = ("chinchilla", "power", "pure-power", "repeats")


def coverage(name: str, draws: int, **sample) -> dict[str, float]:
    """Share of tables drawn from a law whose interval holds the truth, by parameter; 200 resamples a table."""
    draw, truth = samples.DRAWS[name]
    hits = []
    for seed in range(draws):
        found = fit(draw(np.random.default_rng([2022, seed]), **sample), LAWS[name], 200, seed, starts=24)
        hits.append([x.low <= truth[key] <= x.high for key, x in found.params.items()])
    return dict(zip(truth, np.mean(hits, axis=0)))


@pytest.mark.parametrize("name", QUICK)
def test_lines_and_optima(name):
    found = coverage(name, 200)
    assert all(0.91 <= share <= 0.98 for share in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", CURVES)
def test_curves(name):
    found = coverage(name, 200)
    assert all(0.91 <= share <= 0.98 for share in found.values()), found


def test_a_curve_in_short():
    """Forty tables: fewer than 34 hits have a chance of one in a thousand at 95 %."""
    found = coverage("pure-power", 40)
    assert all(0.85 <= share for share in found.values()), found


def test_bounds_by_hand():
    """The 5th and the 195th of 199 draws are the quantiles 5/200 and 195/200; the arms grow by the factor."""
    drawn = np.random.default_rng(0).permutation(np.arange(1.0, 200.0))[:, None]
    low, high = bounds(np.array([100.0]), drawn, 1.0)
    assert (low[0], high[0]) == pytest.approx((5, 195))
    low, high = bounds(np.array([100.0]), drawn, 2.0)
    assert (low[0], high[0]) == pytest.approx((-90, 290))


def test_a_line_has_the_textbooks_interval():
    """Three degrees of freedom: normal errors, stretched by Student's t, are t's interval of a slope."""
    from scipy import stats

    p = samples.openclip(np.random.default_rng(3), 0.02)
    found = fit(p, LAWS["openclip"], bootstrap=20_000)
    x, y = found.problem.x, found.problem.y
    line = stats.linregress(x, y)
    assert found.params["b"].value == pytest.approx(line.slope, rel=1e-9)
    half = stats.t.ppf(0.975, 3) * line.stderr
    errors = (y - found.problem.fitted(found.theta)) / np.sqrt(1 - found.problem.leverage(found.theta))
    size = np.sqrt(np.mean(errors**2)) / np.sqrt(np.sum((y - found.problem.fitted(found.theta)) ** 2) / 3)
    assert found.params["b"].high - found.params["b"].low == pytest.approx(2 * half * size, rel=0.03)


def test_a_seed_is_a_result_and_pairs_are_there_for_curves():
    p = samples.pure_power(np.random.default_rng(0))
    a, b, c = (fit(p, LAWS["pure-power"], 100, seed).params for seed in (1, 1, 2))
    assert a == b != c
    pairs = fit(p, LAWS["pure-power"], 100, resample="pairs").params["alpha"]
    assert pairs.low < samples.PURE["alpha"] < pairs.high and pairs != a["alpha"]
    for name in ("isoflop", "envelope"):
        with pytest.raises(UserError, match="no resampling by pairs"):
            fit(samples.DRAWS[name][0](np.random.default_rng(0)), LAWS[name], 100, resample="pairs")
