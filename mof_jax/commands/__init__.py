"""The commands of `mof` that have an area of their own, and what all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import os

from mof_jax import supervise
from mof_jax.errors import UserError
from mof_jax.supervise import Job


def add_command(commands, name: str, command: Callable, what: str, example: str) -> argparse.ArgumentParser:
    """A command with its help and an example of its use."""
    parser = commands.add_parser(name, help=what, description=what, epilog=f"example:\n  {example}",
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(command=command)
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE.py",
                        help="import this file of your own kinds (a config that a checkpoint holds does not)")
    return parser


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Flags of a job of several processes, see `join_processes`."""
    parser.add_argument("--distributed", action="store_true",
                        help="several hosts; addresses come from the TPU or cluster environment")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="several processes without such an environment")
    parser.add_argument("--processes", type=int, help="with --coordinator: how many there are")
    parser.add_argument("--process-id", type=int, help="with --coordinator: which one this is")
    parser.add_argument("--start-timeout", type=float, default=300, metavar="SECONDS", help="in which all have to come")
    parser.add_argument("--lost-after", type=float, default=60, metavar="SECONDS", help="silence of a host that is gone")
    parser.add_argument("--watch-port", type=int, metavar="PORT",
                        help="where the processes' parents meet, on the coordinator's host (default: its port + 1000)")


def job_of(args: argparse.Namespace) -> Job | None:
    """The job that the flags or the environment describe, None for one process alone.

    Raises:
      UserError: flags that are missing, or an environment that says nothing.
    """
    if not (getattr(args, "distributed", False) or getattr(args, "coordinator", None)):
        return None
    found = (args.coordinator, args.processes, args.process_id)
    if args.coordinator and None in found:
        raise UserError("--coordinator needs --processes and --process-id")
    if args.start_timeout <= 0 or args.lost_after <= 0:
        raise UserError("--start-timeout and --lost-after are seconds, above 0")
    if not args.coordinator:
        found = _cluster(int(args.start_timeout))
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "")
    return Job(*found, args.start_timeout, args.lost_after, args.watch_port, tuple(hosts.split(",")) if hosts else ())


def _cluster(timeout: int) -> tuple[str, int, int]:
    """Coordinator, processes and process id, as `jax.distributed.initialize` finds them on a TPU pod or under Slurm."""
    from jax._src.clusters import ClusterEnv  # it has no public name

    coordinator, processes, process, _ = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)
    if None in (coordinator, processes, process):
        raise UserError("--distributed: no TPU pod or cluster here; use --coordinator, --processes and --process-id")
    return coordinator, processes, process


def join_processes(args: argparse.Namespace) -> None:
    """Connects this process to the others of its job, if there are any."""
    job = job_of(args)
    if job is None:
        return
    import jax

    if supervise.supervised():
        supervise.die_with_parent()
    # The service that lets all hosts agree on the step to save at when one of them is told to leave.
    jax.config.update("jax_enable_preemption_service", True)
    jax.distributed.initialize(args.coordinator, args.processes, args.process_id, initialization_timeout=int(job.start_timeout))
