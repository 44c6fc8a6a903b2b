"""Plans every config that names a topology in a fast form, two at a time: `make plan-check`.

    python scripts/plan_check.py [--strict] [--jobs 2] [configs/clip/vit_l14.py …]

Where the last plan in `docs/plans.jsonl` was of the same program (`fresh`), it decides. Else two layers are compiled on eight
devices or so (`mof_jax/plan/shrink.py`), and the full form is counted by formula (`mof_jax/plan/memory.py`). One run on several
topologies of a generation is compiled for the one with most slices and most axes split, in place of those that have no more.
Exits with 1 and a line for each run that does not compile or does not fit; with `--strict` a full plan that is missing or stale
is a failure.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import contextlib
import multiprocessing
import os
import queue
import re
import sys
import tempfile
import time

from plan_all import ROOT, planned
from rich.console import Console

from mof_jax import console
from mof_jax.errors import UserError
from mof_jax.plan.check import Checked, check, covered, named
from mof_jax.plan.records import Record, by_name
from mof_jax.run import RunConfig


class Worker:
    """A process that checks one run after another, and another in its place where the compiler aborts it: it does so where it
    should refuse.

    Args:
      cache: folder of compiled programs.
    """

    def __init__(self, cache: str):
        self._cache, self._stderr = cache, tempfile.NamedTemporaryFile(prefix="plan-check-", suffix=".txt")
        self._start()

    def check(self, name: str, config: RunConfig, record: Record | None, other: str | None) -> Checked | str:
        """What is known of a run, or what went wrong."""
        try:
            return self._process.submit(check, name, config, record, self._cache, other).result()
        except BrokenProcessPool:
            said = last_words(self._stderr.name)
            self._start()
            return said
        except Exception as error:  # noqa: BLE001  one run's failure is a line among the others'
            return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"

    def close(self) -> None:
        self._process.shutdown()
        self._stderr.close()

    def _start(self) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin, (self._stderr.name,))


def begin(stderr: str) -> None:
    """What a worker's process does first: what the compiler writes goes to a file, to be read should it abort."""
    with open(stderr, "w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())


def last_words(path: str) -> str:
    """What a process wrote before it was gone: what its logger calls fatal, else the last line."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    fatal = [found[1] for line in lines if (found := re.match(r"F\d{4} .*?\] (.+)", line))]
    return next(reversed(fatal or lines), "its process ended without a word")


def checked(names: Sequence[str], jobs: int, cache: str) -> dict[str, Checked | str]:
    """What is known of each run of the configs, or what is wrong with it; a line of each is shown at once, as all of it takes
    minutes."""
    runs, found, records = {}, {}, by_name(f"{ROOT}/docs/plans.jsonl")
    for name in names:
        try:
            runs |= named(name)
        except UserError as error:
            found[name] = str(error)
    others, idle = covered(runs), queue.SimpleQueue()

    def one(name: str) -> Checked | str:
        worker = idle.get()
        try:
            known = worker.check(name, runs[name], records.get(name), others.get(name))
        finally:
            idle.put(worker)
        if isinstance(known, Checked):
            print(f"{name}: {known.verdict} ({known.seconds:.0f} s)", file=sys.stderr, flush=True)
        return known

    with contextlib.ExitStack() as workers, ThreadPoolExecutor(jobs) as pool:
        for _ in range(jobs):
            idle.put(workers.enter_context(contextlib.closing(Worker(cache))))
        found |= zip(runs, pool.map(one, runs))
    return found


def row(c: Checked) -> tuple[str, ...]:
    """A line of the table."""
    gib, short = lambda x: f"{x / 2**30:.2f}", lambda name: name.replace("configs/", "")
    return (short(c.name), c.topology, short(c.small), f"{c.seconds:.0f}", gib(c.memory.state), gib(c.memory.used),
            "" if c.recorded is None else gib(c.recorded), gib(c.hbm), c.record, c.verdict if c.passes else "FAILS")


def failures(results: Mapping[str, Checked | str], strict: bool) -> list[str]:
    """A line for each run that does not pass."""
    lines = [found if found.startswith(name) else f"{name}: {found}" for name, found in results.items() if isinstance(found, str)]
    runs = [found for found in results.values() if isinstance(found, Checked)]
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
    begun = time.perf_counter()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as cache:
        results = checked(args.configs or planned(), args.jobs, cache)
    Console(width=200).print(console.table(
        f"Plans in their fast form, {time.perf_counter() - begun:.0f} s",
        ("config", "slices", "compiled small on", "s", "state", "by formula", "by compiler", "of GiB", "full plan", "verdict"),
        [row(found) for found in results.values() if isinstance(found, Checked)]))
    for line in (lines := failures(results, args.strict)):
        print(line, file=sys.stderr)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
