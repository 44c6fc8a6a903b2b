"""How fast a step can be at best, and what bounds it.

Three clocks run at once: multiplications at the chips' peak, bytes to and from HBM, bytes over the links. No step is faster
than the slowest of them (`bound`); one that hides nothing takes their sum (`exposed`). Assumed:

    compute   model FLOPs by formula, and what rematerialisation and micro-batches of a contrastive loss do again
    memory    the state is read and written once; activations stay in the chip's vector memory. A lower bound
    links     ring algorithms over all links of a chip in one direction; between slices, a chip's share of the network
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses

from mof_jax.hardware import Topology
from mof_jax.plan.collectives import Collective, axes_of
from mof_jax.plan.program import Memory
from mof_jax.plan.towers import microbatches, towers
from mof_jax.run import Run


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step, were each the only thing to do.

    Attributes:
      model_flops: of a step. recomputed: FLOPs that are done again. peak: of all chips, FLOP/s.
    """

    compute: float
    memory: float
    ici: float
    dcn: float
    model_flops: float
    recomputed: float
    peak: float

    @property
    def bound(self) -> float:
        """The slowest clock."""
        return max(self.compute, self.memory, self.ici, self.dcn)

    @property
    def exposed(self) -> float:
        """With nothing hidden behind anything."""
        return max(self.compute, self.memory) + self.ici + self.dcn

    @property
    def limit(self) -> str:
        """The name of the slowest clock."""
        return max(("compute", "memory", "ici", "dcn"), key=lambda name: getattr(self, name))

    def mfu(self, seconds: float) -> float:
        """Share of the peak that the model's own FLOPs take in a step of `seconds` seconds."""
        return self.model_flops / self.peak / seconds


def roofline(run: Run, topology: Topology, memory: Memory, sent: Sequence[Collective]) -> Roofline:
    """The clocks of a compiled step."""
    flops = run.flops()
    model, again = sum(flops.values()), recomputed(run, flops)
    chip, sizes = topology.chip, dict(run.mesh.shape)
    inside, between = 0.0, 0.0
    for c in sent:
        if topology.slices > 1 and "data" in axes_of(c.groups, sizes) and crosses(c, topology):
            between += c.sent
        else:
            inside += c.sent
    each = chip.devices
    peak = topology.chips * chip.flops
    return Roofline(
        (model + again) / peak, (memory.arguments + memory.outputs) / (chip.hbm_bandwidth / each), inside / (chip.ici / each),
        between / (chip.dcn / each), model, again, peak)


def crosses(c: Collective, topology: Topology) -> bool:
    """Whether a collective's groups hold devices of several slices: slice s has the s-th part of the devices."""
    if c.groups is None:
        return topology.slices > 1
    slice_of = c.groups // (topology.devices // topology.slices)
    return bool((slice_of != slice_of[:, :1]).any())


def recomputed(run: Run, flops: Mapping[str, float]) -> float:
    """FLOPs done again: the forward pass of parts that a gradient runs through and whose layers are rematerialised (of those that
    keep their matrices' results, attention alone), and of the towers of a contrastive loss in micro-batches, which keeps their
    embeddings alone."""
    again, counted = 0.0, set()
    micro = run.task.couples_rows and microbatches(run) > 1
    for tower in towers(run):
        if not tower.through:
            continue
        # Weights, their gradients and those of what they were multiplied with cost the same; a frozen part lacks the second.
        forward = flops[tower.part] / (3 if tower.trained else 2)
        if tower.part not in counted:  # FLOPs are of a part, which may be run at two lengths
            again += forward * ((tower.remat == "full") + micro)
        again += tower.sequences * tower.attention * (tower.remat == "dots")
        counted.add(tower.part)
    return again
