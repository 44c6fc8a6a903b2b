"""The commands of `mof` that have an area of their own, and what all commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from mof_jax.errors import UserError


def add_command(commands, name: str, command: Callable, what: str, example: str) -> argparse.ArgumentParser:
    """A command with its help and an example of its use."""
    parser = commands.add_parser(name, help=what, description=what, epilog=f"example:\n  {example}",
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(command=command)
    return parser


def add_processes(parser: argparse.ArgumentParser) -> None:
    """Flags of a job of several processes, see `join_processes`."""
    parser.add_argument("--distributed", action="store_true",
                        help="several hosts; addresses come from the TPU or cluster environment")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="several processes without such an environment")
    parser.add_argument("--processes", type=int, help="with --coordinator: how many there are")
    parser.add_argument("--process-id", type=int, help="with --coordinator: which one this is")


def join_processes(args: argparse.Namespace) -> None:
    """Connects this process to the others of its job, if there are any."""
    if not (args.distributed or args.coordinator):
        return
    import jax

    if args.coordinator and (args.processes is None or args.process_id is None):
        raise UserError("--coordinator needs --processes and --process-id")
    # The service that lets all hosts agree on the step to save at when one of them is told to leave.
    jax.config.update("jax_enable_preemption_service", True)
    jax.distributed.initialize(args.coordinator, args.processes, args.process_id)
