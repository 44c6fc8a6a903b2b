"""Synthetic captions: a model describes every picture of a source, for training on them (VeCap, arXiv 2310.07699)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Literal

import jax
from rich.console import Console

from mof_jax.console import bar, plain
from mof_jax.data.image import images
from mof_jax.data.keyed import hash64
from mof_jax.data.record import Record, Source
from mof_jax.data.sources import open_source
from mof_jax.data.sources.arrayrecord import writer
from mof_jax.data.sources.config import SourceConfig
from mof_jax.data.tools import Converted, guess
from mof_jax.decode.respond import Generator
from mof_jax.decode.sample import SampleConfig
from mof_jax.errors import BadExample, UserError

FIELD = "synthetic"

_BLOCK = 128  # pictures between two steps of the bar


def caption(
    generator: Generator,
    source: str | SourceConfig | Source,
    prompt: str,
    target: str,
    *,
    max_tokens: int = 64,
    sample: SampleConfig = SampleConfig(),
    name: str = "data",
    shards: int = 0,
    on_error: Literal["raise", "skip"] = "skip",
    console: Console | None = None,
) -> Converted:
    """Writes a source as ArrayRecord shards in the folder `target`, with what the model says to `prompt` as text `synthetic`.

    All else of a record stays, its id and its other texts too; a `synthetic` text it had is replaced. The data set appears
    whole or not at all.

    Args:
      source: a path (see `data.tools.guess`), a config or an open source.
      prompt: what each picture is asked, in the checkpoint's chat template; the picture comes first unless it says where.
      max_tokens, sample: of a caption; greedy by default.
      name, shards, on_error: as in `data.tools.convert`. A picture about which the model says nothing is a bad record.

    Raises:
      UserError: a target that exists, a source of pages or conversations, no good record, or a bad one under `raise`.
    """
    source = guess(source) if isinstance(source, str) else source
    source = open_source(source) if isinstance(source, SourceConfig) else source
    first, console = jax.process_index() == 0, console or Console(stderr=True)
    shards = min(shards or max(1, round(len(source) / 10_000)), len(source))
    bad: list[tuple[str, str]] = []
    with (
        bar(console=console, transient=True, disable=not first) as progress,
        writer(target, name, shards) if first else contextlib.nullcontext(lambda shard, record: None) as write,
    ):
        task = progress.add_task(f"caption {source.name}", total=len(source))
        for start in range(0, len(source), _BLOCK):
            indices = range(start, min(start + _BLOCK, len(source)))
            captioned, failed = _block(generator, source, indices, prompt, max_tokens, sample)
            if failed and on_error == "raise":
                raise failed[0]
            bad += [(error.record, error.reason) for error in failed]
            for index, record in captioned:
                write(index * shards // len(source), record)
            progress.advance(task, len(indices))
        if len(bad) == len(source):
            raise UserError(f"{source.name}: none of {len(source)} records can be captioned; the first: {bad[0][1]}")
    written = len(source) - len(bad)
    if first:
        left_out = f", {len(bad)} bad left out" if bad else ""
        console.print(plain(f"{target}: {written} records in {shards} shards{left_out}"), soft_wrap=True)
        for reason, count in Counter(reason for _, reason in bad).most_common(5):
            console.print(plain(f"  {count} x {reason}"), soft_wrap=True)
    return Converted(written, bad)


def _block(
    generator: Generator,
    source: Source,
    indices: Sequence[int],
    prompt: str,
    max_tokens: int,
    sample: SampleConfig,
) -> tuple[list[tuple[int, Record]], list[BadExample]]:
    """The captioned records of some places of the source with their places, and what is wrong with the others."""
    good: list[tuple[int, Record]] = []
    failed: list[BadExample] = []
    for index in indices:
        try:
            good.append((index, _readable(source, index)))
        except BadExample as error:
            failed.append(error)
    message = {"role": "user", "content": prompt if "<image>" in prompt else f"<image>\n{prompt}"}
    prompts = [generator.chat((message,), [record.image], record.id) for _, record in good]
    # Prompt i of a call draws from the same stream in each call, so every block has a seed of its own.
    sample = dataclasses.replace(sample, seed=hash64(sample.seed, indices[0]) % 2**31)
    answers = generator.answer(prompts, max_tokens=max_tokens, sample=sample) if prompts else []
    captioned = []
    for (index, record), answer in zip(good, answers):
        if answer.strip():
            captioned.append((index, dataclasses.replace(record, texts={**record.texts, FIELD: (answer.strip(),)})))
        else:
            failed.append(BadExample(source.name, record.id, "the model says nothing about this picture"))
    return captioned, failed


def _readable(source: Source, index: int) -> Record:
    """A record with one picture that decodes."""
    record = source[index]
    if type(record) is not Record:
        raise UserError(f"{source.name}: record {record.id} is a {type(record).__name__.lower()}, which a caption would not keep "
                        "whole; caption a source of single pictures")
    if record.image is None:
        raise BadExample(source.name, record.id, "no image")
    images.decode(record.image, source=source.name, record=record.id)
    return record
