"""Runs evaluators: on a model in training, on one that is read back, and on each new checkpoint as it appears."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import time
from typing import Any

from mof_jax import console, evals, storage
from mof_jax.errors import UserError
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.items import Items, write_items
from mof_jax.evals.model import Model
from mof_jax.jsonl import JsonLines, read_lines
from mof_jax.restore import restore
from mof_jax.train.checkpoint import place
from mof_jax.train.checkpoint.checkpointer import Checkpointer
from mof_jax.train.metrics import TensorBoard


def evaluate(
    path: str, sections: list[Mapping[str, Any]] | None = None, *, follow: bool = False, poll_s: float = 10.0
) -> dict[str, dict[str, float]]:
    """Evaluates a checkpoint, or with `follow` each new one as it appears until the run's last step is done.

    Args:
      path: work dir or checkpoint. sections: evaluators; by default those of the run's config.
    """
    workdir, _ = place.split(path)
    log = f"{workdir}/evals.jsonl"
    results: dict[str, dict[str, float]] = {}
    model: Model | None = None
    while True:
        done = {line.get("step") for line in read_lines(log)} if follow and storage.exists(log) else set()
        for checkpoint in new_checkpoints(workdir, done) if follow else [path]:
            restored = restore(checkpoint, workdir=workdir)
            config = restored.run.config
            model = model or restored.run.model()  # its programs are compiled once; it holds no parameters
            chosen = list(config.evals) if sections is None else sections
            evaluators = [evals.build(s, f"evals.{i}", model.capabilities) for i, s in enumerate(chosen)]
            if not evaluators:
                raise UserError(f"{path}: its config names no evaluators; give some with --evals FILE.py")
            results = run_evaluators(evaluators, model.bind(restored.params), restored.step, JsonLines(log))
            if restored.step >= config.steps:
                return results
        if not follow:
            return results
        time.sleep(poll_s)


def new_checkpoints(workdir: str, done: set[int]) -> list[str]:
    """Paths of the complete checkpoints of a run that are not in `done`, oldest first; none before the run has begun."""
    if not storage.exists(f"{workdir}/checkpoints"):
        return []
    steps = Checkpointer(f"{workdir}/checkpoints", read_only=True).steps()
    return [f"{workdir}/checkpoints/{step}" for step in sorted(steps) if step not in done]


def run_evaluators(
    evaluators: Sequence[Evaluator],
    model: Model,
    step: int,
    lines: JsonLines,
    board: TensorBoard | None = None,
) -> dict[str, dict[str, float]]:
    """Runs every evaluator, writes its line, prints one table."""
    results: dict[str, dict[str, float]] = {}
    for evaluator in evaluators:
        begun = time.perf_counter()
        kept: dict[str, Items] | None = {} if evaluator.items else None
        found = evaluator.run(dataclasses.replace(model, kept=kept))
        if not found:
            continue
        if kept is not None:
            write_items(model.output_dir, evaluator.name, step, kept)
        results[evaluator.name] = found
        version = {"version": evaluator.version} if hasattr(evaluator, "version") else {}
        lines.write(
            {
                "step": step,
                "name": evaluator.name,
                **found,
                **version,
                "time": round(time.perf_counter() - begun, 2),
            }
        )
        if board is not None:
            board.write(step, found, prefix=evaluator.name)
    lines.flush()
    if results:
        console.show(console.results(f"Evaluation after step {step:,}", results))
    return results


def evaluated(workdir: str, step: int, evaluators: Sequence[Evaluator]) -> bool:
    """Whether every evaluator has left its line of this step."""
    log = f"{workdir}/evals.jsonl"
    done = {line.get("name") for line in read_lines(log) if line.get("step") == step} if storage.exists(log) else set()
    return done >= {evaluator.name for evaluator in evaluators}


def logged(workdir: str, results: Collection[str], step: int) -> dict[str, dict[str, float]]:
    """What evaluators other than those of `results` have said of a step: a finished run may have been asked by others before."""
    log = f"{workdir}/evals.jsonl"
    lines = read_lines(log) if storage.exists(log) else []
    return {line["name"]: {key: value for key, value in line.items() if key not in ("step", "name", "version", "time")}
            for line in lines if line.get("step") == step and isinstance(line.get("name"), str) and line["name"] not in results}
