"""Schedules against their closed forms."""

import math

import numpy as np
import pytest

from mof_jax.train.schedule import ScheduleConfig, make_schedule

STEPS = 100


def at(config, *steps):
    return [float(x) for x in make_schedule(config, STEPS)(np.array(steps))]


@pytest.mark.parametrize("kind", ["cosine", "rsqrt", "wsd", "constant"])
def test_warmup_is_linear_and_reaches_the_peak(kind):
    config = ScheduleConfig(kind, warmup=10, cooldown=20, timescale=50, final=0.0)
    np.testing.assert_allclose(at(ScheduleConfig("constant", warmup=10), 0, 4, 9, 10, 99), [0.1, 0.5, 1, 1, 1], rtol=1e-6)
    rising = at(config, *range(10))
    assert (np.diff(rising) > 0).all() and math.isclose(at(config, 10)[0], 1.0, rel_tol=1e-6)


def test_cosine():
    config = ScheduleConfig("cosine", warmup=20, final=0.1)
    want = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (t - 20) / 80)) for t in (20, 40, 60, 99, 100)]
    np.testing.assert_allclose(at(config, 20, 40, 60, 99, 100), want, rtol=1e-5)
    np.testing.assert_allclose(at(config, 60, 100, 130), [0.55, 0.1, 0.1], rtol=1e-5)  # half way, the end, beyond


def test_rsqrt():
    config = ScheduleConfig("rsqrt", warmup=10, cooldown=20, timescale=30)
    np.testing.assert_allclose(at(config, 10, 40, 70), [1.0, math.sqrt(30 / 60), math.sqrt(30 / 90)], rtol=1e-6)
    np.testing.assert_allclose(at(config, 90, 100), [math.sqrt(30 / 110) * 0.5, 0.0], atol=1e-6)


def test_wsd():
    config = ScheduleConfig("wsd", warmup=10, cooldown=40, final=0.2)
    np.testing.assert_allclose(at(config, 10, 35, 60, 80, 100), [1, 1, 1, 0.6, 0.2], rtol=1e-6)


def test_a_schedule_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup 60 . cooldown 50 exceed 100 steps"):
        make_schedule(ScheduleConfig("wsd", warmup=60, cooldown=50), STEPS)
