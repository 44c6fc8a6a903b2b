"""A trainer without a model: counts steps, keeps them in a file, ends as it is told. `python fake_trainer.py WORKDIR STEPS`.

`W/ends.json`, `{id: [code, …]}`, says how its tries end: a code, or `kill`, or `hang` (until it is killed). Every begin and end
goes to `W/trace`, with the process that it is.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import sys
import time

STEP_S = 0.02


def main(workdir: str, steps: int) -> int:
    point = pathlib.Path(workdir)
    sweep = point.parent.parent
    trace(sweep, "begin", point.name)
    signal.signal(signal.SIGTERM, lambda number, frame: leave(sweep, point.name, 75))
    tries = point / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    ends = json.loads((sweep / "ends.json").read_text()).get(point.name, []) if (sweep / "ends.json").exists() else []
    done = point / "steps"
    for step in range(int(done.read_text()) if done.exists() else 0, steps):
        time.sleep(STEP_S)
        write(done, str(step + 1))
    code = dict(enumerate(ends, 1)).get(len(tries.read_text()), 0)
    if code == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if code == "hang":
        time.sleep(600)
    if code == 0:
        numbers = {"parameters": 10 + steps, "flops": 6.0 * steps, "examples": 8 * steps, "batch_size": 8,
                   "learning_rate": 0.001, "weight_decay": 0.1, "loss": 2.0,
                   "evals": {"held_out": {"loss": 1 / int(point.name, 16)}}}
        write(point / "summary.json", json.dumps(numbers))
    else:
        print(f"error: told to end with {code}", file=sys.stderr)
    leave(sweep, point.name, code)
    return code


def leave(sweep: pathlib.Path, name: str, code: int) -> None:
    trace(sweep, "end", name)
    os._exit(code)


def trace(sweep: pathlib.Path, what: str, name: str) -> None:
    fd = os.open(sweep / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, f"{what} {name} {os.getpid()}\n".encode())
    os.close(fd)


def write(path: pathlib.Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
