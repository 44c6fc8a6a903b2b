"""The `mof` command: a thin face on functions that a notebook can call."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import logging
import sys
import traceback

from mof_jax.errors import EXIT_INTERNAL, EXIT_OK, EXIT_PREEMPTED, EXIT_USER, Preempted, UserError

# Heavy imports (JAX, Orbax, Grain) happen inside the commands, so that `mof --help` answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (see `mof_jax.errors`)."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if getattr(args, "command", None) is None:
        parser.print_help()
        return EXIT_USER
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports every save there
    try:
        args.overrides = overrides(rest, getattr(args, "takes_overrides", False))
        args.command(args)
        return EXIT_OK
    except UserError as error:
        return _stop(EXIT_USER, f"error: {error}")
    except Preempted as stop:
        return _stop(EXIT_PREEMPTED, str(stop))
    except BrokenPipeError:
        return EXIT_OK
    except Exception:
        traceback.print_exc()
        return _stop(EXIT_INTERNAL, "internal error: this is a bug in mof_jax; the traceback above says where")


def _stop(code: int, message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return code


def overrides(rest: Sequence[str], allowed: bool) -> list[str]:
    """`--config.a.b=1` and `--config.a.b 1` as `a.b=1`; anything else is an error."""
    found, words = [], list(rest)
    while words:
        word = words.pop(0)
        if not (allowed and word.startswith("--config.")):
            raise UserError(f"unknown argument {word!r}" + (
                "; overrides look like --config.key=value" if allowed else "; see --help"))
        word = word.removeprefix("--config.")
        if "=" not in word:
            if not words:
                raise UserError(f"--config.{word}: a value is missing")
            word = f"{word}={words.pop(0)}"
        found.append(word)
    return found


def make_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = argparse.ArgumentParser(prog="mof", description="Train, probe and mend the eyes of multimodal LLMs.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_train(commands)
    _add_eval(commands)
    _add_generate(commands)
    _add_mine(commands)
    _add_convert(commands)
    _add_data(commands)
    _add_bench(commands)
    return parser


def _command(commands, name: str, command: Callable, what: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=what, epilog=f"example:\n  {example}",
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(command=command)
    return parser


# --- train ----------------------------------------------------------------------------------------------------------------


def _add_train(commands) -> None:
    p = _command(commands, "train", train, "Train a model, or go on where a work dir stands.",
                 "mof train --config configs/clip/quickstart.py --workdir runs/quickstart --config.steps=500")
    p.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="config file; ARG is handed to get_config")
    p.add_argument("--workdir", required=True, help="where checkpoints, metrics and pictures go; run again to resume")
    p.add_argument("--profile", nargs="?", const="10:5", metavar="STEP[:COUNT]", help="trace COUNT steps from STEP on")
    p.add_argument("--distributed", action="store_true", help="several hosts; addresses come from the TPU or cluster environment")
    p.add_argument("--coordinator", metavar="HOST:PORT", help="several processes without such an environment")
    p.add_argument("--processes", type=int, help="with --coordinator: how many there are")
    p.add_argument("--process-id", type=int, help="with --coordinator: which one this is")
    p.set_defaults(takes_overrides=True)


def train(args: argparse.Namespace) -> None:
    from mof_jax import config as configs

    config = configs.override(configs.load(args.config), args.overrides)
    if args.profile:
        first, _, count = args.profile.partition(":")
        if not first.isdigit() or not (count or "5").isdigit():
            raise UserError(f"--profile {args.profile}: expected STEP or STEP:COUNT")
        config.profile = (int(first), int(count or 5))
    join_processes(args)
    from mof_jax import run

    run.train(config, args.workdir)


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


# --- eval -----------------------------------------------------------------------------------------------------------------


def _add_eval(commands) -> None:
    p = _command(commands, "eval", evaluate, "Evaluate a checkpoint with the evaluators of its config, or others.",
                 "mof eval --checkpoint runs/quickstart\n  mof eval --checkpoint runs/quickstart --follow\n"
                 "  mof eval --checkpoint runs/mllm --task mmvp --data-dir MMVP\n"
                 "  mof eval --task mmvp --data-dir MMVP --answers judged.jsonl")
    p.add_argument("--checkpoint", metavar="WORKDIR[/checkpoints/STEP]", help="newest step of a work dir, or one")
    p.add_argument("--evals", metavar="FILE.py[:ARG]", help="config file whose `evals` to run instead of the checkpoint's own")
    p.add_argument("--follow", action="store_true", help="evaluate checkpoints as they appear, until the last step")
    p.add_argument("--task", choices=("mmvp", "mmvp_vlm"), help="one benchmark instead, its files in --data-dir")
    p.add_argument("--data-dir", metavar="FOLDER", help="with --task: the benchmark's files as published")
    p.add_argument("--labels", choices=("original", "corrected"), help="with --task mmvp: as published (default), or set right")
    p.add_argument("--answers", metavar="FILE.jsonl", help="with --task mmvp: score these replies or judgements, without a model")


def evaluate(args: argparse.Namespace) -> None:
    section = benchmark(args)
    if args.answers:
        from mof_jax.evals import mmvp, mmvp_files
        from mof_jax.train import display

        labels = args.labels or "original"
        found = mmvp.score_answers(args.answers, mmvp_files.read_mmvp(args.data_dir, labels))
        display.show(display.results(f"{args.answers}, labels {labels}", {args.task: found}))
        return
    from mof_jax import config as configs
    from mof_jax import run

    sections = list(configs.load(args.evals).to_dict().get("evals", ())) if args.evals else None
    run.evaluate(args.checkpoint, [section] if section else sections, follow=args.follow)


def benchmark(args: argparse.Namespace) -> dict[str, str]:
    """The evaluator section that `--task` stands for, empty without it.

    Raises:
      UserError: flags that do not go together.
    """
    if bool(args.answers) == bool(args.checkpoint):
        raise UserError("eval: give --checkpoint, or --answers FILE to score what was answered elsewhere")
    if bool(args.task) != bool(args.data_dir):
        raise UserError("eval: --task and --data-dir go together")
    if args.task and args.evals:
        raise UserError("eval: --task and --evals exclude each other")
    if args.task != "mmvp" and (args.labels or args.answers):
        raise UserError("eval: --labels and --answers belong to --task mmvp")
    if not args.task:
        return {}
    return {"kind": args.task, "path": args.data_dir, **({"labels": args.labels} if args.labels else {})}


# --- generate -------------------------------------------------------------------------------------------------------------


def _add_generate(commands) -> None:
    p = _command(commands, "generate", generate, "Ask a multimodal model about pictures.",
                 'mof generate --checkpoint runs/mllm --image apples.png --prompt "How many apples are there?"')
    p.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]", help="newest step of a work dir, or one")
    p.add_argument("--prompt", required=True, help="the question; pictures stand at <image>, or first if it has none")
    p.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture; once for each <image>")
    p.add_argument("--plain", action="store_true", help="continue the prompt as plain text, outside the chat template")
    p.add_argument("--max-tokens", type=int, default=64, help="length of the answer at most")
    p.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time")
    p.add_argument("--top-p", type=float, default=1.0, help="draw from the smallest set of tokens that holds this probability")
    p.add_argument("--top-k", type=int, default=0, help="draw from so many likeliest tokens, 0 for all")
    p.add_argument("--seed", type=int, default=0, help="of the draws")
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text that ends the answer")
    p.add_argument("--score", action="append", default=[], metavar="ANSWER", help="print log p(ANSWER) instead of an answer")


def generate(args: argparse.Namespace) -> None:
    from mof_jax import run
    from mof_jax.data import images
    from mof_jax.data.remote import read
    from mof_jax.decode.sample import SampleConfig

    try:
        sample = SampleConfig(args.temperature, args.top_p, args.top_k, args.seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    if args.max_tokens < 1:
        raise UserError(f"--max-tokens {args.max_tokens}: at least 1")
    pictures = [images.to_array(images.decode(read(path), source=path, record="picture")) for path in args.image]
    responder = run.restore(args.checkpoint).responder
    prompt = (responder.text if args.plain else responder.ask)(args.prompt, pictures)
    if args.score:
        log_probs, tokens = responder.log_probs([prompt] * len(args.score), args.score)
        for answer, value, count in zip(args.score, log_probs, tokens):
            print(f"{value:10.4f}  ({count} tokens)  {answer}")
        return
    print(responder.answer([prompt], args.max_tokens, sample, args.stop)[0])


# --- mine -----------------------------------------------------------------------------------------------------------------


def _add_mine(commands) -> None:
    p = _command(commands, "mine", mine, "Find every pair of pictures that one encoder confuses and another tells apart.",
                 "mof mine --features clip=runs/clip --features ssl=runs/dino --source emoji5/unseen --out pairs.parquet\n"
                 "  mof mine --features clip=clip/ --features ssl=s.npy --above clip=q0.999 --below ssl=0.5 --out pairs.parquet")
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


def mine(args: argparse.Namespace) -> None:
    from rich.console import Console

    from mof_jax.data import tools
    from mof_jax.data.sources import open_source
    from mof_jax.mining import blind, report, rules

    places = pairs_of(args.features, "--features")
    chosen = rules.pair_up(pairs_of(args.above, "--above"), pairs_of(args.below, "--below"), list(places))
    source = open_source(tools.guess(args.source)) if args.source else None
    if args.label and source is None:
        raise UserError("--label: give the records with --source")
    labels = report.labels(source, args.label) if args.label else None
    blind.check_out(args.out)
    features = {name: features_at(name, where, source, args.out) for name, where in places.items()}
    for name, found in features.items():
        if source is not None and len(found) != len(source):
            raise UserError(f"--features {name}={places[name]}: {len(found):,} rows for {len(source):,} records of {args.source}")
    mined = blind.mine(features, chosen, args.out, centre=args.centre, labels=labels, within=args.within, top_k=args.top_k,
                       limit=args.limit, skip_bad=args.skip_bad, tile=args.tile)
    Console().print(report.summary(mined.info))
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


def features_at(name: str, where: str, source, out: str):
    """Stored embeddings, or those of a checkpoint over `source`, kept in `OUT.features/NAME`."""
    from mof_jax.mining import embed, embeddings

    if embeddings.is_embeddings(where):
        return embeddings.Embeddings.open(where)
    if source is None:
        raise UserError(f"--features {name}={where}: neither a .npy nor a folder of `mof data embed`; for a checkpoint, give the "
                        "pictures with --source")
    from mof_jax import run

    return embed.embed(run.restore(where).encoder, source, f"{out.removesuffix('.parquet')}.features/{name}")


# --- convert --------------------------------------------------------------------------------------------------------------


def _add_convert(commands) -> None:
    p = _command(commands, "convert", convert_weights, "Make a checkpoint of another library's model, or the other way round.",
                 "mof convert --from hf:openai/clip-vit-large-patch14 --to runs/clip\n"
                 "  mof convert --from runs/clip --to hf:export/clip --dtype bf16")
    p.add_argument("--from", dest="source", required=True, metavar="WHERE",
                   help="hf:FOLDER, hf:FILE.safetensors or hf:ORG/NAME[@REVISION]; or a work dir or checkpoint")
    p.add_argument("--to", dest="target", required=True, metavar="WHERE", help="a new work dir; or hf:FOLDER, a new folder")
    p.add_argument("--dtype", choices=("f32", "bf16", "f16"), help="as stored; by default f32, and on the way back as it came")


def convert_weights(args: argparse.Namespace) -> None:
    from mof_jax import convert as conversion

    conversion.convert(args.source, args.target, args.dtype)


# --- data -----------------------------------------------------------------------------------------------------------------


def _add_data(commands) -> None:
    p = commands.add_parser("data", help="Look at, convert, caption, embed and score data.",
                            description="Look at, convert, caption, embed and score data.")
    sub = p.add_subparsers(title="commands", metavar="COMMAND", required=True)
    source = "emoji5[/SPLIT], a .jsonl/.csv/.tsv file, .tar or .array_record shards (globs too), or a TFDS folder"

    i = _command(sub, "inspect", inspect, "Show what a source holds.", "mof data inspect emoji5")
    i.add_argument("source", metavar="PATH", help=source)
    i.add_argument("--examples", type=int, default=3, help="records to show")

    c = _command(sub, "convert", convert, "Write any source as ArrayRecord shards.",
                 "mof data convert 'cc12m/{00000..00099}.tar' shards/")
    c.add_argument("source", metavar="PATH", help=source)
    c.add_argument("target", metavar="FOLDER", help="a new folder")
    c.add_argument("--shards", type=int, default=0, help="number of files; by default about 10,000 records each")
    c.add_argument("--strict", action="store_true", help="stop at the first bad record instead of leaving it out")

    d = _command(sub, "caption", caption, "Write a source with synthetic captions by a multimodal checkpoint.",
                 'mof data caption pool.jsonl --checkpoint runs/mllm --prompt "Describe the picture." --out captioned/')
    d.add_argument("source", metavar="PATH", help=source)
    d.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]")
    d.add_argument("--prompt", required=True, help="what each picture is asked")
    d.add_argument("--out", required=True, metavar="FOLDER", help="a new folder; captions are texts of kind synthetic")
    d.add_argument("--max-tokens", type=int, default=64, help="length of a caption at most")
    d.add_argument("--shards", type=int, default=0, help="number of files; by default about 10,000 records each")
    d.add_argument("--strict", action="store_true", help="stop at the first bad record instead of leaving it out")

    s = _command(sub, "score", score, "Write a score sidecar with a two-tower checkpoint (a DFN).",
                 "mof data score --checkpoint runs/dfn pool.jsonl --out pool.scores.jsonl")
    s.add_argument("source", metavar="PATH", help=source)
    s.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]")
    s.add_argument("--out", required=True, metavar="FILE.jsonl", help="where the scores go")
    s.add_argument("--name", default="dfn", help="name of the score")
    s.add_argument("--text", default="alt", help="kind of text that is scored")

    e = _command(sub, "embed", embed, "Write a source's embeddings by a checkpoint; run again to go on.",
                 "mof data embed emoji5/unseen --checkpoint runs/dino --out embeddings/dino")
    e.add_argument("source", metavar="PATH", help=source)
    e.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]")
    e.add_argument("--out", required=True, metavar="FOLDER", help="where shards and manifest go")
    e.add_argument("--which", default="image", help="image, or patches for models that have them")
    e.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="as stored")
    e.add_argument("--shard", type=int, default=16_384, help="records a file")
    e.add_argument("--strict", action="store_true", help="stop at the first bad record instead of marking it invalid")


def embed(args: argparse.Namespace) -> None:
    from mof_jax import run
    from mof_jax.data import tools
    from mof_jax.data.sources import open_source
    from mof_jax.mining import embed as embedding

    source = open_source(tools.guess(args.source))
    encoder = run.restore(args.checkpoint).encoder
    done = embedding.embed(encoder, source, args.out, args.which, args.dtype, args.shard, args.strict)
    for record, reason in done.manifest["invalid_examples"][:10]:
        print(f"{args.source}: record {record}: {reason}", file=sys.stderr)
    print(f"{args.out}: {len(done):,} × {' × '.join(map(str, done.row_shape))} {done.dtype}, "
          f"{done.manifest['invalid']:,} of them unreadable")


def inspect(args: argparse.Namespace) -> None:
    from mof_jax.data import tools

    tools.inspect(args.source, examples=args.examples)


def convert(args: argparse.Namespace) -> None:
    from mof_jax.data import tools

    done = tools.convert(args.source, args.target, shards=args.shards, on_error="raise" if args.strict else "skip")
    print(f"{args.target}: {done.written:,} records written, {len(done.bad):,} bad ones left out")


def caption(args: argparse.Namespace) -> None:
    from mof_jax import run
    from mof_jax.evals import caption_source

    if args.max_tokens < 1:
        raise UserError(f"--max-tokens {args.max_tokens}: at least 1")
    caption_source.caption(run.restore(args.checkpoint).responder, args.source, args.prompt, args.out, max_tokens=args.max_tokens,
                           shards=args.shards, on_error="raise" if args.strict else "skip")


def score(args: argparse.Namespace) -> None:
    from mof_jax import run
    from mof_jax.data import tools
    from mof_jax.data.sources import open_source
    from mof_jax.evals import score as scores

    source = open_source(tools.guess(args.source))
    found = scores.score(run.restore(args.checkpoint).encoder, source, args.text)
    tools.write_scores(args.out, found.ids, {args.name: found.cosines.tolist()})
    for record, reason in found.bad[:10]:
        print(f"{args.source}: record {record}: {reason}", file=sys.stderr)
    print(f"{args.out}: {len(found.ids):,} records scored, {len(found.bad):,} of them unreadable (score {scores.LOWEST:g})")


# --- bench ----------------------------------------------------------------------------------------------------------------


def _add_bench(commands) -> None:
    what = "Measure ratios side by side in one run."
    p = commands.add_parser("bench", help=what, description=what)
    sub = p.add_subparsers(title="commands", metavar="COMMAND", required=True)
    l = _command(sub, "loss", bench_loss, "The streamed losses against full-matrix XLA and open_clip.",
                 "mof bench loss --n 16384")
    l.add_argument("--n", type=int, default=16384, help="pairs")
    l.add_argument("--dim", type=int, default=512, help="feature width")
    l.add_argument("--repeats", type=int, default=5)
    d = _command(sub, "data", bench_data, "The pipeline against a plain PIL loop and webdataset.", "mof bench data")
    d.add_argument("--count", type=int, default=512, help="JPEGs of 640×480")
    d.add_argument("--repeats", type=int, default=3)
    t = _command(sub, "train", bench_train, "A training step against open_clip on the same device.",
                 "mof bench train --model S/16 --batch 32")
    t.add_argument("--model", default="S/16", help="size of both towers / patch size, as in configs")
    t.add_argument("--image-size", type=int, default=112)
    t.add_argument("--batch", type=int, default=32)
    t.add_argument("--repeats", type=int, default=5)
    t.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    k = _command(sub, "packing", bench_packing, "A training step on packed rows against one on padded rows.", "mof bench packing")
    k.add_argument("--width", type=int, default=128, help="of the language model")
    k.add_argument("--context", type=int, default=256, help="positions of a row")
    k.add_argument("--rows", type=int, default=8, help="of a step")
    k.add_argument("--images", type=int, default=72, help="pictures of the packed step's buffer")
    k.add_argument("--repeats", type=int, default=5)

    m = _command(sub, "mine", bench_mine, "Exact mining of blind pairs against faiss and blocked NumPy.",
                 "mof bench mine --n 50000")
    m.add_argument("--n", type=int, default=50_000, help="records")
    m.add_argument("--dim", type=int, default=768, help="width of both features")
    m.add_argument("--repeats", type=int, default=3)


def bench_loss(args: argparse.Namespace) -> None:
    from mof_jax.bench import loss

    loss.show(loss.run(n=args.n, dim=args.dim, repeats=args.repeats))


def bench_data(args: argparse.Namespace) -> None:
    from mof_jax.bench import data

    data.run(count=args.count, repeats=args.repeats)


def bench_train(args: argparse.Namespace) -> None:
    from mof_jax.bench import train as bench

    bench.show(bench.run(args.model, args.image_size, args.batch, args.repeats, args.dtype))


def bench_packing(args: argparse.Namespace) -> None:
    from mof_jax.bench import packing

    packing.show(packing.run(width=args.width, context=args.context, rows=args.rows, images=args.images, repeats=args.repeats))


def bench_mine(args: argparse.Namespace) -> None:
    from mof_jax.bench import mine as bench

    bench.show(bench.run(args.n, args.dim, args.repeats), args.n, args.dim)


if __name__ == "__main__":
    sys.exit(main())
