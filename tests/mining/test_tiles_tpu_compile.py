"""The sweep compiled for a slice of eight TPUs that is not here. Needs libtpu: `pip install -e .[plan]`."""

from __future__ import annotations

import importlib.util
import os

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
import numpy as np
import pytest

from mof_jax.mesh import AXES, batch_sharding, replicated
from mof_jax.mining.tiles import Grid, make_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]"),
]

PANEL, WIDTHS = 8 * 32 * 2048, (768, 1024)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_device_holds_its_own_rows_and_those_on_the_way(symmetric):
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")  # there is no metadata server to ask
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    mesh = Mesh(np.array(devices).reshape(8, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    abstract = lambda shape, dtype, sharding: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    panel = tuple(abstract((PANEL, width), jnp.bfloat16, batch_sharding(mesh)) for width in WIDTHS)
    few = abstract((len(WIDTHS),), jnp.float32, replicated(mesh)), abstract((4,), jnp.int32, replicated(mesh))
    compiled = make_sweep(mesh, Grid(2048, 32, 2**18)).lower(panel, panel, *few, symmetric).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    held = PANEL // 8 * sum(WIDTHS) * 2
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes < 4.2 * held, "columns twice while they travel, no more"
    assert "collective-permute" in text and "all-gather" not in text and "all-reduce" not in text
