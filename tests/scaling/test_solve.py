"""The batched solver against closed forms and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import samples
from scipy import optimize

from mof_jax.bench.fit import value_and_gradient
from mof_jax.scaling import chinchilla, power, solve


def test_huber_is_squares_inside_and_absolute_values_outside():
    r = np.array([0.0, 5e-4, -1e-3, 2e-3, -0.5])
    expected = [0, 0.5 * 25e-8, 0.5e-6, 1e-3 * (2e-3 - 5e-4), 1e-3 * (0.5 - 5e-4)]
    np.testing.assert_allclose(solve.huber(r, 1e-3), expected, rtol=1e-6)


def test_least_squares_where_delta_is_infinite():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1, 30)), rng.standard_normal(30)
    found = solve.minimise(power.pure_curve, np.zeros((1, 2)), x, y, delta=np.inf)
    slope, intercept = np.polyfit(x[0], y, 1)
    np.testing.assert_allclose(found.theta[0], (intercept, -slope), rtol=1e-7)


def test_a_weight_is_a_number_of_copies():
    rng = np.random.default_rng(1)
    p = samples.pure_power(rng)
    x, y, times = np.log(p["x"])[None], np.log(p["L"]), rng.integers(0, 3, len(p))
    weighted = solve.minimise(power.pure_curve, power.pure_starts(x, y), x, y, times.astype(float))
    copied = solve.minimise(power.pure_curve, power.pure_starts(x, y), np.repeat(x, times, axis=1), np.repeat(y, times))
    assert weighted.objective.min() == pytest.approx(copied.objective.min(), rel=1e-8)


def test_ends_where_scipy_ends_with_exact_gradients():
    p = samples.chinchilla(np.random.default_rng(2))
    x, y = np.log([p["N"], p["D"]]), np.log(p["L"])
    starts = chinchilla.starts(x, y)[np.random.default_rng(0).choice(4500, 40, replace=False)]
    ours = solve.minimise(chinchilla.curve, starts, x, y)
    run = lambda start: optimize.minimize(lambda t: value_and_gradient(t, x, y, 1e6), start, jac=True, method="L-BFGS-B",
                                          options={"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-9})
    theirs = min((run(start) for start in starts), key=lambda r: r.fun)
    assert ours.objective.min() == pytest.approx(theirs.fun / 1e6, rel=1e-7)
    np.testing.assert_allclose(ours.theta[ours.objective.argmin()], theirs.x, rtol=1e-3)
    np.testing.assert_allclose(ours.objective, [value_and_gradient(t, x, y, gradient=False) for t in ours.theta], rtol=1e-9)


def test_the_contestants_gradient_is_the_derivative():
    p = samples.chinchilla(np.random.default_rng(3), n=20)
    x, y = np.log([p["N"], p["D"]]), np.log(p["L"])
    at = np.array([6.0, 7.0, 0.5, 0.3, 0.4])
    numeric = optimize.approx_fprime(at, lambda t: value_and_gradient(t, x, y, 1e3, False), 1e-7)
    np.testing.assert_allclose(value_and_gradient(at, x, y, 1e3)[1], numeric, rtol=1e-4, atol=1e-4)
