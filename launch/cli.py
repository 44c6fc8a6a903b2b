"""Commands of `python -m launch`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import sys
import time

from rich.console import Console

from launch import exits, gke, sweep
from launch.cloud import Stage
from launch.job import Job, check, load
from launch.ledger import Ledger
from launch.progress import Progress
from launch.prompt import confirm, cost, say
from launch.session import STATE_FOLDER, Session
from launch.shell import explain
from launch.up import up
from mof_jax.errors import ExitCode, UserError

_HELP = {
    "create": "ask for the slices (gke: apply the JobSet, which runs as well)",
    "wait": "until the slices are there",
    "setup": "install the code on every worker",
    "preflight": "check versions, devices, bandwidth, bucket and clock on every worker",
    "run": "start training on every worker, detached",
    "status": "where slices and workers stand",
    "logs": "the last lines of every worker",
    "stop": "ask the run to save and end; keep the slices",
    "delete": "give the slices back",
    "up": "the whole life: create, wait, setup, preflight, run, resume after preemption, delete",
    "manifest": "print the JobSet (gke)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        if args.command == "sweep":
            return sweep.sweep(args)
        job = load(args.job)
        if args.command in ("create", "run", "up", "manifest"):
            check(job, args.job)
        return _COMMANDS[args.command](job, args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return ExitCode.USER_ERROR
    except KeyboardInterrupt:
        print("interrupted; what was created is still there (`python -m launch status`)", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m launch", description="Starts runs on Cloud TPU and brings them through.",
        epilog="example:\n  python -m launch up --job launch/examples/vit_l14.toml --dry-run",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in _HELP.items():
        _shared(commands.add_parser(name, help=what, description=what))
    commands.choices["logs"].add_argument("--lines", type=int, default=50, help="of each worker")
    commands.choices["up"].add_argument("--keep", action="store_true", help="leave the slices when the job has ended")
    for name in ("create", "up"):
        commands.choices[name].add_argument("--yes", action="store_true", help="do not ask about the cost")
    p = commands.add_parser("sweep", help="one job each of a JSONL of runs", description="One job each of a JSONL of runs.")
    p.add_argument("runs", metavar="RUNS.jsonl", help='lines of {"id": …, "config": …, "overrides": {…}}')
    p.add_argument("--out", default="jobs", metavar="FOLDER", help="where the job files go")
    p.add_argument("--parallel", type=int, default=0, metavar="N", help="bring them up, N at once; 0 writes the files only")
    p.add_argument("--yes", action="store_true", help="do not ask about the cost")
    _shared(p)
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", required=True, metavar="JOB.toml", help="what runs where (launch/examples/)")
    parser.add_argument("--dry-run", action="store_true", help="print the gcloud and kubectl lines; run nothing")
    parser.add_argument("--state", default=STATE_FOLDER, metavar="FOLDER", help=f"of ledgers; by default {STATE_FOLDER}")


def _session(job: Job, args: argparse.Namespace) -> Session:
    return Session(job, args.dry_run, args.state, say)


def _create(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    if not args.dry_run:
        confirm(cost(job), job.guard.confirm, args.yes)
        Ledger.open(args.state, job.name).add("create")
    session.steps(session.cloud.create())
    return 0


def _wait(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    if args.dry_run:
        session.state_commands()
        return 0
    ledger = Ledger.open(args.state, job.name)
    with Progress(job, ledger, Console()) as progress:
        while (state := session.state()).stage is Stage.WAITING:
            progress.update(f"waiting for slices ({state.word})")
            time.sleep(job.retry.poll_seconds)
        if state.stage not in (Stage.READY, Stage.DONE):
            raise explain(f"{job.name} is {state.word}", state.detail or "no message")
        if not ledger.held:
            ledger.add("held")
        progress.say(f"{job.name}: {state.word}")
    return 0


def _setup(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    session.check()
    session.steps(session.cloud.setup())
    return 0


def _preflight(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    for result in session.steps(session.cloud.preflight()):
        print(result.out, end="")
    return 0


def _run(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    left = job.hours * 3600 if args.dry_run else job.hours * 3600 - Ledger.open(args.state, job.name).seconds()
    if left <= 0:
        raise UserError(f"{job.name}: no hours are left; raise guard.max_hours or guard.max_dollars")
    session.steps(session.cloud.start(left))
    return 0


def _status(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    if args.dry_run:
        session.state_commands()
        session.run(session.cloud.poll())
        return 0
    state = session.state()
    say(f"{job.name}: {state.word}" + (f": {state.detail}" if state.detail else ""))
    if state.stage in (Stage.READY, Stage.DONE):
        for worker in session.workers():
            ended = None if worker.code is None else exits.classify(worker.code, worker.log).value
            last = (worker.log.strip().splitlines() or [""])[-1][:160]
            say(f"  {worker.name}: {'idle' if not worker.started else ended or 'running'}: {last}")
    return 0


def _logs(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    print(session.run(session.cloud.logs(args.lines)).out, end="")
    return 0


def _stop(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    session.steps(session.cloud.stop())
    return 0


def _delete(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    session.delete()
    if not args.dry_run:
        ledger = Ledger.open(args.state, job.name)
        ledger.add("gone")
        ledger.add("end")
    return 0


def _up(job: Job, args: argparse.Namespace) -> int:
    session = _session(job, args)
    if args.dry_run:
        say(f"# {cost(job)}")
        session.rehearse()
        return 0
    session.check()
    confirm(cost(job), job.guard.confirm, args.yes)
    ledger = Ledger.open(args.state, job.name)
    with Progress(job, ledger, Console()) as progress:
        return up(session, progress, ledger, args.keep)


def _manifest(job: Job, args: argparse.Namespace) -> int:
    if job.gke is None or job.backend != "gke":
        raise UserError(f'{args.job}: a manifest needs backend = "gke" and [gke]')
    say(json.dumps(gke.manifest(job), indent=2))
    return 0


_COMMANDS = {"create": _create, "wait": _wait, "setup": _setup, "preflight": _preflight, "run": _run, "status": _status,
             "logs": _logs,
             "stop": _stop, "delete": _delete, "up": _up, "manifest": _manifest}
