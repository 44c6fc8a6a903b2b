"""A run's training step, compiled for slices that are not here.

The step is the one that `mof train` runs: same task, same rules, same mesh, from shapes instead of arrays. Needs libtpu, the
compiler, and no TPU: `pip install mof_jax[plan]`.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import importlib.util
import math
import os
import re
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import Mesh

from mof_jax import tasks
from mof_jax.errors import UserError
from mof_jax.hardware import Topology
from mof_jax.mesh import batch_sharding, check_batch, make_mesh
from mof_jax.plan.cache import FOLDER, cached, key_of
from mof_jax.plan.cost import vocabulary
from mof_jax.run import Program, Run, RunConfig

_OOM = re.compile(r"(Used |HLO temporaries \()([\d.]+)([KMGT])\b")
_PLACE = r"^.*(site-packages/|(?=mof_jax/))"
# The last four take up to a third of the rest (tpu7x): LLVM for what its SparseCores would do, and a search for better shuffles.
_QUICK = {"exec_time_optimization_effort": -1.0, "memory_fitting_effort": -1.0, "xla_jf_xlu_optimizer": False,
          **{f"xla_tpu_enable_sparse_core_collective_offload_{kind}": False
             for kind in ("all_gather", "all_reduce", "reduce_scatter")}}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs.

    Attributes:
      arguments: state and batch. outputs: the new state. aliased: outputs that lie where their arguments lay.
      temporaries: everything else: gradients, activations, what is gathered.
    """

    arguments: float
    outputs: float
    aliased: float
    temporaries: float

    @property
    def used(self) -> float:
        return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step for a topology.

    Attributes:
      memory: None for a step that does not fit; then `needed` says how many bytes it wants, where the compiler does.
      text: of the optimised program, empty for one that does not fit. seconds: of tracing and compiling.
      key: of the program, see `plan.cache.key_of`. fault: what the compiler said where it failed at the program for another
        reason than its size, as it does now and then for one mesh and not for its neighbour.
    """

    run: Run
    program: Program
    memory: Memory | None
    needed: float | None
    text: str
    seconds: float
    key: str
    fault: str = ""


def devices(topology: Topology) -> list[Any]:
    """The devices of slices that are not here.

    Raises:
      UserError: no compiler is installed, or it knows no such slice.
    """
    # There is no metadata server to ask; and several plans may be made side by side.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    several = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.slice, **several).devices)
    except Exception as error:  # noqa: BLE001  JaxRuntimeError, RuntimeError, NotImplementedError
        reason = str(error).strip().splitlines()[0][:200]
        if importlib.util.find_spec("libtpu") is None:
            raise UserError("a plan is made by the TPU's compiler, which is not installed: pip install 'mof_jax[plan]'") from None
        raise UserError(f"topology {topology}: the compiler has no such slice ({reason})") from None


def lower(config: RunConfig, mesh: Mesh) -> tuple[Run, Program, Any]:
    """(run, program, its step lowered) for a mesh, from shapes alone.

    Raises:
      UserError: a batch or a dimension that the mesh does not divide.
    """
    words = vocabulary(config)
    run = Run(config, words, mesh=mesh)
    check_batch(mesh, config.batch_size, config.microbatches, run.task.rows)
    shapes = tasks.shapes(config, words.context_length)
    cursor = shapes.get("cursor")
    program = Program.of(run, None if cursor is None else jnp.zeros(cursor.shape, cursor.dtype))
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    rows = batch_sharding(mesh)
    batch = {name: place(x, rows) for name, x in shapes.items()}
    with _placeless(), jax.default_matmul_precision(config.precision):
        return run, program, program.step.lower(jax.tree.map(place, program.state, program.shardings), batch)


@contextlib.contextmanager
def _placeless() -> Iterator[None]:
    """Kernels carry the path of their source in the program: the same one in another environment would be another program."""
    before = jax.config.jax_hlo_source_file_canonicalization_regex
    jax.config.update("jax_hlo_source_file_canonicalization_regex", _PLACE)
    try:
        yield
    finally:
        jax.config.update("jax_hlo_source_file_canonicalization_regex", before)


def compile_step(config: RunConfig, topology: Topology, cache: str | None = FOLDER, quick: bool = False) -> Compiled:
    """The step of a run on a topology.

    Args:
      cache: folder of what was compiled before, None for none.
      quick: with as little optimisation as the compiler can do with, in a seventh of the time: to see whether it compiles.
    """
    options = _QUICK if quick else {}
    begun = time.perf_counter()
    run, program, lowered = lower(config, make_mesh(config.mesh, devices(topology)))

    def compiled() -> dict[str, Any]:
        try:
            executable = lowered.compile(compiler_options=options or None)
        except jax.errors.JaxRuntimeError as error:
            text = str(error)
            if "RESOURCE_EXHAUSTED" not in text:
                return {"memory": None, "needed": None, "text": "", "fault": text.strip().splitlines()[0][:300]}
            return {"memory": None, "needed": _needed(text, sum(state_bytes(program).values())), "text": ""}
        m = executable.memory_analysis()
        sizes = (m.argument_size_in_bytes, m.output_size_in_bytes, m.alias_size_in_bytes, m.temp_size_in_bytes)
        return {"memory": sizes, "needed": None, "text": executable.as_text()}

    key = key_of(lowered.as_text(), topology, options)
    found = cached(key, compiled, cache)
    memory = None if found["memory"] is None else Memory(*found["memory"])
    return Compiled(run, program, memory, found["needed"], found["text"], time.perf_counter() - begun, key,
                    found.get("fault", ""))


def state_bytes(program: Program) -> dict[str, float]:
    """Bytes of the state on one device by part, from shapes and shardings alone."""
    found = {}
    for name in ("params", "frozen", "opt", "ema"):
        leaves = zip(jax.tree.leaves(getattr(program.state, name)), jax.tree.leaves(getattr(program.shardings, name)))
        found[name] = sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in leaves)
    return found


def _needed(message: str, state: float) -> float | None:
    """Bytes that the compiler's refusal names: of everything, or of the temporaries, beside which the state lies."""
    found = _OOM.search(message)
    return found and float(found[2]) * _UNITS[found[3]] + (state if "temporaries" in found[1] else 0)
