"""`mof mine`: every pair of pictures that one encoder confuses and another tells apart."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from mof_jax.commands import add_command, add_processes, join_processes
from mof_jax.errors import UserError


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(commands, "mine", mine, "Find every pair of pictures that one encoder confuses and another tells apart.",
                    "mof mine --features clip=runs/clip --features ssl=runs/dino --source emoji5/unseen --out pairs.parquet\n"
                    "  mof mine --features clip=clip/ --features ssl=s.npy --above clip=q0.999 --out pairs.parquet")
    p.add_argument("--features", action="append", required=True, metavar="NAME=WHERE",
                   help="a checkpoint (then --source is embedded), a folder of `mof data embed`, or a .npy; once a feature")
    p.add_argument("--above", action="append", default=[], metavar="NAME=T",
                   help="cosine above T, or above the quantile qT of all pairs; 0.95 for a feature named clip without a rule")
    p.add_argument("--below", action="append", default=[], metavar="NAME=T", help="likewise below; 0.6 for one named ssl")
    p.add_argument("--out", required=True, metavar="FILE.parquet", help="where the pairs go; run again to go on after a stop")
    p.add_argument("--source", metavar="PATH", help="the pictures: for checkpoints, labels, and a sheet of the blindest pairs")
    p.add_argument("--centre", action="store_true", help="subtract each feature's mean first")
    p.add_argument("--label", metavar="ATTRIBUTE", help="attribute of the source's records by which pairs are counted")
    p.add_argument("--within", choices=("same", "different"), help="keep only pairs of the same label, or of different ones")
    p.add_argument("--top-k", type=int, metavar="K", help="keep the K blindest pairs of each picture")
    p.add_argument("--limit", type=int, metavar="N", help="keep the N blindest pairs of all")
    p.add_argument("--skip-bad", action="store_true", help="leave out rows that are zero or not finite")
    p.add_argument("--tile", type=int, help="rows and columns of a tile on the device")
    add_processes(p)


def mine(args: argparse.Namespace) -> None:
    join_processes(args)
    import jax

    from mof_jax import console
    from mof_jax.data import tools
    from mof_jax.data.sources import open_source
    from mof_jax.mining import blind, report, rules
    from mof_jax.train.reliability.preemption import Preemption

    places = pairs_of(args.features, "--features")
    chosen = rules.pair_up(pairs_of(args.above, "--above"), pairs_of(args.below, "--below"), list(places))
    source = open_source(tools.guess(args.source)) if args.source else None
    if args.label and source is None:
        raise UserError("--label: give the records with --source")
    labels = report.labels(source, args.label) if args.label else None
    blind.check_out(args.out)
    with Preemption() as preemption:
        features = {name: features_at(name, where, source, args.out, preemption.check) for name, where in places.items()}
        for name, found in features.items():
            if source is not None and len(found) != len(source):
                raise UserError(f"--features {name}={places[name]}: {len(found):,} rows for {len(source):,} records of "
                                f"{args.source}")
        mined = blind.mine(features, chosen, args.out, centre=args.centre, labels=labels, within=args.within, top_k=args.top_k,
                           limit=args.limit, skip_bad=args.skip_bad, between=preemption.check, tile=args.tile)
    if jax.process_index():
        return
    console.stdout().print(report.summary(mined.info))
    if source is not None and len(mined):
        picture = args.out.removesuffix(".parquet") + ".png"
        report.sheet(mined.pairs, mined.info, source).save(picture)
        print(f"{picture}: the blindest pairs")
    print(f"{args.out}: {len(mined):,} pairs")


def pairs_of(words: Sequence[str], flag: str) -> dict[str, str]:
    """`NAME=VALUE` words as a mapping."""
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if not name.isidentifier() or not value:
            raise UserError(f"{flag} {word}: write NAME=VALUE")
        if name in found:
            raise UserError(f"{flag} {word}: {name} is given twice")
        found[name] = value
    return found


def features_at(name: str, where: str, source, out: str, on_batch: Callable[[], None] = lambda: None):
    """Stored embeddings, or those of a checkpoint over `source`, kept in `OUT.features/NAME`; `on_batch` may
    stop it."""
    from mof_jax import storage
    from mof_jax.mining import embed, embeddings

    where = storage.expand(where)
    if embeddings.is_embeddings(where):
        return embeddings.Embeddings.open(where)
    if source is None:
        raise UserError(f"--features {name}={where}: neither a .npy nor a folder of `mof data embed`; for a checkpoint, give the "
                        "pictures with --source")
    from mof_jax.restore import restore

    embedder = restore(where, on_batch=on_batch).embedder
    return embed.embed(embedder, source, f"{out.removesuffix('.parquet')}.features/{name}")
