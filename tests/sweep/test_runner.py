"""The runner, with trainers that end as they are told: retries by kind, workers side by side, kills, signals."""

from __future__ import annotations

from collections import Counter
import csv
import json
import os
import pathlib
import random
import signal
import sys
import time

import fake_sweep
import pytest

from mof_jax.errors import UserError
from mof_jax.scaling import table
from mof_jax.scaling.table import Excluded
from mof_jax.sweep.branches import cooldowns
from mof_jax.sweep.ledger import Ledger
from mof_jax.sweep.points import expand
from mof_jax.sweep.runner import Runner, reopen_failed


def rows(folder) -> list[dict]:
    with open(folder / "points.csv", newline="") as f:
        return list(csv.DictReader(f))


def trace(folder) -> list[tuple[str, str, int]]:
    return [(what, name, int(pid)) for what, name, pid in map(str.split, (folder / "trace").read_text().splitlines())]


def begun(folder) -> Counter:
    return Counter(name for what, name, _ in trace(folder) if what == "begin")


def tell(folder, ends: dict[str, list]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "ends.json").write_text(json.dumps(ends))


def test_points_are_run_once_and_written_in_the_grids_order(tmp_path, capsys):
    runner = fake_sweep.runner(tmp_path, 4, workers=3)
    ids = [point.id for point in runner.sweep.points]
    runner.run()
    assert begun(tmp_path) == Counter(ids)
    found = rows(tmp_path)
    assert [(row["id"], row["seed"], row["status"]) for row in found] == [(id, str(i), "done") for i, id in enumerate(ids)]
    assert [float(row["loss"]) for row in found] == [1 / int(id, 16) for id in ids], "the evaluator's, not the training loss"
    written = (tmp_path / "points.csv").read_bytes()
    fake_sweep.runner(tmp_path, 4, workers=3).run()
    assert begun(tmp_path) == Counter(ids) and (tmp_path / "points.csv").read_bytes() == written
    assert "4 of 4 runs done" in capsys.readouterr().err


@pytest.mark.parametrize("ends, tries, status, kind", [
    ([75, 75, 76, 76, 78, 70, 79, 79, 79, "kill", "kill", "kill", 0], 13, "done", "done"),  # each kind to its limit
    ([1], 1, "failed", "user error"),
    ([77], 1, "diverged", "not finite"),
    ([70, 70], 2, "failed", "crash"),
    ([3, 3], 2, "failed", "crash"),
    ([76, 76, 76], 3, "failed", "hang"),
    ([78, 78], 2, "failed", "out of memory"),
    (["kill"] * 4, 4, "failed", "killed"),
])
def test_retries_by_kind(tmp_path, ends, tries, status, kind):
    """A point that ends badly is tried as often as its kind says, is told, and does not stop the others."""
    runner = fake_sweep.runner(tmp_path, 2, steps=1, workers=2)
    bad, good = (point.id for point in runner.sweep.points)
    tell(tmp_path, {bad: ends})
    if status == "done":
        runner.run()
    else:
        with pytest.raises(UserError, match=f"1 of 2 runs are not done: {bad} {status}"):
            runner.run()
    assert begun(tmp_path) == {bad: tries, good: 1}
    record = Ledger(str(tmp_path)).record(bad)
    assert record.status == status and record.ends[kind] >= 1 and sum(record.ends.values()) == tries
    assert status == "done" or "kill" in ends or record.reason == f"error: told to end with {ends[0]}"
    first, second = rows(tmp_path)
    assert (first["status"], second["status"]) == (status, "done")
    if status != "done":
        assert first["loss"] == "nan" and first["examples"] == "8" and float(first["flops"]) > 0 < int(first["parameters"])


def test_a_failed_point_is_reported_by_the_fit_and_tried_anew_when_asked(tmp_path):
    runner = fake_sweep.runner(tmp_path, 6, steps=1, workers=3)
    bad = runner.sweep.points[2].id
    tell(tmp_path, {bad: [77]})
    with pytest.raises(UserError, match="diverged"):
        runner.run()
    _, names, read = table.read(str(tmp_path))
    wanted = {"N": "parameters", "D": "examples", "C": "flops", "L": "loss", "lr": "learning_rate", "wd": "weight_decay"}
    assert wanted.items() <= names.items()
    assert Excluded(3, "L is NaN") in table.points("points.csv", read, ("N", "D", "C", "L")).excluded
    with pytest.raises(UserError, match="diverged"):
        fake_sweep.runner(tmp_path, 6, steps=1).run()
    assert begun(tmp_path)[bad] == 1, "not without being asked"
    assert reopen_failed(runner.sweep, str(tmp_path)) == 1
    fake_sweep.runner(tmp_path, 6, steps=1).run()
    assert begun(tmp_path)[bad] == 2 and rows(tmp_path)[2]["status"] == "done"


def test_two_runners_never_take_one_point(tmp_path):
    """Real processes on one folder, three trainers each: every point is begun once, and both see all of them done."""
    runners = [fake_sweep.start(tmp_path, 24, 5, 3) for _ in range(2)]
    ends = [process.communicate(timeout=120) + (process.returncode,) for process in runners]
    assert [code for *_, code in ends] == [0, 0], ends
    assert len(begun(tmp_path)) == 24 and set(begun(tmp_path).values()) == {1}
    owners = {json.loads(line)["pid"] for line in (tmp_path / "sweep.jsonl").read_text().splitlines() if '"start"' in line}
    assert owners == {process.pid for process in runners}, "both worked"
    assert [row["status"] for row in rows(tmp_path)] == ["done"] * 24


