"""Grids in closed form: products, zips, sizes, IsoFLOP steps, rates by rule, branches of a trunk."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import sweep_run

from mof_jax.errors import UserError
from mof_jax.scaling import lr
from mof_jax.sweep import grid, sizes
from mof_jax.sweep.branches import KEY, Trunk, cooldowns
from mof_jax.sweep.points import expand

WIDTHS = [{"model.image.width": w, "model.text.width": w} for w in (8, 16, 32)]


def test_products_zips_and_chains():
    assert grid.product({"a": [1, 2], "b": "xy"}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid.zipped({"a": [1, 2], "b": [3, 4]}) == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert grid.chain([{"a": 1}], [{"b": 2}, {"a": 3}]) == [{"a": 1}, {"b": 2}, {"a": 3}]
    assert grid.cross([{"a": 1}, {"a": 2}], [{"b": 3}], [{"c": 4}, {"c": 5}]) == [
        {"a": 1, "b": 3, "c": 4}, {"a": 1, "b": 3, "c": 5}, {"a": 2, "b": 3, "c": 4}, {"a": 2, "b": 3, "c": 5}]
    with pytest.raises(UserError, match="a has 2, b has 1"):
        grid.zipped({"a": [1, 2], "b": [3]})
    with pytest.raises(UserError, match="set a, b"):
        grid.cross([{"a": 1, "b": 2}], [{"b": 3, "a": 4}])


@pytest.mark.parametrize("value, plain", [
    (np.float32(1e-3), 1e-3), (np.float16(0.5), 0.5), (np.float64(0.1), 0.1), (np.int64(3), 3), (np.bool_(True), True),
    (np.str_("a"), "a"), (np.array([0.1, 0.2], np.float32), [0.1, 0.2]), (np.array(2.5), 2.5),
    ((np.int32(1), [np.float32(2)]), (1, [2.0])),
    ({"a": np.uint8(4)}, {"a": 4}), (None, None), ("x", "x"),
])
def test_numbers_of_numpy_are_pythons(value, plain):
    found = grid.python(value)
    assert found == plain and type(found) is type(plain) and repr(found) == repr(plain)


def test_a_grid_made_by_numpy_is_the_grid_of_its_numbers():
    rates = [1e-3, 2e-3]
    expected = expand(sweep_run.__file__, grid=[{"optimizer.lr": rate, "seed": 3} for rate in rates])
    for kind in (np.float32, np.float64):
        found = expand(sweep_run.__file__, grid=grid.product({"optimizer.lr": np.array(rates, kind), "seed": [np.int64(3)]}))
        assert found.points == expected.points and found.points[0].overrides == {"optimizer.lr": 1e-3, "seed": 3}
        assert json.dumps([point.overrides for point in found.points])
    assert sizes.assignments({"optimizer.lr": np.float32(1e-3)}) == ["optimizer.lr=0.001"]


def test_log_spaced_sizes():
    assert grid.log_spaced(64, 1024, 5) == [64, 128, 256, 512, 1024]
    assert grid.log_spaced(64, 1000, 3, multiple=64) == [64, 256, 1024]
    assert grid.log_spaced(7, 7, 1) == [7]
    for bad in ((0, 8, 2), (8, 4, 2), (1, 8, 0), (8, 16, 4, 8)):
        with pytest.raises(UserError, match="log_spaced"):
            grid.log_spaced(*bad)


def test_isoflop_steps_spend_the_budget():
    """Within half a step, by the task's own FLOPs; a size that costs more than the budget is left out."""
    config = sweep_run.get_config()
    cost = [sizes._of(config, width).flops_per_step for width in WIDTHS]
    assert cost[0] < cost[1] < cost[2]
    budgets = (10 * cost[2], 100 * cost[2])
    found = sizes.isoflop(config, budgets, WIDTHS)
    assert len(found) == 6
    for i, point in enumerate(found):
        assert abs(point["steps"] * cost[i % 3] - budgets[i // 3]) <= cost[i % 3] / 2
    assert [point["model.text.width"] for point in sizes.isoflop(config, budgets[:1], WIDTHS, fewest=11)] == [8, 16]
    with pytest.raises(UserError, match="fewer than 1 steps of every size"):
        sizes.isoflop(config, [cost[0] / 3], WIDTHS)


def test_rates_follow_the_size():
    config = sweep_run.get_config()
    found = sizes.by_rule(config, WIDTHS, weight_decay=lambda rate, n: 1e-6 * n)
    counts = [sizes._of(config, width).counts for width in WIDTHS]
    for point, count in zip(found, counts):
        n = count["non_embedding_parameters"]
        assert point["optimizer.lr"] == pytest.approx(math.exp(-0.4214 * math.log(n) - 0.5535))
        assert point["optimizer.weight_decay"] == pytest.approx(1e-6 * n)
    assert {p["optimizer.weight_decay"] for p in sizes.by_rule(config, WIDTHS)} == {lr.MM1_DECAY}


def test_sizes_count_what_the_model_has():
    """Tables and the rest of the two towers of `sweep_run`, counted by hand."""
    run = expand(sweep_run.__file__, grid=[{}]).points[0].run
    counts = sizes.size_of(run).counts
    tables = 300 * 8 + 8 * 8 + 4 * 8  # words, positions of the text, positions of the 2 x 2 patches
    assert counts["embedding_parameters"] == tables
    assert counts["parameters"] == tables + counts["non_embedding_parameters"] == counts["trained_parameters"]
    block = 4 * (8 * 8 + 8) + 2 * (8 * 32) + 32 + 8 + 2 * 2 * 8
    patches = 8 * 8 * 3 * 8 + 8
    assert counts["non_embedding_parameters"] == 2 * (block + 2 * 8 + 8 * 8) + patches + 1


def test_cooldowns_share_one_trunk():
    found = cooldowns({"seed": 1}, [40, 10, 20], share=0.25)
    assert [(p["steps"], p["optimizer.schedule.cooldown"], p[KEY].at) for p in found] == [(10, 2, 8), (20, 5, 15), (40, 10, 30)]
    assert len({repr(p[KEY].overrides) for p in found}) == 1
    assert found[0][KEY] == Trunk({"seed": 1, "steps": 30, "optimizer.schedule.kind": "wsd", "optimizer.schedule.cooldown": 0,
                                   "checkpoint.at": [8, 15, 30], "eval_every": None}, 8)
    for steps, share in (([10], 0.0), ([10], 1.0), ([1], 0.5), ([], 0.5)):
        with pytest.raises(UserError, match="cooldown"):
            cooldowns({}, steps, share)
