"""A claim of runs without a model, see `fake_arm`: as a process of its own, `python fake_claim.py SPEC W
DOCS SEEDS`."""

from __future__ import annotations

import pathlib
import sys

from mof_jax.claims import judge

ARM = str(pathlib.Path(__file__).with_name("fake_arm.py"))


def command(point, workdir: str) -> list[str]:
    """Trains a point without a model."""
    return [
        sys.executable,
        ARM,
        workdir,
        repr(point.run.optimizer.lr),
        str(point.run.seed),
        str(point.run.steps),
    ]


if __name__ == "__main__":
    spec, workdir, docs, seeds = sys.argv[1:]
    judge.run(spec, workdir, docs, seeds=tuple(map(int, seeds.split(","))), command=command)
