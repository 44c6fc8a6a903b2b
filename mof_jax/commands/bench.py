"""`mof bench`: ratios, side by side in one run."""

from __future__ import annotations

import argparse

from mof_jax.commands import add_command


def add(commands) -> None:
    """The command and its flags."""
    what = "Measure ratios side by side in one run."
    p = commands.add_parser("bench", help=what, description=what)
    sub = p.add_subparsers(title="commands", metavar="COMMAND", required=True)
    l = add_command(sub, "loss", run_loss, "The streamed losses against full-matrix XLA and open_clip.",
                    "mof bench loss --n 16384")
    l.add_argument("--n", type=int, default=16384, help="pairs")
    l.add_argument("--dim", type=int, default=512, help="feature width")
    l.add_argument("--repeats", type=int, default=5)
    d = add_command(sub, "data", run_data, "The pipeline against a plain PIL loop and webdataset.", "mof bench data")
    d.add_argument("--count", type=int, default=512, help="JPEGs of 640×480")
    d.add_argument("--repeats", type=int, default=3)
    e = add_command(sub, "fields", run_fields, "The pipeline with and without each kind of field and order.", "mof bench fields")
    e.add_argument("--repeats", type=int, default=5)
    t = add_command(sub, "train", run_train, "A training step against open_clip on the same device.",
                    "mof bench train --model S/16 --batch 32")
    t.add_argument("--model", default="S/16", help="size of both towers / patch size, as in configs")
    t.add_argument("--image-size", type=int, default=112)
    t.add_argument("--batch", type=int, default=32)
    t.add_argument("--repeats", type=int, default=5)
    t.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    k = add_command(sub, "packing", run_packing, "A training step on packed rows against one on padded rows.",
                    "mof bench packing")
    k.add_argument("--width", type=int, default=128, help="of the language model")
    k.add_argument("--context", type=int, default=256, help="positions of a row")
    k.add_argument("--rows", type=int, default=8, help="of a step")
    k.add_argument("--images", type=int, default=72, help="pictures of the packed step's buffer")
    k.add_argument("--repeats", type=int, default=5)
    m = add_command(sub, "mine", run_mine, "Exact mining of blind pairs against faiss and blocked NumPy.",
                    "mof bench mine --n 50000")
    m.add_argument("--n", type=int, default=50_000, help="records")
    m.add_argument("--dim", type=int, default=768, help="width of both features")
    m.add_argument("--repeats", type=int, default=3)
    c = add_command(sub, "convert", run_convert, "Memory and seconds of `mof convert` against reading the file.",
                    "mof bench convert --params 1.1e9")
    c.add_argument("--params", type=float, default=1.1e9, help="of the random Llama; needs four times its file on the disk")
    c.add_argument("--dtype", default="f32", choices=("f32", "bf16", "f16"), help="of its file and of the checkpoint")
    f = add_command(sub, "fit", run_fit, "Chinchilla's fit from its whole grid of starts against SciPy's.", "mof bench fit")
    f.add_argument("--starts", type=int, help="how many of the 4,500 starts, all by default")
    f.add_argument("--bootstrap", type=int, default=1000, help="resamples of the last row, 0 for none")


def run_loss(args: argparse.Namespace) -> None:
    from mof_jax.bench import loss

    loss.show(loss.run(n=args.n, dim=args.dim, repeats=args.repeats))


def run_data(args: argparse.Namespace) -> None:
    from mof_jax.bench import data

    data.run(count=args.count, repeats=args.repeats)


def run_fields(args: argparse.Namespace) -> None:
    from mof_jax.bench import fields

    fields.show(fields.run(args.repeats))


def run_train(args: argparse.Namespace) -> None:
    from mof_jax.bench import train as bench

    bench.show(bench.run(args.model, args.image_size, args.batch, args.repeats, args.dtype))


def run_packing(args: argparse.Namespace) -> None:
    from mof_jax.bench import packing

    packing.show(packing.run(width=args.width, context=args.context, rows=args.rows, images=args.images, repeats=args.repeats))


def run_mine(args: argparse.Namespace) -> None:
    from mof_jax.bench import mine as bench

    bench.show(bench.run(args.n, args.dim, args.repeats), args.n, args.dim)


def run_convert(args: argparse.Namespace) -> None:
    from mof_jax.bench import convert as bench

    bench.show(bench.run(args.params, args.dtype))


def run_fit(args: argparse.Namespace) -> None:
    from mof_jax.bench import fit as bench

    bench.show(bench.run(args.starts, args.bootstrap))
