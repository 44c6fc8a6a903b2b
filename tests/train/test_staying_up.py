"""Watchdog, goodput ledger, policies for losses, slow hosts, exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from run_samples import environment
from test_step import rows, setup
import tiny_run

from mof_jax import cli, storage, trainer
from mof_jax import config as configs
from mof_jax.errors import ExitCode, NonFinite, Preempted, UserError
from mof_jax.jsonl import JsonLines, read_lines
from mof_jax.train.checkpoint import manifest
from mof_jax.train.checkpoint.checkpointer import Checkpointer
from mof_jax.train.reliability import goodput, hosts
from mof_jax.train.reliability.goodput import KINDS, Ledger
from mof_jax.train.reliability.preemption import Preemption
from mof_jax.train.reliability.spikes import SpikeConfig, Spikes
from mof_jax.train.reliability.watchdog import Watchdog, WatchdogConfig

# --- exit codes ---


def test_the_codes_are_a_contract():
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0, "USER_ERROR": 1, "INTERNAL_ERROR": 70, "PREEMPTED": 75, "HANG": 76, "NON_FINITE": 77, "OUT_OF_MEMORY": 78,
        "PEER_LOST": 79}


def too_much():
    """What XLA really raises: 16 TiB."""
    (jnp.ones((1 << 20, 1 << 22)) + 1).block_until_ready()


@pytest.mark.parametrize(("fault", "code", "said"), [
    (too_much, 78, "out of memory"), (lambda: 1 / 0, 70, "internal error"), (lambda: None, 0, "")])
def test_how_a_command_ends(monkeypatch, capsys, fault, code, said):
    monkeypatch.setattr(cli, "train", lambda args: fault())
    assert cli.main(["train", "--config", "x.py", "--workdir", "w"]) == code
    err = capsys.readouterr().err
    assert said in err and ("Traceback" in err) == (code == 70)


@pytest.mark.parametrize(("error", "code"), [(UserError("x"), 1), (NonFinite("x"), 77), (Preempted("x"), 75)])
def test_errors_carry_their_code(monkeypatch, error, code):
    def fault(args):
        raise error

    monkeypatch.setattr(cli, "train", fault)
    assert cli.main(["train", "--config", "x.py", "--workdir", "w"]) == code


# --- watchdog ---

STUCK = """
import sys, time
from mof_jax.train.reliability.watchdog import Watchdog, WatchdogConfig
def the_step_that_hangs():
    time.sleep(60)
with Watchdog(WatchdogConfig(dump=4, exit=20, least_s=0.2), sys.argv[1], 3) as dog:
    for _ in range(8):
        time.sleep(0.1)
        dog.step()
    with dog.elsewhere("an evaluation"):
        time.sleep(1.0)
    time.sleep(0.1)
    dog.step()
    the_step_that_hangs()
