"""`mof convert`: a checkpoint of another library's model, or the other way round."""

from __future__ import annotations

import argparse

from mof_jax.commands import add_command


def add(commands) -> None:
    """The command and its flags."""
    p = add_command(commands, "convert", convert, "Make a checkpoint of another library's model, or the other way round.",
                    "mof convert --from hf:openai/clip-vit-large-patch14 --to runs/clip\n"
                    "  mof convert --from runs/clip --to hf:export/clip --dtype bf16")
    p.add_argument("--from", dest="source", required=True, metavar="WHERE",
                   help="hf:FOLDER, hf:FILE.safetensors, hf:FILE.npz or hf:ORG/NAME[@REVISION]; or a work dir or checkpoint")
    p.add_argument("--to", dest="target", required=True, metavar="WHERE",
                   help="a new work dir; or hf:FOLDER, a new folder; or hf:FOLDER/NAME.npz, a SigLIP as big_vision stores it")
    p.add_argument("--dtype", choices=("f32", "bf16", "f16"), help="as stored; by default f32, and on the way back as it came")


def convert(args: argparse.Namespace) -> None:
    from mof_jax import convert as conversion

    conversion.convert(args.source, args.target, args.dtype)
