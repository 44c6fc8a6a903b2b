"""Stands in for `mof train` on a worker: counts steps, saves, resumes, and ends as $FAKE_CLOUD/plan.json tells it.

The first of several workers owns the files, as process 0 does.
"""

import json
import os
import pathlib
import signal
import sys
import time

ROOT = pathlib.Path(os.environ["FAKE_CLOUD"])


def main(argv: list[str]) -> int:
    worker = os.environ.get("MOF_WORKER", "w-0")
    with open(ROOT / "runs.jsonl", "a") as f:
        f.write(json.dumps({"worker": worker, "argv": argv, "env": dict(os.environ), "cwd": os.getcwd()}) + "\n")
    plan = json.loads((ROOT / "plan.json").read_text())
    if plan.get("record_only"):
        return 0
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in argv[1:])
    folder = ROOT / "bucket" / flags["workdir"].partition("://")[2]
    folder.mkdir(parents=True, exist_ok=True)
    owner = worker.endswith("0-w-0") or worker == "w-0"
    checkpoint, metrics = folder / "checkpoint.json", folder / "metrics.jsonl"
    start = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    if owner:
        kept = metrics.read_text().splitlines()[:start] if metrics.exists() else []
        metrics.write_text("".join(line + "\n" for line in kept))
        with open(ROOT / "starts.jsonl", "a") as f:
            f.write(json.dumps(start) + "\n")
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    number = len((ROOT / "starts.jsonl").read_text().splitlines()) - 1 if owner else -1
    ends = plan.get("run_ends", [])
    mine = ends[number] if 0 <= number < len(ends) and ends[number] else None

    def save(step: int) -> None:
        part = checkpoint.with_suffix(".part")
        part.write_text(json.dumps({"step": step}))
        os.replace(part, checkpoint)

    for step in range(start, int(flags.get("config.steps", 20))):
        if asked:
            if owner:
                save(step)
            print("saved; preempted", flush=True)
            return 75
        if mine and step >= mine["at"]:
            print(mine.get("log", ""), flush=True)
            if mine["code"] < 0:
                os.kill(os.getpid(), -mine["code"])
            return mine["code"]
        if owner:
            with open(metrics, "a") as f:
                f.write(json.dumps({"step": step + 1}) + "\n")
            if (step + 1) % 5 == 0:
                save(step + 1)
        time.sleep(plan.get("step_seconds", 0.02))
    if owner:
        save(int(flags.get("config.steps", 20)))
    print("done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
