"""`mof sweep` with real trainers: dry run, emission, mistakes, and the same points however often it is killed."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
import random
import re
import signal
import time

import pytest
from run_samples import mof
import sweep_run

from launch.cli import main as launch_main
from launch.sweep import read_runs
from mof_jax import cli
from mof_jax.hardware import CHIPS
from mof_jax.sweep.branches import KEY
from mof_jax.sweep.points import expand

SPEC = sweep_run.__file__
JOB = str(pathlib.Path(__file__).parents[2] / "launch" / "examples" / "vit_l14.toml")


def sweep(capsys, *args) -> str:
    assert cli.main(["sweep", "--config", *map(str, args)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_dry_run_adds_up(capsys):
    """Rows of all runs; what the branches share is counted once; chip-hours and dollars by the config's own price."""
    spec = f"{SPEC}:grid=branches"
    out = sweep(capsys, spec, "--dry-run", "--topology", "v5e:2x2", "--config.hardware.price=1e9")
    points = expand(spec, ["hardware.price=1e9"]).points
    trunk, short, long, own = points
    assert [trunk.run.steps, short.run.steps, long.run.steps, own.run.steps] == [6, 6, 12, 6]
    each = trunk.size.flops_per_step
    total = each * (6 + 3 + 6 + 6)
    assert sum(point.flops for point in points) == pytest.approx(total)
    assert all(point.id in out for point in points) and f"{trunk.id} (trunk)" in out and f"{trunk.id} @ 3" in out
    assert f"3 points, 4 runs, {total:.3g} FLOPs" in out
    assert f"1 trunk shared by branches; without that {each * 24:.3g} FLOPs" in out
    hours = total / (CHIPS["v5e"].flops * 0.4) / 3600
    assert f"{hours:,.3g} chip-hours of v5e:2x2 at 40% of the peak, ${hours * 1e9:,.2f}" in out
    assert "--topology says" in sweep(capsys, SPEC, "--dry-run")


def test_jobs_for_a_pod(tmp_path, capsys):
    """A line a run that `launch` takes; a branch finds its trunk beside it, and the trunks are a file of their own."""
    out = sweep(capsys, f"{SPEC}:grid=branches", "--emit", tmp_path / "runs.jsonl", "--config.seed=4", "--config.batch_size=256")
    first, second = re.findall(r"python -m launch sweep (\S+) --job JOB.toml", out)
    trunk, *branches = expand(f"{SPEC}:grid=branches", ["seed=4", "batch_size=256"]).points
    for path, points in ((first, [trunk]), (second, branches)):
        jobs = read_runs(path, JOB)
        assert list(jobs) == [f"vit-l14-{point.id}" for point in points]
        for point, job in zip(points, jobs.values()):
            assert job["workdir"] == f"gs://my-bucket/runs/vit-l14/{point.id}"
            assert job["train"]["config"] == f"{SPEC}:grid=branches"
            assert job["train"]["overrides"] == {"optimizer.lr": 5e-4, "seed": 4, "batch_size": 256, **point.overrides}
    assert branches[0].overrides[KEY] == f"sibling:{trunk.id}/checkpoints/3"
    assert launch_main(["sweep", second, "--job", JOB, "--out", str(tmp_path / "jobs")]) == 0
    assert len(list((tmp_path / "jobs").iterdir())) == len(branches) == 3


@pytest.mark.parametrize("args, line", [
    ((SPEC,), "give --workdir, or --dry-run or --emit"),
    ((SPEC, "--dry-run", "--emit", "x.jsonl"), "exclude each other"),
    ((SPEC, "--workdir", "w", "--topology", "v5e:2x2"), "--topology belongs to --dry-run"),
    ((SPEC, "--workdir", "w", "--workers", "0"), "--workers 0: at least 1"),
    ((SPEC, "--workdir", "gs://bucket/w"), "locks of a local folder"),
    ((SPEC, "--dry-run", "--loss", "held_out/loss"), "evaluators of point .*: none"),
    ((SPEC, "--dry-run", "--loss", "loss/x"), "evaluators of point"),
    ((SPEC, "--dry-run", "--config.optimizer.lrr=1"), "point 1 of the grid .*optimizer.lrr: unknown key"),
    ((SPEC, "--dry-run", "--topology", "v9"), "topology 'v9'"),
])
def test_mistakes_are_one_line(args, line, capsys):
    assert cli.main(["sweep", "--config", *args]) == 1
    said = capsys.readouterr().err.strip()
    assert re.search(line, said) and len(said.splitlines()) == 1


def test_a_point_is_trained_and_read(tmp_path, capsys):
    """One real run, its summary against its own files, and the row that it becomes."""
    sweep(capsys, f"{SPEC}:grid=one", "--workdir", tmp_path, "--loss", "loss", "--config.optimizer.weight_decay=0.25")
    (row,) = csv.DictReader((tmp_path / "points.csv").open(newline=""))
    assert row["status"] == "done"
    folder = tmp_path / "runs" / row["id"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert float(row["loss"]) == lines[-1]["loss"] and lines[-1]["step"] == 6
    assert (row["examples"], row["unique_examples"], row["weight_decay"], row["learning_rate"]) == ("48", "48", "0.25", "0.001")
    shapes = re.findall(r"^\S+  \((.*?)\)", (folder / "parameters.txt").read_text(), re.M)
    counted = sum(math.prod(int(size) for size in shape.split(",") if size.strip()) for shape in shapes)
    assert int(row["parameters"]) == counted
    assert int(row["parameters"]) == int(row["embedding_parameters"]) + int(row["non_embedding_parameters"])
    assert "step" in (folder / "log.txt").read_text()


def trainers(folder: pathlib.Path) -> list[int]:
    """Processes that train a point of this folder."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "train" in words and any(word.startswith(f"{folder}/runs/") for word in words):
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_sweep_killed_ten_times_writes_the_same_points(tmp_path):
    """Branches and runs of their own; the sweep, its trainers, or all of them killed at random moments."""
    rng, cache = random.Random(0), tmp_path / "xla"
    start = lambda folder: mof("sweep", "--config", f"{SPEC}:grid=many,steps=20", "--workdir", folder, "--workers", 2,
                               f"--config.compilation_cache={cache}", devices=1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    for _ in range(10):
        process = start(killed)
        deadline = time.monotonic() + 60
        while not trainers(killed) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.random() * 6)
        assert process.poll() is None, "the sweep ended before it could be killed"
        victims = rng.choice(("sweep", "trainers", "all"))
        for pid in trainers(killed) if victims != "sweep" else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.kill()
        process.communicate()
    process = start(killed)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert (killed / "points.csv").read_bytes() == (whole / "points.csv").read_bytes()
    assert len((killed / "points.csv").read_text().splitlines()) == 1 + len(expand(f"{SPEC}:grid=many,steps=20").rows)
