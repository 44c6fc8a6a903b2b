"""The memory of a step by formula: exact for the state, an estimate for everything else, without compiling.

Bytes on one device, of what lives at the widest moment of a step:

    state       parameters, optimizer, average, as they are sharded: exact
    batch       as it comes in
    gradients   float32, sharded as their parameters; and a copy of the parameters in the dtype of the computation
    gathered    what one layer needs whole, twice (the next one is fetched), and its gradient; all that is in no layer
    saved       what the forward pass leaves for the backward pass, by rematerialisation
    working     the widest layer, forward and backward
    logits      one strip of a language model, with its gradient

The compiler's figure differs, because it fuses, reuses and reorders: see `FACTOR`.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import math

import jax.numpy as jnp

from mof_jax import tasks
from mof_jax.hardware import Topology
from mof_jax.mesh import abstract_mesh, batch_shards, check_batch
from mof_jax.objectives.next_token import NextToken
from mof_jax.plan.cost import vocabulary
from mof_jax.plan.program import state_bytes
from mof_jax.plan.towers import Tower, microbatches, towers
from mof_jax.run import Program, Run, RunConfig

# Temporaries that the compiler reports are within this factor of the estimate's, both ways, for everything in docs/plans.jsonl
# (tests/plan/test_memory.py). It was 0.62 to 1.52 for the eight plans that it was first compared with, fitted to none of them.
FACTOR = 2.0


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes on one device by what they are; see the module's docstring."""

    state: float
    batch: float
    gradients: float
    gathered: float
    saved: float
    working: float
    logits: float

    @property
    def temporaries(self) -> float:
        """What the compiler calls so."""
        return self.gradients + self.gathered + self.saved + self.working + self.logits

    @property
    def used(self) -> float:
        return self.state + self.batch + self.temporaries


def abstract(config: RunConfig, topology: Topology) -> tuple[Run, Program]:
    """A run on slices that are neither here nor described by the compiler: for shapes and shardings alone.

    Raises:
      UserError: the mesh does not cover the slices, or does not divide a dimension or the batch.
    """
    run = Run(config, vocabulary(config), mesh=abstract_mesh(config.mesh, topology.devices))
    check_batch(run.mesh, config.batch_size, microbatches(run), run.task.rows)
    return run, Program.of(run)


def estimate(run: Run, program: Program) -> Estimate:
    """The memory of a run's step."""
    sizes, found = run.mesh.shape, towers(run)
    parallel, tensor = batch_shards(run.mesh), sizes["tensor"]
    item = jnp.dtype(run.task.model.dtype).itemsize
    rows = {tower: tower.sequences / parallel / microbatches(run) for tower in found}
    local = lambda path: math.prod(run.shardings[path].shard_shape(run.skeleton.shapes[path].shape))
    trained = sum(local(path) for path, d in run.decisions.items() if d.trained)
    batch = tasks.shapes(run.config, run.tokenizer.context_length)
    return Estimate(
        state=sum(state_bytes(program).values()),
        batch=sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values()) / parallel,
        gradients=4.0 * trained + item * sum(map(local, run.shardings)) * (item < 4),
        gathered=_gathered(run, found, item) if sizes["fsdp"] > 1 else 0.0,
        saved=sum(rows[t] * saved(t, tensor, item) for t in found if t.through),
        working=max(rows[t] * working(t, tensor, item) for t in found),
        logits=_logits(run, parallel, tensor))


def saved(tower: Tower, tensor: int, item: int) -> float:
    """Bytes that one sequence leaves for the backward pass: a layer's input; with `dots` the results of its matrices, too; with
    no rematerialisation everything but what is fused away."""
    position = {"full": tower.width, "dots": 3 * tower.width + tower.inner / tensor,
                "none": 4 * tower.width + tower.inner / tensor}[tower.remat]
    scores = tower.scores / tensor * tower.tokens * (item + 4) if tower.remat == "none" else 0.0
    return float(tower.depth * tower.tokens * (position * item + scores))


def working(tower: Tower, tensor: int, item: int) -> float:
    """Bytes that one sequence needs inside of a layer, with the gradients of the same where there are any."""
    both = 2 if tower.through else 1
    return tower.tokens * (both * item * (4 * tower.width + tower.inner / tensor)
                           + both * tower.scores / tensor * tower.tokens * (item + 4))


def _gathered(run: Run, found: Iterable[Tower], item: int) -> float:
    """Bytes of weights that `fsdp` splits and a device holds whole for a while: two layers of the widest stack and the gradient
    of one, and what is in no stack, with its gradient."""
    whole: dict[str, float] = {}
    for path, sharding in run.shardings.items():
        if "fsdp" not in (axis for axis in sharding.spec if axis is not None):
            continue
        stack = next((t for t in found if path.startswith(t.weights)), None)
        size = math.prod(sharding.shard_shape(run.skeleton.shapes[path].shape)) * run.mesh.shape["fsdp"]
        trained = run.decisions[path].trained
        key, bytes_ = (stack.part, size / stack.depth * (2 * item + 4 * trained)) if stack else ("", size * (item + 4 * trained))
        whole[key] = whole.get(key, 0.0) + bytes_
    outside = whole.pop("", 0.0)
    return outside + max(whole.values(), default=0.0)


def _logits(run: Run, parallel: int, tensor: int) -> float:
    """Of a block, in float32, with their gradient."""
    blocks = [term.block_size for term in run.task.terms.values() if isinstance(term, NextToken)]
    if not blocks:
        return 0.0
    rows = run.config.batch_size / parallel / microbatches(run)
    return rows * min(max(blocks), run.config.data.context_length) * run.task.model.llm.vocab_size / tensor * 8
