"""From a config to objects: the one place that knows tasks, data, mesh, evaluators and the loop together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import dataclasses
import json
import os
import time
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from mof_jax import config as configs
from mof_jax import evals as evaluators
from mof_jax.data import remote
from mof_jax.data.tokenizers import Tokenizer, TokenizerConfig
from mof_jax.data.tokenizers import load as load_tokenizer
from mof_jax.data.tokenizers import make as make_tokenizer
from mof_jax.decode.respond import Responder
from mof_jax.errors import UserError, lookup
from mof_jax.evals.encoder import Encoder
from mof_jax.hardware import HardwareConfig
from mof_jax.interop.source import Source, is_foreign
from mof_jax.mesh import (
    MeshConfig,
    batch_sharding,
    batch_shards,
    check_batch,
    make_mesh,
    on_mesh,
    param_shardings,
    replicated,
)
from mof_jax.nn.module import Params, Skeleton
from mof_jax.parsing import show
from mof_jax.ranges import Count, Whole
from mof_jax.task import Task
from mof_jax.tasks import TASKS
from mof_jax.train import display, goodput, place, rollback
from mof_jax.train import history as history_of
from mof_jax.train.checkpoint import CheckpointConfig, Checkpointer
from mof_jax.train.goodput import Ledger, report
from mof_jax.train.metrics import JsonLines, read_lines
from mof_jax.train.optim import Decision, OptimizerConfig, decide, make_optimizer
from mof_jax.train.preemption import Preemption
from mof_jax.train.spikes import SpikeConfig
from mof_jax.train.start import (
    InitConfig,
    came_with,
    first_state,
    open_checkpoint,
    take_params,
    trunk,
)
from mof_jax.train.state import TrainState, init_fn, state_shardings
from mof_jax.train.step import make_step
from mof_jax.train.watchdog import WatchdogConfig
from mof_jax.training import Training, introduce, run_evaluators


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run. `model`, `objective` and `data` are sections of the task's own types, see `mof_jax.tasks`.

    Attributes:
      steps: of the whole run; 0 for weights that were converted, and not trained.
      seed: of initial values, data order, augmentation and dropout.
      evals: sections with a `kind`, see `mof_jax.evals`.
      eval_ema: evaluate the moving average where one is kept.
      spikes, watchdog: what to do about losses that jump or are no number, and about steps that do not end.
      precision: of float32 matmuls (`highest` for parity; TPUs take bf16 passes by default), None for JAX's default.
      compilation_cache: folder of compiled programs, None for none.
      branch_from: a checkpoint of another run, see `train.start.trunk`. A run without one of its own goes on from there with
        everything: parameters, optimizer, position in the data. Steps are counted on.
      others: see the classes.
    """

    model: Any
    steps: Whole
    task: str = "contrastive"
    seed: Whole = 0
    batch_size: Count = 256
    objective: Any = dataclasses.field(default_factory=dict)
    data: Any = dataclasses.field(default_factory=dict)
    tokenizer: TokenizerConfig = TokenizerConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    hardware: HardwareConfig = HardwareConfig()
    init_from: tuple[InitConfig, ...] = ()
    branch_from: str | None = None
    evals: tuple[Any, ...] = ()
    eval_every: Whole | None = 0
    eval_ema: bool = True
    eval_batch_size: Count = 256
    log_every: Count = 50
    profile: tuple[Count, Count] | None = None
    spikes: SpikeConfig = SpikeConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    precision: Literal["default", "high", "highest", "bfloat16", "tensorfloat32", "float32"] | None = None
    compilation_cache: str | None = "~/.cache/mof_jax/xla"

    def __post_init__(self):
        rollback.check(self.spikes, self.checkpoint, self.log_every)


