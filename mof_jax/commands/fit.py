"""`mof fit`: from the points of a sweep to a scaling law, and from a law to a plan."""

from __future__ import annotations

import argparse
import json
import math
import os

from mof_jax.commands import add_command
from mof_jax.errors import UserError, lookup
from mof_jax.hardware import HardwareConfig, Throughput

RESAMPLE = ("pairs", "residual", "normal")
_LAWS = "chinchilla, isoflop, envelope, power, pure-power, openclip, lr, repeats"


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(commands, "fit", fit, "Fit a scaling law to points, with intervals, warnings, plots and a plan.",
                    "mof fit points.csv --law chinchilla --columns 'N=Model Size,C=Training FLOP,L=loss' --drop-highest 5\n"
                    "  mof fit runs/sweep --law isoflop --out runs/sweep/isoflop\n"
                    "  mof fit points.csv --law chinchilla --plan 1e22 --throughput plan.jsonl --price 4.2 --rates lr/fit.json")
    p.add_argument("path", metavar="PATH", help=".csv, .tsv, .json or .jsonl of one run a row, or a sweep's work dir")
    p.add_argument("--law", required=True, metavar="NAME", help=_LAWS)
    p.add_argument("--columns", default="", metavar="S=NAME,…",
                   help="which column is N (parameters), D (tokens), C (FLOP), L (loss), x, error, U (unique tokens), lr, wd, "
                        "batch")
    p.add_argument("--drop-highest", type=int, default=0, metavar="K", help="leave out the K points of the highest loss")
    p.add_argument("--diverged", type=float, default=1.5, metavar="RATIO",
                   help="leave out a run whose loss is more than RATIO times that of a run no larger")
    p.add_argument("--bootstrap", type=int, default=1000, metavar="B", help="resamples behind the intervals; 0 for none")
    p.add_argument("--resample", choices=RESAMPLE, help="what is resampled; by default what suits the law")
    p.add_argument("--seed", type=int, default=0, help="of the resamples")
    p.add_argument("--plan", type=float, metavar="FLOP", help="what to train for so much compute")
    p.add_argument("--throughput", metavar="PLANS.jsonl[#NAME]",
                   help="with --plan: where and how fast, for chip-hours, by a plan that `mof plan --json` wrote")
    p.add_argument("--topology", metavar="GENERATION:AxB[xC]", help="with --plan: where, without such a plan")
    p.add_argument("--mfu", type=float, help=f"with --topology: share of the peak, {HardwareConfig.mfu} by default")
    p.add_argument("--price", type=float, help="with --throughput or --topology: dollars a chip-hour")
    p.add_argument("--rates", metavar="FIT.json", help="with --plan: the fit.json of a law of learning rates (--law lr --out)")
    p.add_argument("--out", metavar="DIR", help="write fit.json, points.csv and the plots as SVG, PDF and PNG")
    p.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def fit(args: argparse.Namespace) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # float64, and a fit is too small for an accelerator

    from mof_jax import console, storage
    from mof_jax.console import plain
    from mof_jax.scaling import fit as fits
    from mof_jax.scaling import frontier, plots, report, table
    from mof_jax.scaling.registry import LAWS

    _check(args)
    if args.out:
        plots.check()
        storage.make_folder(args.out)
    law = lookup(LAWS, args.law, "law")
    if args.plan is not None and law.name not in frontier.WITH_FRONTIER:
        able = ", ".join(frontier.WITH_FRONTIER)
        raise UserError(f"--plan: the law {law.name!r} has no compute-optimal frontier; {able} have one")
    where = _where(args)
    rates = frontier.load_rates(args.rates) if args.rates else None
    source, names, rows = table.read(args.path, table.parse_columns(args.columns))
    points = table.points(source, rows, law.needs, law.optional, law.target, args.diverged, names)
    if args.drop_highest:
        points = table.drop_highest(points, args.drop_highest, law.target)
    found = fits.fit(points, law, args.bootstrap, args.seed, resample=args.resample)
    planned = failed = None
    if args.plan is not None:
        try:
            planned = frontier.plan(found, args.plan, where, args.price, rates)
        except UserError as error:  # the law is printed all the same
            failed = error
    written, out = report.to_json(found, planned), console.stdout()
    if args.json:
        print(json.dumps(written))
    else:
        out.print(report.show(found, planned), highlight=False)
    if args.out:  # last: what was fitted is printed whatever becomes of the files
        with open(os.path.join(args.out, "fit.json"), "w", encoding="utf-8") as file:
            json.dump(written, file, indent=1)
        table.write_csv(points, os.path.join(args.out, "points.csv"))
        figures = plots.draw(found)
        paths = plots.save(figures, args.out)
        if not args.json:
            done = f"{args.out}: fit.json, points.csv and {len(paths)} plots of {', '.join(figures)}"
            out.print(plain(done), highlight=False)
    if failed is not None:
        raise failed


def _check(args: argparse.Namespace) -> None:
    for flag, value, least in (("--drop-highest", args.drop_highest, 0), ("--bootstrap", args.bootstrap, 0)):
        if value < least:
            raise UserError(f"{flag} {value}: at least {least}")
    if 0 < args.bootstrap < 40:
        raise UserError(f"--bootstrap {args.bootstrap}: 95 % intervals need 40 resamples at least, or 0 for none")
    if not args.diverged > 1:
        raise UserError(f"--diverged {args.diverged:g}: a ratio above 1")
    if args.plan is not None and not 0 < args.plan < math.inf:
        raise UserError(f"--plan {args.plan:g}: a number of FLOPs above zero")
    if args.price is not None and not 0 <= args.price < math.inf:
        raise UserError(f"--price {args.price:g}: dollars, not negative")
    if args.mfu is not None and not 0 < args.mfu <= 1:
        raise UserError(f"--mfu {args.mfu:g}: a share of the peak, above 0 and at most 1")
    if args.plan is None and (args.throughput or args.topology or args.price is not None or args.rates):
        raise UserError("--throughput, --topology, --price and --rates belong to --plan FLOP")
    if args.throughput and args.topology:
        raise UserError("--throughput and --topology: give one; the plan of --throughput names its topology")
    if args.mfu is not None and not args.topology:
        raise UserError("--mfu belongs to --topology")
    if args.price is not None and not (args.throughput or args.topology):
        raise UserError("--price belongs to --throughput or --topology")


def _where(args: argparse.Namespace) -> Throughput | None:
    from mof_jax.plan.records import throughput

    if args.throughput:
        return throughput(args.throughput)
    if args.topology:
        return Throughput(args.topology) if args.mfu is None else Throughput(args.topology, args.mfu)
    return None
