"""Packed rows against padded ones: the same documents, the same training step, in turns, in one run.

    mof bench packing

Padded means one document a row, as batches are usually made where shapes are static. Both read the same mixture of embedded
captions, pages and glossary (45 : 45 : 10) and fill as many positions a step. `padded` also has the packed step's picture
buffer, so that both run one and the same program; since few of those pictures are there to be seen, a further contestant has a
buffer of the size that padded rows need. Loading is not measured, `mof bench data` does that.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from mof_jax import console
from mof_jax.config import build
from mof_jax.data.packing.packer import Packer, Shape, State
from mof_jax.data.packing.sequence_pipeline import SampleReader, SequenceConfig, texts
from mof_jax.data.packing.sequences import Sample
from mof_jax.data.text.tokenizers import Tokenizer, TokenizerConfig, train
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.next_token import NextToken
from mof_jax.tasks.mllm import MllmTask
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.state import init_fn
from mof_jax.train.step import make_step

KINDS = {
    "caption": {"weight": 0.45, "sources": [{"kind": "emoji5"}]},
    "pages": {"weight": 0.45, "kind": "interleaved", "sources": [{"kind": "pages", "size": 20_000}]},
    "text": {"weight": 0.1, "sources": [{"kind": "glossary", "size": 20_000}]},
}
SIDE, PATCH = 32, 8  # pixels of a picture and of a patch
TOKENS = (SIDE // PATCH) ** 2  # positions a picture takes
PICTURES = 6  # that a document may have
INPUTS = ("tokens", "segment_ids", "positions", "loss_weight", "image_index", "images")  # what the step reads of a batch
_STEPS = 2  # of each contestant per turn

Batch = dict[str, np.ndarray]


def run(
    width: int = 128, depth: int = 2, context: int = 256, rows: int = 8, images: int = 72, batches: int = 8, repeats: int = 5
) -> list[dict]:
    """Measures every contestant.

    Args:
      width, depth: of the language model. context: positions of a row. rows: of a step.
      images: pictures of the packed step's buffer.
      batches: steps made in advance, whose mean fill is reported and which the timed steps go round.
      repeats: turns of `_STEPS` steps, after one that compiles.

    Returns:
      One row a contestant: `name`, `pictures` (size of its buffer), `fill_rows`, `fill_pictures` (shares of positions and of
      the buffer that hold something), `tokens_per_s` (those positions, median), `ratio` (packed over it, median over paired
      turns).
    """
    values = {"kinds": KINDS, "context_length": context, "images_per_stream": images, "max_images": PICTURES,
              "tokens_per_image": TOKENS, "image_size": SIDE, "on_long": "truncate"}
    config = build(SequenceConfig, values)
    tokenizer = train(texts(config, limit=2000), config=TokenizerConfig(kind="bpe", vocab_size=2048, lowercase=False))
    reader = SampleReader(config, tokenizer, seed=0)
    shape = Shape(rows, context, images, TOKENS, SIDE, tokenizer.pad_id)
    padded = make_batches(reader, shape, batches, padded=True)
    needed = max(math.ceil(1.1 * max(b["image_valid"].sum() for b in padded)), PICTURES)
    own = make_batches(reader, dataclasses.replace(shape, images=needed), batches, padded=True)
    made = {"packed": make_batches(reader, shape, batches), "padded": padded, "padded, own buffer": own}
    steps = {size: training_step(rows, context, size, tokenizer.vocab_size, width, depth) for size in {images, needed}}
    ready = {name: [{key: jnp.asarray(b[key]) for key in INPUTS} for b in parts] for name, parts in made.items()}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(repeats + 1):
        for name, parts in ready.items():
            step, begun = steps[len(parts[0]["images"])], time.perf_counter()
            for i in range(_STEPS):
                step(parts[(turn * _STEPS + i) % batches])
            if turn:  # the first compiles
                seconds[name].append((time.perf_counter() - begun) / _STEPS)
    found = {name: [used(b, tokenizer) for b in parts] for name, parts in made.items()}
    rate = lambda name: [statistics.mean(found[name]) / t for t in seconds[name]]
    return [{
        "name": name,
        "pictures": len(parts[0]["images"]),
        "fill_rows": statistics.mean(found[name]) / (rows * context),
        "fill_pictures": float(np.mean([b["image_valid"].mean() for b in parts])),
        "tokens_per_s": statistics.median(rate(name)),
        "ratio": statistics.median(ours / theirs for ours, theirs in zip(rate("packed"), rate(name))),
    } for name, parts in made.items()]


def make_batches(reader: SampleReader, shape: Shape, count: int, padded: bool = False) -> list[Batch]:
    """The first steps of one stream; `padded` gives every document a row of its own."""

    def read(kind: int, draw: int, replaced: list[tuple[str, str]]) -> Sample:
        sample = reader.sample(kind, draw, replaced)
        return stretched(sample, shape) if padded else sample

    packer = Packer(shape, [kind.weight for kind in reader.kinds], read, State.fresh(len(reader.kinds)))
    return [packer.next().arrays for _ in range(count)]


def stretched(sample: Sample, shape: Shape) -> Sample:
    """The sample with padding up to a whole row."""
    more = shape.length - len(sample)
    return dataclasses.replace(sample, tokens=np.pad(sample.tokens, (0, more), constant_values=shape.pad_id),
                               supervised=np.pad(sample.supervised, (0, more)))


def used(batch: Batch, tokenizer: Tokenizer) -> int:
    """Positions that hold a token or a part of a picture."""
    return int(((batch["tokens"] != tokenizer.pad_id) | (batch["image_index"] >= 0)).sum())


def training_step(
    rows: int, context: int, images: int, words: int, width: int, depth: int
) -> Callable[[dict[str, jax.Array]], None]:
    """One step of a small model after another, everything trained."""
    vit = ViTConfig(width=width, depth=2, heads=4, patch_size=PATCH, image_size=SIDE, unroll=2)
    llm = LLMConfig(vocab_size=words, width=width, depth=depth, heads=4, unroll=depth)
    model = MllmConfig((EncoderConfig("encoder", vit),), llm)
    task = MllmTask(model, NextToken(), context=context, rows=rows, images=images)
    skeleton, config = Skeleton.of(task.build), OptimizerConfig(lr=1e-4)
    decisions = decide(config, skeleton)
    tx = make_optimizer(config, 10_000, decisions, skeleton.matrices)
    holder = [jax.jit(init_fn(task.build, dict.fromkeys(decisions, True), tx, ema=False))(jax.random.key(0))]
    step = jax.jit(make_step(task, skeleton, tx, seed=0), donate_argnums=0)

    def call(batch: dict[str, jax.Array]) -> None:
        holder[0], metrics = step(holder[0], batch)
        jax.block_until_ready((holder[0], metrics))

    return call


def show(rows: list[dict]) -> None:
    """Prints the rows as a table."""
    table = Table(title="Training step on embedded documents", title_justify="left")
    for column in ("contestant", "rows filled", "pictures", "filled", "useful tokens/s", "packed is ×"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for r in rows:
        table.add_row(r["name"], f"{r['fill_rows']:.1%}", str(r["pictures"]), f"{r['fill_pictures']:.1%}",
                      f"{r['tokens_per_s']:,.0f}", f"{r['ratio']:.2f}")
    console.stdout().print(table)
