"""What a run is: its typed config, and the objects that a config becomes. Nothing is trained or read here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import os
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from mof_jax import config as configs
from mof_jax import evals, objectives, plugins, renames, storage
from mof_jax.data.text.tokenizers import Tokenizer, TokenizerConfig
from mof_jax.decode.respond import Generator
from mof_jax.errors import UserError, lookup
from mof_jax.evals.embed.embedder import Embedder
from mof_jax.evals.model import Model
from mof_jax.hardware import HardwareConfig
from mof_jax.mesh import MeshConfig, batch_sharding, make_mesh, on_mesh, param_shardings, replicated
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.objective import Objective
from mof_jax.parsing import show
from mof_jax.ranges import Count, Whole
from mof_jax.task import Task
from mof_jax.tasks import TASKS
from mof_jax.train.checkpoint.checkpointer import CheckpointConfig
from mof_jax.train.optim import Decision, OptimizerConfig, decide, make_optimizer
from mof_jax.train.reliability import rollback
from mof_jax.train.reliability.spikes import SpikeConfig
from mof_jax.train.reliability.watchdog import WatchdogConfig
from mof_jax.train.start import InitConfig
from mof_jax.train.state import TrainState, init_fn, state_shardings
from mof_jax.train.step import make_step


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run. `model`, `objective` and `data` are sections of the task's own types, see `mof_jax.tasks`.

    Attributes:
      steps: of the whole run; 0 for weights that were converted, and not trained.
      microbatches: exact gradient accumulation: rows go through the model in so many parts, see `train.step`.
      seed: of initial values, data order, augmentation and dropout.
      evals: sections with a `kind`, see `mof_jax.evals`.
      eval_ema: evaluate the moving average where one is kept.
      spikes, watchdog: what to do about losses that jump or are no number, and about steps that do not end.
      precision: of float32 matmuls (`highest` for parity; TPUs take bf16 passes by default), None for JAX's default.
      compilation_cache: folder of compiled programs, None for none.
      branch_from: a checkpoint of another run, see `train.start.trunk`. A run without one of its own goes on from there with
        everything: parameters, optimizer, position in the data. Steps are counted on.
      plugins: files of a user's own kinds, see `mof_jax.plugins`.
      others: see the classes.
    """

    model: Any
    steps: Whole
    task: str = "contrastive"
    seed: Whole = 0
    batch_size: Count = 256
    microbatches: Count = 1
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
    plugins: tuple[plugins.Plugin, ...] = ()
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
    values = renames.translate(config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config)
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
    plugins.check(run.plugins)
    objective = _objective(run.task, kind.objective, configs.section(values, "objective"))
    names: list[str] = []
    for i, section in enumerate(run.evals):
        names.append(evals.build(section, f"config.evals.{i}", kind.capabilities(model)).name)
        if names[-1] in names[:-1]:
            raise UserError(f"config.evals.{i}.name: another evaluator is called {names[-1]!r}, and would lose its results")
    return dataclasses.replace(run, model=model, objective=objective, data=configs.build(kind.data, data, "config.data"))


def _objective(task: str, default: str | None, section: Mapping[str, Any]) -> Objective | dict[str, Objective]:
    """The terms of a task's loss, none for one that is not trained."""
    if default is not None:
        found = objectives.build(section, default, "config.objective")
        objectives.check(found)
        return found
    if section:
        raise UserError(f"config.objective: task {task!r} has none; take the section out")
    return {}


def _source(section: Any) -> Any:
    """A section of `init_from`; a bare string is its path."""
    return dict(path=section) if isinstance(section, str) else section


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


def set_up_jax(config: RunConfig) -> None:
    """Process-wide settings: matmul precision and the persistent compilation cache."""
    jax.config.update("jax_default_matmul_precision", config.precision)
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


class Run:
    """The objects of a config, without data or state: task, mesh, skeleton, optimizer, and what evaluators ask."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer | None, workdir: str | None = None, mesh: Mesh | None = None):
        self.config, self.tokenizer, self.workdir = config, tokenizer, workdir
        self.mesh = make_mesh(config.mesh) if mesh is None else mesh
        kind = TASKS[config.task]
        self.task = kind.make(config, self.mesh, tokenizer)
        self.task.check(kind.pipeline.shapes(config.data, config.batch_size, getattr(tokenizer, "context_length", 0)))
        self.skeleton = Skeleton.of(self.task.build)
        self.decisions = decide(config.optimizer, self.skeleton)
        self.shardings = param_shardings(self.mesh, self.skeleton, config.mesh.rules)
        self.preprocess = config.data.preprocess

    def adapt(self, path: str, value: jax.Array) -> jax.Array:
        """A parameter of another run as this model needs it, e.g. position embeddings resampled."""
        resample = self.skeleton.resample.get(path)
        return self.task.adapt(path, value if resample is None else resample(value))

    def flops(self) -> dict[str, float]:
        """Of one training step, by part of the model."""
        return step_flops(self.task, self.config.batch_size, self.decisions)

    def model(self, on_batch: Callable[[], None] = lambda: None) -> Model:
        """What evaluators ask; bind parameters to it.

        Args:
          on_batch: called before each batch, alike on all processes; may raise to stop.
        """
        c = self.config
        asked = (self.skeleton, self.mesh, self.preprocess, self.tokenizer)
        predictors = {name: on_mesh(self.mesh, function) for name, function in self.task.predictors.items()}
        embedder = generator = None
        if predictors.pop("generate", None) is not None:
            model = c.model.with_vocabulary(self.tokenizer.vocab_size)
            answers = self.task.predictors["generate"]
            generator = Generator(model, *asked, c.data.template, c.eval_batch_size, on_batch, answers)
        if predictors:
            embedder = Embedder(predictors, *asked, c.eval_batch_size, on_batch)
        local = self.workdir and not storage.is_remote(self.workdir)  # evaluators draw into folders only
        return Model(c.task, embedder, generator, self.workdir if local else None)

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
        step = on_mesh(run.mesh, make_step(
            run.task, run.skeleton, tx, config.seed, steps=config.steps, ema_decay=config.optimizer.ema,
            microbatches=config.microbatches, mesh=run.mesh))
        return cls(init, state, shardings, jax.jit(
            step, donate_argnums=0, in_shardings=(shardings, batch_sharding(run.mesh)),
            out_shardings=(shardings, replicated(run.mesh))))
