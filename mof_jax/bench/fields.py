"""Examples per second and core of the input pipeline, with and without each kind of field and order.

    python -m mof_jax.bench.fields

One thread, by its own processor time, on the embedded pictures; all rows in turns, so that their ratios hold
on a busy machine.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from mof_jax import console
from mof_jax.config import build
from mof_jax.data.config import DataConfig
from mof_jax.data.pipeline import Pipeline
from mof_jax.data.worlds.embedded import Emoji5

BATCH, CONTEXT = 128, 16
THINGS = {"sources": [{"kind": "things", "size": 4096, "pixels": 64}]}


def run(repeats: int = 5, seconds: float = 0.5) -> list[dict[str, Any]]:
    """Measures.

    Args:
      repeats: turns; the median counts. seconds: of processor time a turn and row.

    Returns:
      One `{"name", "examples_per_s", "ratio"}` a row; `ratio` is to the row that it adds a field to.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = cases(write_sidecars(folder))
        pipes = {name: Pipeline(build(DataConfig, {"threads": 0, **config}), _ids, BATCH)
                 for name, (_, config) in rows.items()}
        rates: dict[str, list[float]] = {name: [] for name in rows}
        for turn in range(repeats + 1):
            for name, pipe in pipes.items():
                rate = _rate(pipe, 1000 * turn, seconds)
                if turn:  # the first one reads and draws what is kept from then on
                    rates[name].append(rate)
    found = {name: statistics.median(some) for name, some in rates.items()}
    return [{"name": name, "examples_per_s": found[name], "ratio": found[name] / found[base or name]}
            for name, (base, _) in rows.items()]


def cases(folder: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (the row that it adds something to, section of data)."""
    field = lambda **section: {"fields": {"more": section}}
    plain, texts, things = "image, text, group", "text, group", "things: image, text, group"
    crop = {"crop": {"scale": (0.2, 0.6)}, "jitter": {}}
    return {
        plain: ("", {}), texts: ("", {"views": 0}), things: ("", THINGS),
        "+ views": (plain, field(kind="views")),
        "+ views, cropped and coloured": (plain, field(kind="views", augment=crop)),
        "+ views, half": (plain, field(kind="views", part="left")),
        "+ captions": (plain, field(kind="captions")),
        "+ captions, 4 distinct": (plain, field(kind="captions", count=4, distinct=True)),
        "+ label, sidecar": (plain, field(kind="label", path=f"{folder}/label.npy")),
        "+ label, tags of the record": (plain, field(kind="label", column="tags", count=24)),
        "+ vector of 512, sidecar": (plain, field(kind="vector", dim=512, path=f"{folder}/vector.npy")),
        "order grouped": (plain, {"order": {"kind": "grouped", "path": f"{folder}/label.npy", "size": 16}}),
        "order mined": (plain, {"order": {"kind": "mined", "path": f"{folder}/neighbours.npy"}}),
        "text + label, sidecar": (texts, {"views": 0, **field(kind="label", path=f"{folder}/label.npy")}),
        "things + boxes": (things, THINGS | {"fields": {"boxes": {"kind": "signal", "size": (4, 4)}}}),
        "things + masks": (things, THINGS | {"fields": {
            "masks": {"kind": "signal", "size": (4, 64, 64), "dtype": "uint8"}}}),
    }


def write_sidecars(folder: str) -> str:
    """Labels, vectors and neighbours by the ids of the embedded pictures; returns the folder."""
    source, rng = Emoji5("train"), np.random.default_rng(0)
    ids = "\n".join(source[index].id for index in range(len(source)))
    n = len(source)
    columns = {"label": np.arange(n, dtype=np.int32) % 100,
               "vector": rng.normal(size=(n, 512)).astype(np.float16),
               "neighbours": rng.integers(0, n, (n, 4), np.int32)}
    for name, values in columns.items():
        np.save(os.path.join(folder, f"{name}.npy"), values)
        with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
            file.write(ids)
    return folder


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the table."""
    lines = [(row["name"], f"{row['examples_per_s']:,.0f}", f"{row['ratio']:.2f}") for row in rows]
    console.show(console.table("one thread, emoji5", ("fields", "examples/s", "x without"), lines))


def _ids(texts: Any) -> np.ndarray:
    """A tokenizer that costs nothing."""
    return np.zeros((len(texts), CONTEXT), np.int32)


def _rate(pipe: Pipeline, step: int, seconds: float) -> float:
    start, seen = time.thread_time(), 0
    while time.thread_time() - start < seconds:
        pipe.batch(step)
        step, seen = step + 1, seen + BATCH
    return seen / (time.thread_time() - start)


if __name__ == "__main__":
    show(run())
