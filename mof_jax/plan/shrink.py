"""A run made small enough to compile in seconds, that is still the same program on each device.

What stays: widths, heads, sequence lengths, micro-batches, kernels, rematerialisation, the generation and the number of slices;
the rows on a device, but of packed rows one a micro-batch, with one picture. What shrinks: towers to two layers, the slices to a
few chips, each axis of the mesh that was split to a smaller split. The batch follows the mesh.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

from mof_jax.data.packing.sequence_pipeline import SequenceConfig
from mof_jax.hardware import Topology
from mof_jax.mesh import BATCH_AXES, abstract_mesh
from mof_jax.models.connectors.connector import Connector
from mof_jax.models.mllm import EncoderConfig
from mof_jax.run import RunConfig

LAYERS, DEVICES = 2, 8
C = TypeVar("C")


def shrink(config: RunConfig, topology: Topology) -> tuple[RunConfig, Topology]:
    """(config, slices) of the small form.

    Raises:
      UserError: the mesh does not cover the slices.
    """
    full = dict(abstract_mesh(config.mesh, topology.devices).shape)
    small = small_topology(topology, max(DEVICES, 2 ** sum(size > 1 for size in full.values())))
    mesh = small_mesh(full, small.devices, topology.slices)
    shards = lambda sizes: math.prod(sizes[a] for a in BATCH_AXES)
    rows, data = config.batch_size // shards(full), config.data
    # Long rows and many images fill the memory: a compiler that has to make room takes minutes.
    if isinstance(data, SequenceConfig):
        rows, pictures = min(rows, config.microbatches), min(data.images_per_stream, 1)
        data = dataclasses.replace(data, rows_per_stream=1, images_per_stream=pictures, max_images=pictures)
    return dataclasses.replace(config, model=shallow(config.model), data=data, batch_size=rows * shards(mesh),
                               mesh=dataclasses.replace(config.mesh, **mesh)), small


def small_topology(topology: Topology, devices: int) -> Topology:
    """As many slices of the same generation, the smallest on offer that have `devices` devices together; never larger than it."""
    chip = topology.chip
    shapes = [tuple(map(int, shape.split("x"))) for shape in chip.shapes]
    enough = [shape for shape in shapes if math.prod(shape) * chip.devices * topology.slices >= devices]
    shape = min(enough, key=math.prod)
    return topology if math.prod(shape) >= math.prod(topology.shape) else dataclasses.replace(topology, shape=shape)


def small_mesh(sizes: dict[str, int], devices: int, slices: int = 1) -> dict[str, int]:
    """The mesh on fewer devices: an axis of 1 stays 1, every other keeps at least 2, and those that were cut most grow first.

    Args:
      sizes: of the full mesh, powers of two or not. devices: a power of two, as are slices; `data` keeps a part for each.
    """
    small = {name: min(size, 2) for name, size in sizes.items()}
    small["data"] = max(small["data"], slices)
    while math.prod(small.values()) < devices:
        open_ = [name for name, size in sizes.items() if 2 * small[name] <= size]
        if not open_:
            break
        small[max(open_, key=lambda name: sizes[name] / small[name])] *= 2
    return small


def shallow(config: C) -> C:
    """A model's config with two layers in every stack: every field called `depth` or `…_depth`. A connector, whose layers are no
    stack and each compiled, keeps one of each kind."""
    if isinstance(config, Connector):
        return _cut(config, 1)
    if isinstance(config, EncoderConfig):  # whose feature may come from a block below the last
        return dataclasses.replace(config, vit=_cut(config.vit, LAYERS - 1 - config.layer))
    return _cut(config, LAYERS)


def _cut(config: Any, layers: int) -> Any:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "depth" or field.name.endswith("_depth"):
            changes[field.name] = min(value, layers)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = shallow(value)
        elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
            changes[field.name] = tuple(map(shallow, value))
    return dataclasses.replace(config, **changes)
