"""`mof data`: look at, convert, caption, embed, score and draw data."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mof_jax.commands import add_command, add_processes, join_processes
from mof_jax.errors import UserError
from mof_jax.parsing import one_line

if TYPE_CHECKING:
    from mof_jax.data.sources.config import SourceConfig


def add(commands) -> None:
    """The command and its flags."""
    p = commands.add_parser("data", help="Look at, convert, caption, embed, score and draw data.",
                            description="Look at, convert, caption, embed, score and draw data.")
    sub = p.add_subparsers(title="commands", metavar="COMMAND", required=True)

    i = add_command(sub, "inspect", inspect, "Show what a source holds.", "mof data inspect emoji5")
    _add_source(i)
    i.add_argument("--examples", type=int, default=3, help="records to show")

    c = add_command(sub, "convert", convert, "Write any source as ArrayRecord shards.",
                    "mof data convert 'cc12m/{00000..00099}.tar' shards/")
    _add_source(c)
    c.add_argument("target", metavar="FOLDER", help="a new folder")
    c.add_argument("--shards", type=int, default=0, help="number of files; by default about 10,000 records each")
    c.add_argument("--strict", action="store_true", help="stop at the first bad record instead of leaving it out")

    d = add_command(sub, "caption", caption, "Write a source with synthetic captions by a multimodal checkpoint.",
                    'mof data caption pool.jsonl --checkpoint runs/mllm --prompt "Describe the picture." --out captioned/')
    _add_source(d)
    d.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]")
    d.add_argument("--prompt", required=True, help="what each picture is asked")
    d.add_argument("--out", required=True, metavar="FOLDER", help="a new folder; captions are texts of kind synthetic")
    d.add_argument("--max-tokens", type=int, default=64, help="length of a caption at most")
    d.add_argument("--shards", type=int, default=0, help="number of files; by default about 10,000 records each")
    d.add_argument("--strict", action="store_true", help="stop at the first bad record instead of leaving it out")

    s = add_command(sub, "score", score, "Write a score sidecar with a two-tower checkpoint (a DFN).",
                    "mof data score --checkpoint runs/dfn pool.jsonl --out pool.scores.jsonl")
    _add_source(s)
    s.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]")
    s.add_argument("--out", required=True, metavar="FILE.jsonl", help="where the scores go")
    s.add_argument("--name", default="dfn", help="name of the score")
    s.add_argument("--text", default="", metavar="KIND", help="kind of text that is scored; by default alt, or the only one")

    e = add_command(sub, "embed", embed, "Write a source's embeddings by a checkpoint; run again to go on.",
                    "mof data embed emoji5/unseen --checkpoint runs/dino --out embeddings/dino")
    _add_source(e)
    e.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]")
    e.add_argument("--out", required=True, metavar="FOLDER", help="where shards and manifest go")
    e.add_argument("--which", default="image", help="image, or patches for models that have them")
    e.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="as stored")
    e.add_argument("--shard", type=int, default=16_384, help="records a file")
    e.add_argument("--strict", action="store_true", help="stop at the first bad record instead of marking it invalid")
    add_processes(e)

    w = add_command(sub, "patterns", patterns, "Draw pairs of the nine patterns, in the files of MMVP and MMVP-VLM.",
                    "mof data patterns world/ --pairs 15\n  mof eval --checkpoint runs/mllm --task mmvp --data-dir world/MMVP")
    w.add_argument("folder", metavar="FOLDER", help="a new folder; MMVP and MMVP_VLM are made in it")
    w.add_argument("--split", default="test", help="train, dev, test (an artist of its own) or known (the artists of training)")
    w.add_argument("--pairs", type=int, default=15, help="of each pattern")
    w.add_argument("--first", type=int, default=0, help="number of the first scene")
    w.add_argument("--pixels", type=int, default=224, help="side of the pictures")


def _add_source(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="PATH", help="emoji5[/SPLIT], a .jsonl/.csv/.tsv file, .tar or .array_record shards (globs "
                   "too), a TFDS folder, or pictures")
    p.add_argument("--kind", default="", help="of the source (jsonl, webdataset, llava, …), where it is not to be guessed")
    p.add_argument("--image-field", default="", metavar="NAME", help="column or feature with the picture")
    p.add_argument("--text-fields", default="", metavar="KIND=NAME,…", help="columns or features with texts, as alt=caption")


def _source(args: argparse.Namespace) -> SourceConfig:
    """What the arguments of `_add_source` name.

    Raises:
      UserError: nothing there that is read, or a part of --text-fields that is none.
    """
    from mof_jax.data import tools

    texts: dict[str, str] = {}
    for part in args.text_fields.split(",") if args.text_fields else ():
        kind, equals, name = (word.strip() for word in part.partition("="))
        if not (kind and equals and name) or kind in texts:
            raise UserError(f"--text-fields {part.strip()!r}: expected KIND=NAME, each kind once")
        texts[kind] = name
    options = {"image_field": args.image_field} if args.image_field else {}
    return tools.guess(args.source, args.kind, **options, **({"text_fields": texts} if texts else {}))


def patterns(args: argparse.Namespace) -> None:
    import os

    from rich.progress import track

    from mof_jax.data.worlds import pattern_world as world
    from mof_jax.evals.mmvp import mmvp_files

    if args.pairs < 1 or args.first < 0 or args.pixels < 8:
        raise UserError("--pairs: at least 1; --first: not negative; --pixels: at least 8")
    scenes = [(pattern, n) for pattern in world.PATTERNS for n in range(args.first, args.first + args.pairs)]
    pairs = [world.pair(*scene, args.split, args.pixels) for scene in track(scenes, "draw", transient=True)]
    mmvp_files.write_mmvp(os.path.join(args.folder, "MMVP"), pairs)
    mmvp_files.write_mmvp_vlm(os.path.join(args.folder, "MMVP_VLM"), pairs)
    print(f"{args.folder}: {len(pairs):,} pairs in the files of MMVP and of MMVP_VLM")


def embed(args: argparse.Namespace) -> None:
    join_processes(args)
    import jax

    from mof_jax.data.sources import open_source
    from mof_jax.mining import embed as embedding
    from mof_jax.restore import restore
    from mof_jax.train.reliability.preemption import Preemption

    source = open_source(_source(args))
    preemption = Preemption()
    embedder = restore(args.checkpoint, on_batch=preemption.check).embedder
    with preemption:
        done = embedding.embed(embedder, source, args.out, args.which, args.dtype, args.shard, args.strict)
    if jax.process_index():
        return
    for record, reason in done.manifest["invalid_examples"][:10]:
        print(one_line(f"{args.source}: record {record}: {reason}"), file=sys.stderr)
    print(f"{args.out}: {len(done):,} × {' × '.join(map(str, done.row_shape))} {done.dtype}, "
          f"{done.manifest['invalid']:,} of them unreadable")
    if done.manifest["invalid"] == len(done):
        raise UserError(f"{args.source}: none of {len(done):,} records could be embedded")


def inspect(args: argparse.Namespace) -> None:
    from mof_jax.data import tools

    tools.inspect(_source(args), examples=args.examples)


def convert(args: argparse.Namespace) -> None:
    from mof_jax.data import tools

    done = tools.convert(_source(args), args.target, shards=args.shards, on_error="raise" if args.strict else "skip")
    print(f"{args.target}: {done.written:,} records written, {len(done.bad):,} bad ones left out")


def caption(args: argparse.Namespace) -> None:
    from mof_jax.evals import caption_source
    from mof_jax.restore import restore

    if args.max_tokens < 1:
        raise UserError(f"--max-tokens {args.max_tokens}: at least 1")
    if args.shards < 0:
        raise UserError(f"--shards {args.shards}: at least 1, or 0 for about 10,000 records each")
    source = _source(args)
    caption_source.caption(
        restore(args.checkpoint).generator,
        source,
        args.prompt,
        args.out,
        max_tokens=args.max_tokens,
        shards=args.shards,
        on_error="raise" if args.strict else "skip",
    )


def score(args: argparse.Namespace) -> None:
    from mof_jax.data import filter as filters
    from mof_jax.data.sources import open_source
    from mof_jax.evals import dfn_score
    from mof_jax.restore import restore

    filters.check_sidecar(args.out)
    source = open_source(_source(args))
    found = dfn_score.score(restore(args.checkpoint).embedder, source, args.text)
    filters.write_scores(args.out, found.ids, {args.name: found.cosines.tolist()})
    for record, reason in found.bad[:10]:
        print(one_line(f"{args.source}: record {record}: {reason}"), file=sys.stderr)
    print(
        f"{args.out}: {len(found.ids):,} records scored, {len(found.bad):,} unreadable (score {dfn_score.LOWEST:g})"
    )
    if left := len(source) - len(found.ids):
        print(f"{left:,} records without a readable name left out", file=sys.stderr)
