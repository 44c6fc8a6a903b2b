"""A sweep of fake trainers: as values, and as a process of its own, `python fake_sweep.py W POINTS STEPS WORKERS`."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import sweep_run

from mof_jax.errors import Preempted, exit_code
from mof_jax.sweep.points import Sweep, expand
from mof_jax.sweep.runner import Runner

TRAINER = str(pathlib.Path(__file__).with_name("fake_trainer.py"))


def sweep_of(points: int, steps: int = 5) -> Sweep:
    """So many points, told apart by their seeds."""
    return expand(sweep_run.__file__, ["optimizer.schedule.warmup=0"],
                  [{"seed": seed, "steps": steps} for seed in range(points)])


def command(point, workdir: str) -> list[str]:
    """Trains a point without a model."""
    return [sys.executable, TRAINER, workdir, str(point.run.steps)]


def runner(folder, points: int, steps: int = 5, workers: int = 1) -> Runner:
    return Runner(sweep_of(points, steps), str(folder), command, workers)


def start(folder, points: int, steps: int, workers: int) -> subprocess.Popen:
    """`runner` as a process of its own."""
    return subprocess.Popen([sys.executable, __file__, str(folder), str(points), str(steps), str(workers)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


if __name__ == "__main__":
    sizes = map(int, sys.argv[2:])
    try:
        sys.exit(exit_code(runner(sys.argv[1], *sizes).run))
    except Preempted as stop:
        print(stop, file=sys.stderr)
        sys.exit(75)
