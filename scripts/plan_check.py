"""Plans every config that names a topology in a fast form, two at a time: `make plan-check`.

    python scripts/plan_check.py [--strict] [--jobs 2] [configs/clip/vit_l14.py …]

Where the last plan in `docs/plans.jsonl` was of the same program (`fresh`), it decides. Else two layers are compiled on eight
devices or so (`mof_jax/plan/shrink.py`), and the full form is counted by formula (`mof_jax/plan/memory.py`). Exits with 1 and a
line for each config that does not compile or does not fit; with `--strict` a full plan that is missing or stale is a failure.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
import json
import subprocess
import sys
import tempfile
import time

from plan_all import ROOT, planned
from rich.console import Console

from mof_jax.plan.check import Checked
from mof_jax.plan.memory import Estimate
from mof_jax.train import display


def checked(name: str, cache: str) -> list[Checked] | str:
    """A config's stages, checked in a process of its own (the compiler aborts where it should refuse); or what went wrong."""
    command = [sys.executable, "-m", "mof_jax.plan.check", name, "--cache", cache]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    found = map(json.loads, done.stdout.splitlines())
    return [Checked(**x | {"memory": Estimate(**x["memory"])}) for x in found]


def told(name: str, found: list[Checked] | str) -> list[Checked] | str:
    """What was found, a line of it shown at once: all of it takes minutes."""
    for c in [] if isinstance(found, str) else found:
        print(f"{c.name}: {c.verdict} ({c.seconds:.0f} s)", file=sys.stderr, flush=True)
    return found


def row(c: Checked) -> tuple[str, ...]:
    """A line of the table."""
    gib = lambda x: f"{x / 2**30:.2f}"
    return (c.name.removeprefix("configs/"), c.topology, c.small, f"{c.seconds:.0f}", gib(c.memory.state), gib(c.memory.used),
            "" if c.recorded is None else gib(c.recorded), gib(c.hbm), c.record, c.verdict if c.passes else "FAILS")


def failures(results: dict[str, list[Checked] | str], strict: bool) -> list[str]:
    """A line for each run that does not pass."""
    lines = [f"{name}: {found}" for name, found in results.items() if isinstance(found, str)]
    runs = [c for found in results.values() if not isinstance(found, str) for c in found]
    lines += [f"{c.name}: {c.verdict}" for c in runs if not c.passes]
    if strict:
        lines += [f"{c.name}: its full plan is {'missing' if c.record == 'none' else 'of another program'}; run "
                  "scripts/plan_all.py with its name" for c in runs if c.passes and c.record != "fresh"]
    return lines


def main() -> None:
    """Checks, shows, exits."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("configs", nargs="*")
    p.add_argument("--strict", action="store_true", help="a full plan that is missing or stale is a failure")
    p.add_argument("--jobs", type=int, default=2)
    args = p.parse_args()
    names, begun = args.configs or planned(), time.perf_counter()
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(args.jobs) as pool:
        results = dict(zip(names, pool.map(lambda name: told(name, checked(name, cache)), names)))
    Console(width=200).print(display.table(
        f"Plans in their fast form, {time.perf_counter() - begun:.0f} s",
        ("config", "slices", "compiled small on", "s", "state", "by formula", "by compiler", "of GiB", "full plan", "verdict"),
        [row(c) for found in results.values() if not isinstance(found, str) for c in found]))
    for line in (lines := failures(results, args.strict)):
        print(line, file=sys.stderr)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
