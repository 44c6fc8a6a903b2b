"""`mof plan`: what a run needs on a pod, found out on a laptop."""

from __future__ import annotations

import argparse
import json

from mof_jax.commands import add_command
from mof_jax.console import plain
from mof_jax.errors import UserError


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(commands, "plan", plan, "Compile a run's step for TPU slices that are not here: does it fit, how fast is it?",
                    "mof plan --config configs/mm1/pretrain_30b.py --topology v5p:8x8x8\n"
                    "  mof plan --config configs/clip/vit_l14.py --topology v5p-128 --config.batch_size=65536 --json\n"
                    "  mof plan --config configs/mm1/pretrain_7b.py --search --top 3")
    p.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="config file of a run")
    p.add_argument("--topology", metavar="GENERATION:AxB[xC]",
                   help="slice, N*… for several, or an accelerator type; by default the one that the config names")
    p.add_argument("--stage", metavar="NAME", help="of a staged config, this stage alone")
    p.add_argument("--search", action="store_true",
                   help="try other meshes, rematerialisation and micro-batches by formula, compile the best few and choose")
    p.add_argument("--top", type=int, default=3, metavar="K", help="of a search, how many are compiled that fit (default 3)")
    p.add_argument("--json", action="store_true", help="print one JSON object a stage instead of tables")
    p.set_defaults(takes_overrides=True)


def plan(args: argparse.Namespace) -> None:
    import os

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a plan needs no accelerator, and must not wait for one
    from rich.console import Console

    from mof_jax import config as configs
    from mof_jax import console
    from mof_jax.hardware import Topology
    from mof_jax.plan import report, search
    from mof_jax.plan.cost import stages

    runs = stages(configs.override(configs.load(args.config), args.overrides))
    if args.stage is not None:
        if args.stage not in runs:
            raise UserError(f"--stage {args.stage}: the config has {', '.join(runs)}")
        runs = {args.stage: runs[args.stage]}
    if args.top < 1:
        raise UserError(f"--top {args.top}: a search compiles at least one")
    asked = " ".join([args.config, *(["--topology", args.topology] if args.topology else []),
                      *(f"--config.{text}" for text in args.overrides)])
    for name, config in runs.items():
        where = args.topology or config.hardware.topology
        if where is None:
            raise UserError(f"{args.config}: names no hardware.topology; give --topology, e.g. v5e:16x16")
        title, topology = asked if len(runs) == 1 else f"{asked}, stage {name}", Topology.parse(where)
        if args.search:
            log = Console(stderr=True)
            found = search.search(title, config, topology, args.top, tell=lambda t: log.print(plain(search.told(t))))
            written, shown = search.to_json(found), search.show
        else:
            found = report.plan(title, config, topology)
            written, shown = found.to_json(), report.show
        if args.json:
            print(json.dumps(written))
        else:
            console.stdout().print(shown(found), crop=False)