def kill_on_the_way(folder, points: int, steps: int, kills: int, rng: random.Random, victims: str) -> None:
    """A sweep killed so often, at random, itself or one of its trainers, and run again to the end."""
    for _ in range(kills):
        before = len(trace(folder)) if (folder / "trace").exists() else 0
        process = fake_sweep.start(folder, points, steps, 2)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and (not (folder / "trace").exists() or len(trace(folder)) <= before):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        assert process.poll() is None, "the sweep ended before it could be killed"
        if rng.choice(victims) == "t":
            for what, _, pid in reversed(trace(folder)):
                if what == "begin":
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                    break
        process.kill()
        process.communicate()
    process = fake_sweep.start(folder, points, steps, 2)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def alone(folder) -> None:
    """No two trainers were ever in one point's folder, though some outlived their sweep."""
    inside: dict[str, int] = {}
    for what, name, pid in trace(folder):
        if what == "begin":
            assert name not in inside or not pathlib.Path(f"/proc/{inside[name]}").exists()
            inside[name] = pid
        else:
            assert inside.pop(name) == pid


@pytest.mark.parametrize("kills, seed", [(2, 0), pytest.param(10, 1, marks=pytest.mark.slow)])
def test_a_killed_sweep_writes_the_same_points(tmp_path, kills, seed):
    points, steps = 4 * kills, 20
    whole = tmp_path / "whole"
    process = fake_sweep.start(whole, points, steps, 4)
    assert process.wait(120) == 0
    kill_on_the_way(tmp_path / "killed", points, steps, kills, random.Random(seed), "srt")
    assert (tmp_path / "killed" / "points.csv").read_bytes() == (whole / "points.csv").read_bytes()
    alone(tmp_path / "killed")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_is_passed_down_and_the_sweep_goes_on_later(tmp_path, number):
    process = fake_sweep.start(tmp_path, 3, 100, 2)
    while not (tmp_path / "trace").exists() or len(trace(tmp_path)) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "0 of 3 runs done; what ran has saved its state, run again to go on" in err
    assert [what for what, *_ in trace(tmp_path)].count("end") == 2, "the trainers left before the sweep did"
    assert not Ledger(str(tmp_path)).read(), "what we stop ourselves is no end"
    steps = [int(path.read_text()) for path in tmp_path.glob("runs/*/steps")]
    assert len(steps) == 2 and all(0 < n < 100 for n in steps)
    fake_sweep.runner(tmp_path, 3, steps=100, workers=3).run()
    assert sorted(begun(tmp_path).values()) == [1, 2, 2]


def test_a_second_signal_kills(tmp_path):
    runner = fake_sweep.runner(tmp_path, 1, steps=1)
    tell(tmp_path, {runner.sweep.points[0].id: ["hang"]})
    process = fake_sweep.start(tmp_path, 1, 1, 1)
    while not list(tmp_path.glob("runs/*/steps")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    (pid,) = (pid for _, _, pid in trace(tmp_path))
    os.kill(pid, signal.SIGSTOP)  # it hears nothing
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 75 and not pathlib.Path(f"/proc/{pid}").exists()


def test_a_branch_waits_for_its_trunk_and_fails_with_it(tmp_path):
    """The fake trunk leaves no checkpoint: its branches are told so, and are not begun."""
    found = expand(fake_sweep.sweep_run.__file__, grid=[*cooldowns({}, [4, 8], 0.5), {"seed": 4, "steps": 2}])
    with pytest.raises(UserError, match="2 of 4 runs are not done"):
        Runner(found, str(tmp_path), fake_sweep.command, 4).run()
    trunk, short, long, other = found.points
    assert set(begun(tmp_path)) == {trunk.id, other.id}
    assert Ledger(str(tmp_path)).record(short.id).reason == f"its trunk {trunk.id} ended before step 2"
    found = [(row["id"], row["status"]) for row in rows(tmp_path)]
    assert found == [(short.id, "failed"), (long.id, "failed"), (other.id, "done")]


def test_what_a_trainer_leaves_behind_does_not_keep_its_point(tmp_path):
    """It dies, and a child of its own lives on with the inherited lock: that is ended, and the point is tried again."""
    runner = fake_sweep.runner(tmp_path, 1)
    orphan = "import subprocess, os; subprocess.Popen(['sleep', '100'], close_fds=False); os.kill(os.getpid(), 9)"
    normal = runner.command
    runner.command = lambda point, workdir: (
        normal(point, workdir) if runner.ledger.record(point.id).ends else [sys.executable, "-c", orphan])
    begun_at = time.monotonic()
    runner.run()
    assert time.monotonic() - begun_at < 60 and Ledger(str(tmp_path)).record(runner.sweep.points[0].id).ends == {
        "killed": 1, "done": 1}


def test_a_trainer_that_says_done_and_leaves_nothing_is_a_crash(tmp_path):
    runner = fake_sweep.runner(tmp_path, 1)
    runner.command = lambda point, workdir: ["true"]
    with pytest.raises(UserError, match="not done"):
        runner.run()
    assert Ledger(str(tmp_path)).record(runner.sweep.points[0].id).ends == {"crash": 2}
