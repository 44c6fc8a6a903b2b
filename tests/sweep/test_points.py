"""What a point is: its id, what merges with it, and which branches are refused."""

from __future__ import annotations

import pytest
import sweep_run

from mof_jax.errors import UserError
from mof_jax.sweep.branches import KEY, Trunk, cooldowns
from mof_jax.sweep.ledger import Record
from mof_jax.sweep.points import Sweep, expand, grid_of
from mof_jax.sweep.table import rows, to_csv

SPEC = sweep_run.__file__


def ids(grid, common=()) -> list[str]:
    return [point.id for point in expand(SPEC, common, grid).points]


def test_an_id_is_what_a_run_computes():
    (plain,) = ids([{}])
    assert len(plain) == 12 and set(plain) <= set("0123456789abcdef")
    same = [{"optimizer.b1": 0.9}, {"optimizer.grad_clip": 1}, {"model.image.cls_token": False}, {"compilation_cache": "/x"}]
    assert {ids([point])[0] for point in same} == {plain}, "defaults written out, an integer for a float …"
    other = [{"optimizer.lr": 2e-3}, {"seed": 2}, {"steps": 7}, {"data.sources.0.size": 65}]
    assert len({plain, *(ids([point])[0] for point in other)}) == 5
    assert ids([{}], ["seed=2"]) == ids([{"seed": 2}]), "overrides of all points count, too"


def test_copies_are_merged_and_counted():
    found = expand(SPEC, grid=[{"seed": 1}, {"optimizer.lr": 1e-3}, {"seed": 5}, {"seed": 5, "optimizer.b1": 0.9}])
    assert (len(found.points), found.merged) == (2, 2)
    assert [point.swept["seed"] for point in found.rows] == [1, 5] and found.swept == ("seed",)


def test_a_branch_is_the_run_that_it_computes():
    """The same id as one run of its schedule: in a grid with both, one of them is done."""
    (branch,) = cooldowns({"optimizer.lr": 2e-3}, [10], 0.4)
    straight = {"optimizer.lr": 2e-3, "steps": 10, "optimizer.schedule.cooldown": 4}
    trunk, point = expand(SPEC, grid=[branch]).points
    assert ids([straight]) == [point.id]
    assert (trunk.row, point.row, point.trunk, point.at) == (False, True, trunk.id, 6)
    assert point.overrides[KEY] == f"sibling:{trunk.id}/checkpoints/6" and KEY not in trunk.overrides
    both = expand(SPEC, grid=[straight, branch])
    assert both.merged == 1 and len(both.points) == 1, "and without the trunk, which nobody needs then"
    assert point.flops == pytest.approx(0.4 * expand(SPEC, grid=[straight]).points[0].flops)


def test_a_trunk_that_the_grid_lists_is_a_row():
    (branch,) = cooldowns({}, [10], 0.4)
    found = expand(SPEC, grid=[branch, branch[KEY].overrides])
    assert [(point.row, point.trunk is None) for point in found.points] == [(True, True), (True, False)]
    assert found.merged == 0


@pytest.mark.parametrize("change, line", [
    ({"seed": 3}, "the trunk has seed 1, the branch 3; build branches last"),
    ({"model.text.dropout": 0.2}, "the trunk has model.text.dropout 0.1, the branch 0.2"),
    ({"optimizer.weight_decay": 0.5}, "the trunk has optimizer.weight_decay"),
    ({"optimizer.schedule.warmup": 3}, "learning rate differs from its trunk's at step 0 of 6"),
    ({"optimizer.schedule.kind": "cosine"}, "learning rate differs from its trunk's"),
    ({"optimizer.schedule.cooldown": 6}, "learning rate differs from its trunk's at step 5 of 6"),
    ({KEY: "runs/x"}, "expected a sweep.branches.Trunk"),
    ({KEY: Trunk({"steps": 6}, 6)}, "keeps none"),
    ({"steps": 6}, "a branch of 6 steps cannot begin after step 6"),
])
def test_a_branch_that_would_compute_something_else_is_refused(change, line):
    (branch,) = cooldowns({}, [10], 0.4)
    with pytest.raises(UserError, match=line) as error:
        expand(SPEC, grid=[{"seed": 9}, branch | change])
    assert "point 2 of the grid" in str(error.value)


def test_mistakes_name_the_point():
    with pytest.raises(UserError, match=r"point 2 of the grid \(optimizer.lrr=1\): config.optimizer.lrr: unknown key"):
        expand(SPEC, grid=[{}, {"optimizer.lrr": 1}])
    with pytest.raises(UserError, match=r"point 1 of the grid .*optimizer.schedule: warmup 2 \+ cooldown 0 exceed 1 steps"):
        expand(SPEC, grid=[{"steps": 1}])


@pytest.mark.parametrize("text, line", [
    ("", "defines sweep"), ("def sweep(arg=None): return 3", "returned int"), ("def sweep(arg=None): return []", "no points"),
    ("def sweep(arg=None): return [1]", "list of dicts"),
])
def test_a_file_without_a_grid(text, line, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(UserError, match=line):
        grid_of(str(path))


def test_the_argument_reaches_the_grid():
    assert [point["steps"] for point in grid_of(f"{SPEC}:steps=9")] == [9, 9, 9]


def test_a_table_of_points_of_several_grids(tmp_path):
    """As the arms of a claim: what two of them set and a third leaves alone is empty there."""
    points = [expand(SPEC, grid=[grid]).points[-1] for grid in ({"optimizer.b1": 0.8}, {"optimizer.b1": 0.7}, {})]
    sweep, failed = Sweep(tuple(points)), {point.id: Record("failed") for point in points}
    found = rows(sweep, failed, str(tmp_path))
    assert "optimizer.b1" in sweep.swept and [row.get("optimizer.b1") for row in found] == [0.8, 0.7, None]
    cell = to_csv(found).splitlines()[0].split(",").index("optimizer.b1")
    assert [line.split(",")[cell] for line in to_csv(found).splitlines()[1:]] == ["0.8", "0.7", ""]