def resolve(config: ml_collections.ConfigDict | Mapping[str, Any]) -> RunConfig:
    """The typed config, every section checked.

    Raises:
      UserError: naming the key.
    """
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    kind = lookup(TASKS, values.get("task", "contrastive"), "task at config.task")
    model = configs.build(kind.model, configs.section(values, "model"), "config.model")
    data = kind.suggests(model) | configs.section(values, "data")
    for key, value in kind.decides(model).items():
        if data.setdefault(key, value) != value:
            raise UserError(f"config.data.{key}: {data[key]} differs from the model's {key}, {value}")
    if "init_from" in values:
        given = values["init_from"]
        values["init_from"] = [_source(x) for x in (given if isinstance(given, (list, tuple)) else [given])]
    run = configs.build(RunConfig, values)
    objective = configs.build(kind.objective, configs.section(values, "objective"), "config.objective")
    names: list[str] = []
    for i, section in enumerate(run.evals):
        names.append(evaluators.build(section, f"config.evals.{i}", kind.face).name)
        if names[-1] in names[:-1]:
            raise UserError(f"config.evals.{i}.name: another evaluator is called {names[-1]!r}, and would lose its results")
    return dataclasses.replace(run, model=model, objective=objective, data=configs.build(kind.data, data, "config.data"))


def _source(section: Any) -> Any:
    """A section of `init_from`; a bare string is its path."""
    return dict(path=section) if isinstance(section, str) else section


