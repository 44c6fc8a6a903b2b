"""The device mesh, and how parameters and batches are laid out on it.

Three axes always exist, of size 1 where unused: `data` (replicas), `fsdp` (replicas whose parameters are split between them)
and `tensor` (one layer's work split). The batch is spread over data × fsdp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
from typing import Annotated, ParamSpec, TypeVar

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int
import numpy as np

from mof_jax.errors import UserError
from mof_jax.nn.module import Axes, Skeleton
from mof_jax.ranges import Range

Inputs, Output = ParamSpec("Inputs"), TypeVar("Output")

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# Logical dimension -> mesh axis. One table a submodule (by path prefix) can replace entries of it.
LOGICAL = {"embed": "fsdp", "mlp": "tensor", "heads": "tensor", "vocab": "tensor"}


Size = Annotated[int, Range(-1)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 (at most one) takes what is left of the devices.

    Attributes:
      rules: logical axis -> mesh axis (or None), by path prefix: `{"text": {"embed": None}}` replicates the text tower's
        embedding dimension; the prefix "" is everything.
    """

    data: Size = -1
    fsdp: Size = 1
    tensor: Size = 1
    rules: dict[str, dict[str, str | None]] = dataclasses.field(default_factory=dict)


def make_mesh(config: MeshConfig = MeshConfig(), devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices (or the given ones).

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(_arranged(_sizes(config, len(devices)), devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(config: MeshConfig, devices: int) -> AbstractMesh:
    """`make_mesh` of a number of devices that are not here.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    return AbstractMesh(_sizes(config, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Of the axes, the one that is -1 filled in."""
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise UserError(f"config.mesh: sizes are positive, one may be -1; got {dict(zip(AXES, sizes))}")
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes and devices % known == 0:
        sizes[sizes.index(-1)] = devices // known
    if math.prod(sizes) != devices:
        raise UserError(f"config.mesh: {dict(zip(AXES, sizes))} does not cover {devices} devices")
    return tuple(sizes)


def _arranged(sizes: Sequence[int], devices: list[jax.Device]) -> np.ndarray:
    """Devices in the shape of a mesh, neighbours of an axis near each other in the torus; the network between slices is crossed
    by the `data` axis only.

    Raises:
      UserError: the slices do not divide `data`.
    """
    if devices[0].platform != "tpu":
        return np.asarray(devices).reshape(sizes)
    slices = len({getattr(d, "slice_index", 0) for d in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise UserError(f"config.mesh.data: {sizes[0]} is not divisible by {slices} slices; only `data` is split between them")
    return mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]), (slices, 1, 1), devices, allow_split_physical_axes=True)


def on_mesh(mesh: Mesh, function: Callable[Inputs, Output]) -> Callable[Inputs, Output]:
    """`function`, to be jitted, traced with the mesh in context: a kernel that XLA cannot partition splits its work by it.

    Only while tracing. `jax.set_mesh` around the caller would also spread its every small operation over all devices.
    """

    @functools.wraps(function)
    def traced(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the global batch is split."""
    return math.prod(mesh.shape[a] for a in BATCH_AXES)


def check_batch(mesh: Mesh, batch_size: int, microbatches: int = 1, together: int = 1) -> None:
    """Refuses a global batch that the mesh and the accumulation do not divide.

    Args:
      together: rows that share a buffer of pictures; they stay on one shard and in one micro-batch.
    """
    if batch_size % (batch_shards(mesh) * microbatches * together):
        raise UserError(
            f"config.batch_size: {batch_size} is not divisible by {batch_shards(mesh)} batch shards (data × fsdp)"
            + (f" × {microbatches} micro-batches" if microbatches > 1 else "")
            + (f" × {together} rows a stream" if together > 1 else ""))


def split_rows(x: Array, steps: int, shards: int) -> Array:
    """[rows, …] as [steps, rows / steps, …]. Part i is the i-th part of every shard's own rows: none moves between devices."""
    x = x.reshape(shards, steps, x.shape[0] // (shards * steps), *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(steps, -1, *x.shape[3:])


def part_of_rows(x: Array, i: Int[Array, ""], steps: int, shards: int) -> Array:
    """`split_rows(x, steps, shards)[i]`, without the others."""
    rows = x.shape[0] // (shards * steps)
    part = jax.lax.dynamic_slice_in_dim(x.reshape(shards, rows * steps, *x.shape[1:]), i * rows, rows, axis=1)
    return part.reshape(shards * rows, *x.shape[1:])


def join_rows(x: Array, shards: int) -> Array:
    """The inverse of `split_rows`."""
    steps = x.shape[0]
    x = x.reshape(steps, shards, -1, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(-1, *x.shape[3:])


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data × fsdp."""
    return NamedSharding(mesh, P(BATCH_AXES))


def by_rows(x: Array) -> Array:
    """`x`, its rows over data × fsdp and whole otherwise: how activations are to lie.

    Without it XLA may spread them as the parameters that they come from: an embedding whose width is split over fsdp then gives
    every device all rows and a slice of the width. Outside of a mesh, and for rows that it does not divide, nothing is asked for.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or x.shape[0] % math.prod(mesh.shape[a] for a in BATCH_AXES):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from this process's rows of a batch."""
    sharding = batch_sharding(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def fetch(x: jax.Array) -> np.ndarray:
    """All of a global array on this host, whichever processes hold its parts; every process has to call."""
    if x.is_fully_addressable:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def param_shardings(
    mesh: Mesh, skeleton: Skeleton, rules: Mapping[str, Mapping[str, str | None]] | None = None
) -> dict[str, NamedSharding]:
    """Where each parameter lives.

    Raises:
      UserError: a dimension is not divisible by its mesh axis, or a rule names an axis the mesh lacks.
    """
    return {
        path: NamedSharding(mesh, _spec(mesh, path, shape.shape, skeleton.axes[path], _table(path, rules or {})))
        for path, shape in skeleton.shapes.items()
    }


def _table(path: str, rules: Mapping[str, Mapping[str, str | None]]) -> dict[str, str | None]:
    table = dict(LOGICAL)
    for prefix in sorted(rules, key=len):  # the longest prefix has the last word
        if path.startswith(prefix):
            table.update(rules[prefix])
    return table


def _spec(mesh: Mesh, path: str, shape: tuple[int, ...], axes: Axes, table: Mapping[str, str | None]) -> P:
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)  # leading dimensions of a layer stack are not split
    entries: list[str | None] = []
    for size, logical in zip(shape, axes):
        axis = table.get(logical) if logical else None
        if axis is not None and axis not in mesh.shape:
            raise UserError(f"config.mesh.rules: {logical!r} is mapped to {axis!r}; the mesh has {', '.join(AXES)}")
        if axis in entries:
            axis = None  # a mesh axis splits one dimension of an array at most
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"config.mesh: {path} has {size} {logical} entries, not divisible by {axis}={mesh.shape[axis]}; "
                f"map {logical!r} elsewhere in config.mesh.rules or change the mesh")
        entries.append(axis)
    return P(*entries)
