"""The `mof` command: a thin face on functions that a notebook can call."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import errno
import logging
import os
import sys
import traceback

from mof_jax import supervise
from mof_jax.commands import (
    add_command,
    add_processes,
    bench,
    claim,
    convert,
    data,
    fit,
    job_of,
    join_processes,
    kinds,
    mine,
    plan,
    sweep,
)
from mof_jax.errors import ExitCode, Preempted, UserError, out_of_memory
from mof_jax.parsing import one_line

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)  # no bug of ours, wherever they come up

# Heavy imports (JAX, Orbax, Grain) happen inside the commands, so that `mof --help` answers at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (see `mof_jax.errors`)."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if getattr(args, "command", None) is None:
        parser.print_help()
        return ExitCode.USER_ERROR
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports every save there, and a failed one in 400 lines
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # and here, after our line, every array of a save that failed
    sys.unraisablehook = _unraisable
    try:
        args.overrides = overrides(rest, getattr(args, "takes_overrides", False))
        job = None if supervise.supervised() else job_of(args)
        if job is not None:
            return supervise.run([sys.executable, "-m", "mof_jax.cli", *(sys.argv[1:] if argv is None else argv)], job)
        if args.plugin:
            from mof_jax import plugins

            for path in args.plugin:
                plugins.load_file(path)
        args.command(args)
        return ExitCode.DONE
    except UserError as error:
        return _stop(error.code, f"error: {error}")
    except Preempted as stop:
        return _stop(ExitCode.PREEMPTED, str(stop))
    except BrokenPipeError:
        return ExitCode.DONE
    except Exception as error:
        full = out_of_memory(error)
        if full is not None:
            return _stop(ExitCode.OUT_OF_MEMORY, f"error: a device is out of memory: {full}; a smaller batch, more "
                                                 "micro-batches, remat or more fsdp need less (`mof plan` says how much)")
        if isinstance(error, OSError) and error.errno in _DISK:
            where = f"{error.filename}: " if error.filename else ""
            return _stop(ExitCode.USER_ERROR, f"error: {where}{one_line(error.strerror or str(error))}")
        traceback.print_exc()
        return _stop(ExitCode.INTERNAL_ERROR, "internal error: this is a bug in mof_jax; the traceback above says where")


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """TensorStore calls the loop of a save that has failed, once for each array, and Python prints each traceback."""
    if not (isinstance(found.exc_value, RuntimeError) and "Event loop is closed" in str(found.exc_value)):
        sys.__unraisablehook__(found)


def _stop(code: ExitCode, message: str) -> ExitCode:
    print(message, file=sys.stderr, flush=True)
    if supervise.supervised() and code != ExitCode.PREEMPTED:
        sys.stdout.flush()
        os._exit(code)  # JAX's farewell would wait for the others, who wait for this process
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
    for area in (plan, sweep, claim, fit, mine, convert, data, bench, kinds):
        area.add(commands)
    return parser


# --- train ----------------------------------------------------------------------------------------------------------------


def _add_train(commands) -> None:
    p = add_command(commands, "train", train, "Train a model, or go on where a work dir stands.",
                    "mof train --config configs/clip/quickstart.py --workdir runs/quickstart --config.steps=500")
    p.add_argument("--config", required=True, metavar="FILE.py[:ARG]", help="config file; ARG is handed to get_config")
    p.add_argument("--workdir", required=True, help="where checkpoints, metrics and pictures go; run again to resume")
    p.add_argument("--allow-change", action="append", default=[], metavar="KEY",
                   help="go on with another value of this key (or section) than the run has had so far; it is kept with its step")
    p.add_argument("--profile", nargs="?", const="10:5", metavar="STEP[:COUNT]", help="trace COUNT steps from STEP on")
    add_processes(p)
    p.set_defaults(takes_overrides=True)


def train(args: argparse.Namespace) -> None:
    from mof_jax import config as configs

    config = configs.override(configs.load(args.config), args.overrides)
    if args.profile:
        first, _, count = args.profile.partition(":")
        if not all(text.isdecimal() and text.isascii() and len(text) < 10 for text in (first, count or "5")):
            raise UserError(f"--profile {args.profile}: expected STEP or STEP:COUNT")
        config.profile = (int(first), int(count or 5))
    join_processes(args)
    from mof_jax import trainer

    trainer.train(config, args.workdir, args.allow_change)


# --- eval -----------------------------------------------------------------------------------------------------------------


def _add_eval(commands) -> None:
    p = add_command(commands, "eval", evaluate, "Evaluate a checkpoint with the evaluators of its config, or others.",
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
        from mof_jax import console
        from mof_jax.evals.mmvp import mmvp, mmvp_files

        labels = args.labels or "original"
        found = mmvp.score_answers(args.answers, mmvp_files.read_mmvp(args.data_dir, labels))
        console.show(console.results(f"{args.answers}, labels {labels}", {args.task: found}))
        return
    from mof_jax import config as configs
    from mof_jax.evaluate import evaluate

    sections = list(configs.load(args.evals).to_dict().get("evals", ())) if args.evals else None
    evaluate(args.checkpoint, [section] if section else sections, follow=args.follow)


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
    p = add_command(commands, "generate", generate, "Ask a multimodal model about pictures.",
                    'mof generate --checkpoint runs/mllm --image apples.png --prompt "How many apples are there?"')
    p.add_argument("--checkpoint", required=True, metavar="WORKDIR[/checkpoints/STEP]", help="newest step of a work dir, or one")
    p.add_argument("--prompt", required=True, help="the question; pictures stand at <image>, or first if it has none")
    p.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture; once for each <image>")
    p.add_argument("--plain", action="store_true", help="continue the prompt as plain text, outside the chat template")
    p.add_argument("--max-tokens", type=int, default=64, help="length of the answer at most")
    p.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token each time")
    p.add_argument("--top-p", type=float, default=1.0, help="draw from the smallest set of tokens that holds this probability")
    p.add_argument("--top-k", type=int, default=0, help="draw from this many of the likeliest tokens, 0 for all")
    p.add_argument("--seed", type=int, default=0, help="of the draws")
    p.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text that ends the answer")
    p.add_argument("--score", action="append", default=[], metavar="ANSWER", help="print log p(ANSWER) instead of an answer")


def generate(args: argparse.Namespace) -> None:
    from mof_jax.data.image import images
    from mof_jax.decode.sample import SampleConfig
    from mof_jax.restore import restore
    from mof_jax.storage import read

    try:
        sample = SampleConfig(args.temperature, args.top_p, args.top_k, args.seed)
    except ValueError as error:
        raise UserError(str(error)) from None
    if args.max_tokens < 1:
        raise UserError(f"--max-tokens {args.max_tokens}: at least 1")
    pictures = [read(path) for path in args.image]
    for path, picture in zip(args.image, pictures):
        images.decode(picture, source=path, record="picture")  # to name the file of a broken one; the model reads it its own way
    generator = restore(args.checkpoint).generator
    prompt = (generator.text if args.plain else generator.ask)(args.prompt, pictures)
    if args.score:
        log_probs, tokens = generator.log_probs([prompt] * len(args.score), args.score)
        for answer, value, count in zip(args.score, log_probs, tokens):
            print(f"{value:10.4f}  ({count} tokens)  {answer}")
        return
    print(generator.answer([prompt], args.max_tokens, sample, args.stop)[0])


if __name__ == "__main__":
    sys.exit(main())
