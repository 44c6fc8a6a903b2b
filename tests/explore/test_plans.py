"""Plans as pictures: what is drawn is what the records say."""

from __future__ import annotations

import pathlib

import pytest

from mof_jax.errors import UserError
from mof_jax.explore import plans
from mof_jax.plan.records import read

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs" / "plans.jsonl"
REFUSED = {"name": "configs/x/y.py, stage sft", "topology": "v5e:2x2", "chips": 4, "fits": False, "hbm": 16e9, "needs": 20e9,
           "memory": None, "state": {"params": 1, "frozen": 0, "opt": 0, "ema": 0, "state": 1}, "steps": 10}


def b16() -> dict:
    return next(record for record in read(str(DOCS)) if record["name"] == "configs/clip/vit_b16.py")


def test_parts_add_up_to_what_the_compiler_says():
    for record in read(str(DOCS)):
        if record["memory"] is None:  # of what does not fit
            continue
        assert sum(plans.parts(record).values()) == pytest.approx(record["needs"], rel=1e-9)
        assert min(plans.parts(record).values()) >= 0


def test_a_refused_plan_has_no_parts():
    with pytest.raises(UserError, match="does not fit"):
        plans.parts(REFUSED)


def test_bars_and_clocks_are_the_records(tmp_path):
    pytest.importorskip("matplotlib")
    record = b16()
    axes = plans.memory([record, REFUSED]).axes[0]
    bars = [bar for bar in axes.patches if bar.get_width() > 0]
    assert sum(bar.get_width() for bar in bars[:-1]) == pytest.approx(100 * record["needs"] / record["hbm"])
    assert bars[-1].get_width() == pytest.approx(125)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["clip/vit_b16\nv5e:16x16", "x/y:sft\nv5e:2x2"]
    axes = plans.clocks([record, REFUSED]).axes[0]
    ends = sorted(bar.get_x() + bar.get_width() for bar in axes.patches if bar.get_width() > 0)
    assert ends == pytest.approx(sorted(record["roofline"][name] for name in ("compute", "memory", "ici")))
    assert axes.lines[0].get_xdata()[0] == record["seconds"]


def test_costs_take_the_plans_price_first():
    record = b16()
    priced = {**record, "dollars": 7.0}
    table = plans.costs([record, priced, REFUSED], {"v5e": 2.0})
    assert list(table.columns[6].cells) == [f"${2 * record['chip_hours']:,.0f}", "$7", "–"]
    assert table.columns[4]._cells[0] == f"{record['chip_hours'] / 256 / 24:,.1f}"


def test_other_slices_by_division():
    """A slice of twice the chips takes half the days and as many chip-hours."""
    table = plans.slices(str(ROOT / "configs/clip/vit_b16.py"), ["v5e:8x8", "v5e:8x16"], {"v5e": 1.0})
    chips, days, hours, dollars = (list(column.cells) for column in table.columns[1:])
    assert chips == ["64", "128"] and float(days[0]) == pytest.approx(2 * float(days[1]), abs=0.1)
    assert hours[0] == hours[1] == dollars[0].removeprefix("$") == dollars[1].removeprefix("$")
