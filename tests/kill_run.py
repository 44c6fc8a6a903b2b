"""The run of `test_kill_points`: that of `tiny_run`, longer, with an evaluation, and a file of the rows that each step saw."""

from __future__ import annotations

import json
import os
import zlib

import jax
from ml_collections import ConfigDict
import tiny_run

from mof_jax.data.pipeline import Pipeline

EVERY, EVALUATE = 8, 20


def get_config(arg: str) -> ConfigDict:
    """`arg` is `POOL,SEEN,STEPS`: the folder of the pictures, the file to write the rows to, and how long."""
    pool, seen, steps = arg.split(",")
    c = tiny_run.get_config(pool)
    c.steps, c.eval_every, c.eval_batch_size = int(steps), EVALUATE, 40
    c.checkpoint = dict(every=EVERY, keep=2)
    c.evals = [dict(kind="retrieval", name="pool", source=dict(kind="jsonl", path=f"{pool}/pool.jsonl"))]
    watch(seen)
    return c


def watch(path: str) -> None:
    """Lets every batch that the loop takes leave a line: its step, its first row and a checksum of each row."""
    batches = Pipeline.batches

    def watched(self, start_step=0, cursor=None, skip=0):
        for step, (arrays, info) in enumerate(batches(self, start_step, cursor, skip), start_step + 1):
            sums = [zlib.crc32(b"".join(arrays[key][row].tobytes() for key in sorted(arrays))) for row in range(self.host.rows)]
            line = json.dumps({"step": step, "first": self.host.first, "processes": jax.process_count(), "rows": sums}) + "\n"
            with open(path, "ab", buffering=0) as f:
                f.write(line.encode())
            yield arrays, info

    if not os.environ.get("KILL_RUN_WATCHED"):
        os.environ["KILL_RUN_WATCHED"] = "1"
        Pipeline.batches = watched
