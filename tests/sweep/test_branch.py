"""A branch of a trunk is, bit for bit, one run of the schedule trunk + cooldown."""

from __future__ import annotations

import json

import pytest
import sweep_run
import tiny_mllm
from tiny_run import losses

from mof_jax import config as configs
from mof_jax import trainer
from mof_jax.errors import UserError
from mof_jax.jsonl import read_lines
from mof_jax.sweep.branches import KEY, cooldowns
from mof_jax.sweep.points import expand
from mof_jax.sweep.sizes import assignments
from mof_jax.train.start import open_checkpoint

BASE = {"optimizer.ema": 0.9, "log_every": 1}


def words() -> str:
    return f"{tiny_mllm.__file__}:words"


def train(spec: str, overrides: dict, workdir: str) -> list[dict]:
    """What a run computed, line by line."""
    trainer.train(configs.override(configs.load(spec), assignments(overrides)), workdir)
    return losses(read_lines(f"{workdir}/metrics.jsonl"))


@pytest.mark.parametrize("spec, kind", [
    (sweep_run.__file__, "wsd"), pytest.param(words(), "wsd", marks=pytest.mark.slow),
    pytest.param(sweep_run.__file__, "rsqrt", marks=pytest.mark.slow)])
def test_a_branch_equals_one_run(spec, kind, tmp_path):
    """Losses, every leaf of the state (moments, average, position in the data), and the summary."""
    base = BASE | {"optimizer.schedule.warmup": 2, "precision": "highest"}
    sweep = expand(spec, grid=cooldowns(base, [5, 9], 0.4, kind))
    trunk, *branches = sweep.points
    train(spec, trunk.overrides, str(tmp_path / trunk.id))
    for branch in branches:
        straight = {key: value for key, value in branch.overrides.items() if key != KEY}
        whole = train(spec, straight, str(tmp_path / "whole" / branch.id))
        assert [line["step"] for line in whole] == list(range(1, branch.run.steps + 1))
        assert train(spec, branch.overrides, str(tmp_path / branch.id)) == whole[branch.at:]
        folders = (tmp_path / branch.id, tmp_path / "whole" / branch.id)
        mine, theirs = (open_checkpoint(str(folder))[1]["fingerprints"] for folder in folders)
        assert mine == theirs and {"ema", "opt", "params"} <= {name.partition(":")[0] for name in mine}
        mine, theirs = (json.loads((folder / "summary.json").read_text()) for folder in folders)
        assert mine == theirs and mine["steps"] == branch.run.steps
    assert (tmp_path / trunk.id / "checkpoints" / "3" / "manifest.json").exists(), "the trunk keeps where its branches begin"


def test_a_branch_resumes_from_its_own_checkpoint(tmp_path):
    """Once it has one, the trunk is not asked any more."""
    spec = sweep_run.__file__
    trunk, branch = expand(spec, grid=cooldowns({}, [6], 0.5)).points
    train(spec, trunk.overrides, str(tmp_path / trunk.id))
    train(spec, branch.overrides, str(tmp_path / branch.id))
    (tmp_path / trunk.id).rename(tmp_path / "gone")
    assert train(spec, branch.overrides, str(tmp_path / branch.id))[-1]["step"] == 6


def test_a_branch_without_its_trunk(tmp_path):
    spec = sweep_run.__file__
    with pytest.raises(UserError, match="config.branch_from: .*nowhere"):
        train(spec, {KEY: "sibling:nowhere/checkpoints/3"}, str(tmp_path / "branch"))
    trunk, branch = expand(spec, grid=cooldowns({}, [6], 0.5)).points
    train(spec, trunk.overrides, str(tmp_path / trunk.id))
    with pytest.raises(UserError, match="is step 3, which is not before config.steps, 3"):
        train(spec, branch.overrides | {"steps": 3}, str(tmp_path / "short"))
    path = next((tmp_path / trunk.id / "checkpoints" / "3" / "state").glob("d/*"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match="verifies|cannot be restored"):
        train(spec, branch.overrides, str(tmp_path / branch.id))
    assert not (tmp_path / branch.id / "summary.json").exists(), "and not from the beginning"
