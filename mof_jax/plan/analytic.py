"""The clocks of a step by formula, without compiling: what a search ranks by, and what published step times are compared with.

What is sent, in bytes of one device, by ring algorithms:

    fsdp      weights gathered in the dtype of the computation once for each pass (forward, backward; a forward pass more where a
              contrastive loss runs its towers in micro-batches), for every micro-batch; gradients scattered in float32, or
              reduced in bfloat16 where the compiler prefers an all-reduce, which is as much
    tensor    two all-reduces of the residual stream a layer and pass (forward, recomputed, backward)
    data      gradients, all-reduced once, in the dtype of the computation, as the compiler mostly does it (in float32 where two
              passes add to one first, as DINO's); with several slices inside each first, and then, each device its part,
              across the network

Left out: features of a contrastive loss, norms and scalars.
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import jax.numpy as jnp

from mof_jax.hardware import Topology
from mof_jax.mesh import batch_shards
from mof_jax.plan.memory import Estimate
from mof_jax.plan.roofline import Roofline, recomputed
from mof_jax.plan.towers import Tower, microbatches, towers
from mof_jax.run import Run


def clocks(run: Run, topology: Topology, memory: Estimate, flops: Mapping[str, float] | None = None) -> Roofline:
    """The clocks of a run's step on a topology.

    Args:
      flops: those of the run where they are known; they take a while.
    """
    flops = run.flops() if flops is None else flops
    model, again = sum(flops.values()), recomputed(run, flops)
    chip, each = topology.chip, topology.chip.devices
    peak, sent = topology.chips * chip.flops, bytes_sent(run)
    crossing = 0.0
    if topology.slices > 1:
        sent["data"], crossing = _between(sent["data"], run.mesh.shape["data"], topology.slices)
    return Roofline((model + again) / peak, (2 * memory.state + memory.batch) / (chip.hbm_bandwidth / each),
                    sum(sent.values()) / (chip.ici / each), crossing / (chip.dcn / each), model, again, peak)


def _between(sent: float, replicas: int, slices: int) -> tuple[float, float]:
    """Of a reduction over replicas, what goes inside a slice and what between slices: each device of a slice carries its part of
    the slice's sum to the others."""
    each, size = replicas // slices, sent / (2 * (replicas - 1) / replicas)
    return 2 * (each - 1) / each * size, 2 * (slices - 1) / slices * size / each


def bytes_sent(run: Run) -> dict[str, float]:
    """Bytes that one device sends in a step, by mesh axis."""
    sizes, item = run.mesh.shape, jnp.dtype(run.task.model.dtype).itemsize
    share = {axis: (size - 1) / size for axis, size in sizes.items()}
    parts, found = microbatches(run), towers(run)
    owner = {path: next((t for t in found if path.startswith(f"{t.part}/")), None) for path in run.shardings}
    sent = dict.fromkeys(("data", "fsdp", "tensor"), 0.0)
    for path, sharding in run.shardings.items():
        local = math.prod(sharding.shard_shape(run.skeleton.shapes[path].shape))
        trained = run.decisions[path].trained
        if "fsdp" in sharding.spec:
            whole = local * sizes["fsdp"]
            sent["fsdp"] += share["fsdp"] * whole * parts * (item * _gathers(run, owner[path], trained) + 4 * trained)
        elif trained:  # whole on every device of `fsdp`
            sent["fsdp"] += 2 * share["fsdp"] * item * local
        sent["data"] += 2 * share["data"] * item * local * trained
    for tower in found:
        rows = tower.sequences / batch_shards(run.mesh)
        again = tower.remat == "full" or _twice(run)
        passes = 1 + tower.through * (1 + again)
        sent["tensor"] += 2 * passes * tower.depth * rows * tower.tokens * tower.width * item * 2 * share["tensor"]
    return sent


def _gathers(run: Run, tower: Tower | None, trained: bool) -> int:
    """How often a micro-batch needs a weight whole."""
    through = trained if tower is None else tower.through
    return 1 + through + (through and _twice(run))


def _twice(run: Run) -> bool:
    """Whether a step runs its towers once without keeping anything but embeddings."""
    return run.task.couples_rows and microbatches(run) > 1
