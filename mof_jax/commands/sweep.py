"""`mof sweep`: the runs of a grid, each done once, and the points of a law."""

from __future__ import annotations

import argparse

from mof_jax.commands import add_command
from mof_jax.console import plain
from mof_jax.errors import UserError


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(commands, "sweep", sweep, "Run the grid of a config file, or go on where it stands; `mof fit W` reads it.",
                    "mof sweep --config configs/sweeps/clip_scaling.py --dry-run --topology v5e:2x2\n"
                    "  mof sweep --config configs/sweeps/clip_scaling.py --workdir runs/clip_scaling --workers 2\n"
                    "  mof sweep --config configs/mm1/study.py:size=9m --emit runs.jsonl\n"
                    "  python -m launch sweep runs.jsonl --job launch/examples/vit_l14.toml")
    p.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="with get_config and sweep; ARG is handed to both")
    p.add_argument("--workdir", metavar="W", help="where runs, the ledger and points.csv go; run again to go on")
    p.add_argument("--workers", type=int, default=1, metavar="K", help="runs at once")
    p.add_argument("--loss", metavar="EVALUATOR/METRIC",
                   help="the column loss; `loss` for the training loss; by default the first evaluator's loss, if one has any")
    p.add_argument("--retry-failed", action="store_true", help="try runs anew that failed or diverged")
    p.add_argument("--dry-run", action="store_true", help="print the grid with its parameters and FLOPs instead")
    p.add_argument("--topology", metavar="GENERATION:AxB[xC]", help="with --dry-run: where, for chip-hours")
    p.add_argument("--emit", metavar="FILE.jsonl", help="write a line a run for `python -m launch sweep` instead")
    p.set_defaults(takes_overrides=True)


def sweep(args: argparse.Namespace) -> None:
    _check(args)
    import jax

    # Not by the environment, which the runs inherit: they compute on what there is, and we only count.
    jax.config.update("jax_platforms", "cpu")

    from mof_jax import console
    from mof_jax.sweep import points, show, table
    from mof_jax.sweep.emit import emit
    from mof_jax.sweep.runner import Runner, reopen_failed, trainer

    found = points.expand(args.config, args.overrides)
    table.check_loss(found, args.loss)
    out = console.stdout()
    if args.dry_run:
        out.print(show.show(found, args.topology), highlight=False)
    elif args.emit:
        for path in emit(found, args.config, args.emit):  # in this order, each to its end
            out.print(plain(f"python -m launch sweep {path} --job JOB.toml"), highlight=False, soft_wrap=True)
    else:
        if found.merged:
            out.print(f"{found.merged} of the grid's entries are copies of other points: merged", highlight=False)
        if args.retry_failed:
            out.print(f"{reopen_failed(found, args.workdir)} runs are tried anew", highlight=False)
        Runner(found, args.workdir, trainer(args.config), args.workers, args.loss).run()
        read = f"{args.workdir}/{table.NAME}: {len(found.rows)} points; mof fit {args.workdir} --law … reads them"
        out.print(plain(read), highlight=False, soft_wrap=True)


def _check(args: argparse.Namespace) -> None:
    from mof_jax.storage import is_remote

    if args.dry_run and args.emit:
        raise UserError("--dry-run and --emit exclude each other")
    if args.topology and not args.dry_run:
        raise UserError("--topology belongs to --dry-run")
    if not (args.workdir or args.dry_run or args.emit):
        raise UserError("sweep: give --workdir, or --dry-run or --emit FILE.jsonl")
    if args.workdir and is_remote(args.workdir):
        raise UserError(f"--workdir {args.workdir}: runs are claimed by locks of a local folder; --emit writes jobs for a pod")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1")
