"""What `run.train` does once everything is there: to the last step, through rollbacks, with evaluations and words about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mof_jax import config as configs
from mof_jax.data import remote
from mof_jax.data.pipeline import Pipeline
from mof_jax.decode.respond import Responder
from mof_jax.errors import UserError
from mof_jax.evals.encoder import Encoder
from mof_jax.mesh import fetch, put_batch
from mof_jax.nn.module import Skeleton
from mof_jax.parsing import show
from mof_jax.train import display, goodput, rollback
from mof_jax.train import history as history_of
from mof_jax.train.checkpoint import Checkpointer
from mof_jax.train.goodput import Ledger
from mof_jax.train.history import Change
from mof_jax.train.loop import Loop, LoopConfig
from mof_jax.train.metrics import JsonLines, TensorBoard, read_lines
from mof_jax.train.optim import Decision
from mof_jax.train.preemption import Preemption
from mof_jax.train.rollback import Rollback
from mof_jax.train.schedule import make_schedule
from mof_jax.train.spikes import Spike, Spiked, Spikes
from mof_jax.train.start import first_state
from mof_jax.train.state import TrainState
from mof_jax.train.summary import summarise, write_summary
from mof_jax.train.watchdog import Watchdog

if TYPE_CHECKING:
    from mof_jax.run import Program, Run


@dataclasses.dataclass
class Training:
    """A run once everything is there: what stays the same when it rolls back.

    Attributes:
      flops: of one step, by part. meta: of every checkpoint. changes: of the config, see `train.history`.
      measures: evaluators. others: see their classes.
      done: the last step done, once no step is under way.
    """

    run: Run
    workdir: str
    checkpointer: Checkpointer
    pipeline: Pipeline
    program: Program
    flops: Mapping[str, float]
    meta: Mapping[str, Any]
    changes: Sequence[Change]
    face: Encoder | Responder
    measures: Sequence[Any]
    ledger: Ledger
    preemption: Preemption
    done: int

    def to_the_end(self, state: TrainState, saved: Mapping[str, Any], history: Sequence[Rollback]) -> dict[str, dict[str, float]]:
        """Trains from a state to the last step; returns the last evaluation.

        Args:
          saved: what the state's checkpoint says beside it. history: the rollbacks before it.
        """
        while True:
            try:
                return self._go_on(state, saved, history)
            except Spiked as spiked:
                history = self._roll_back(spiked.spike, history)
            # Out here nothing holds the state that is left behind: two would not fit into memory.
            state, saved = first_state(self.checkpointer, self.program.init, self.program.state, self.program.shardings,
                                       self.run.config.seed, dict, history[-1].step), self.checkpointer.meta(history[-1].step)

    def _go_on(self, state: TrainState, saved: Mapping[str, Any], history: Sequence[Rollback]) -> dict[str, dict[str, float]]:
        """To the last step, or until a loss jumps and stays up (`Spiked`)."""
        config, workdir, measures, start = self.run.config, self.workdir, self.measures, int(state.step)
        results: dict[str, dict[str, float]] = {}
        rhythm = LoopConfig(config.steps, config.log_every, config.eval_every if measures else None, profile=config.profile)
        again = start > 0 and rhythm.evaluates(start) and (start == config.steps or not evaluated(workdir, start, measures))
        names = {measure.name for measure in measures} if again else set()  # the others' lines of this step stay
        lines = JsonLines(f"{workdir}/evals.jsonl", start, lambda line: line.get("step") == start and line.get("name") in names)
        board = TensorBoard(f"{workdir}/tensorboard")
        self.face.between = self.preemption.check

        def evaluate(step: int, state: TrainState) -> None:
            params = state.model_params(ema=config.eval_ema)
            results.update(run_evaluators(measures, self.face.bind(params), step, lines, board))

        if again:  # stopped before it was done, or a finished run that is to show its table
            with self.ledger.spent("eval"):
                evaluate(start, state)
        schedule = make_schedule(config.optimizer.schedule, config.steps)
        behind = functools.partial(rollback.behind, history)
        loop = Loop(
            config=rhythm,
            state=state,
            step_fn=self.program.step,
            batches=((put_batch(self.run.mesh, batch), info.replaced) for batch, info in
                     self.pipeline.batches(behind(start), cursor(state), rollback.to_skip(history, start))),
            batch_size=config.batch_size, flops=sum(self.flops.values()), workdir=workdir, checkpointer=self.checkpointer,
            saves=config.checkpoint.due, meta={**self.meta, "rollbacks": [dataclasses.asdict(back) for back in history]},
            examples=lambda step: self.pipeline.ids(behind(step + 1) - 1),
            seen=lambda step: history_of.examples(self.changes, step, config.batch_size),
            schedule=lambda step: config.optimizer.lr * float(schedule(step)), evaluate=evaluate,
            preemption=self.preemption, watchdog=Watchdog(config.watchdog, workdir, jax.process_index()), ledger=self.ledger,
            spikes=Spikes(config.spikes, saved.get("spikes")))
        try:
            state = loop.run()
        finally:
            self.done = max(start, loop.done)
        seen = self.pipeline.seen(config.steps, cursor(state), behind(config.steps) - config.steps)
        seen["examples"] = history_of.examples(self.changes, config.steps, config.batch_size)
        if "unique_examples" in seen:
            seen["unique_examples"] = min(seen["unique_examples"], seen["examples"])
        spent = history_of.flops(self.changes, config.steps, sum(self.flops.values()))
        summary = summarise(config, self.run.skeleton, self.run.decisions, self.flops, seen, results | logged(workdir, results,
                                                                                                             config.steps))
        write_summary(workdir, {**summary, "flops": spent, **history_of.written(self.changes)})
        return results

    def _roll_back(self, spike: Spike, history: Sequence[Rollback]) -> list[Rollback]:
        """Decides where to go back to, and makes it last, see `train.rollback`; returns the rollbacks with this one."""
        config, log = self.run.config, f"{self.workdir}/metrics.jsonl"
        since = self.changes[-1].step if self.changes else 0  # before it, the config was another
        back = rollback.choose(spike, history, config.spikes, self.checkpointer,
                               lambda step: step >= since and config.checkpoint.due(step))
        display.show(f"step {spike.last}: {back.why}; back to the checkpoint of step {back.step}, without the batches "
                     f"{back.first} to {back.until - 1} (rollback {back.number} of {config.spikes.max_rollbacks})")
        self.ledger.back(goodput.lines(self.workdir), back.step)
        lines = JsonLines(log)
        lines.write({"step": back.step, rollback.KEY: dataclasses.asdict(back), **self.ledger.line()})
        lines.flush()
        self.checkpointer.drop_after(back.step)
        return [*rollback.still(back.step, history), back]

    def leave_word(self) -> None:
        """For the ledger of the next process. It must not hide why this one ends."""
        if jax.process_index() == 0:
            with contextlib.suppress(UserError, OSError):
                self.ledger.end(self.workdir, self.done)


def cursor(state: TrainState) -> np.ndarray | None:
    """Where a data pipeline that packs stands after a state."""
    return None if state.cursor is None else fetch(state.cursor)


def logged(workdir: str, results: Collection[str], step: int) -> dict[str, dict[str, float]]:
    """What evaluators other than those of `results` have said of a step: a finished run may have been asked by others before."""
    log = f"{workdir}/evals.jsonl"
    lines = read_lines(log) if remote.exists(log) else []
    return {line["name"]: {key: value for key, value in line.items() if key not in ("step", "name", "version", "time")}
            for line in lines if line.get("step") == step and isinstance(line.get("name"), str) and line["name"] not in results}


def evaluated(workdir: str, step: int, measures: Sequence[Any]) -> bool:
    """Whether every evaluator has left its line of this step."""
    log = f"{workdir}/evals.jsonl"
    done = {line.get("name") for line in read_lines(log) if line.get("step") == step} if remote.exists(log) else set()
    return done >= {measure.name for measure in measures}


def introduce(run: Run, pipeline: Pipeline, flops: Mapping[str, float], start: int, changes: Sequence[Change]) -> None:
    """Writes `config.json` and `parameters.txt`, and prints what is about to run."""
    config = run.config
    if jax.process_index() == 0:
        rows = [f"{path}  {run.skeleton.shapes[path].shape}  {'trained' if d.trained else 'frozen'}  lr×{d.lr_factor}  "
                f"decay×{d.decay}  {run.shardings[path].spec}\n" for path, d in run.decisions.items()]
        remote.write_atomic(remote.join(run.workdir, "config.json"), [
            json.dumps(configs.to_dict(config) | history_of.written(changes), indent=1).encode()])
        remote.write_atomic(remote.join(run.workdir, "parameters.txt"), ["".join(rows).encode()])
    display.show(display.table("Parameters", ("part", "trained", "frozen", "lr ×", "decay ×", "GFLOP/step"),
                               parameter_rows(run.skeleton, run.decisions, flops)))
    display.show(display.table("Data", ("source", "records", "kept", "share"), [
        (row["name"], row["records"], row["kept"], f"{row['share']:.1%}") for row in pipeline.describe()]))
    mesh = " × ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    for change in changes:
        display.show(f"after step {change.step:,}: " + ", ".join(
            f"{key} {show(old, 40)} → {show(new, 40)}" for key, (old, new) in change.keys.items()))
    resumed = f", resuming after step {start:,}" if start else ""  # its own, or its trunk's
    display.show(f"{config.steps:,} steps of {config.batch_size:,} examples on {jax.device_count()} "
                 f"{jax.devices()[0].device_kind} ({mesh}){resumed}")


def parameter_rows(skeleton: Skeleton, decisions: Mapping[str, Decision], flops: Mapping[str, float]) -> list[tuple]:
    """One row for each part of a model (what FLOPs are counted for, or else the first name of the path): sizes, the
    decisions taken (a list if they differ), FLOPs."""
    rows = []
    part_of = lambda path: next((part for part in flops if path.startswith(f"{part}/")), path.split("/")[0])
    for part in dict.fromkeys(map(part_of, decisions)):
        mine = {path: d for path, d in decisions.items() if part_of(path) == part}
        size = lambda trained: sum(skeleton.shapes[p].size for p, d in mine.items() if d.trained == trained)
        several = lambda values: ", ".join(dict.fromkeys(str(v) for v in values))
        work = f"{flops[part] / 1e9:,.2f}" if part in flops else ""
        rows.append((part, f"{size(True):,}", f"{size(False):,}", several(d.lr_factor for d in mine.values()),
                     several(d.decay for d in mine.values()), work))
    return rows


def run_evaluators(
    measures: list[Any], face: Encoder | Responder, step: int, lines: JsonLines, board: TensorBoard | None = None
) -> dict[str, dict[str, float]]:
    """Runs every evaluator, writes its line, prints one table."""
    results: dict[str, dict[str, float]] = {}
    for measure in measures:
        begun = time.perf_counter()
        found = measure.run(face)
        if not found:
            continue
        results[measure.name] = found
        version = {"version": measure.version} if hasattr(measure, "version") else {}
        lines.write({"step": step, "name": measure.name, **found, **version, "time": round(time.perf_counter() - begun, 2)})
        if board is not None:
            board.write(step, found, prefix=measure.name)
    lines.flush()
    if results:
        display.show(display.results(f"Evaluation after step {step:,}", results))
    return results
