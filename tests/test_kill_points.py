"""Killed anywhere, on one, two or four hosts: what is resumed computes what would have been, and sees every example once."""

from __future__ import annotations

import pathlib
import random
import signal
import socket
import subprocess
import time

from kill_run import EVALUATE, EVERY
import pytest
from run_samples import ROOT, finish, lines, mof, write_pool
from tiny_run import losses

DEVICES = 4  # of the whole job, however many processes share them


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return write_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


def start(count: int, steps: int, workdir: pathlib.Path, pool, cache) -> list[subprocess.Popen]:
    """The run as a job of so many processes."""
    command = ("train", "--config", f"{ROOT}/kill_run.py:{pool},{workdir}.seen,{steps}", "--workdir", workdir,
               f"--config.compilation_cache={cache}")
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    job = lambda i: ("--coordinator", f"localhost:{port}", "--processes", count, "--process-id", i) if count > 1 else ()
    return [mof(*command, *job(i), devices=DEVICES // count) for i in range(count)]


def whole(count: int, steps: int, folder: pathlib.Path, pool, cache) -> pathlib.Path:
    """An uninterrupted run of so many processes."""
    ends = [finish(process, 400) for process in start(count, steps, folder / f"whole{count}", pool, cache)]
    assert [code for code, _, _ in ends] == [0] * count, ends
    return folder / f"whole{count}"


def last_step(workdir: pathlib.Path) -> int:
    path = workdir / "metrics.jsonl"
    return sum(text.endswith("}\n") for text in path.read_text().splitlines(keepends=True)) if path.exists() else 0


def saving(workdir: pathlib.Path) -> bool:
    """Whether a checkpoint is half-written now."""
    folder = workdir / "checkpoints"
    return folder.exists() and any(not (path / "manifest.json").exists() for path in folder.iterdir())


def strike(processes: list[subprocess.Popen], workdir: pathlib.Path, rng: random.Random, moment: str, number: int) -> list[str]:
    """Sends the signal to one process at the moment; waits for all to end; how they ended."""
    goal = last_step(workdir) + rng.randrange(3, 3 + EVERY)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if last_step(workdir) >= goal and (moment != "save" or saving(workdir)):
            break
        time.sleep(0.01)
    if moment == "step":
        time.sleep(rng.random() * 0.2)
    if any(process.poll() is not None for process in processes):
        raise AssertionError([finish(process, 120) for process in processes])
    victim = rng.choice(processes)
    target = victim.pid
    if number == signal.SIGKILL and len(processes) > 1 and rng.random() < 0.5:  # the process itself, not its parent
        below = subprocess.run(["ps", "-o", "pid=", "--ppid", str(victim.pid)], capture_output=True, text=True).stdout
        target = int(below.split()[0])
    subprocess.run(["kill", f"-{int(number)}", str(target)], check=True)
    ends = [finish(process, 120) for process in processes]
    codes = [code for code, _, _ in ends]
    if number == signal.SIGTERM:
        assert codes == [75] * len(processes), ends
        assert len({line for _, _, err in ends for line in err.splitlines() if line.startswith("stopped after")}) == 1, ends
    else:
        mine = processes.index(victim)
        assert codes[mine] in (-signal.SIGKILL, 128 + signal.SIGKILL), ends
        for i, (code, _, err) in enumerate(ends):
            assert i == mine or (code == 79 and f"process {mine} (" in err.splitlines()[-1] and "Traceback" not in err), ends
    return [err for _, _, err in ends]


def kill_on_the_way(count: int, steps: int, points: list[tuple[str, int]], workdir, rng, pool, cache) -> None:
    """The run, stopped at each of the points in turn and started again."""
    for moment, number in points:
        assert last_step(workdir) < steps - 2 * EVERY, "the run ended before it could be killed"
        strike(start(count, steps, workdir, pool, cache), workdir, rng, moment, number)
    ends = [finish(process, 400) for process in start(count, steps, workdir, pool, cache)]
    assert [code for code, _, _ in ends] == [0] * count, ends
    assert "resuming after step" in ends[0][1]


def same(workdir: pathlib.Path, other: pathlib.Path, steps: int) -> None:
    """The same metrics, bit for bit, the same evaluations, and in the end each step saw the same rows, each once."""
    mine, theirs = (losses(lines(folder / "metrics.jsonl")) for folder in (workdir, other))
    assert [line["step"] for line in mine] == list(range(1, steps + 1))
    assert mine == theirs
    found, wanted = ([{k: v for k, v in line.items() if k != "time"} for line in lines(folder / "evals.jsonl")]
                     for folder in (workdir, other))
    assert found == wanted and [line["step"] for line in found] == list(range(EVALUATE, steps + 1, EVALUATE))
    assert rows(workdir) == rows(other)


def rows(workdir: pathlib.Path) -> dict[tuple[int, int], int]:
    """Checksum by (step, row), of the last time that the step was done."""
    found = {}
    for line in lines(pathlib.Path(f"{workdir}.seen")):
        found |= {(line["step"], line["first"] + i): check for i, check in enumerate(line["rows"])}
    return found


@pytest.mark.slow
def test_two_hosts_killed_and_preempted(pool, cache, tmp_path):
    """One kill -9 while a checkpoint is being written, and one SIGTERM between steps."""
    points = [("save", signal.SIGKILL), ("step", signal.SIGTERM)]
    kill_on_the_way(2, 40, points, tmp_path / "killed", random.Random(0), pool, cache)
    same(tmp_path / "killed", whole(2, 40, tmp_path, pool, cache), 40)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "points"), [(1, 8), (2, 7), (4, 5)])
def test_twenty_points_over_one_two_and_four_hosts(count, points, pool, cache, tmp_path):
    """Moments, signals, victims and delays from one seed; the same number of hosts goes on, so all is equal bit for bit."""
    rng = random.Random(count)
    chosen = [(rng.choice(["step", "save"]), rng.choice([signal.SIGKILL, signal.SIGTERM])) for _ in range(points)]
    assert len({number for _, number in chosen}) == 2, "both signals"
    kill_on_the_way(count, 160, chosen, tmp_path / "killed", rng, pool, cache)
    same(tmp_path / "killed", whole(count, 160, tmp_path, pool, cache), 160)


@pytest.mark.slow
def test_four_write_two_go_on_and_one_ends(pool, cache, tmp_path):
    """A checkpoint does not know how many wrote it."""
    workdir, rng = tmp_path / "moved", random.Random(1)
    for count in (4, 2):
        strike(start(count, 60, workdir, pool, cache), workdir, rng, "step", signal.SIGKILL)
    code, out, err = finish(start(1, 60, workdir, pool, cache)[0], 400)
    assert code == 0 and "resuming after step" in out, err
    assert {line["processes"] for line in lines(pathlib.Path(f"{workdir}.seen"))} == {1, 2, 4}
    close(workdir, whole(1, 60, tmp_path, pool, cache))


def close(workdir: pathlib.Path, other: pathlib.Path) -> None:
    """The same rows, and losses equal to f32 tolerance: sums over hosts add in another order."""
    assert rows(workdir) == rows(other)
    mine, theirs = (losses(lines(folder / "metrics.jsonl")) for folder in (workdir, other))
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for a, b in zip(mine, theirs):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-4), a["step"]