def set_up_jax(config: RunConfig) -> None:
    """Process-wide settings: matmul precision and the persistent compilation cache."""
    jax.config.update("jax_default_matmul_precision", config.precision)
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Run:
    """The objects of a config, without data or state: task, mesh, skeleton, optimizer, encoder."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer | None, workdir: str | None = None, mesh: Mesh | None = None):
        self.config, self.tokenizer, self.workdir = config, tokenizer, workdir
        set_up_jax(config)
        self.mesh = make_mesh(config.mesh) if mesh is None else mesh
        kind = TASKS[config.task]
        self.task = kind.make(config, self.mesh, tokenizer)
        self.skeleton = Skeleton.of(self.task.build)
        self.decisions = decide(config.optimizer, self.skeleton, self.task.rules)
        self.shardings = param_shardings(self.mesh, self.skeleton, config.mesh.rules)
        self.preprocess = config.data.preprocess

    def flops(self) -> dict[str, float]:
        """Of one training step, by part of the model."""
        return step_flops(self.task, self.config.batch_size, self.decisions)

    def face(self) -> Encoder | Responder:
        """What evaluators ask; bind parameters to it."""
        c = self.config
        pictures = None if self.workdir and remote.is_remote(self.workdir) else self.workdir  # evaluators draw into folders only
        if TASKS[c.task].face == "responder":
            return Responder(c.model.with_vocabulary(self.tokenizer.vocab_size), self.skeleton, self.mesh, self.preprocess,
                             self.tokenizer, c.data.template, c.eval_batch_size, pictures=pictures)
        predict = {name: on_mesh(self.mesh, function) for name, function in self.task.predict.items()}
        return Encoder(predict, self.skeleton, self.mesh, self.preprocess, self.tokenizer, c.eval_batch_size,
                       pictures=pictures)

    def meta(self) -> dict[str, Any]:
        """What travels in every checkpoint beside the state."""
        return {"config": configs.to_dict(self.config), "preprocess": configs.to_dict(self.preprocess),
                "tokenizer": self.tokenizer and self.tokenizer.save()}


def process_rows(mesh: jax.sharding.Mesh, batch_size: int) -> tuple[int, int]:
    """(index, count): this process feeds the index-th of `count` equal blocks of every batch.

    Processes that hold the same rows (tensor parallelism across hosts) read the same block.
    """
    index_map = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    spans = {(s[0].start or 0, batch_size if s[0].stop is None else s[0].stop) for s in index_map.values()}
    first, last = min(a for a, _ in spans), max(b for _, b in spans)
    if sum(b - a for a, b in spans) != last - first or batch_size % (last - first) or first % (last - first):
        raise UserError("config.mesh: the devices of one host do not hold one block of the batch; put the axis that spans "
                        "hosts first (data)")
    return first // (last - first), batch_size // (last - first)


def train(
    config: ml_collections.ConfigDict | Mapping[str, Any] | RunConfig, workdir: str, allow_change: Collection[str] = ()
) -> dict[str, dict[str, float]]:
    """Trains, or goes on where `workdir` stands; returns the last evaluation's results by evaluator name.

    A config with `stages`, a list of whole configs with a `name` each, trains them one after the other, stage NAME in
    `workdir/NAME`; `init_from.path="stage:NAME"` takes parameters from an earlier one.

    Args:
      allow_change: keys, or sections, that may have another value than the run has been trained with so far, see
        `train.history`.

    Raises:
      UserError, Preempted: see `mof_jax.errors`.
    """
    if isinstance(config, RunConfig):
        return train_one(config, workdir, allow_change)
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    if "stages" in values:
        return train_stages(values, workdir, allow_change)
    return train_one(resolve(values), workdir, allow_change)


def resolve_stages(values: Mapping[str, Any]) -> dict[str, RunConfig]:
    """The typed configs of a staged config, by the names of its stages.

    Raises:
      UserError: naming the stage and the key.
    """
    listed = values.get("stages")
    if set(values) != {"stages"} or not isinstance(listed, (list, tuple)) or not listed:
        raise UserError("config.stages: a staged config holds nothing else, and at least one stage")
    stages: dict[str, RunConfig] = {}
    for i, stage in enumerate(listed):
        if not isinstance(stage, Mapping):
            raise UserError(f"config.stages.{i}: expected a section, got {show(stage)}")
        name = stage.get("name", "")
        if not isinstance(name, str) or not name.isidentifier() or name in stages:
            raise UserError(f"config.stages.{i}.name: {show(name)}; give each stage a name of its own (letters, digits, _)")
        try:
            stages[name] = resolve({key: value for key, value in stage.items() if key != "name"})
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from None
    return stages


def train_stages(values: Mapping[str, Any], workdir: str, allow_change: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Every stage that is not done yet; all of their configs are checked before the first one starts."""
    stages: dict[str, RunConfig] = {}
    for name, run in resolve_stages(values).items():
        find = lambda section: dataclasses.replace(section, path=stage_path(section.path, stages, workdir, name))
        stages[name] = dataclasses.replace(run, init_from=tuple(map(find, run.init_from)), tokenizer=find(run.tokenizer))
    if remote.exists(remote.join(workdir, place.CHECKPOINTS)):
        raise UserError(f"{workdir}: a run without stages is there; use another work dir")
    allowed = {name: history_of.of_run(allow_change, run) for name, run in stages.items()}
    if unknown := [key for key in allow_change if not any(key in keys for keys in allowed.values())]:
        history_of.check_allowed(unknown, configs.flatten(configs.to_dict(list(stages.values())[-1])))
    done = {name: _done(run, os.path.join(workdir, name), allowed[name]) for name, run in stages.items()}  # or one is refused
    remote.make_folder(workdir)
    if jax.process_index() == 0:
        remote.write_atomic(remote.join(workdir, place.STAGES), [json.dumps({"stages": list(stages)}).encode()])
    results: dict[str, dict[str, float]] = {}
    for name, run in stages.items():
        folder, last = os.path.join(workdir, name), name == list(stages)[-1]
        if not last and done[name]:
            display.show(f"stage {name}: done before, {folder}")
            continue
        display.show(f"stage {name}: {folder}")
        results = train_one(run, folder, allowed[name])
    return results


def _done(run: RunConfig, workdir: str, allow_change: Collection[str]) -> bool:
    """Whether a stage has been trained to its end.

    Raises:
      UserError: it has, with another config.
    """
    if not remote.exists(f"{workdir}/checkpoints"):
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
    if remote.exists(remote.join(workdir, place.STAGES)):
        raise UserError(f"{workdir}: a staged run is there, whose stages have work dirs below it; use another work dir")
    place.check(workdir)
    remote.make_folder(workdir)
    with place.taken(workdir):
        return _train(config, workdir, allow_change, begun)


