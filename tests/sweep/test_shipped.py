"""The sweeps that come with the package: their grids, and that nothing is measured on what was trained on."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from mof_jax import config as configs
from mof_jax.data.sources.config import SourceConfig
from mof_jax.sweep.points import expand

ROOT = pathlib.Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name, width", [("clip", "model.image.width"), ("lm", "model.llm.width")])
def test_sizes_and_lengths_with_one_batch(name, width):
    """Five sizes at four lengths, each size with one trunk; four lengths for less than two thirds of what runs alone cost."""
    found = expand(f"{ROOT}/sweeps/{name}_scaling.py")
    assert (len(found.rows), len(found.points), found.merged) == (20, 25, 0)
    grid = {(point.swept[width], point.run.steps) for point in found.rows}
    assert len(grid) == 20 and len({size for size, _ in grid}) == 5
    assert len({point.run.batch_size for point in found.points}) == 1 and len({point.trunk for point in found.rows}) == 5
    sizes = [point.size.counts["non_embedding_parameters"] for point in found.rows[::4]]
    assert sizes == sorted(sizes) and sizes[-1] > 20 * sizes[0]
    alone = sum(point.size.flops_per_step * point.run.steps for point in found.rows)
    assert sum(point.flops for point in found.points) < 2 / 3 * alone


@pytest.mark.parametrize("name", ["clip", "lm"])
def test_what_is_measured_on_is_fresh(name):
    """The held-out records begin behind the last that training can draw."""
    (point, *_) = expand(f"{ROOT}/sweeps/{name}_scaling.py", grid=[{}]).points
    data = point.run.data
    (trained,) = data.sources if name == "clip" else data.kinds["text"].sources
    held_out = configs.build(SourceConfig, point.run.evals[0]["source"])
    assert held_out.skip == trained.size < held_out.size
    assert dataclasses.replace(held_out, size=trained.size, skip=0) == trained, "the same world"
    drawn = 800 * point.run.batch_size * (1 if name == "clip" else data.context_length)
    assert trained.size > drawn / (1 if name == "clip" else 10), "no record twice, a page being ten tokens at least"


def test_the_grid_of_the_study_of_rates():
    found = expand(f"{ROOT}/mm1/study.py:size=9m")
    assert len(found.rows) == 9 and found.swept == ("optimizer.lr",) and all(point.trunk is None for point in found.points)
