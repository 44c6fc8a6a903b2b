"""Weights for tiny models without compiling their initialisation, and runs of the tiny two-tower task."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
from jax.sharding import Mesh
import numpy as np

from mof_jax.mesh import MeshConfig, make_mesh, on_mesh, param_shardings, put_batch
from mof_jax.models.text import TextConfig
from mof_jax.models.two_tower import TwoTowerConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Params, Skeleton
from mof_jax.objectives.loss import Context, Loss
from mof_jax.objectives.objective import Objective
from mof_jax.task import Task, evaluate, taught
from mof_jax.tasks.contrastive import ContrastiveTask
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.state import TrainState, init_fn, state_shardings
from mof_jax.train.step import make_step

STEPS = 100  # of a run
# Compiling is most of what these tests do: less well optimised code is ready in half the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)


def weights(skeleton: Skeleton, seed: int = 0) -> Params:
    """Random values at which every part matters: no zero bias, no norm at one, no scalar moved far from 2."""
    rng = np.random.default_rng(seed)

    def value(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if shape == ():
            return np.float32(2.0)
        noise = rng.standard_normal(shape)
        if path.rpartition("/")[2] in ("scale", "scale1", "scale2"):
            return (1 + 0.2 * noise).astype(np.float32)
        return (0.25 * noise).astype(np.float32)

    return {path: jax.numpy.asarray(value(path, x.shape)) for path, x in skeleton.shapes.items()}


def two_tower(**image: Any) -> TwoTowerConfig:
    """Width 16, two layers a tower, 16 patches, 6 tokens."""
    text = TextConfig(width=16, depth=2, heads=2, mlp_dim=16, vocab_size=32, context_length=6, eos_id=31, pad_id=0,
                      dropout=image.get("dropout", 0.0))
    return TwoTowerConfig(
        ViTConfig(**{**dict(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=16), **image}), text, embed_dim=8)


def batch(rows: int, views: int = 1, captions: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise for pictures and words."""
    rng = np.random.default_rng(seed)
    text = rng.integers(1, 31, (rows, captions, 6)).astype(np.int32)
    text[..., -1] = 31
    return {"image": rng.integers(0, 256, (rows, views, 16, 16, 3), np.uint8), "text": text,
            "group": np.arange(rows, dtype=np.int32)}


@dataclasses.dataclass
class Run:
    """A task laid out on a mesh, with its jitted step."""

    task: Task
    skeleton: Skeleton
    state: TrainState
    step: Callable
    put: Callable


def launch(model: TwoTowerConfig, objective: Objective, optimizer: OptimizerConfig, mesh: MeshConfig,
           devices: int) -> Run:
    """The tiny two-tower task on a mesh."""
    return launch_task(lambda grid: ContrastiveTask(model, objective), optimizer, mesh, devices)


def loss_of(
    task: Task, model: nnx.Module, rows: Any, key: Any = None, *, step: Any = 0, mesh: Mesh | None = None, microbatches: int = 1
) -> Loss:
    """The loss of a task of one term over a whole batch; without a key as in evaluation."""
    keys = None if key is None else task.keys(rows, key)
    context = Context(step, STEPS, mesh, microbatches, key, keys)
    losses, moved = evaluate(task, model, taught(task, model, rows, context), context)
    (loss,) = losses.values()
    assert not moved
    return loss


def launch_task(
    make: Callable[[Mesh], Task], optimizer: OptimizerConfig, mesh: MeshConfig, devices: int, microbatches: int = 1
) -> Run:
    """What `run.py` does, in small: a state with given weights, every leaf where it belongs."""
    grid = make_mesh(mesh, jax.devices()[:devices])
    task = make(grid)
    skeleton = Skeleton.of(task.build)
    decisions = decide(optimizer, skeleton)
    tx = make_optimizer(optimizer, STEPS, decisions, skeleton.matrices)
    values, trained = weights(skeleton), {path: d.trained for path, d in decisions.items()}
    build = lambda rngs: skeleton.merge(values)
    init = init_fn(build, trained, tx, optimizer.ema is not None)
    shardings = state_shardings(grid, jax.eval_shape(init, jax.random.key(0)), param_shardings(grid, skeleton, mesh.rules))
    state = quick_jit(init, out_shardings=shardings)(jax.random.key(0))
    step = make_step(task, skeleton, tx, 0, steps=STEPS, ema_decay=optimizer.ema, microbatches=microbatches, mesh=grid)
    step = quick_jit(on_mesh(grid, step), out_shardings=(shardings, None))
    return Run(task, skeleton, state, step, lambda rows: put_batch(grid, rows))
