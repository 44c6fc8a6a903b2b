"""The contrastive task: exact accumulation, sharding, frozen towers, FLOPs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from small_models import batch, launch, loss_of, quick_jit, two_tower, weights

from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, check_batch, make_mesh, param_shardings, put_batch
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.loss import Context
from mof_jax.objectives.sigmoid import Sigmoid
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask
from mof_jax.train.optim import OptimizerConfig, decide

NOISY = two_tower(dropout=0.3, patch_dropout=0.5)
ROWS = 16


@functools.cache
def gradients(loss, microbatches, devices=0):
    """(mean loss, gradient of every parameter) with dropout and patch dropout on; `devices` > 0 lays it on a mesh."""
    mesh = make_mesh(MeshConfig(data=-1, fsdp=2), jax.devices()[:devices]) if devices else None
    task = ContrastiveTask(NOISY, {"softmax": Softmax(), "sigmoid": Sigmoid()}[loss])
    skeleton = Skeleton.of(task.build)
    params, rows = weights(skeleton), batch(ROWS)
    if mesh is not None:
        params, rows = jax.device_put(params, param_shardings(mesh, skeleton)), put_batch(mesh, rows)

    def mean(params, rows):
        key = jax.random.key(7, impl="threefry2x32")
        out = loss_of(task, skeleton.merge(params), rows, key, mesh=mesh, microbatches=microbatches)
        return out.sum / out.weight

    with jax.default_matmul_precision("highest"):
        return quick_jit(jax.value_and_grad(mean))(params, rows)


def assert_equal(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    assert set(got[1]) == set(want[1])
    for path, w in want[1].items():
        g, w = np.asarray(got[1][path]), np.asarray(w)
        bound = 1e-5 * np.abs(w).max()
        if path.endswith("qkv_bias"):
            # Softmax does not see a constant added to all keys: the key bias has gradient 0, rounding apart.
            np.testing.assert_allclose(w[:, 1], 0, atol=bound)
        assert np.abs(g - w).max() <= bound > 0, path


@pytest.mark.parametrize("loss, microbatches, devices", [
    ("sigmoid", 4, 0),
    ("softmax", 2, 8),
])
def test_accumulation_is_exact(loss, microbatches, devices):
    """Every gradient, temperature and bias included, equals the whole batch's on one device."""
    want = gradients(loss, 1)
    assert {"logit_scale"} | ({"logit_bias"} if loss == "sigmoid" else set()) <= set(want[1])
    assert_equal(gradients(loss, microbatches, devices), want)


def test_microbatches_come_back_in_order_and_move_no_row_between_shards():
    x = np.arange(24)
    seen = []
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])

    def watched(part):
        jax.debug.callback(lambda p: seen.append(p.tolist()), part)
        return part * 10, part.sum()

    out, total = Context(mesh=mesh, microbatches=3).in_parts(watched, x)
    np.testing.assert_array_equal(out, x * 10)
    assert total == x.sum()
    jax.effects_barrier()
    # Micro-batch 0 holds the first third of each shard's own twelve rows.
    assert sorted(seen)[0] == [0, 1, 2, 3, 12, 13, 14, 15]


def test_views_and_captions_make_every_pair():
    task = ContrastiveTask(two_tower(), Softmax(block_size=5))
    skeleton = Skeleton.of(task.build)
    rows = batch(6, views=2, captions=2)

    @quick_jit
    def run(params):
        model = skeleton.merge(params)
        features, _ = task.forward(model, rows, {"image", "text"}, Context())
        return loss_of(task, model, rows), features, task.predictors["embed/text"](model, rows["text"][:, 1])

    loss, features, second = run(weights(skeleton))
    images, texts = ([features[name][:, i] for i in range(2)] for name in ("image", "text"))
    assert features["image"].shape == features["text"].shape == (6, 2, 8)
    np.testing.assert_allclose(texts[1], second, atol=1e-6)

    def infonce(image, text):
        scores = np.exp(2.0) * np.asarray(image, np.float64) @ np.asarray(text).T
        loss = lambda s: (np.log(np.exp(s).sum(1)) - np.diag(s)).sum()
        return (loss(scores) + loss(scores.T)) / 2

    np.testing.assert_allclose(loss.sum, sum(infonce(i, t) for i in images for t in texts), rtol=1e-5)
    assert loss.weight == 4 * 6
    scale = loss.metrics["logit_scale"]
    np.testing.assert_allclose(scale.sum / scale.weight, np.exp(2.0), rtol=1e-5)


# The large eps keeps Adam from turning rounding noise (a key bias has gradient 0) into steps of full size.
OPTIMIZER = OptimizerConfig("adamw", lr=0.01, eps=1e-3, ema=0.9, weight_decay=0.1)


@functools.cache
def three_steps(devices):
    """Losses and states of a run on one device, or on data 2 x fsdp 2 x tensor 2."""
    sizes = {1: MeshConfig(), 8: MeshConfig(2, 2, 2)}[devices]
    run = launch(two_tower(), Softmax(), OPTIMIZER, sizes, devices)
    state, losses = run.state, []
    with jax.default_matmul_precision("highest"):
        for i in range(3):
            state, metrics = run.step(state, run.put(batch(ROWS, seed=i)))
            losses.append(float(metrics["loss"]))
    return run, state, losses


