"""Work dirs that were written before names changed: they go on, with the losses that they would have had.

`fixtures/workdirs_before_terms.tar.xz` holds two runs of eight steps as commit 1aedf74 left them after step 4, and all the lines
that they logged: `clip`, of the sigmoid loss in two micro-batches, and `dino`, which counted its updates in a parameter.
"""

from __future__ import annotations

import json
import pathlib
import tarfile

import pytest

from mof_jax import run, trainer
from mof_jax.jsonl import read_lines
from mof_jax.train.reliability import history
from mof_jax.train.start import open_checkpoint

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "workdirs_before_terms.tar.xz"


@pytest.fixture
def before(tmp_path):
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_a_work_dir_written_before_goes_on(before, name):
    """Under its own `config.json`, which says the old names."""
    workdir = before / name
    config = json.loads((workdir / "config.json").read_text())
    assert "microbatches" in config["objective"] and "microbatches" not in config
    logged = read_lines(str(workdir / "metrics.jsonl"))
    leaves = open_checkpoint(str(workdir))[1]["leaves"]
    assert ("frozen:updates" in leaves) == (name == "dino")
    trainer.train(config | {"compilation_cache": None}, str(workdir))
    again = read_lines(str(workdir / "metrics.jsonl"))
    assert [line["step"] for line in again] == list(range(1, 9))
    for was, now in zip(logged, again):
        for key, value in was.items():
            # Every step is computed on eight devices, in an order that compilers choose.
            assert now[key] == pytest.approx(value, rel=3e-5), (was["step"], key)
    now = json.loads((workdir / "config.json").read_text())
    assert now["microbatches"] == 2 and "frozen:updates" not in open_checkpoint(str(workdir))[1]["leaves"]


def test_a_resume_compares_what_is_meant_and_names_keys_as_they_are_called_now(before):
    meta = open_checkpoint(str(before / "clip"))[1]
    old = meta["config"]
    renamed = run.resolve(old)
    assert (renamed.microbatches, renamed.objective.kind, renamed.objective.block_size) == (2, "sigmoid", 6)
    assert renamed.model.max_logit_scale == 50.0
    was = history.config_of(meta, run.resolve, renamed)
    step = open_checkpoint(str(before / "clip"))[2]
    assert not history.go_on(was, renamed, step, "w", meta.get("content"))
    other = run.resolve(old | {"objective": dict(old["objective"], loss="softmax")})
    with pytest.raises(Exception, match="config.objective.kind: w was trained with 'sigmoid' until step"):
        history.go_on(was, other, step, "w", meta.get("content"))
    assert history.go_on(was, other, step, "w", meta.get("content"), allowed=["objective.loss", "objective"])