"""


def test_a_step_that_hangs_leaves_stacks_and_ends_with_76(tmp_path):
    begun = time.monotonic()
    command = [sys.executable, "-c", STUCK, str(tmp_path)]
    done = subprocess.run(command, env=environment(1), capture_output=True, text=True, timeout=50)
    assert done.returncode == ExitCode.HANG and time.monotonic() - begun < 40
    assert [path.name for path in tmp_path.iterdir()] == ["stacks-3-1.txt"], "the evaluation took long, and is no step"
    assert "the_step_that_hangs" in (tmp_path / "stacks-3-1.txt").read_text()
    first, last = done.stderr.splitlines()
    assert first.startswith("watchdog: a step takes") and str(tmp_path / "stacks-3-1.txt") in first
    assert last.startswith("error: process 3 hangs: a step has taken") and "run the same command again" in last


def test_limits_follow_the_median_and_never_undercut_the_least():
    dog = Watchdog(WatchdogConfig(dump=10, exit=30, least_s=50, elsewhere_s=600), "unused")
    assert dog.limits() == (300, 600), "before the first step it compiles"
    dog.step()
    assert dog.limits() == (50, 50)
    dog._durations.extend([1.0, 20.0, 20.0, 20.0, 300.0])
    assert dog.limits() == (200, 600)
    with dog.elsewhere("saving"):
        assert dog.limits() == (300, 600)
    never = Watchdog(WatchdogConfig(dump=0, exit=0), "unused")
    assert never.limits() == (float("inf"), float("inf"))
    with pytest.raises(UserError, match="config.watchdog"):
        configs.build(WatchdogConfig, {"dump": -1.0}, "config.watchdog")


# --- goodput ---


NOON = 1_000_000.0  # where the time of day stands as `perf_counter` stands at 0


@pytest.fixture
def clock(monkeypatch):
    """`time.perf_counter` and the time of day of the ledger, set by hand."""
    now = [100.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(goodput.time, "time", lambda: NOON + now[0])
    return now


def test_every_second_is_booked_once(clock):
    ledger = Ledger(begun=90.0)
    clock[0] = 110.0
    ledger.started()
    clock[0] = 140.0
    ledger.waited(4.0)
    with ledger.spent("checkpoint"):
        clock[0] = 147.0
    with ledger.spent("eval"):
        clock[0] = 150.0
    clock[0] = 151.0
    found = ledger.read()
    assert found == {"step": 27.0, "data": 4.0, "checkpoint": 7.0, "eval": 3.0, "start": 20.0, "lost": 0.0, "down": 0.0}
    assert sum(found.values()) == 151.0 - 90.0 and set(found) == set(KINDS)


def test_a_restart_adds_up_and_counts_what_was_lost(clock):
    line = lambda step, seconds: {"step": step, "seconds": {"step": seconds, "start": 10.0}}
    ledger = Ledger([line(1, 1.0), line(10, 30.0), line(20, 55.0)], start=12, begun=95.0)
    clock[0] = 103.0
    found = ledger.read()
    assert found["start"] == 18.0 and found["step"] == 30.0, "what the kept line says, and the new start"
    assert found["lost"] == 25.0, "the steps after it are done again"
    again = Ledger([{"step": 20, "seconds": found}], start=20)
    assert again.read()["lost"] == 25.0
    assert Ledger([line(5, 40.0)], start=0).read()["lost"] == 50.0, "a run without a checkpoint begins anew"


def test_the_time_between_two_processes_is_down(clock):
    """From the last line to the beginning of the next process's work, whether that line is kept or not."""
    line = lambda step, spent, when, down=0.0: {"step": step, "seconds": {"step": spent, "down": down}, "unix_time": NOON + when}
    clock[0] = 103.0
    for start in (10, 20):
        found = Ledger([line(10, 30.0, 30.0), line(20, 40.0, 40.0, down=2.0)], start, begun=95.0).read()
        assert found["down"] == (55.0 if start == 10 else 57.0) and found["start"] == 8.0
        assert found["lost"] == (12.0 if start == 10 else 0.0) and sum(found.values()) == 42.0 + 55.0 + 8.0
    assert Ledger([line(20, 40.0, 96.0)], 20, begun=95.0).read()["down"] == 0.0, "a clock that was set back"
    assert Ledger([{"step": 20, "seconds": {"step": 40.0}}], 20).read()["down"] == 0.0, "a log without times of day"
    assert Ledger([], 20).read()["down"] == 0.0, "the first start, also that of a branch: its trunk's lines are not its own"


def test_going_back_loses_what_went_by(clock):
    ledger = Ledger([{"step": 4, "seconds": {"step": 5.0, "down": 2.0}}], 4, begun=100.0)
    clock[0] = 110.0
    ledger.started()
    clock[0] = 130.0
    logged = {"step": 8, **ledger.line()}
    assert logged["unix_time"] == NOON + 130.0
    clock[0] = 145.0
    ledger.back([logged, {"step": 12, **ledger.line()}], 8)
    assert ledger.read() == dict.fromkeys(KINDS, 0.0) | {"step": 25.0, "start": 10.0, "down": 2.0, "lost": 15.0}
    clock[0] = 150.0
    ledger.started()
    assert ledger.read()["start"] == 15.0, "restoring"


