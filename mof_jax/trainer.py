"""Trains a run: from its data and where its work dir stands to its last step, through rollbacks, with evaluations."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from mof_jax import config as configs
from mof_jax import console, evals, plugins, storage
from mof_jax.data.pipeline import Pipeline
from mof_jax.data.text.tokenizers import Tokenizer
from mof_jax.data.text.tokenizers import load as load_tokenizer
from mof_jax.data.text.tokenizers import make as make_tokenizer
from mof_jax.errors import UserError
from mof_jax.evals.evaluator import Evaluator
from mof_jax.evals.model import Model
from mof_jax.evaluate import evaluated, logged, run_evaluators
from mof_jax.interop.source import Source, is_foreign
from mof_jax.jsonl import JsonLines
from mof_jax.mesh import check_batch, fetch, put_batch
from mof_jax.nn.module import Skeleton
from mof_jax.parsing import show
from mof_jax.run import Program, Run, RunConfig, process_rows, resolve, resolve_stages, set_up_jax
from mof_jax.tasks import TASKS
from mof_jax.train.checkpoint import place
from mof_jax.train.checkpoint.checkpointer import Checkpointer
from mof_jax.train.loop import Loop, LoopConfig
from mof_jax.train.metrics import TensorBoard
from mof_jax.train.optim import Decision
from mof_jax.train.reliability import goodput, rollback
from mof_jax.train.reliability import history as history_of
from mof_jax.train.reliability.goodput import Ledger, report
from mof_jax.train.reliability.history import Change
from mof_jax.train.reliability.preemption import Preemption
from mof_jax.train.reliability.resume import Resume
from mof_jax.train.reliability.rollback import Rollback
from mof_jax.train.reliability.spikes import Spike, Spiked, Spikes
from mof_jax.train.reliability.watchdog import Watchdog
from mof_jax.train.schedule import make_schedule
from mof_jax.train.start import came_with, first_state, open_checkpoint, take_params
from mof_jax.train.state import TrainState
from mof_jax.train.summary import summarise, write_summary


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any] | RunConfig, workdir: str, allow_change: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Trains, or goes on where `workdir` stands; returns the last evaluation's results by evaluator name.

    A config with `stages`, a list of whole configs with a `name` each, trains them one after the other, stage NAME in
    `workdir/NAME`; `init_from.path="stage:NAME"` takes parameters from an earlier one.

    Args:
      allow_change: keys, or sections, that may have another value than the run has been trained with so far, see
        `train.reliability.history`.

    Raises:
      UserError, Preempted: see `mof_jax.errors`.
    """
    if isinstance(config, RunConfig):
        return train_one(config, workdir, allow_change)
    values = plugins.load(config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config)
    if "stages" in values:
        return train_stages(values, workdir, allow_change)
    return train_one(resolve(values), workdir, allow_change)


