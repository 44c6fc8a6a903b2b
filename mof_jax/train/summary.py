"""What a finished run was, in one object: `WORKDIR/summary.json`, written last of all.

No clock is in it: a run that was killed and resumed leaves the same bytes as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from typing import Any

import jax

from mof_jax import storage
from mof_jax.jsonl import read_lines
from mof_jax.nn.module import Skeleton
from mof_jax.train.optim import Decision

NAME = "summary.json"


def parameter_counts(skeleton: Skeleton, decisions: Mapping[str, Decision]) -> dict[str, int]:
    """`parameters` in all, `trained_parameters`, and the two halves `embedding_parameters` (tables of words, an untied head's
    too, of positions and of token types) and `non_embedding_parameters`, the N of Kaplan et al. (arXiv 2001.08361) and MM1."""
    sizes = {path: shape.size for path, shape in skeleton.shapes.items()}
    total = sum(sizes.values())
    tables = sum(size for path, size in sizes.items() if is_table(path, skeleton))
    return {"parameters": total, "trained_parameters": sum(size for path, size in sizes.items() if decisions[path].trained),
            "embedding_parameters": tables, "non_embedding_parameters": total - tables}


def is_table(path: str, skeleton: Skeleton) -> bool:
    """Whether a parameter is looked up rather than multiplied with, or is the head that mirrors one."""
    return {"vocab", "embed"} <= set(skeleton.axes[path]) or path.rsplit("/", 1)[-1] in ("pos_embed", "type_embed")


def summarise(
    config: Any, skeleton: Skeleton, decisions: Mapping[str, Decision], flops: Mapping[str, float], seen: Mapping[str, int],
    results: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """The summary, but for the training loss.

    Args:
      config: a `run.RunConfig`. flops: of one step, by part. seen: what the data pipeline says of all steps.
      results: of the last evaluation, by evaluator.
    """
    step = sum(flops.values())
    return {"steps": config.steps, "batch_size": config.batch_size, **seen, "learning_rate": config.optimizer.lr,
            "weight_decay": config.optimizer.weight_decay, **parameter_counts(skeleton, decisions), "flops_per_step": step,
            "flops": step * config.steps, "evals": {name: dict(values) for name, values in results.items()}}


def write_summary(workdir: str, summary: Mapping[str, Any]) -> None:
    """Writes it, with the loss of the last line of `metrics.jsonl`, on process 0."""
    if jax.process_index():
        return
    loss = next((line["loss"] for line in reversed(read_lines(storage.join(workdir, "metrics.jsonl"))) if "loss" in line), None)
    storage.write_atomic(storage.join(workdir, NAME), [json.dumps({**summary, "loss": loss}, indent=1).encode()])
