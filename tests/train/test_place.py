"""Work dirs: which may be one, what a path of a user's means, and who has it."""

import json
import os

import pytest

from mof_jax import run, trainer
from mof_jax.errors import UserError
from mof_jax.train.checkpoint import place
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer


@pytest.mark.parametrize("name", ["a[1]", "a*", "what?", "a[1]/run"])
def test_a_path_that_orbax_takes_for_a_pattern_is_refused_before_anything_is_written(tmp_path, name):
    """Checkpoints were sealed there that nobody could restore."""
    with pytest.raises(UserError, match="Orbax takes the '.' in this path for a pattern"):
        trainer.train_one(run.RunConfig(model=None, steps=1), str(tmp_path / name))
    with pytest.raises(UserError, match="for a pattern"):
        Checkpointer(str(tmp_path / name / "checkpoints"), CheckpointConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_no_steps_is_refused(tmp_path):
    with pytest.raises(UserError, match="config.steps: 0 steps train nothing"):
        trainer.train_one(run.RunConfig(model=None, steps=0), str(tmp_path))


def test_a_path_that_is_no_text_is_refused(tmp_path):
    for name in (b"caf\xe9", b"a\xff"):
        with pytest.raises(UserError, match="name the folder in UTF-8"):
            place.check(os.path.join(str(tmp_path), os.fsdecode(name)))


@pytest.mark.parametrize("name", ["run", "2024", "a b", "a#b", "100%25", "é", "checkpoints", "a]b", "line\nbreak"])
def test_any_other_name_will_do(tmp_path, name):
    place.check(str(tmp_path / name))
    place.check("gs://bucket/run")
    for other in ("s3://b/x", "http://h/x", "memory://x"):
        with pytest.raises(UserError, match="gs://"):
            place.check(other)


def test_what_a_path_means(tmp_path):
    """A work dir by any name, below any folder; a step only inside a folder of checkpoints."""
    for workdir in ("run", "2024", "checkpoints/7", "checkpoints"):
        (tmp_path / workdir / "checkpoints" / "3").mkdir(parents=True)
        path = str(tmp_path / workdir)
        assert place.split(path) == place.split(path + "/") == (path, None)
        assert place.split(f"{path}/checkpoints/3") == (path, 3) == place.split(f"{path}/checkpoints/3/")
    assert place.split(str(tmp_path / "run" / "checkpoints")) == (str(tmp_path / "run"), None)
    assert place.split(str(tmp_path / "none" / "2024")) == (str(tmp_path / "none" / "2024"), None)


def test_a_relative_path_means_the_same(tmp_path, monkeypatch):
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert place.split("checkpoints/12") == (".", 12) and place.split("checkpoints") == (".", None) == place.split(".")


@pytest.mark.parametrize("text", [
    "[]", "{}", '{"stages": []}', '{"stages": [3]}', '{"stages": ["../x"]}', "{", "[" * 50_000, "\xff"])
def test_a_list_of_stages_that_is_none(tmp_path, text):
    (tmp_path / "stages.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="stages.json: "):
        place.last_stage(str(tmp_path))


def test_one_holder_at_a_time(tmp_path):
    with place.taken(str(tmp_path)):
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* trains there"), place.taken(str(tmp_path)):
            raise AssertionError
    with place.taken(str(tmp_path)):
        pass


def test_stages_stand_for_their_last(tmp_path):
    (tmp_path / "two" / "checkpoints").mkdir(parents=True)
    (tmp_path / "stages.json").write_text(json.dumps({"stages": ["one", "two"]}))
    assert place.split(str(tmp_path)) == (str(tmp_path / "two"), None)
