"""A run whose data has a bad stretch: eight pairs over and over, learned in a few steps, and then wrong captions for a while."""

from __future__ import annotations

import json
import pathlib

from ml_collections import ConfigDict
import numpy as np
from PIL import Image
import tiny_mllm
import tiny_run

BATCH = 8
BAD = range(20, 30)  # batches, counted from 0
NAMES = ("sun", "fish", "tree", "boat", "hat", "key", "drum", "ring")


def write(folder: pathlib.Path, bad: range = BAD, batches: int = 64) -> str:
    """`pairs.jsonl`, in the order of the batches. In the bad ones the captions are turned, by another shift in each: nothing that
    could be learned instead."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(BATCH):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    with open(folder / "pairs.jsonl", "w") as f:
        for batch in range(batches):
            shift = 1 + batch % (BATCH - 1) if batch in bad else 0
            for i in range(BATCH):
                f.write(json.dumps({"id": f"{batch}-{i}", "image": f"{i}.png", "alt": NAMES[(i + shift) % BATCH]}) + "\n")
    return str(folder)


def write_words(folder: pathlib.Path, bad: range = range(640, 960), documents: int = 2000) -> str:
    """`words.jsonl`: one sentence over and over, 32 a batch; letters in the bad documents."""
    rng = np.random.default_rng(0)
    letters = lambda: "".join(rng.choice(list("bcfjlmpqvwxz"), 8))
    with open(folder / "words.jsonl", "w") as f:
        for i in range(documents):
            f.write(json.dumps({"id": str(i), "text": letters() if i in bad else " ".join(NAMES)}) + "\n")
    return str(folder)


def packed(arg: str) -> ConfigDict:
    """The same with a language model on `words.jsonl`: its data pipeline packs, and stands where its cursor says."""
    c = get_config(arg)
    words = tiny_mllm.get_config("words")
    c.task, c.model, c.objective = words.task, words.model, {}
    source = dict(kind="jsonl", path=f"{arg}/words.jsonl")
    c.data = dict(kinds=dict(text=dict(weight=1.0, sources=[source])), context_length=40, rows_per_stream=1, shuffle=False,
                  threads=1)
    c.tokenizer = dict(kind="bpe", vocab_size=300)
    c.optimizer.lr = 5e-2
    return c


def get_config(arg: str) -> ConfigDict:
    """`arg` is the folder of the pairs."""
    c = tiny_run.get_config()
    c.steps, c.batch_size, c.log_every = 40, BATCH, 5
    c.model.image.patch_dropout, c.model.text.dropout, c.objective.multi_positive = 0.0, 0.0, False
    c.tokenizer = dict(kind="bpe", vocab_size=300, context_length=4)
    c.data = dict(sources=[dict(kind="jsonl", path=f"{arg}/pairs.jsonl")], shuffle=False, threads=1)
    c.optimizer = dict(name="adamw", lr=1e-2, schedule=dict(warmup=2))
    c.checkpoint = dict(every=4, keep=4)
    c.spikes = dict(window=16, deviations=20.0, rollback_after=4, back=4, past=8)
    return c
