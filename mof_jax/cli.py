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
                 "mof eval --checkpoint runs/quickstart\n  mof eval --checkpoint runs/quickstart --follow")
    p.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]", help="newest step of a work dir, or one")
    p.add_argument("--evals", metavar="FILE.py[:ARG]", help="config file whose `evals` to run instead of the checkpoint's own")
    p.add_argument("--follow", action="store_true", help="evaluate checkpoints as they appear, until the last step")


def evaluate(args: argparse.Namespace) -> None:
    from mof_jax import config as configs
    from mof_jax import run

    sections = list(configs.load(args.evals).to_dict().get("evals", ())) if args.evals else None
    run.evaluate(args.checkpoint, sections, follow=args.follow)


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


# --- data -----------------------------------------------------------------------------------------------------------------


def _add_data(commands) -> None:
    p = commands.add_parser("data", help="Look at, convert, caption and score data.",
                            description="Look at, convert, caption and score data.")
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


if __name__ == "__main__":
    sys.exit(main())
