"""Verdicts from rows whose truth is known: resampling over units, three seeds, equivalence, several
conditions."""

from __future__ import annotations

import numpy as np
import pytest

from mof_jax.claims.claim import Claim, Equivalence, Lead, Order
from mof_jax.claims.judge import outcome
from mof_jax.claims.verdict import Interval, compare, judge, together
from mof_jax.errors import UserError
from mof_jax.evals.items import Items
from mof_jax.evals.metrics.paired import paired_interval, paired_resamples

RNG = np.random.default_rng(0)
LEAD = Lead("a", "b")


def items(values, units=None, statistic="mean") -> Items:
    values = np.asarray(values, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    return Items([f"u{i}" for i in range(len(values))] if units is None else units, values, statistic)


def interval(low: float, high: float) -> Interval:
    """One whose one-sided bounds lie a little inside."""
    return Interval((low + high) / 2, low, high, low + 0.1 * (high - low), high - 0.1 * (high - low))


def test_the_bootstrap_is_the_one_over_rows_where_each_is_a_unit():
    a, b = RNG.random(300), RNG.random(300)
    low, high = np.quantile(paired_resamples(items(a), items(b)), [0.025, 0.975])
    want = paired_interval(a, b)
    assert (low, high) == pytest.approx(want, abs=0.006)


def test_rows_of_one_unit_are_drawn_together():
    """Ten copies of every row say nothing new: the interval is as wide as over the units, not √10
    narrower."""
    a = RNG.random(60)
    units = [f"u{i}" for i in range(60) for _ in range(10)]
    one = np.std(paired_resamples(items(a), items(np.zeros(60))))
    copies = np.std(paired_resamples(items(np.repeat(a, 10), units), items(np.zeros(60))))
    as_rows = np.std(paired_resamples(items(np.repeat(a, 10)), items(np.zeros(600))))
    assert copies == pytest.approx(one, rel=1e-9) and as_rows < one / 2.5


def test_rows_may_come_in_another_order_and_number():
    a, b = RNG.random(50), RNG.random(50)
    order = RNG.permutation(50)
    want = paired_resamples(items(a), items(b))
    np.testing.assert_allclose(paired_resamples(items(a), items(b[order], [f"u{i}" for i in order])), want)
    with pytest.raises(UserError, match="x: the arms were not evaluated on the same units; 'u49' is in one"):
        compare(items(a), items(b[:49]), "x")


def test_a_figure_that_is_no_mean_is_taken_anew():
    x = RNG.standard_normal((60, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = 0.3 * x + np.eye(4)[0]
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    found = compare(items(y, statistic="uniformity"), items(x, statistic="uniformity"), "x")
    assert found.low > 0.5 and found.low < found.lead < found.high
    with pytest.raises(UserError, match="one arm's figure is a uniformity, the other's a mean"):
        compare(items(y, statistic="uniformity"), items(x), "x")


@pytest.mark.parametrize(
    "bounds, want",
    [
        ([(1, 3), (0.1, 2), (2, 5)], "shown"),
        ([(1, 3), (0.0, 2), (2, 5)], "undecided"),
        ([(-3, -1)] * 3, "refuted"),
        ([(-3, -1), (-3, -1), (-1, 0.1)], "undecided"),
        ([(-1, 1)] * 3, "undecided"),
        ([(1, 3), (1, 3), (-3, -1)], "undecided"),
    ],
)
def test_verdicts_on_a_lead(bounds, want):
    seeds = [interval(*pair) for pair in bounds]
    assert judge(LEAD, seeds) == judge(Order(("a", "b")), seeds) == want


@pytest.mark.parametrize(
    "bounds, want",
    [
        ([(-0.9, 0.9)] * 3, "shown"),
        ([(-1.1, 0.9)] * 3, "shown"),  # the one-sided bound -0.9 lies inside
        ([(-1.6, 0.9)] * 3, "undecided"),
        ([(1.1, 3), (-3, -1.1), (1.1, 2)], "refuted"),
        ([(-2, 2)] * 3, "undecided"),
        ([(-0.5, 0.5), (-0.5, 0.5), (0.5, 1.5)], "undecided"),
    ],
)
def test_verdicts_on_equivalence(bounds, want):
    assert judge(Equivalence("a", "b", 1.0), [interval(*pair) for pair in bounds]) == want


def test_all_conditions_must_hold():
    assert together(["shown", "shown"]) == "shown" and together(["shown", "undecided"]) == "undecided"
    assert together(["undecided", "refuted", "shown"]) == "refuted"


def rows_of(level: dict[str, float], seeds=(0, 1, 2)):
    """Accuracies of arms on 200 units of mixed difficulty, and losses that fall as they rise."""
    found = {}
    for seed in seeds:
        hard = np.random.default_rng(seed).random(200)
        for arm, skill in level.items():
            found[arm, seed] = {"e/acc": items(100.0 * (hard < skill)), "e/loss": items(hard - skill)}
    return found


def test_an_outcome():
    claim = Claim(
        "x",
        {"good": {}, "same": {}, "bad": {}},
        "e/acc",
        1.0,
        conditions=(
            Order(("good", "bad")),
            Equivalence("good", "same", 3.0),
            Lead("good", "bad", "e/loss"),
        ),
        lower=("e/loss",),
    )
    found = outcome(claim, rows_of({"good": 0.7, "same": 0.7, "bad": 0.4}), (0, 1, 2))
    assert found["verdict"] == "shown" and [c["verdict"] for c in found["conditions"]] == ["shown"] * 3
    assert found["conditions"][2]["arm"] == "bad" and found["conditions"][2]["seeds"]["0"][
        "lead"
    ] == pytest.approx(0.3)
    assert found["arms"]["good"].keys() == {"0", "1", "2"}
    refuted = outcome(claim, rows_of({"good": 0.4, "same": 0.4, "bad": 0.7}), (0, 1, 2))
    assert refuted["verdict"] == "refuted" and [c["verdict"] for c in refuted["conditions"]] == [
        "refuted",
        "shown",
        "refuted",
    ]
    alike = outcome(claim, rows_of({"good": 0.7, "same": 0.5, "bad": 0.7}), (0, 1, 2))
    assert [c["verdict"] for c in alike["conditions"]] == ["undecided", "refuted", "undecided"]


@pytest.mark.parametrize(
    "changes, says",
    [
        (dict(arms={"a": {}}), "compares two at least"),
        (dict(metric="acc"), "metric 'acc': write EVALUATOR/KEY"),
        (dict(conditions=(Lead("a", "c"),)), "no arm is called 'c' .arms: a, b."),
        (dict(minutes=0), "minutes a number above 0"),
        (dict(conditions=(Equivalence("a", "b", 0.0),)), "0.0 is not above 0"),
        (dict(conditions=(Order(("a",)),)), "two arms"),
        (dict(lower=("e/loss",)), "e/loss is the metric of no condition"),
    ],
)
def test_claims_that_are_none(changes, says):
    good = dict(says="x", arms={"a": {}, "b": {}}, metric="e/acc", minutes=1.0)
    assert Claim(**good).conditions == (LEAD,)
    with pytest.raises(UserError, match=says):
        Claim(**(good | changes))