def train_stages(values: Mapping[str, Any], workdir: str, allow_change: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Every stage that is not done yet; all of their configs are checked before the first one starts."""
    stages: dict[str, RunConfig] = {}
    for name, run in resolve_stages(values).items():
        find = lambda section: dataclasses.replace(section, path=stage_path(section.path, stages, workdir, name))
        stages[name] = dataclasses.replace(run, init_from=tuple(map(find, run.init_from)), tokenizer=find(run.tokenizer))
    if storage.exists(storage.join(workdir, place.CHECKPOINTS)):
        raise UserError(f"{workdir}: a run without stages is there; use another work dir")
    allowed = {name: history_of.of_run(allow_change, run) for name, run in stages.items()}
    if unknown := [key for key in allow_change if not any(key in keys for keys in allowed.values())]:
        history_of.check_allowed(unknown, configs.flatten(configs.to_dict(list(stages.values())[-1])))
    done = {name: _done(run, os.path.join(workdir, name), allowed[name]) for name, run in stages.items()}  # or one is refused
    storage.make_folder(workdir)
    if jax.process_index() == 0:
        storage.write_atomic(storage.join(workdir, place.STAGES), [json.dumps({"stages": list(stages)}).encode()])
    results: dict[str, dict[str, float]] = {}
    for name, run in stages.items():
        folder, last = os.path.join(workdir, name), name == list(stages)[-1]
        if not last and done[name]:
            console.show(f"stage {name}: done before, {folder}")
            continue
        console.show(f"stage {name}: {folder}")
        results = train_one(run, folder, allowed[name])
    return results


def _done(run: RunConfig, workdir: str, allow_change: Collection[str]) -> bool:
    """Whether a stage has been trained to its end.

    Raises:
      UserError: it has, with another config.
    """
    if not storage.exists(f"{workdir}/checkpoints"):
        return False
    reader = Checkpointer(f"{workdir}/checkpoints", read_only=True)
    if (step := reader.newest()) is None:
        return False
    meta = reader.meta(step)
    history_of.go_on(history_of.config_of(meta, resolve, run), run, step, workdir, None, allow_change, was=meta.get("workdir"))
    return step == run.steps


def stage_path(path: str | None, stages: Mapping[str, RunConfig], workdir: str, stage: str) -> str | None:
    """The work dir that `stage:NAME` stands for; any other path as it is."""
    prefix, _, name = (path or "").partition(":")
    if prefix != "stage":
        return path
    if name not in stages:
        raise UserError(f"stage {stage}: {path} is not an earlier stage (those are: "
                        f"{', '.join(stages) or 'none'})")
    return os.path.join(workdir, name)


def first_tokenizer(config: RunConfig) -> Tokenizer:
    """The tokenizer of a fresh run: another run's, one from a file, or one trained on the words of the run's own data."""
    if config.tokenizer.kind == "run" and is_foreign(config.tokenizer.path):
        found = Source.open(config.tokenizer.path).tokenizer
        if found is None:
            raise UserError(f"config.tokenizer.path: {config.tokenizer.path} has no tokenizer beside its weights")
        return found
    if config.tokenizer.kind == "run":
        saved = open_checkpoint(config.tokenizer.path)[1]["tokenizer"]
        if saved is None:
            raise UserError(f"config.tokenizer.path: {config.tokenizer.path} is a run without words; it has no tokenizer")
        return load_tokenizer(saved)
    return make_tokenizer(config.tokenizer, TASKS[config.task].texts(config.data, config.tokenizer.records))


def train_one(config: RunConfig, workdir: str, allow_change: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """One run, from its data to its last evaluation."""
    begun = time.perf_counter()
    if config.steps < 1:
        raise UserError("config.steps: 0 steps train nothing; at least 1")
    if storage.exists(storage.join(workdir, place.STAGES)):
        raise UserError(f"{workdir}: a staged run is there, whose stages have work dirs below it; use another work dir")
    place.check(workdir)
    storage.make_folder(workdir)
    with place.taken(workdir):
        return _train(config, workdir, allow_change, begun)


def _train(config: RunConfig, workdir: str, allow_change: Collection[str], begun: float) -> dict[str, dict[str, float]]:
    """`train_one`, with the work dir for itself."""
    set_up_jax(config)
    kind = TASKS[config.task]
    checkpointer = Checkpointer(f"{workdir}/checkpoints", config.checkpoint)
    log = goodput.lines(workdir)
    resume = Resume.find(config, workdir, checkpointer, log, allow_change, resolve)
    tokenizer = None
    if kind.texts is not None:
        tokenizer = first_tokenizer(config) if resume.tokenizer is None else load_tokenizer(resume.tokenizer)
    run = Run(config, tokenizer, workdir)
    check_batch(run.mesh, config.batch_size, config.microbatches, run.task.rows)
    pipeline = kind.pipeline(config.data, tokenizer, config.batch_size, config.seed,
                             *process_rows(run.mesh, config.batch_size), steps=config.steps)
    content = pipeline.content()
    resume.compare(content)
    program = Program.of(run, pipeline.cursor)
    state = first_state(resume.origin, program.init, program.state, program.shardings, config.seed,
                        lambda: take_params(config.init_from, run.skeleton, run.shardings, run.adapt),
                        resume.step if resume.branches else None)
    start, flops = int(state.step), run.flops()
    if resume.step and start != resume.step:
        resume.fall_back(start, content)
    changes, rollbacks = resume.history(sum(flops.values()), counted=pipeline.cursor is None)
    saved = resume.meta or {}
    travel = saved.get("interop") if saved else came_with(config.init_from, config.task, config.model, tokenizer, run.preprocess)
    meta = run.meta() | {"content": content, "flops_per_step": sum(flops.values()), "workdir": workdir}
    meta |= history_of.written(changes) | ({} if travel is None else {"interop": travel})
    log_run_info(run, pipeline, flops, start, changes)
    preemption = Preemption()
    model = run.model(preemption.check)
    evaluators = [evals.build(s, f"config.evals.{i}", model.capabilities) for i, s in enumerate(config.evals)]
    trainer = Trainer(run, workdir, checkpointer, pipeline, program, flops, meta, changes, model, evaluators,
                      Ledger(log, start, begun), preemption, start)
    try:
        with trainer.preemption:
            return trainer.train(state, saved, rollbacks)
    finally:
        checkpointer.close()
        if start < config.steps:
            trainer.record_exit()
            console.show(report(trainer.ledger.read()))


@dataclasses.dataclass
class Trainer:
    """A run once everything is there: what stays the same when it rolls back.

    Attributes:
      flops: of one step, by part. meta: of every checkpoint. changes: of the config, see `train.reliability.history`.
      model: without parameters. others: see their classes.
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
    model: Model
    evaluators: Sequence[Evaluator]
    ledger: Ledger
    preemption: Preemption
    done: int

    def train(self, state: TrainState, saved: Mapping[str, Any], history: Sequence[Rollback]) -> dict[str, dict[str, float]]:
        """Trains from a state to the last step; returns the last evaluation.

        Args:
          saved: what the state's checkpoint says beside it. history: the rollbacks before it.
        """
        while True:
            try:
                return self._run_from(state, saved, history)
            except Spiked as spiked:
                history = self._roll_back(spiked.spike, history)
            # Out here nothing holds the state that is left behind: two would not fit into memory.
            state, saved = first_state(self.checkpointer, self.program.init, self.program.state, self.program.shardings,
                                       self.run.config.seed, dict, history[-1].step), self.checkpointer.meta(history[-1].step)

    def _run_from(self, state: TrainState, saved: Mapping[str, Any], history: Sequence[Rollback]) -> dict[str, dict[str, float]]:
        """To the last step, or until a loss jumps and stays up (`Spiked`)."""
        config, workdir, evaluators, start = self.run.config, self.workdir, self.evaluators, int(state.step)
        results: dict[str, dict[str, float]] = {}
        rhythm = LoopConfig(config.steps, config.log_every, config.eval_every if evaluators else None, profile=config.profile)
        again = start > 0 and rhythm.evaluates(start) and (start == config.steps or not evaluated(workdir, start, evaluators))
        names = {evaluator.name for evaluator in evaluators} if again else set()  # the others' lines of this step stay
        lines = JsonLines(f"{workdir}/evals.jsonl", start, lambda line: line.get("step") == start and line.get("name") in names)
        board = TensorBoard(f"{workdir}/tensorboard")

        def evaluate(step: int, state: TrainState) -> None:
            params = state.model_params(ema=config.eval_ema)
            results.update(run_evaluators(evaluators, self.model.bind(params), step, lines, board))

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
        """Decides where to go back to, and makes it last, see `reliability.rollback`; returns the rollbacks with this one."""
        config, log = self.run.config, f"{self.workdir}/metrics.jsonl"
        since = self.changes[-1].step if self.changes else 0  # before it, the config was another
        back = rollback.choose(spike, history, config.spikes, self.checkpointer,
                               lambda step: step >= since and config.checkpoint.due(step))
        console.show(f"step {spike.last}: {back.why}; back to the checkpoint of step {back.step}, without the batches "
                     f"{back.first} to {back.until - 1} (rollback {back.number} of {config.spikes.max_rollbacks})")
        self.ledger.back(goodput.lines(self.workdir), back.step)
        lines = JsonLines(log)
        lines.write({"step": back.step, rollback.KEY: dataclasses.asdict(back), **self.ledger.line()})
        lines.flush()
        self.checkpointer.drop_after(back.step)
        return [*rollback.still(back.step, history), back]

    def record_exit(self) -> None:
        """For the ledger of the next process. It must not hide why this one ends."""
        if jax.process_index() == 0:
            with contextlib.suppress(UserError, OSError):
                self.ledger.end(self.workdir, self.done)


def cursor(state: TrainState) -> np.ndarray | None:
    """Where a data pipeline that packs stands after a state."""
    return None if state.cursor is None else fetch(state.cursor)


def log_run_info(run: Run, pipeline: Pipeline, flops: Mapping[str, float], start: int, changes: Sequence[Change]) -> None:
    """Writes `config.json` and `parameters.txt`, and prints what is about to run."""
    config = run.config
    if jax.process_index() == 0:
        rows = [f"{path}  {run.skeleton.shapes[path].shape}  {'trained' if d.trained else 'frozen'}  lr×{d.lr_factor}  "
                f"decay×{d.decay}  {run.shardings[path].spec}\n" for path, d in run.decisions.items()]
        storage.write_atomic(storage.join(run.workdir, "config.json"), [
            json.dumps(configs.to_dict(config) | history_of.written(changes), indent=1).encode()])
        storage.write_atomic(storage.join(run.workdir, "parameters.txt"), ["".join(rows).encode()])
    console.show(console.table("Parameters", ("part", "trained", "frozen", "lr ×", "decay ×", "GFLOP/step"),
                               parameter_rows(run.skeleton, run.decisions, flops)))
    console.show(console.table("Data", ("source", "records", "kept", "share"), [
        (row["name"], row["records"], row["kept"], f"{row['share']:.1%}") for row in pipeline.describe()]))
    mesh = " × ".join(f"{axis} {size}" for axis, size in run.mesh.shape.items())
    for change in changes:
        console.show(f"after step {change.step:,}: " + ", ".join(
            f"{key} {show(old, 40)} → {show(new, 40)}" for key, (old, new) in change.keys.items()))
    resumed = f", resuming after step {start:,}" if start else ""  # its own, or its trunk's
    console.show(f"{config.steps:,} steps of {config.batch_size:,} examples on {jax.device_count()} "
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
