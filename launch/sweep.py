"""One job each of a JSONL of runs: files that `up` takes, and, if asked, all of them brought up a few at once."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import json
import os
import signal
import subprocess
import sys

from launch import job as jobs
from launch.prompt import confirm, cost, say
from launch.session import Session
from mof_jax.errors import ExitCode, UserError
from mof_jax.parsing import Malformed, decode, parse_object


def read_runs(path: str, base: str) -> dict[str, dict]:
    """File contents of the jobs, by name.

    Args:
      path: JSONL of `{"id": …, "config": …, "overrides": {…}}`; base: the job file that they vary.

    Raises:
      UserError: naming the line.
    """
    values, found = jobs.read(base), {}
    try:
        with open(path, "rb") as f:
            lines = decode(f.read()).split("\n")
    except (OSError, Malformed) as error:
        raise UserError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            run = parse_object(line)
        except Malformed as error:
            raise UserError(f"{where}: {error}") from None
        content = jobs.child(values, run, where)
        jobs.check(jobs.make(content, where), where)  # all of them before the first is created
        if content["name"] in found:
            raise UserError(f"{where}: a second run called {content['name']}; ids must differ in letters and digits")
        found[content["name"]] = content
    if not found:
        raise UserError(f"{path}: no runs")
    return found


def sweep(args: argparse.Namespace) -> int:
    """`python -m launch sweep`: writes the job files, and brings them up if `--parallel` says so."""
    contents = read_runs(args.runs, args.job)
    loaded = {name: jobs.make(content, args.job) for name, content in contents.items()}
    if args.dry_run:
        for job in loaded.values():
            say(f"# {cost(job)}")
            Session(job, True, args.state, say).rehearse()
        return ExitCode.DONE
    paths = {}
    os.makedirs(args.out, exist_ok=True)
    for name, content in contents.items():
        paths[name] = os.path.join(args.out, f"{name}.json")
        with open(paths[name], "w", encoding="utf-8") as f:
            json.dump(content, f, indent=2)
    if not args.parallel:
        for path in paths.values():
            say(f"python -m launch up --job {path}")
        return ExitCode.DONE
    most = [job.dollars_per_hour and job.dollars_per_hour * job.hours for job in loaded.values()]
    money = "" if None in most else f", ${sum(most):,.2f} at most in all"
    confirm("\n".join(cost(job) for job in loaded.values()) + f"\n{len(loaded)} jobs, {args.parallel} at once{money}",
            any(job.guard.confirm for job in loaded.values()), args.yes)
    return _bring_up(paths, args.parallel, args.state)


def _bring_up(paths: dict[str, str], parallel: int, state: str) -> int:
    """Each job in a process of its own, its lines in a log beside its file. Ctrl-C asks all of them to end."""
    processes: list[subprocess.Popen] = []

    def one(name: str) -> int:
        log = os.path.splitext(paths[name])[0] + ".log"
        with open(log, "a", encoding="utf-8") as f:
            # A session of its own: the signal below reaches it once, not twice.
            process = subprocess.Popen([sys.executable, "-m", "launch", "up", "--job", paths[name], "--yes", "--state", state],
                                       stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
            processes.append(process)
            code = process.wait()
        print(f"{name}: {'done' if code == ExitCode.DONE else f'ended with {code}'}; see {log}", flush=True)
        return code

    pool = concurrent.futures.ThreadPoolExecutor(parallel)
    waiting = [pool.submit(one, name) for name in paths]
    try:
        codes = [future.result() for future in waiting]
    except KeyboardInterrupt:
        for future in waiting:
            future.cancel()
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        raise
    finally:
        pool.shutdown()
    return ExitCode.DONE if not any(codes) else ExitCode.USER_ERROR
