"""A staged run: each stage a whole run in its own folder, later ones starting from earlier ones by rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_run

from mof_jax import trainer
from mof_jax.errors import UserError
from mof_jax.restore import restore
from mof_jax.train.start import open_checkpoint


def stage(name, **sections):
    c = tiny_run.get_config()
    c.steps, c.checkpoint.every, c.compilation_cache, c.data.threads = 2, 0, None, 1
    return dict(name=name, **(c.to_dict() | sections))


def tuned(**init_from):
    """The second stage: another run's image tower, under the name it has here, and its vocabulary."""
    rename = [("image/(.*)", r"image/\1")]
    return stage("tune", tokenizer=dict(kind="run", path="stage:towers"), seed=9,
                 optimizer=dict(lr=1e-2, freeze=[("image/.*", True)]),
                 init_from=[dict(dict(path="stage:towers", rename=rename, ema=False), **init_from)])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("staged"))
    trainer.train({"stages": [stage("towers"), tuned()]}, folder)
    return folder


def test_the_second_stage_starts_from_the_first(workdir):
    theirs, ours = restore(f"{workdir}/towers", ema=False).params, restore(f"{workdir}/tune", ema=False).params
    image = [path for path in ours if path.startswith("image/")]
    assert image and all(np.array_equal(ours[path], theirs[path]) for path in image)
    assert not np.array_equal(ours["text/embed"], theirs["text/embed"])


def test_the_work_dir_stands_for_its_last_stage(workdir):
    assert restore(workdir).run.config.seed == 9
    vocabularies = [open_checkpoint(f"{workdir}/{name}")[1]["tokenizer"]["sha256"] for name in ("towers", "tune")]
    assert vocabularies[0] == vocabularies[1]


def test_a_finished_stage_is_not_run_again(workdir, capsys):
    before = json.dumps(open_checkpoint(f"{workdir}/towers")[1]["fingerprints"])
    trainer.train({"stages": [stage("towers"), tuned()]}, workdir)
    assert "stage towers: done before" in capsys.readouterr().out
    assert json.dumps(open_checkpoint(f"{workdir}/towers")[1]["fingerprints"]) == before


@pytest.mark.parametrize("stages, line", [
    ([tuned()], "stage tune: stage:towers is not an earlier stage"),
    ([stage("towers"), stage("towers")], "config.stages.1.name: 'towers'"),
    ([stage("towers"), stage("tune", batch=3)], "stage tune: config.batch: unknown key"),
    ([], "at least one stage"),
])
def test_mistakes_are_found_before_the_first_stage_runs(stages, line, tmp_path):
    with pytest.raises(UserError, match=line):
        trainer.train({"stages": stages}, str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_renamed_parameter_that_is_not_there_is_named(workdir, tmp_path):
    config = tuned(path=f"{workdir}/towers", rename=[("image/(.*)", r"picture/\1")])
    config.pop("name")
    config["tokenizer"]["path"] = f"{workdir}/towers"
    with pytest.raises(UserError, match="image/.* is to come from picture/"):
        trainer.train(config, str(tmp_path))
