"""Collectives read from the text of a program: kinds, bytes, how often, and which axis of the mesh they cross."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from mof_jax.hardware import Topology
from mof_jax.mesh import MeshConfig, make_mesh
from mof_jax.plan.collectives import Collective, axes_of, read
from mof_jax.plan.roofline import crosses

LAYERS, ROWS, WIDTH = 6, 16, 32

# As the TPU's compiler prints it: layouts with tiles, iota groups, a loop that says its trips, an asynchronous pair.
TPU = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  ROOT %s = f32[]{:T(128)} add(%x, %y)
}

%body (arg: (s32[], bf16[64,256])) -> (s32[], bf16[64,256]) {
  %ag = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=1, replica_groups=[4,8]<=[8,4]T(1,0), dimensions={0}
  %rs-start = ((bf16[64,256]{1,0}), bf16[8,256]{1,0}) reduce-scatter-start(%ag), channel_id=2, replica_groups=[4,8]<=[8,4]T(1,0)
  ROOT %t = (s32[], bf16[64,256]{1,0}) tuple(%i, %ag)
}

%cond (arg: (s32[], bf16[64,256])) -> pred[] {
  %n = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%all-reduce-scatter.3 (p: bf16[64,256]) -> bf16[8,256] {
  %all-reduce.7 = bf16[64,256]{1,0:T(8,128)(2,1)} all-reduce(%p), channel_id=7, replica_groups=[4,8]<=[32], to_apply=%add
  ROOT %slice = bf16[8,256]{1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.7, %i, %z), dynamic_slice_sizes={8,256}
}

%async_computation (p: f32[10]) -> f32[80] {
  ROOT %all-gather.9 = f32[80]{0} all-gather(%p), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}

ENTRY %main_spmd (p0: bf16[8,256]) -> f32[] {
  %w = (s32[], bf16[64,256]{1,0}) while(%init), condition=%cond, body=%body, metadata={op_name="while"}
  %ars = bf16[8,256]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.3
  %s = ((f32[10]), f32[80]) async-start(%p1), calls=%async_computation
  %u = ((f32[10]), f32[80]) async-update(%s), calls=%async_computation
  %d = f32[80] async-done(%u), calls=%async_computation
  %ar = (f32[100]{0}, f32[28]{0}) all-reduce(%a, %b), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %cp = bf16[4,4]{1,0} collective-permute(%c), channel_id=4, source_target_pairs={{0,1},{1,0}}
  ROOT %r = f32[] constant(0)
}
"""


def test_loops_bytes_and_groups_of_a_tpu_program():
    by = {(c.kind, c.computation): c for c in read(TPU, 32)}
    gather = by["all-gather", "body"]
    assert (gather.times, gather.bytes, gather.groups.shape) == (24, 64 * 256 * 2, (4, 8))
    assert gather.groups[0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert gather.sent == 24 * 64 * 256 * 2 * 7 / 8
    scatter = by["reduce-scatter", "body"]
    assert (scatter.times, scatter.bytes) == (24, 64 * 256 * 2)
    fused = by["reduce-scatter", "all-reduce-scatter.3"]
    assert (fused.bytes, fused.sent) == (64 * 256 * 2, 64 * 256 * 2 * 7 / 8)
    assert by["all-gather", "async_computation"].times == 1
    reduce = by["all-reduce", "main_spmd"]
    assert (reduce.times, reduce.bytes, reduce.sent) == (1, 512, 2 * 512 * 3 / 4)
    permute = by["collective-permute", "main_spmd"]
    assert (permute.bytes, permute.sent, permute.groups.tolist()) == (32, 32, [[0, 1], [1, 0]])
    assert len(by) == 6


def test_axes_by_the_places_of_a_group():
    sizes = {"data": 2, "fsdp": 4, "tensor": 2}
    devices = np.arange(16).reshape(2, 4, 2)
    assert axes_of(devices[:, 0, :1].T, sizes) == ("data",)
    assert axes_of(devices[0].T.reshape(2, 4), sizes) == ("fsdp",)
    assert axes_of(devices.transpose(1, 0, 2).reshape(4, 4), sizes) == ("data", "tensor")
    assert axes_of(None, sizes | {"fsdp": 1}) == ("data", "tensor")


def test_of_a_program_of_ours_on_eight_devices():
    """Scanned layers whose weights are split over `fsdp`: one gather a layer, one reduction of the loss over the batch."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))

    def loss(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    found = read(jax.jit(loss).lower(weights, x).compile().as_text(), 8)
    sizes = dict(mesh.shape)
    gathers = [c for c in found if c.kind == "all-gather"]
    assert sum(c.times * c.bytes for c in gathers) == LAYERS * WIDTH * WIDTH * 4
    assert {axes_of(c.groups, sizes) for c in gathers} == {("fsdp",)}
    reduces = [c for c in found if c.kind == "all-reduce"]
    assert [axes_of(c.groups, sizes) for c in reduces] == [("data", "fsdp")] and reduces[0].bytes == 4


def test_a_loop_that_says_its_trips_and_one_that_does_not():
    said = TPU.replace('metadata={op_name="while"}', 'backend_config={"known_trip_count":{"n":"7"}}')
    assert {c.times for c in read(said, 32) if c.computation == "body"} == {7}
    with pytest.raises(ValueError, match="the loop with condition cond does not say how often"):
        read(TPU.replace("constant(24)", "parameter(1)"), 32)


def test_no_program():
    with pytest.raises(ValueError, match="no ENTRY"):
        read("HloModule x", 8)


def test_sent_of_one_device_alone():
    assert Collective("all-gather", 3, 100, np.array([[0]]), "main").sent == 0


FUSED = """HloModule jit_step, is_scheduled=true

%fused_computation.1 (p: bf16[8,256]) -> bf16[64,256] {
  ROOT %ag.1 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=5, replica_groups=[4,8]<=[32], dimensions={0}
}

%async_collective_fusion.2 (p: bf16[8,256]) -> bf16[64,256] {
  ROOT %ag.2 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=5, replica_groups=[4,8]<=[32], dimensions={0}
}

%inner (arg: (s32[], bf16[8,256])) -> (s32[], bf16[8,256]) {
  %carried = bf16[64,256]{1,0:T(8,128)(2,1)} fusion(%p), kind=kCustom, calls=%async_collective_fusion.2
}

%few (arg: (s32[], bf16[8,256])) -> pred[] {
  %n = s32[]{:T(128)} constant(16)
}

%fused_computation.3 (p: bf16[8,256]) -> bf16[64,256] {
  ROOT %ag.3 = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%p), channel_id=5, replica_groups=[4,8]<=[32], dimensions={0}
}

