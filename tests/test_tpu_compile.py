"""A training step compiled for a slice of eight TPUs that is not here. Needs libtpu: `make test-plan`."""

from __future__ import annotations

import importlib.util
import os
import re

import jax
from jax.experimental import mesh_utils, topologies
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh
import pytest

from mof_jax.mesh import AXES, batch_sharding, on_mesh, param_shardings, replicated
from mof_jax.models.connectors.projector import MlpConnector
from mof_jax.models.fusion.interleaved import Interleaved
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.next_token import NextToken
from mof_jax.tasks.mllm import MllmTask
from mof_jax.train.optim import OptimizerConfig, decide, make_optimizer
from mof_jax.train.state import init_fn, state_shardings
from mof_jax.train.step import make_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e .[plan]"),
]

# Numbers that occur nowhere else in the program, so that a shape says what it is.
STREAMS, ROWS, PICTURES, CONTEXT, VOCAB, CHUNK = 4, 2, 4, 1280, 6400, 320
PATCHES = 16 * 16 + 1


@pytest.fixture(scope="module")
def mesh():
    """Data 2 × fsdp 2 × tensor 2 on v5e:2x4."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")  # there is no metadata server to ask
    slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
    devices = mesh_utils.create_device_mesh((2, 2, 2), slice_.devices, allow_split_physical_axes=True)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def lowered(mesh, with_mesh: bool = True):
    """I-MoF of two frozen encoders, packed rows, bfloat16, splash attention everywhere."""
    vit = ViTConfig(width=256, depth=2, heads=4, mlp_dim=512, patch_size=14, image_size=224, kernel="splash")
    llm = LLMConfig(vocab_size=VOCAB, width=512, depth=2, heads=4, kv_heads=2, mlp_dim=768, kernel="splash", remat="full")
    model = MllmConfig((EncoderConfig("clip", vit, layer=-2), EncoderConfig("dino", vit)), llm, Interleaved(),
                       MlpConnector(), dtype="bfloat16")
    task = MllmTask(model, NextToken(block_size=CHUNK), mesh, context=CONTEXT, rows=ROWS, images=PICTURES)
    skeleton = Skeleton.of(task.build)
    config = OptimizerConfig(freeze=(("encoders/.*", True),))
    decisions = decide(config, skeleton)
    tx = make_optimizer(config, 100, decisions, skeleton.matrices)
    init = init_fn(task.build, {path: d.trained for path, d in decisions.items()}, tx, False)
    abstract = jax.eval_shape(init, jax.random.key(0))
    shardings, rows = state_shardings(mesh, abstract, param_shardings(mesh, skeleton)), batch_sharding(mesh)
    place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    grid = jax.ShapeDtypeStruct((STREAMS * ROWS, CONTEXT), jnp.int32, sharding=rows)
    batch = {name: grid for name in ("tokens", "segment_ids", "positions", "image_index")} | {
        "loss_weight": jax.ShapeDtypeStruct(grid.shape, jnp.float32, sharding=rows),
        "images": jax.ShapeDtypeStruct((STREAMS * PICTURES, 224, 224, 3), jnp.uint8, sharding=rows)}
    step = make_step(task, skeleton, tx, 0, mesh=mesh)
    jitted = jax.jit(on_mesh(mesh, step) if with_mesh else step, donate_argnums=0, in_shardings=(shardings, rows),
                     out_shardings=(shardings, replicated(mesh)))
    return jitted.lower(jax.tree.map(place, abstract, shardings), batch)


def test_a_packed_step_runs_splash_on_every_device_and_keeps_no_large_array(mesh):
    text = lowered(mesh).compile().as_text()
    # Forward in both encoders; in the language model forward, again when it is recomputed, and both halves of the backward pass.
    assert text.count('custom_call_target="tpu_custom_call"') == 6
    shapes = [tuple(map(int, sizes.split(","))) for sizes in set(re.findall(r"[a-z]+\d+\[([\d,]+)\]", text))]
    logits = [s for s in shapes if set(s) & {VOCAB, VOCAB // 2} and set(s) & {CONTEXT, ROWS * CONTEXT, ROWS * CONTEXT * STREAMS}]
    assert not logits, f"logits of whole rows: {logits}"
    part = VOCAB // 2 * CHUNK // CONTEXT
    assert any(part in s and set(s) & {CONTEXT, CONTEXT * ROWS} for s in shapes), "a quarter of the words that a device has"
    for tokens in (CONTEXT, PATCHES, 384):  # 384: the patches, padded to whole blocks
        assert not [s for s in shapes if s[-2:] == (tokens, tokens)], "attention scores"


def test_without_the_mesh_in_context_it_does_not_compile(mesh):
    with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
        lowered(mesh, with_mesh=False)