def test_a_process_that_is_not_killed_leaves_word(clock):
    """Between its last line and its end there are steps, saves and evaluations: they are no down time."""
    path = "memory://left"
    log = JsonLines(f"{path}/metrics.jsonl")
    ledger = Ledger(begun=90.0)
    ledger.started()
    clock[0] = 120.0
    ledger.end(path, 5)
    assert goodput.lines(path) == [] and goodput.read(path) == {}, "word of a run whose log is gone is not this run's"
    log.write({"step": 4, **ledger.line()})
    log.flush()
    with ledger.spent("checkpoint"):
        clock[0] = 127.0
    ledger.end(path, 5)
    assert [line["step"] for line in goodput.lines(path)] == [4, 5]
    assert goodput.read(path)["checkpoint"] == 7.0
    clock[0] = 1127.0
    again = Ledger(goodput.lines(path), 5, begun=1127.0)
    assert again.read() == {**ledger.read(), "step": 20.0, "down": 1000.0, "lost": 0.0}
    assert Ledger(goodput.lines(path), 4, begun=1127.0).read()["lost"] == 7.0, "the checkpoint of step 5 was damaged"
    clock[0] = 1130.0
    log.write({"step": 6, **again.line()})
    log.flush()
    assert [line["step"] for line in goodput.lines(path)] == [4, 5, 6], "at its place, also when the next one was killed"
    for word in (b'{"step": 5', b"[]", b'{"step": 5}'):
        storage.write_atomic(storage.join(path, goodput.ENDED), [word])
        assert [line["step"] for line in goodput.lines(path)] == [4, 6], "it cannot be read"


@pytest.mark.slow
def test_a_week_between_two_processes(tmp_path, monkeypatch, capsys):
    c, workdir = tiny_run.get_config(), str(tmp_path / "w")
    c.steps, c.checkpoint, c.log_every, c.compilation_cache = 6, dict(every=0), 2, str(tmp_path / "xla")
    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "reached", lambda self: True)
        with pytest.raises(Preempted):
            trainer.train(c, workdir)
    left = json.loads((tmp_path / "w/ended.json").read_text())
    assert left["step"] == 1 and left["seconds"]["checkpoint"] > 0 and left["seconds"]["down"] == 0.0
    real, week = time.time, 7 * 86400.0
    monkeypatch.setattr(goodput.time, "time", lambda: real() + week)
    trainer.train(c, workdir)
    found = goodput.read(workdir)
    assert week <= found["down"] < week + 60 and found["lost"] == 0.0 and found["checkpoint"] > left["seconds"]["checkpoint"]
    assert "of the time that a process ran" in capsys.readouterr().out
    branch = dict(c.to_dict(), branch_from=f"{workdir}/checkpoints/6", steps=8)
    trainer.train(branch, str(tmp_path / "branch"))
    assert goodput.read(str(tmp_path / "branch"))["down"] == 0.0


def test_the_report_reads_a_work_dir(tmp_path):
    assert goodput.read(str(tmp_path)) == {}
    last = {"step": 2, "seconds": {"step": 75.0, "start": 25.0, "lost": 0.0}}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in ({"step": 1}, last)))
    table = goodput.report(goodput.read(str(tmp_path)))
    assert table.title == "Goodput 75.0%" and table.row_count == 2
    assert list(table.columns[2].cells) == ["75.0%", "25.0%"]


def test_the_report_has_both_goodputs_of_a_run_that_was_down():
    table = goodput.report({"step": 75.0, "start": 25.0, "down": 100.0})
    assert table.title == "Goodput 37.5% of all time, 75.0% of the time that a process ran"
    assert list(table.columns[0].cells)[0] == "no process ran: waiting for machines, or stopped on purpose"
    assert list(table.columns[2].cells) == ["50.0%", "37.5%", "12.5%"]


# --- losses ---


def test_a_skipped_update_leaves_everything_but_the_step():
    """And the next one is what it would have been, one step later."""
    state, step = setup()
    state = dataclasses.replace(state, skipped=jnp.int32(0))  # `setup` is shared
    broken = {**rows(0), "x": np.full((4, 3), np.nan, np.float32)}
    after, metrics = step(state, broken)
    assert int(after.step) == 1 and int(after.skipped) == int(metrics["skipped_updates"]) == 1 and int(after.bad_step) == -1
    for name in ("params", "frozen", "opt", "ema"):
        kept, before = jax.tree.leaves(getattr(after, name)), jax.tree.leaves(getattr(state, name))
        assert all(np.array_equal(a, b) for a, b in zip(kept, before, strict=True)), name
    good, metrics = step(after, rows(1))
    assert int(metrics["skipped_updates"]) == 1 and np.isfinite(metrics["loss"])
    plain, _ = setup()
    plain = dataclasses.replace(plain, step=jnp.int32(1), skipped=jnp.int32(0))
    expected, _ = step(plain, rows(1))
    assert np.array_equal(good.params["slope"], expected.params["slope"])
    assert not np.array_equal(good.params["slope"], state.params["slope"])