def test_a_sharded_run_equals_one_device():
    (_, one, one_losses), (run, eight, eight_losses) = three_steps(1), three_steps(8)
    np.testing.assert_allclose(eight_losses, one_losses, rtol=1e-5)
    for group in ("params", "ema"):
        for path, want in getattr(one, group).items():
            got = np.asarray(getattr(eight, group)[path])
            np.testing.assert_allclose(got, want, atol=2e-5 * max(1.0, float(np.abs(want).max())), err_msg=path)
    moved = {path: np.abs(np.asarray(one.params[path]) - np.asarray(run.state.params[path])).max() for path in one.params}
    assert min(moved.values()) > 1e-5, "every parameter has moved"
    # Sharded in fact, over fsdp and tensor, and the optimizer's moments like their parameters.
    qkv = "image/blocks/layers/attn/qkv"
    assert eight.params[qkv].sharding.shard_shape(eight.params[qkv].shape) == (2, 8, 3, 1, 8)
    mirrors = [x for keys, x in jax.tree_util.tree_leaves_with_path(eight.opt) if f"'{qkv}'" in jax.tree_util.keystr(keys)]
    assert len(mirrors) == 2 and all(m.sharding == eight.params[qkv].sharding for m in mirrors)


def test_a_frozen_tower_stands_still_and_costs_no_state():
    """LiT (arXiv 2111.07991)."""
    frozen = dataclasses.replace(OPTIMIZER, freeze=((r"image/(?!project).*", True),))
    run = launch(two_tower(), Softmax(), frozen, MeshConfig(), 1)
    start = jax.tree.map(np.asarray, run.state)
    state = run.state
    for i in range(2):
        state, _ = run.step(state, run.put(batch(ROWS, seed=i)))
    towers = {path for path in run.skeleton.shapes if path.startswith("image/") and "project" not in path}
    assert set(state.frozen) == towers and not towers & set(state.params) and not towers & set(state.ema)
    for path in towers:
        np.testing.assert_array_equal(state.frozen[path], start.frozen[path])
    keys = " ".join(jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(state.opt))
    assert "image/project/kernel" in keys and not any(path in keys for path in towers)
    assert not np.array_equal(state.params["image/project/kernel"], start.params["image/project/kernel"])
    assert set(state.model_params()) == set(run.skeleton.shapes)


def test_heads_that_tensor_does_not_divide_are_named():
    with pytest.raises(UserError, match=r"image/blocks/layers/attn/out has 2 heads.*tensor=8"):
        launch(two_tower(), Softmax(), OPTIMIZER, MeshConfig(1, 1, 8), 8)
    with pytest.raises(UserError, match="18 is not divisible by 4 batch shards.* × 2 micro-batches"):
        check_batch(make_mesh(MeshConfig(2, 2, 2)), 18, 2)


def test_rules_of_the_task_find_their_parameters():
    task = ContrastiveTask(two_tower(registers=1, pool="map", layer_scale=0.1), Sigmoid())
    skeleton = Skeleton.of(task.build)
    decisions = decide(OptimizerConfig(), skeleton)
    decayed = {path for path, d in decisions.items() if d.decay}
    matrices = set(skeleton.matrices) | {"text/embed"}
    assert decayed == matrices, decayed ^ matrices
    assert decisions["logit_scale"].bounds == (0.0, np.log(100.0)) and decisions["logit_bias"].bounds is None


def xla_flops(function, *args):
    """XLA's count of an unoptimised program: it counts a loop's body once, so layers are unrolled."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


@pytest.mark.parametrize(("part", "pool"), [("image", {}), ("text", {}), ("image", dict(pool="map")), ("text", dict(pool="map"))])
def test_flops_formula_is_what_xla_counts(part, pool):
    """Within 6 %. XLA also counts norms, softmax and activations (a few per cent at this width, less at 768), computes
    both halves of causal attention, and needs no gradient in the pixels; the latter two are put right here."""
    config = two_tower()
    image = dataclasses.replace(config.image, width=128, heads=4, mlp_dim=512, unroll=2, **(pool if part == "image" else {}))
    text = dataclasses.replace(config.text, width=128, heads=4, mlp_dim=512, context_length=16, unroll=2,
                               **(pool if part == "text" else {}))
    task = ContrastiveTask(dataclasses.replace(config, image=image, text=text), Softmax())
    skeleton = Skeleton.of(task.build)
    rows = {"image": np.zeros((4, 16, 16, 3), np.uint8), "text": np.ones((4, 16), np.int32)}[part]
    frozen = task.flops(4, lambda prefix: False)[part]
    want = task.flops(4, lambda prefix: True)[part]
    assert want == 3 * frozen
    if part == "image":
        want -= 4 * 2.0 * 16 * 48 * 128  # the gradient in the pixels
    else:
        want += 3 * 4 * 2 * 2.0 * 16 * 16 * 128  # the half of attention above the diagonal, in both layers
    loss = lambda params, x: task.predictors[f"embed/{part}"](skeleton.merge(params), x).sum()
    counted = xla_flops(jax.grad(loss), dict(skeleton.shapes), rows)
    assert 1.0 <= counted / want < 1.06, counted / want


def test_flops_of_patch_dropout():
    whole, half = (ContrastiveTask(two_tower(patch_dropout=rate), Softmax()).flops(1, lambda p: True)["image"]
                   for rate in (0.0, 0.5))
    assert 0.4 < half / whole < 0.65
