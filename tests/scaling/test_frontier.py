"""The compute-optimal frontier in closed form, against a search and against published numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import samples

from mof_jax.errors import UserError
from mof_jax.hardware import Throughput
from mof_jax.scaling import chinchilla, frontier, lr
from mof_jax.scaling.fit import fit
from mof_jax.scaling.law import Fit
from mof_jax.scaling.registry import LAWS


def known(A: float, B: float, E: float, alpha: float, beta: float) -> Fit:
    """A fit whose parameters are given."""
    p = samples.chinchilla(np.random.default_rng(0), n=10)
    theta = np.array([np.log(A), np.log(B), np.log(E), alpha, beta])
    return Fit(chinchilla.LAW, p, None, chinchilla.PARAMS, theta, 0.0, np.empty((0, 5)), 1.0, "residual", 0, None, ())


def test_against_a_search_over_sizes():
    f = known(**samples.CHINCHILLA)
    n = np.geomspace(1e8, 1e12, 200_001)
    for flops in (1e20, 5.76e23):
        loss = samples.chinchilla_loss(n, flops / (6 * n))
        log_n, log_d, log_l = (x[0, 0] for x in frontier.optima(f, np.array([flops])))
        assert np.exp(log_n) == pytest.approx(n[loss.argmin()], rel=1e-3)
        assert 6 * np.exp(log_n + log_d) == pytest.approx(flops, rel=1e-9)
        assert np.exp(log_l) == pytest.approx(loss.min(), rel=1e-9)


def test_published_allocations():
    """Besiroglu et al.'s coefficients at Chinchilla's budget, and the exponents of native multimodal models."""
    p = frontier.plan(known(**samples.CHINCHILLA), 5.76e23)
    assert (p.N.value / 1e9, p.D.value / 1e12) == pytest.approx((73.2, 1.31), rel=3e-3)
    assert p.tokens_per_parameter.value == pytest.approx(17.9, rel=3e-3)
    exponents = frontier.exponents(known(1, 1, 1.904, 0.301, 0.335))
    assert (exponents["a"].value, exponents["b"].value) == pytest.approx((0.52673, 0.47327), abs=1e-5)


def test_the_three_approaches_agree_on_one_law():
    """IsoFLOP groups drawn from Chinchilla's law; the exponents by closed form, by parabolas and by the envelope."""
    truth = frontier.exponents(known(**samples.CHINCHILLA))["a"].value
    c = np.repeat(np.geomspace(6e18, 3e21, 8), 13)
    best = np.exp(frontier.optima(known(**samples.CHINCHILLA), c)[0][0])
    n = best * np.exp(np.tile(np.linspace(-1.2, 1.2, 13), 8))
    p = samples.table(N=n, D=c / (6 * n), C=c, L=samples.chinchilla_loss(n, c / (6 * n)))
    assert fit(p, LAWS["isoflop"], 0).params["a"].value == pytest.approx(truth, abs=0.005)
    assert fit(p, LAWS["envelope"], 0).params["a"].value == pytest.approx(truth, abs=0.01)
    assert frontier.exponents(fit(p, LAWS["chinchilla"], 0, starts=40))["a"].value == pytest.approx(truth, abs=1e-3)


def test_intervals_grow_beyond_the_points():
    f = fit(samples.chinchilla(np.random.default_rng(0), n=60), chinchilla.LAW, 100, starts=40)
    near, far = (frontier.plan(f, c) for c in (1e20, 1e25))
    for p in (near, far):
        assert p.N.low < p.N.value < p.N.high and p.loss.low < p.loss.value < p.loss.high
    assert far.N.high / far.N.low > 1.5 * near.N.high / near.N.low
    assert "times the largest run of the table" in far.notes[0] and len(near.notes) == 1


def test_cost_is_flops_over_peak_and_mfu():
    """1e22 FLOP at 40 % of 459 TFLOP/s a chip of v5p."""
    c = frontier.cost(1e22, Throughput("v5p:8x8x8", 0.4), 2.0)
    assert c.least is None and (c.chips, c.chip_hours) == (512, pytest.approx(1e22 / (459e12 * 0.4) / 3600))
    assert c.dollars == pytest.approx(2 * c.chip_hours) and c.days == pytest.approx(c.chip_hours / 512 / 24)
    assert frontier.cost(1e22, Throughput("v6e-256")).dollars is None
    for topology, mfu in (("v5p:8x8x8", 0.0), ("h9:2x2", 0.4)):
        with pytest.raises(UserError):
            frontier.cost(1e22, Throughput(topology, mfu))


def test_cost_at_the_throughput_of_a_plan():
    """256 chips at 30 % of their peak as planned, and at half of it at best."""
    c = frontier.cost(1e22, Throughput("v5e:16x16", 0.3, 0.5, 0.4, "plans.jsonl#a.py"), 1.0)
    assert c.chip_hours == pytest.approx(1e22 / 197e12 / 0.3 / 3600) == c.dollars
    assert c.least == pytest.approx(0.6 * c.chip_hours) and c.exposed == pytest.approx(0.75 * c.chip_hours)
    assert c.source == "plans.jsonl#a.py"
    f = known(**samples.CHINCHILLA)
    assert frontier.plan(f, 1e22, Throughput("v5e:16x16", 0.3, 0.5, 0.4, "p"), 1.0).cost.chip_hours == c.chip_hours
    assert frontier.plan(f, 1e22).cost is None


def test_rates_come_from_a_saved_law(tmp_path):
    f = known(**samples.CHINCHILLA)
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({"params": {"p": {"value": lr.MM1[0]}, "q": {"value": lr.MM1[1]}}, "batch": 512.0}))
    p = frontier.plan(f, 1e22, rates=frontier.load_rates(str(path)))
    assert p.lr == pytest.approx(lr.rate(p.N.value)) and p.weight_decay == pytest.approx(0.1 * p.lr) and p.batch == 512
    assert any("it was not searched" in note for note in p.notes)
    assert "no learning rate and no batch" in frontier.plan(f, 1e22).notes[-1]
    with pytest.raises(UserError, match="--rates .*--law lr"):
        frontier.load_rates(str(tmp_path / "none.json"))


@pytest.mark.parametrize("saved", [
    [1], {}, {"params": [1]}, {"params": {"p": 1, "q": 2}}, {"params": {"p": {"value": "1"}, "q": {"value": 2}}},
    {"params": {"p": {"value": float("nan")}, "q": {"value": 2}}}, {"params": {"p": {"value": True}, "q": {"value": 2}}},
    {"params": {"p": {"value": 1}, "q": {"value": 2}, "wd_per_lr": {"value": None}}},
    {"params": {"p": {"value": 1}, "q": {"value": 2}}, "batch": "512"}, {"params": {"p": {"value": 10**400}, "q": {"value": 2}}},
])
def test_what_is_no_saved_law_of_rates(tmp_path, saved):
    (tmp_path / "fit.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="--rates .*fit.json: not a fit of --law lr"):
        frontier.load_rates(str(tmp_path / "fit.json"))


def test_no_frontier():
    with pytest.raises(UserError, match="'pure-power' has no compute-optimal frontier"):
        frontier.plan(fit(samples.pure_power(np.random.default_rng(0)), LAWS["pure-power"], 0), 1e20)
    with pytest.raises(UserError, match="an exponent of the fit is not positive"):
        frontier.plan(known(1, 1, 1, -0.1, 0.3), 1e20)
    with pytest.raises(UserError, match="a number of FLOPs above zero"):
        frontier.plan(known(**samples.CHINCHILLA), float("nan"))
