"""`mof claim`: what a paper's config claims, judged by runs with seeds, in one table."""

from __future__ import annotations

import argparse
import os

from mof_jax.commands import add_command
from mof_jax.errors import UserError


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(
        commands,
        "claim",
        claim,
        "Judge the claim of a config file: shown, refuted or undecided.",
        "mof claim configs/papers/siglip.py --workdir runs/siglip --seeds 100\n"
        "  mof claim configs/papers/siglip.py --workdir runs/siglip --workers 2\n"
        "  mof claim --check",
    )
    p.add_argument(
        "config",
        nargs="?",
        metavar="FILE.py[:ARG]",
        help="with get_config and claim; ARG is handed to both",
    )
    p.add_argument("--workdir", metavar="W", help="where the runs go; run again to go on")
    p.add_argument("--docs", default="docs", metavar="FOLDER", help="where claims.jsonl and claims.md lie")
    p.add_argument(
        "--seeds",
        metavar="N,N,…",
        help="from 100 on, to try the claim out; a verdict takes 0, 1 and 2, once",
    )
    p.add_argument(
        "--store", metavar="FOLDER", help="where base models lie that claims share (default: W/bases)"
    )
    p.add_argument("--workers", type=int, default=1, metavar="K", help="runs at once")
    p.add_argument(
        "--check",
        action="store_true",
        help="say which rows of the table do not stand, and end with 1 if any",
    )
    p.add_argument("--table", action="store_true", help="write claims.md again from claims.jsonl")


def claim(args: argparse.Namespace) -> None:
    if args.check or args.table:
        if args.config:
            raise UserError("--check and --table are about all rows; leave out the config")
        _rows(args.docs, args.table)
        return
    if not args.config or not args.workdir:
        raise UserError("claim: give FILE.py and --workdir, or --check")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1")
    import jax

    # Not by the environment, which the runs inherit: they compute on what there is, and we only compare.
    jax.config.update("jax_platforms", "cpu")

    from mof_jax import console
    from mof_jax.claims import judge
    from mof_jax.claims.claim import SEEDS
    from mof_jax.console import plain
    from mof_jax.storage import is_remote

    if is_remote(args.workdir):
        raise UserError(f"--workdir {args.workdir}: runs are told apart by locks of a local folder")
    seeds = SEEDS if args.seeds is None else _seeds(args.seeds)
    row, pilot = judge.run(
        args.config, args.workdir, args.docs, seeds=seeds, workers=args.workers, store=args.store
    )
    out = console.stdout()
    for condition in row["conditions"]:
        for seed, x in condition["seeds"].items():
            out.print(plain(f"{condition['what']}, {condition['metric']}, seed {seed}: {x['lead']:+.4g} "
                            f"[{x['low']:+.4g}, {x['high']:+.4g}]"), highlight=False, soft_wrap=True)
    said = f"a pilot, and no verdict: {row['verdict']}" if pilot else row["verdict"]
    out.print(plain(f"{row['file']}: {row['says']} {said}"), highlight=False, soft_wrap=True)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--seeds {text}: whole numbers with commas between them") from None


def _rows(docs: str, write: bool) -> None:
    from mof_jax.claims import rows

    if write:
        rows.write_table(docs)
    wrong = rows.check(docs)
    for line in wrong[1:]:
        print(line)
    if wrong:
        raise UserError(f"{docs}: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if wrong[1:] else ""))
    count = len(rows.read(os.path.join(docs, rows.ROWS)))
    print(f"{docs}: {count} of {count} claims stand")