ENTRY %main (p: bf16[8,256]) -> bf16[64,256] {
  %begun = bf16[64,256]{1,0:T(8,128)(2,1)} fusion(%p), kind=kCustom, calls=%fused_computation.1
  %loop = (s32[], bf16[8,256]{1,0}) while(%t), condition=%few, body=%inner
  %other = bf16[64,256]{1,0:T(8,128)(2,1)} all-gather(%q), channel_id=6, replica_groups=[4,8]<=[32], dimensions={0}
  ROOT %done = bf16[64,256]{1,0:T(8,128)(2,1)} fusion(%p), kind=kCustom, calls=%fused_computation.3
}
"""


def test_one_that_runs_beside_other_work_counts_once():
    """It is begun in one fusion, carried on in a loop of sixteen, and ended in a third."""
    assert [(x.kind, x.times, x.bytes) for x in read(FUSED, 32)] == [("all-gather", 1, 2 * 64 * 256)] * 2


SLICES = """HloModule jit_step

body {
  %x = f32[] parameter(0)
  %send.1 = (bf16[8,128]{1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %t), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.5_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv.1 = (bf16[8,128]{1,0:T(8,128)(2,1)}, u32[], token[]) recv(%t), channel_id=1, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}
}

cond {
  %i = s32[] parameter(0)
}

ENTRY main {
  %p = f32[64]{0} parameter(0)
  %w = f32[] while(%p), condition=cond, body=body, backend_config={"known_trip_count":{"n":"3"}}
  %send.2 = (f32[64]{0}, u32[], token[]) send(%p, %t), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_GATHER"}
  %send.3 = (f32[64]{0}, u32[], token[]) send(%p, %t), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target={{100->200}},_xla_megascale_transfer_type="ONE_TO_ONE"}
  %send.4 = (f32[64]{0}, u32[], token[]) send(%p, %t), channel_id=5, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="debug"}
}
"""  # noqa: E501  as the compiler prints it


def test_what_crosses_slices_is_sent_to_the_network():
    """Two slices of four: a reduction in a loop, a gather, an exchange; what a host is sent for another reason is none."""
    found = {c.kind: c for c in read(SLICES, 8, 2)}
    assert {kind: (c.times, c.bytes, c.sent) for kind, c in found.items()} == {
        "all-reduce": (3, 8 * 128 * 2, 3 * 8 * 128 * 2), "all-gather": (1, 2 * 64 * 4, 64 * 4),
        "collective-permute": (1, 64 * 4, 64 * 4)}
    for c in found.values():
        assert crosses(c, Topology.parse("2*v5e:2x2")) and axes_of(c.groups, dict(data=4, fsdp=2)) == ("data",)
        assert c.groups.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
