"""What a user sees when something is wrong: one line, the right exit code, no traceback."""

from __future__ import annotations

import json
import pathlib

from ml_collections import ConfigDict
import pytest
from run_samples import ROOT, write_pool
import tiny_run

from mof_jax import cli, trainer
from mof_jax.errors import NonFinite, UserError
from mof_jax.train.checkpoint.checkpointer import Checkpointer

CONFIG = str(ROOT / "tiny_run.py")


def error(capsys, *args: str) -> str:
    """The one line that a failing command prints."""
    assert cli.main(list(map(str, args))) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    last = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(last) == 1, err
    return last[0]


@pytest.mark.parametrize("assignment, message", [
    ("optimizer.lrr=1", "config.optimizer.lrr: unknown key (did you mean 'lr'?)"),
    ("stepz=1", "config.stepz: unknown key (did you mean 'steps'?)"),
    ("optimizer.lr=fast", "config.optimizer.lr: expected float, got 'fast'"),
    ("model.image.heads=3", "width 16 is not divisible by 3 heads"),
    ("data.image_size=17", "differs from the model's image_size"),
    ("evals=[{'kind': 'retreival'}]", "did you mean 'retrieval'?"),
    ("optimizer.name=adamm", "did you mean 'adamw'?"),
    ("optimizer.freeze=[('imagee/.*', True)]", "rule 'imagee/.*' matches no parameter"),
    ("optimizer.schedule.warmup=50", "warmup 50 + cooldown 0 exceed 40 steps"),
    ("batch_size=15", "15 is not divisible by 8 batch shards"),
    ("mesh.data=3", "does not cover 8 devices"),
    ("task=contrastiv", "did you mean 'contrastive'?"),
])
def test_config_mistakes_name_the_key(assignment, message, tmp_path, capsys):
    assert message in error(capsys, "train", "--config", CONFIG, "--workdir", tmp_path, f"--config.{assignment}")


def test_missing_files_are_named(tmp_path, capsys):
    assert "nowhere.py: no such config file" in error(capsys, "train", "--config", "nowhere.py", "--workdir", tmp_path)
    assert "no such checkpoint" in error(capsys, "eval", "--checkpoint", tmp_path)
    assert "pool.jsonl" in error(capsys, "train", "--config", f"{CONFIG}:{tmp_path}/none", "--workdir", tmp_path / "w")
    assert "unknown argument" in error(capsys, "eval", "--checkpoint", tmp_path, "--nonsense")


def test_help_shows_an_example(capsys):
    for command in ("train", "eval", "convert", "plan", ("data", "convert"), ("bench", "loss")):
        words = [command] if isinstance(command, str) else list(command)
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        assert f"mof {' '.join(words)} " in capsys.readouterr().out


def test_an_error_of_ours_is_not_blamed_on_the_user(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(trainer, "train", lambda *a: 1 / 0)
    assert cli.main(["train", "--config", CONFIG, "--workdir", str(tmp_path)]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


class TestBadData:
    """One broken record among good ones."""

    @pytest.fixture
    def pool(self, tmp_path) -> pathlib.Path:
        return write_pool(tmp_path / "pool", 24)

    @staticmethod
    def config(pool: pathlib.Path, **data) -> ConfigDict:
        c = tiny_run.get_config()
        c.data.sources = [dict(kind="jsonl", name="pool", path=f"{pool}/pool.jsonl")]
        c.data.update(data)
        c.steps, c.checkpoint.every = 3, 1
        c.optimizer.schedule.warmup = 0
        return c

    def test_a_truncated_picture_stops_the_run_by_name(self, pool, tmp_path):
        good = (pool / "003.png").read_bytes()
        (pool / "003.png").write_bytes(good[: len(good) // 2])
        with pytest.raises(UserError, match=r"pool.*p3.*truncated"):
            trainer.train(self.config(pool), str(tmp_path / "w"))

    def test_an_empty_caption_stops_the_run_by_name(self, pool, tmp_path):
        rows = [json.loads(text) for text in (pool / "pool.jsonl").read_text().splitlines()]
        rows[5] |= {"alt": " ", "synthetic": ""}
        (pool / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError, match=r"pool.*p5.*empty caption"):
            trainer.train(self.config(pool), str(tmp_path / "w"))

    def test_skip_replaces_and_counts(self, pool, tmp_path, capsys):
        for i in (3, 4):
            (pool / f"00{i}.png").write_bytes(b"not a picture")
        trainer.train(self.config(pool, on_error="skip"), str(tmp_path / "w"))
        last = [json.loads(text) for text in (tmp_path / "w/metrics.jsonl").read_text().splitlines()][-1]
        assert last["skipped_examples"] >= 2
        assert "skipped pool:p3" in capsys.readouterr().err


class TestNonFiniteLoss:
    def config(self, **spikes):
        """A run whose every update would make the temperature infinite."""
        c = tiny_run.get_config()
        c.steps, c.checkpoint.every, c.log_every, c.spikes = 6, 2, 1, spikes
        c.optimizer.lr, c.optimizer.lr_factors = 1e10, [("logit_scale", 1e38)]  # each a number, their product none in float32
        c.model.max_logit_scale = None
        return c

    def test_stops_at_the_step_and_names_its_data(self, tmp_path):
        with pytest.raises(NonFinite) as stop:
            trainer.train(self.config(), str(tmp_path / "w"))
        assert str(stop.value).startswith("step 1: ") and "not finite" in str(stop.value) and "emoji5:" in str(stop.value)

    def test_skips_up_to_a_limit_also_over_a_restart(self, tmp_path):
        """The count is part of the state; what is dropped leaves no trace in the parameters."""
        c = self.config(nonfinite="skip", max_skips=5)
        with pytest.raises(NonFinite, match=r"step 6: 6 updates were not finite and dropped.*last good checkpoint is step 4"):
            trainer.train(c, str(tmp_path / "w"))
        c.spikes.max_skips = 6
        trainer.train(c, str(tmp_path / "w"))
        steps = [json.loads(text) for text in (tmp_path / "w/metrics.jsonl").read_text().splitlines()]
        assert [(line["step"], line["skipped_updates"]) for line in steps] == [(n, n) for n in range(1, 7)]
        prints = [Checkpointer(f"{tmp_path}/w/checkpoints").meta(step)["fingerprints"] for step in (2, 6)]
        moved = {name for name in prints[0] if prints[0][name] != prints[1][name]}
        assert moved == {"step", "skipped"}


def test_data_patterns_writes_both_layouts_which_read_back(tmp_path, capsys):
    from mof_jax.data.worlds import pattern_world as world
    from mof_jax.evals.mmvp.mmvp_files import read_mmvp, read_mmvp_vlm

    assert cli.main(["data", "patterns", str(tmp_path / "world"), "--pairs", "2", "--split", "known", "--pixels", "32"]) == 0
    assert "18 pairs" in capsys.readouterr().out
    expected = [world.pair(pattern, n, "known", 32) for pattern in world.PATTERNS for n in range(2)]
    asked, stated = read_mmvp(str(tmp_path / "world/MMVP")), read_mmvp_vlm(str(tmp_path / "world/MMVP_VLM"))
    for pair, question, statement in zip(expected, asked, stated, strict=True):
        assert (question.question, question.options, question.answers) == (pair.question, pair.options, pair.answers)
        assert statement.statements == pair.statements and question.pattern == statement.pattern == pair.pattern
        assert question.images == statement.images == pair.images
    assert "already there" in error(capsys, "data", "patterns", tmp_path / "world", "--pairs", 1)
    assert "'test'" in error(capsys, "data", "patterns", tmp_path / "other", "--split", "tset")
