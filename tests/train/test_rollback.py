"""A loss that jumps and stays up: back to a checkpoint from before it, on without the batches since; killed anywhere or not."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import rollback_run
from run_samples import ROOT, finish, lines
from test_resume import start_two, wait_for_step
from tiny_run import losses

from mof_jax import config as configs
from mof_jax import trainer
from mof_jax.errors import Diverged, ExitCode, Preempted, UserError
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig, Checkpointer
from mof_jax.train.display import Display
from mof_jax.train.reliability import goodput
from mof_jax.train.reliability.preemption import Preemption
from mof_jax.train.reliability.rollback import Rollback, behind, check, to_skip
from mof_jax.train.reliability.spikes import SpikeConfig, Spikes

# --- what counts as lasting ---

CALM = (3 + 0.01 * np.random.default_rng(0).standard_normal(60)).tolist()


def watch(**options) -> Spikes:
    return Spikes(SpikeConfig(**dict(window=40, deviations=20, rollback_after=4) | options))


@pytest.mark.parametrize(("losses", "last"), [
    ([9.0], None), ([9.0, 9.0, 9.0], None), ([9.0, 9.0, 9.0, 3.0, 9.0], None), ([9.0, float("nan"), 9.0, 9.0], 64),
    ([9.0, 8.0, 5.0, 4.0, 3.0], 64), ([3.0, 9.0, 3.0, *[9.0] * 6], 67)],
    ids=["one", "three", "a dip begins anew", "nan is passed over", "coming down slowly", "the first that lasts"])
def test_only_losses_in_a_row_are_a_lasting_spike(losses, last):
    spikes = watch()
    spikes.look(1, CALM)
    spikes.look(61, [*losses, *CALM[:10]])
    assert (spikes.lasting and spikes.lasting.last) == last


def test_the_limit_stays_where_it_was_when_the_loss_jumped():
    """Or the window would follow the losses up, and a long spike end by itself."""
    spikes = watch(rollback_after=100)
    spikes.look(1, CALM + [9.0] * 99)
    assert spikes.lasting is None
    spikes.look(160, [9.0])
    assert (spikes.lasting.first, spikes.lasting.last) == (61, 160) and spikes.lasting.limit < 4
    assert "stayed above" in spikes.lasting.why and "for 100 steps from step 61 on (median before: 3" in spikes.lasting.why


@pytest.mark.parametrize("cut", [5, 30, 60, 61, 62, 63])
def test_what_was_seen_survives_a_restart(cut):
    whole, parts = watch(), watch()
    values = CALM + [9.0] * 4
    found = whole.look(1, values)
    first = parts.look(1, values[:cut])
    parts = Spikes(parts.config, json.loads(json.dumps(parts.save())))
    assert first + parts.look(cut + 1, values[cut:]) == found and len(found) == 4
    assert parts.lasting == whole.lasting is not None


def test_a_policy_that_cannot_work_is_refused():
    for wrong in (dict(back=0), dict(rollback_after=-1), dict(rollback_after=4, deviations=0.0)):
        with pytest.raises(UserError, match="config.spikes"):
            configs.build(SpikeConfig, wrong, "config.spikes")
    policy = SpikeConfig(rollback_after=10, back=100)
    with pytest.raises(UserError, match="may go back 160 steps; config.checkpoint.keep must be at least 5 with .*every=50"):
        check(policy, CheckpointConfig(every=50, keep=4), log_every=60)
    check(policy, CheckpointConfig(every=50, keep=5), log_every=60)
    check(policy, CheckpointConfig(), log_every=50)
    with pytest.raises(UserError, match="config.checkpoint.every=0"):
        check(policy, CheckpointConfig(every=0), log_every=60)
    check(SpikeConfig(), CheckpointConfig(every=0), log_every=60)


# --- arithmetic of batches ---


def test_batches_behind_a_step():
    """Against a list that is kept by hand."""
    back = lambda number, step, until: Rollback(number, step, 0, until, "")
    history, done = [], list(range(30))  # data of steps 1, 2, …
    for number, (step, until, steps) in enumerate([(20, 40, 25), (20, 60, 40), (50, 120, 10), (30, 140, 5)], 1):
        history = [b for b in history if b.step <= step] + [back(number, step, until)]
        assert to_skip(history, step) == until - (done[step - 1] + 1) and to_skip(history, step + 1) == 0
        done = done[:step] + list(range(until, until + steps))
        assert [behind(history, n) for n in range(1, len(done) + 1)] == [n + 1 for n in done]
    assert behind([], 7) == 7 and to_skip([], 7) == 0


# --- whole runs ---


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return rollback_run.write(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("xla"))


def config(pairs: str, cache: str, **spikes):
    c = rollback_run.get_config(pairs)
    c.compilation_cache = cache
    c.spikes.update(spikes)
    return c


def computed(workdir) -> list[dict]:
    return losses(lines(workdir / "metrics.jsonl"))


@pytest.fixture(scope="module")
def whole(pairs, cache, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    trainer.train(config(pairs, cache), str(workdir))
    return workdir


def test_a_bad_stretch_is_skipped(whole, cache, tmp_path, capsys):
    found = computed(whole)
    assert [line["step"] for line in found] == [1, 5, 10, 15, 16, 20, 25, 30, 35, 40]
    (back,) = [line["rollback"] for line in found if "rollback" in line]
    assert back | dict(why="") == dict(number=1, step=16, first=16, until=32, why=""), "seen until batch 23, and 8 more"
    assert back["why"].startswith("the loss stayed above 0.") and "for 4 steps from step 21 on" in back["why"]
    assert found[-1]["loss"] < 0.01
    spent = lines(whole / "metrics.jsonl")[4]["seconds"]
    assert spent["lost"] > 0 and goodput.read(str(whole))["lost"] == spent["lost"], "steps 17 to 24"
    # The same as a run whose data never had those batches.
    without = rollback_run.write(tmp_path / "without")
    texts = open(f"{without}/pairs.jsonl").read().splitlines(keepends=True)
    open(f"{without}/pairs.jsonl", "w").writelines(texts[: 16 * rollback_run.BATCH] + texts[32 * rollback_run.BATCH:])
    c = config(without, cache)
    c.tokenizer = dict(kind="run", path=str(whole))
    trainer.train(c, str(tmp_path / "w"))
    assert computed(tmp_path / "w") == [line for line in found if "rollback" not in line]
    assert "jumped" not in capsys.readouterr().err


def test_without_the_option_it_is_only_said(pairs, cache, tmp_path, capsys):
    trainer.train(config(pairs, cache, rollback_after=0), str(tmp_path / "w"))
    assert [line["step"] for line in computed(tmp_path / "w")] == [1, 5, 10, 15, 20, 25, 30, 35, 40]
    said = capsys.readouterr().err
    assert "step 21: the loss jumped" in said and "step 28: the loss jumped" in said


def test_one_bad_batch_is_no_reason(cache, tmp_path, capsys):
    trainer.train(config(rollback_run.write(tmp_path / "pairs", range(20, 21)), cache), str(tmp_path / "w"))
    assert not [line for line in lines(tmp_path / "w/metrics.jsonl") if "rollback" in line]
    assert "step 21: the loss jumped" in capsys.readouterr().err


@pytest.mark.slow
def test_a_second_rollback_may_undo_the_first(cache, tmp_path, monkeypatch):
    """More bad data where the first one lands: back to before it, and over all that was skipped then. What was evaluated is done
    again, and no state is in memory as another is restored."""
    held, first_state = [], trainer.first_state

    def watched(*args):
        held.append(sum(x.nbytes for x in jax.live_arrays()))
        return first_state(*args)

    monkeypatch.setattr(trainer, "first_state", watched)  # of the first start, and of the rollbacks
    c = config(rollback_run.write(tmp_path / "pairs", range(20, 40)), cache)
    c.evals, c.eval_every = [dict(kind="retrieval", name="pairs", source=dict(c.data.sources[0]))], 14
    trainer.train(c, str(tmp_path / "w"))
    assert [line["step"] for line in lines(tmp_path / "w/evals.jsonl")] == [14, 28, 40], "14 twice, and the first is gone"
    assert len(held) == 3 and max(held[1:]) < held[0] + 100_000, "a state has 218,908 bytes"
    found = computed(tmp_path / "w")
    assert [line["step"] for line in found] == [1, 5, 10, 12, 15, 20, 25, 30, 35, 40] and found[-1]["loss"] < 0.01
    assert found[3]["rollback"] | dict(why="") == dict(number=2, step=12, first=12, until=44, why=""), "it had read 32 to 35"


def test_the_rollbacks_have_an_end(cache, tmp_path):
    """Started again it ends the same way."""
    c, said = config(rollback_run.write(tmp_path / "pairs", range(20, 64)), cache, max_rollbacks=1), []
    for _ in range(2):
        with pytest.raises(Diverged) as stop:
            trainer.train(c, str(tmp_path / "w"))
        assert stop.value.code == ExitCode.NON_FINITE
        said.append(str(stop.value))
    assert said[0] == said[1] and "\n" not in said[0] and said[0].startswith("step 20: the loss stayed above")
    assert "rolled back config.spikes.max_rollbacks (1) times" in said[0] and "data from batch 32 (counted from 0)" in said[0]


@pytest.mark.slow
def test_a_spike_before_the_first_checkpoint_that_is_old_enough(pairs, cache, tmp_path):
    c = config(pairs, cache, back=18)
    c.checkpoint.keep = 8
    with pytest.raises(Diverged, match=r"^step 24: .*no checkpoint lies 18 steps \(config.spikes.back\) before; .*every"):
        trainer.train(c, str(tmp_path / "w"))


# --- killed anywhere ---


class Killed(BaseException):
    """Ends a run where it stands."""


def die(*args):
    raise Killed


def at_step(monkeypatch, step: int, again: bool = False) -> None:
    """A kill in that step; `again`: when it is done for the second time."""
    seen = []

    def advance(self, now):
        seen.append(now)
        if seen.count(step) == 1 + again:
            die()

    monkeypatch.setattr(Display, "advance", advance)


def asked_in(monkeypatch, step: int) -> None:
    """A signal in that step."""
    polls = iter(range(1, 99))
    monkeypatch.setattr(Preemption, "reached", lambda self: next(polls) >= step)


KILLS = {
    "a signal before it, whose checkpoint is not the rhythm's": lambda patch: asked_in(patch, 17),
    "in the spike": lambda patch: at_step(patch, 23),
    "a signal in the spike, which is saved": lambda patch: asked_in(patch, 22),
    "a signal as the rollback is decided": lambda patch: asked_in(patch, 24),
    "before the checkpoints after it are gone": lambda patch: patch.setattr(Checkpointer, "drop_after", die),
    "before it went on": lambda patch: patch.setattr(trainer, "cursor", cursor_once()),
}


def cursor_once():
    """`trainer.cursor`, the second time that an attempt begins a kill."""
    calls, real = [], trainer.cursor
    return lambda state: die() if calls.append(0) or len(calls) == 2 else real(state)


QUICK = ("before the checkpoints after it are gone",)  # ten seconds each


@pytest.mark.parametrize("kill", [pytest.param(kill, id=name, marks=() if name in QUICK else pytest.mark.slow)
                                  for name, kill in KILLS.items()])
def test_killed_and_resumed_it_computes_the_same(kill, pairs, cache, whole, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        kill(patch)
        with pytest.raises((Killed, Preempted)):
            trainer.train(config(pairs, cache), str(tmp_path))
    trainer.train(config(pairs, cache), str(tmp_path))
    assert computed(tmp_path) == computed(whole)
    prints = [Checkpointer(f"{folder}/checkpoints", read_only=True).meta(40) for folder in (tmp_path, whole)]
    assert all(prints[0][key] == prints[1][key] for key in ("fingerprints", "rollbacks", "spikes"))


@pytest.mark.slow
def test_packed_documents_are_skipped_and_a_rollback_is_decided_once(cache, tmp_path, capsys):
    """Killed soon after it and again later. Before the first checkpoint the line in metrics.jsonl is enough: the spike is not run
    into again; after that the cursor has passed what is skipped, which is not skipped once more."""
    c = rollback_run.packed(rollback_run.write_words(tmp_path))
    c.compilation_cache = cache
    trainer.train(c, str(tmp_path / "whole"))
    found = computed(tmp_path / "whole")
    assert [line["step"] for line in found if "rollback" in line] == [16] and found[-1]["loss"] < 0.01
    for step, again in ((18, True), (33, False)):
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            at_step(patch, step, again)
            trainer.train(c, str(tmp_path / "killed"))
    trainer.train(c, str(tmp_path / "killed"))
    out = capsys.readouterr()
    assert "resuming after step 16" in out.out and "jumped" not in out.err
    assert computed(tmp_path / "killed") == found
    seen = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "killed")]
    assert seen[0] == seen[1] and 1200 < seen[0]["documents"] < 1300, "32 a batch, without those of the batches skipped"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["whole", "killed and resumed"])
def test_two_hosts_go_back_together(killed, pairs, cache, whole, tmp_path):
    args = ("train", "--config", f"{ROOT}/rollback_run.py:{pairs}", "--workdir", tmp_path, f"--config.compilation_cache={cache}")
    if killed:
        processes = start_two(*args)
        wait_for_step(processes[0], tmp_path, 25)  # which only the run that has gone back reaches
        processes[1].kill()
        for process in processes:
            finish(process)
    ends = [finish(process) for process in start_two(*args)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert killed == ("resuming after step" in ends[0][1]) == ("back to the checkpoint of step 16" not in ends[0][1])
    ours, theirs = computed(tmp_path), computed(whole)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    where = [[{**line["rollback"], "why": ""} for line in log if "rollback" in line] for log in (ours, theirs)]
    assert where[0] == where[1] and len(where[0]) == 1
    for a, b in zip(ours, theirs):
        assert "rollback" in a or a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-4)