def _train(config: RunConfig, workdir: str, allow_change: Collection[str], begun: float) -> dict[str, dict[str, float]]:
    """`train_one`, with the work dir for itself."""
    set_up_jax(config)
    kind = TASKS[config.task]
    checkpointer = Checkpointer(f"{workdir}/checkpoints", config.checkpoint)
    before = goodput.lines(workdir)
    newest, history = rollback.resume(checkpointer, before)
    branches = newest is None and config.branch_from is not None
    origin, step = trunk(config.branch_from, workdir, config.steps) if branches else (checkpointer, newest)
    saved = None if step is None else origin.meta(step)
    if branches:
        history = rollback.saved(saved)
    same = lambda meta, at, content: history_of.go_on(
        history_of.config_of(meta, resolve, config), config, at, workdir, content, allow_change, branches, meta.get("workdir"))
    other = {} if saved is None else same(saved, step, None)
    tokenizer = None
    if kind.texts is not None:
        known = saved is not None and not any(key.startswith("tokenizer.") for key in other)
        tokenizer = load_tokenizer(saved["tokenizer"]) if known else first_tokenizer(config)
    run = Run(config, tokenizer, workdir)
    check_batch(run.mesh, config.batch_size, getattr(config.objective, "microbatches", 1), run.task.rows)
    pipeline = kind.pipeline(config.data, tokenizer, config.batch_size, config.seed, *process_rows(run.mesh, config.batch_size))
    content = pipeline.content()
    other = {} if saved is None else same(saved, step, content)
    program = Program.of(run, pipeline.cursor)
    state = first_state(origin, program.init, program.state, program.shardings, config.seed,
                        lambda: take_params(config.init_from, run.skeleton, run.shardings, run.task.adapt),
                        step if branches else None)
    start = int(state.step)
    if step and start != step:  # restoring showed a damage that the files did not, and took an older one
        allow_change = [*allow_change, *(key for change in history_of.saved(saved) for key in change.keys)]
        saved = origin.meta(start) if start else None
        history, other = rollback.saved(saved), same(saved, start, content) if start else {}
    flops, changes = run.flops(), history_of.saved(saved)
    if saved:
        changes, history = history_of.changed(
            other, changes, history, start, saved.get("flops_per_step", sum(flops.values())), config.batch_size,
            counted=pipeline.cursor is None)
    travel = saved.get("interop") if saved else came_with(config.init_from, config.task, config.model, tokenizer, run.preprocess)
    meta = run.meta() | {"content": content, "flops_per_step": sum(flops.values()), "workdir": workdir}
    meta |= history_of.written(changes)
    meta |= {} if travel is None else {"interop": travel}
    introduce(run, pipeline, flops, start, changes)
    measures = [evaluators.build(s, f"config.evals.{i}", kind.face) for i, s in enumerate(config.evals)]
    training = Training(run, workdir, checkpointer, pipeline, program, flops, meta, changes, run.face(), measures,
                        Ledger(before, start, begun), Preemption(), start)
    try:
        with training.preemption:
            return training.to_the_end(state, saved or {}, history)
    finally:
        checkpointer.close()
        if start < config.steps:
            training.leave_word()
            display.show(report(training.ledger.read()))


def step_flops(task: Task, batch_size: int, decisions: Mapping[str, Decision]) -> dict[str, float]:
    """Model FLOPs of one training step, by part, with the parameters trained that `decisions` say."""
    trained = [path for path, d in decisions.items() if d.trained]
    return task.flops(batch_size, lambda prefix: any(path.startswith(prefix) for path in trained))