def test_spikes_are_told_from_noise():
    rng = np.random.default_rng(0)
    noise = (3 + 0.1 * rng.standard_normal(400)).tolist()
    watch = Spikes(SpikeConfig(deviations=20, window=100))
    assert watch.look(1, noise) == []
    (step, loss, usual), = watch.look(401, [3.0, 9.0, float("nan"), 3.0])
    assert (step, loss) == (402, 9.0) and usual == pytest.approx(3.0, abs=0.05)
    assert Spikes(SpikeConfig(window=100)).look(1, [3.0] * 49 + [90.0]) == [], "too few steps to say"
    assert Spikes(SpikeConfig(window=100)).look(1, [3.0] * 60 + [3.01]) == [], "a constant loss has no spread"
    assert Spikes(SpikeConfig(deviations=0)).look(1, [*noise, 1e9]) == []
    with pytest.raises(UserError, match="config.spikes"):
        configs.build(SpikeConfig, {"window": 2}, "config.spikes")


# --- hosts and signals ---


def test_the_slow_host_is_named():
    assert hosts.outlier([0.1, 0.1, 0.9, 0.1], 1.0) == (
        "process 2 is slow: busy for 0.900 s of a step of 1.000 s, the median host for 0.100 s")
    assert hosts.outlier([0.10, 0.12, 0.09], 1.0) == "" and hosts.outlier([0.5], 1.0) == ""
    assert hosts.outlier([0.001, 0.001, 0.01], 1.0) == "", "ten times as busy, and no matter"
    line = {"host_s": 0.5, "step_s": 1.0}
    assert hosts.slow(line) == "" and line == {"step_s": 1.0}, "one process has nobody to compare with"


def test_a_signal_is_heard_between_two_batches():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        preemption.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted, match="run again"):
            preemption.check()
        assert preemption.reached()
    assert signal.getsignal(signal.SIGTERM) is before


# --- a remote work dir ---


def test_lines_of_an_object_store_are_whole_after_each_flush():
    """`memory://` cannot append, like all stores: what was flushed is there, also for a run that goes on."""
    path = "memory://run/metrics.jsonl"
    lines = JsonLines(path, keep_until=0)
    for step in (1, 2, 3):
        lines.write({"step": step, "loss": float("nan") if step == 2 else 0.5})
    lines.flush()
    assert read_lines(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": "nan"}, {"step": 3, "loss": 0.5}]
    again = JsonLines(path, keep_until=2)
    assert [line["step"] for line in read_lines(path)] == [1, 2]
    again.write({"step": 3, "seconds": {"step": 3.0}})
    assert [line["step"] for line in read_lines(path)] == [1, 2], "not yet"
    again.flush()
    assert goodput.read("memory://run") == {"step": 3.0}


def test_a_sealed_folder_of_an_object_store():
    """The manifest through the same calls as on a disk: each object changed, cut or gone."""
    folder, files = "memory://run/checkpoints/4", {"state/d/0": b"arrays" * 50, "meta/metadata": b"{}"}
    for name, data in files.items():
        storage.write_atomic(f"{folder}/{name}", [data])
    manifest.write(folder, 4)
    sealed = manifest.read(folder)
    assert manifest.damage(folder, sealed) == ""
    for name, data in files.items():
        storage.write_atomic(f"{folder}/{name}", [b"A" + data[1:]])
        assert manifest.damage(folder, sealed) == f"{name} differs from what was written"
        storage.write_atomic(f"{folder}/{name}", [data[:-1]])
        assert manifest.damage(folder, sealed) == f"{name} has {len(data) - 1} bytes, written were {len(data)}"
        storage.write_atomic(f"{folder}/{name}", [data])
    fsspec.filesystem("memory").rm("/run/checkpoints/4/meta/metadata")
    assert manifest.damage(folder, sealed) == "meta/metadata is missing"


def test_a_store_that_orbax_cannot_write_is_refused():
    with pytest.raises(UserError, match="local or mounted folder or to gs://"):
        Checkpointer("s3://bucket/run/checkpoints")
