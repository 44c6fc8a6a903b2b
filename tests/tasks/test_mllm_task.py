"""The multimodal task on packed pages with pictures: sharding, scan, remat and accumulation change nothing; FLOPs by formula."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from small_models import launch_task, loss_of

from mof_jax.data.packing.packer import Packer, Shape, State
from mof_jax.data.packing.sequences import Sample
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, check_batch, make_mesh
from mof_jax.models.connectors.c_abstractor import CAbstractor
from mof_jax.models.connectors.projector import MlpConnector
from mof_jax.models.fusion import FUSIONS
from mof_jax.models.llm import LLMConfig
from mof_jax.models.mllm import EncoderConfig, MllmConfig
from mof_jax.models.vit import ViTConfig
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.next_token import NextToken
from mof_jax.tasks.mllm import MllmTask
from mof_jax.train.optim import OptimizerConfig, decide
from mof_jax.train.schedule import ScheduleConfig

STREAMS, ROWS, PICTURES, CONTEXT, VOCAB, TOKENS = 8, 2, 4, 32, 24, 8  # TOKENS: positions a picture takes, 2 encoders × 2 × 2
VIT = ViTConfig(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=8, pool="none", dropout=0.2)
LANGUAGE = LLMConfig(vocab_size=VOCAB, width=16, depth=2, heads=4, kv_heads=2, mlp_dim=24, dropout=0.1)


def task(mesh=None, z_loss=1e-2, **layers):
    """I-MoF of two encoders; `layers` are settings of every stack."""
    vit, llm = dataclasses.replace(VIT, **layers), dataclasses.replace(LANGUAGE, **layers)
    model = MllmConfig((EncoderConfig("clip", vit), EncoderConfig("ssl", vit, layer=-2)), llm, FUSIONS["interleaved"]())
    objective = NextToken(block_size=12, z_loss=z_loss)
    return MllmTask(model, objective, mesh, context=CONTEXT, rows=ROWS, images=PICTURES)


def batch(streams=STREAMS, context=CONTEXT, tokens=TOKENS, size=8, vocab=VOCAB, seed=0):
    """Pages of 3 to 26 positions with up to two pictures, as the packer packs them."""
    rng = np.random.default_rng(seed)
    pixels = lambda count: tuple(rng.integers(0, 256, (size, size, 3), np.uint8) for _ in range(count))

    def page(*_):
        pictures = rng.choice([0, 1, 1, 2])
        length = pictures * tokens + rng.integers(3, 11)
        starts = tuple(int(start) for start in np.arange(pictures) * tokens + np.sort(rng.integers(0, 3, pictures)))
        supervised = np.ones(length, bool)
        for start in (0, *starts):
            supervised[start:start + (tokens if start in starts else 1)] = False
        supervised[0] = False
        return Sample("page", rng.integers(1, vocab, length).astype(np.int32), supervised, starts, pixels(pictures), tokens)

    shape = Shape(ROWS, context, PICTURES, tokens, size, pad_id=0, carry=8, lookahead=6)
    steps = [Packer(shape, [1.0], page, State.fresh(1)).next().arrays for _ in range(streams)]
    rows = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
    return {name: x for name, x in rows.items() if name not in ("cursor", "kind_tokens", "image_valid")}


def test_the_batch_is_one_that_could_go_wrong():
    rows = batch()
    assert rows["segment_ids"].max(1).min() >= 1 and (rows["segment_ids"].max(1) >= 2).mean() > 0.6, "documents share rows"
    images = [np.unique(part[part >= 0] // TOKENS) for part in rows["image_index"].reshape(STREAMS, -1)]
    assert sum(len(seen) for seen in images) > 2 * STREAMS, "most of the buffers' pictures are looked at"
    second = rows["image_index"][1::ROWS]
    assert (second.max(1) >= 0).any() and (rows["segment_ids"] == 0).any(), "second rows have pictures, and there is padding"


# Plain gradient descent whose steps are so long that the parameters before them hardly count: an update is a gradient.
STEEP = OptimizerConfig("sgd", lr=2.0**14, b1=0.0, weight_decay=0.0, grad_clip=None, schedule=ScheduleConfig("constant"))


@functools.cache
def loss_and_gradients(devices=1, microbatches=1, **settings):
    """Of one training step on one device, or on data 2 × fsdp 2 × tensor 2; dropout is on."""
    mesh = {1: MeshConfig(), 8: MeshConfig(2, 2, 2)}[devices]
    run = launch_task(lambda grid: task(grid, **settings), STEEP, mesh, devices, microbatches)
    with jax.default_matmul_precision("highest"):
        state, metrics = run.step(run.state, run.put(batch()))
    assert int(state.bad_step) == -1
    gradient = lambda path: (np.asarray(run.state.params[path], np.float64) - np.asarray(state.params[path])) / STEEP.lr
    return {k: float(v) for k, v in metrics.items()}, {path: gradient(path) for path in state.params}, state


@pytest.mark.parametrize("devices, settings", [
    (8, {}),
    (1, dict(microbatches=4)),
    (1, dict(unroll=2, remat="full")),
    (8, dict(microbatches=2, remat="dots", kernel="splash")),
], ids=["sharded", "accumulated × 4", "unrolled and recomputed", "all at once"])
def test_how_it_is_computed_changes_nothing(devices, settings):
    """Loss, metrics and every gradient are those of one device, scanned, in one piece, everything kept."""
    metrics, want, _ = loss_and_gradients()
    got_metrics, got, _ = loss_and_gradients(devices, **settings)
    for name in ("loss", "accuracy", "z_loss", "fill_tokens", "fill_images", "supervised", "grad_norm"):
        assert got_metrics[name] == pytest.approx(metrics[name], rel=1e-5), name
    assert set(got) == set(want)
    for path, w in want.items():
        g, bound = got[path], 1e-5 * np.abs(w).max()
        if path.endswith("qkv_bias"):  # softmax does not see a constant added to all keys: their bias has gradient 0
            g, w = g[:, ::2], w[:, ::2]
        assert np.abs(g - w).max() <= bound > 0, (path, np.abs(g - w).max() / bound * 1e-5)


def test_a_sharded_run_is_sharded():
    state = loss_and_gradients(8)[2]
    shard = lambda path: state.params[path].sharding.shard_shape(state.params[path].shape)
    assert shard("llm/blocks/layers/gate/kernel") == (2, 8, 12) and shard("llm/embedding") == (VOCAB // 2, 8)
    assert shard("adapters/ssl/fc2/kernel") == (8, 16) and shard("encoders/clip/blocks/layers/mlp/up/kernel") == (2, 8, 8)


def test_a_stream_is_not_divided():
    """Neither between devices nor between micro-batches: its rows share a buffer of pictures."""
    mesh = make_mesh(MeshConfig(2, 2, 2))
    check_batch(mesh, 16, 2, ROWS)
    with pytest.raises(UserError, match="16 is not divisible by 4 batch shards .* × 4 micro-batches × 2 rows a stream"):
        check_batch(mesh, 16, 4, ROWS)


def test_positions_of_another_resolution_are_resampled():
    """Those of the encoders, which have a class token, and those of a C-Abstractor, which has none."""
    connector = CAbstractor(tokens=1, width=8, depth=1)
    model = MllmConfig((EncoderConfig("clip", VIT),), LANGUAGE, connector=connector)
    mine = MllmTask(model, NextToken(), context=CONTEXT, rows=ROWS, images=PICTURES)
    skeleton = Skeleton.of(mine.build)
    for path, prefix in (("encoders/clip/pos_embed", 1), ("adapters/clip/pos_embed", 0)):
        other = np.random.default_rng(0).standard_normal((prefix + 9, 16)).astype(np.float32)
        resample = skeleton.resample[path]
        assert resample(other).shape == skeleton.shapes[path].shape == (prefix + 4, 16)
        np.testing.assert_array_equal(resample(other)[:prefix], other[:prefix])
        same = other[:prefix + 4]
        assert resample(same) is same


# --- FLOPs ----------------------------------------------------------------------------------------------------------------

WIDE = dict(width=256, heads=4, mlp_dim=512, unroll=2, dropout=0.0)
ENCODERS, ADAPTERS, ALL = r"(?!encoders/).*", r"adapters/.*", r".*"


def wide_task(fusion, connector):
    vit, llm = dataclasses.replace(VIT, **WIDE), LLMConfig(**WIDE, depth=2, kv_heads=2, vocab_size=512)
    model = MllmConfig((EncoderConfig("clip", vit), EncoderConfig("ssl", vit)), llm, FUSIONS[fusion](), connector)
    return MllmTask(model, NextToken(block_size=96), None, context=96, rows=ROWS, images=PICTURES)


@pytest.mark.parametrize("fusion", ["interleaved", "additive"])
@pytest.mark.parametrize("trained", [ALL, ENCODERS, ADAPTERS], ids=["all", "encoders frozen", "adapters only"])
def test_flops_formula_is_what_xla_counts(trained, fusion):
    """Within 2 %. XLA counts norms, softmax, rotations, activations and the loss besides matrix products. Put right here is
    what the formula leaves out on purpose: the upper half of causal attention, the head's logits made again in the backward
    pass, and it takes a gradient in the pixels that nobody needs."""
    task = wide_task(fusion, MlpConnector())
    skeleton = Skeleton.of(task.build)
    rows = batch(2, 96, task.model.tokens_per_image, vocab=512)
    frozen = tuple([] if trained is ALL else [(trained, False), (".*", True)])
    decisions = decide(OptimizerConfig(freeze=frozen), skeleton)
    shapes = lambda want: {path: x for path, x in skeleton.shapes.items() if decisions[path].trained == want}
    want = task.flops(4, lambda prefix: any(path.startswith(prefix) for path in shapes(True)))
    assert set(want) == {"llm"} | {f"encoders/{e.name}" for e in task.model.encoders} | {
        f"adapters/{name}" for name in task.model.adapters}
    llm, pictures = task.model.llm, 2 * PICTURES
    expected = sum(want.values()) + 4 * (3 * llm.attention_flops(96) + 2.0 * 96 * llm.width * llm.vocab_size)
    if trained is ALL:
        expected -= 2 * pictures * 2.0 * VIT.grid**2 * VIT.patch_size**2 * 3 * WIDE["width"]

    def loss(params, others):
        return loss_of(task, skeleton.merge({**params, **others}), rows).sum

    counted = jax.jit(jax.value_and_grad(loss)).lower(shapes(True), shapes(False)).cost_analysis()["flops"]
    assert 1.0 <= counted / expected < 1.02, counted / expected


def test_flops_of_padding_and_pictures():
    """Linear in streams; a picture costs its towers and adapters; a frozen LLM's weights cost two thirds of a trained one's."""
    task = wide_task("interleaved", MlpConnector())
    everything, adapters = task.flops(8, lambda prefix: True), task.flops(8, lambda prefix: prefix.startswith("adapters/"))
    assert {part: x / 2 for part, x in everything.items()} == task.flops(4, lambda prefix: True)
    assert everything["encoders/clip"] == 4 * PICTURES * 3 * task.model.encoders[0].tower.flops == 3 * adapters["encoders/clip"]
    attention = 8 * task.model.llm.attention_flops(96)
    assert adapters["llm"] - 3 * attention == pytest.approx(2 / 3 * (everything["llm"] - 3 * attention))