class Program(NamedTuple):
    """A run's training step, of which nothing has been computed.

    Attributes:
      init: a pure function from a key to the first state. state: its shapes. shardings: where its leaves live.
      step: jitted `(state, batch) -> (state, metrics)`; the state is donated.
    """

    init: Callable[[jax.Array], TrainState]
    state: TrainState
    shardings: TrainState
    step: Any

    @classmethod
    def of(cls, run: Run, cursor: np.ndarray | None = None) -> Program:
        """The step of a run whose pipeline starts at `cursor`."""
        config = run.config
        tx = make_optimizer(config.optimizer, config.steps, run.decisions, run.skeleton.matrices)
        trained = {path: d.trained for path, d in run.decisions.items()}
        init = init_fn(run.task.build, trained, tx, config.optimizer.ema is not None, cursor, config.spikes.nonfinite == "skip")
        state = jax.eval_shape(init, jax.random.key(0))
        shardings = state_shardings(run.mesh, state, run.shardings)
        step = on_mesh(run.mesh, make_step(run.task, run.skeleton, tx, config.seed, config.optimizer.ema, batch_shards(run.mesh)))
        return cls(init, state, shardings, jax.jit(
            step, donate_argnums=0, in_shardings=(shardings, batch_sharding(run.mesh)),
            out_shardings=(shardings, replicated(run.mesh))))


@dataclasses.dataclass
class Restored:
    """A model read back: its config, its parameters, and what evaluators ask, which preprocesses as training did."""

    run: Run
    params: Params
    step: int
    face: Encoder | Responder

    @property
    def encoder(self) -> Encoder:
        """The towers of this model.

        Raises:
          UserError: it is one that answers.
        """
        if not isinstance(self.face, Encoder):
            raise UserError(f"a model of task {self.run.config.task!r} answers questions; it does not embed")
        return self.face

    @property
    def responder(self) -> Responder:
        """The model that answers.

        Raises:
          UserError: it only embeds.
        """
        if not isinstance(self.face, Responder):
            raise UserError(f"a model of task {self.run.config.task!r} answers no questions; give a checkpoint of task 'mllm'")
        return self.face


def restore(path: str, *, mesh: Mapping[str, Any] | None = None, workdir: str | None = None, ema: bool | None = None) -> Restored:
    """Loads a checkpoint for evaluation, on this machine's devices.

    Args:
      path: work dir or `WORKDIR/checkpoints/STEP`.
      mesh: sizes of the mesh axes here; by default all devices along `data`, whatever the run had.
      ema: averaged parameters or not; None as the run's config says.
    """
    reader, meta, step = open_checkpoint(path)
    # Programs are read from a cache and run as machine code: where it lies is this machine's business, not a checkpoint's.
    cache = RunConfig.compilation_cache
    values = {**meta["config"], "mesh": mesh or {}, "compilation_cache": cache}
    tokenizer = None if meta["tokenizer"] is None else load_tokenizer(meta["tokenizer"])
    run = Run(resolve(values), tokenizer, workdir)
    params = reader.restore_params(step, run.shardings, run.config.eval_ema if ema is None else ema)
    return Restored(run, params, step, run.face().bind(params))


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
    face = None
    while True:
        done = {line.get("step") for line in read_lines(log)} if follow and remote.exists(log) else set()
        for checkpoint in new_checkpoints(workdir, done) if follow else [path]:
            model = restore(checkpoint, workdir=workdir)
            face = face or model.face
            chosen = list(model.run.config.evals) if sections is None else sections
            kind = TASKS[model.run.config.task]
            measures = [evaluators.build(s, f"evals.{i}", kind.face) for i, s in enumerate(chosen)]
            if not measures:
                raise UserError(f"{path}: its config names no evaluators; give some with --evals FILE.py")
            results = run_evaluators(measures, face.bind(model.params), model.step, JsonLines(log))
            if model.step >= model.run.config.steps:
                return results
        if not follow:
            return results
        time.sleep(poll_s)


def new_checkpoints(workdir: str, done: set[int]) -> list[str]:
    """Paths of the complete checkpoints of a run that are not in `done`, oldest first; none before the run has begun."""
    if not remote.exists(f"{workdir}/checkpoints"):
        return []
    steps = Checkpointer(f"{workdir}/checkpoints", read_only=True).steps()
    return [f"{workdir}/checkpoints/{step}" for step in sorted(steps) if step not in done]
