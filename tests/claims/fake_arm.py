"""A run of a claim without a model: `python fake_arm.py WORKDIR RATE SEED STEPS`.

It takes a moment, leaves rows whose truth is known, and a line in `W/trace`. Its arm is told by the
learning rate.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

import numpy as np

UNITS = 80


def train(workdir: str, rate: float, seed: int, steps: int) -> None:
    point = pathlib.Path(workdir)
    with open(point.parent.parent / "trace", "a") as trace:
        trace.write(f"{point.name}\n")
    time.sleep(0.3)
    rng = np.random.default_rng(seed)
    skill = 0.2 if rate < 1e-6 else 0.6
    base = rng.random(UNITS)
    (point / "items").mkdir(exist_ok=True)
    spread = 0.05 if rate < 1e-6 else 1.0
    x = np.eye(8)[0] + spread * rng.standard_normal((UNITS, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    write(point / "items" / f"retrieval-{steps}.jsonl", "r@1", "mean", (100.0 * (base < skill))[:, None])
    write(point / "items" / f"geometry-{steps}.jsonl", "uniformity", "uniformity", x)
    (point / "summary.json").write_text(
        json.dumps(
            {
                "loss": 1.0,
                "evals": {},
                "parameters": 1,
                "flops": 1.0,
                "examples": 1,
                "batch_size": 8,
                "learning_rate": rate,
                "weight_decay": 0.0,
            }
        )
    )


def write(path: pathlib.Path, figure: str, statistic: str, values: np.ndarray) -> None:
    path.write_text(
        "".join(
            json.dumps({"figure": figure, "statistic": statistic, "unit": f"u{i}", "values": row.tolist()})
            + "\n"
            for i, row in enumerate(values)
        )
    )


if __name__ == "__main__":
    train(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
