"""Masked autoencoding and self-distillation as tasks: loss, teacher, accumulation, sharding, FLOPs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from small_models import launch_task, loss_of, quick_jit, weights

from mof_jax.config import build
from mof_jax.data.config import LocalViews
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings, put_batch
from mof_jax.models.dino import DinoConfig
from mof_jax.models.mae import MaeConfig
from mof_jax.models.vit import ViTConfig, normalise, patchify
from mof_jax.nn import dropout as drop
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.dino import Dino
from mof_jax.objectives.pixels import Pixels
from mof_jax.tasks.dino import DinoTask
from mof_jax.tasks.mae import MaeTask
from mof_jax.train.optim import OptimizerConfig, decide

TOWER = dict(width=16, depth=2, heads=2, mlp_dim=16, patch_size=4, image_size=16)
NOISY = ViTConfig(**TOWER, dropout=0.3)
LOCAL = LocalViews(2, 8)
OBJECTIVE = Dino(teacher_temperature=(0.1, 0.2), warmup=10, momentum=0.9)
KEY = jax.random.key(7, impl="threefry2x32")
ROWS, STEPS = 16, 20


def mae(**encoder):
    config = MaeConfig(dataclasses.replace(NOISY, **encoder), 0.5, decoder_width=8, decoder_depth=1, decoder_heads=2)
    return MaeTask(config, Pixels())


def dino(local=LOCAL, views=2, **encoder):
    config = DinoConfig(dataclasses.replace(NOISY, **encoder), hidden=12, bottleneck=6, prototypes=10)
    return DinoTask(config, OBJECTIVE, steps=STEPS, views=views, local=local)


def batch(rows=ROWS, views=2, seed=0):
    rng = np.random.default_rng(seed)
    picture = lambda views, size: rng.integers(0, 256, (rows, views, size, size, 3), np.uint8)
    return {"image": picture(views, 16), "local": picture(2, 8)}


def values(skeleton):
    """Random weights, a teacher of its own among them."""
    return weights(skeleton)


def mean(figure):
    return figure.sum / figure.weight


@functools.cache
def mean_loss_and_gradient(make, microbatches, devices=0):
    """Over one batch with dropout on."""
    mesh = make_mesh(MeshConfig(data=-1, fsdp=2), jax.devices()[:devices]) if devices else None
    task = make()
    skeleton = Skeleton.of(task.build)
    params, rows = values(skeleton), batch()
    trained = {path for path, d in decide(OptimizerConfig(), skeleton).items() if d.trained}
    if mesh is not None:
        params, rows = jax.device_put(params, param_shardings(mesh, skeleton)), put_batch(mesh, rows)
    frozen = {path: x for path, x in params.items() if path not in trained}
    params = {path: x for path, x in params.items() if path in trained}

    def mean(params, rows):
        model = skeleton.merge({**frozen, **params})
        out = loss_of(task, model, rows, KEY, step=3, mesh=mesh, microbatches=microbatches)
        return out.sum / out.weight

    with jax.default_matmul_precision("highest"):
        return quick_jit(jax.value_and_grad(mean))(params, rows)


@pytest.mark.parametrize("make, microbatches, devices", [(mae, 4, 0), (mae, 1, 8), (dino, 2, 0), (dino, 1, 8), (dino, 2, 8)])
def test_accumulation_and_sharding_are_exact(make, microbatches, devices):
    """Masks, dropout and Sinkhorn's sums belong to the whole batch, however it is split."""
    want, got = mean_loss_and_gradient(make, 1), mean_loss_and_gradient(make, microbatches, devices)
    np.testing.assert_allclose(got[0], want[0], rtol=2e-6)
    assert set(got[1]) == set(want[1])
    for path, w in want[1].items():
        g, w = np.asarray(got[1][path]), np.asarray(w)
        bound = 1e-5 * np.abs(w).max()
        if path.endswith("qkv_bias"):  # the key bias has gradient 0, rounding apart
            g, w = g[:, ::2], w[:, ::2]
        assert np.abs(g - w).max() <= bound > 0, path


def test_mae_loss_by_hand():
    """Both views, their masks from the example's key, mean squared error of each masked patch; weight: masked patches."""
    task = mae(dropout=0.0)
    skeleton = Skeleton.of(task.build)
    model, rows = skeleton.merge(values(skeleton)), batch(3)
    got = loss_of(task, model, rows, KEY)
    want, keys = 0.0, drop.example_keys(KEY, 3)
    for view in range(2):
        images = rows["image"][:, view]
        seen, masked = drop.split_patches(drop.fold(drop.fold(keys, view), 0), 16, 8)
        painted = np.asarray(model.reconstruct(images, seen, masked), np.float64)
        whole = np.asarray(patchify(normalise(images, NOISY.mean, NOISY.std), 4), np.float64)
        for row in range(3):
            for i, patch in enumerate(np.asarray(masked)[row]):
                target = (whole[row, patch] - whole[row, patch].mean()) / np.sqrt(whole[row, patch].var() + 1e-6)
                want += np.square(painted[row, i] - target).mean()
    np.testing.assert_allclose(got.sum, want, rtol=1e-5)
    assert got.weight == 2 * 3 * 8


def test_mae_masks_differ_by_step_view_and_row_and_are_fixed_in_evaluation():
    task = mae(dropout=0.0)
    skeleton = Skeleton.of(task.build)
    params, rows = values(skeleton), batch(3)
    loss = quick_jit(lambda rows, key: loss_of(task, skeleton.merge(params), rows, key).sum)
    twice = {"image": np.repeat(rows["image"][:, :1], 2, 1)}
    one = loss({"image": rows["image"][:, :1]}, KEY)
    assert abs(float(loss(twice, KEY)) - 2 * float(one)) > 1e-3
    assert abs(float(loss({"image": rows["image"][:, :1]}, jax.random.key(8))) - float(one)) > 1e-3
    evaluation = loss_of(task, skeleton.merge(params), rows).sum
    assert evaluation == loss_of(task, skeleton.merge(params), rows).sum


def test_dino_loss_by_hand():
    """Teacher's scores of the large crops, balanced over the whole batch; the student's of all others; pairs added."""
    task = dino(dropout=0.0)
    skeleton = Skeleton.of(task.build)
    params, rows = values(skeleton), batch(6)
    with jax.default_matmul_precision("highest"):
        got = quick_jit(lambda p: loss_of(task, skeleton.merge(p), rows, KEY, step=3))(params)
        model = skeleton.merge(params)
        teacher = np.stack([model.teacher(rows["image"][:, i]) for i in range(2)], 1)
        crops = [rows["image"][:, 0], rows["image"][:, 1], rows["local"][:, 0], rows["local"][:, 1]]
        student = np.stack([model.student(x) for x in crops], 1).astype(np.float64)
    q = np.exp(teacher.reshape(12, 10).astype(np.float64) / 0.13)  # 0.1, and three tenths of the way to 0.2
    for _ in range(3):
        q /= q.sum(0) * 10
        q /= q.sum(1, keepdims=True) * 12
    q = 12 * q.reshape(6, 2, 10)
    logs = np.log(np.exp(student / 0.1) / np.exp(student / 0.1).sum(-1, keepdims=True))
    want = sum(-(q[:, t] * logs[:, s]).sum() for t in range(2) for s in range(4) if s != t)
    np.testing.assert_allclose(got.sum, want, rtol=2e-5)
    assert got.weight == 6 * 6
    np.testing.assert_allclose(mean(got.metrics["teacher_temperature"]), 0.13, rtol=1e-5)
    np.testing.assert_allclose(mean(got.metrics["target_entropy"]), -(q * np.log(q)).sum(-1).mean(), rtol=1e-4)


# The large eps keeps Adam from turning rounding noise (a key bias has gradient 0) into steps of full size.
OPTIMIZER = OptimizerConfig("adamw", lr=0.01, eps=1e-3, weight_decay=0.1)


def test_the_teacher_is_the_average_of_the_student():
    """Exactly, step by step; no gradient, no optimizer state, and it does move what the student is told."""
    run = launch_task(lambda grid: dino(), OPTIMIZER, MeshConfig(), 1)
    state = run.state
    optimizer = " ".join(jax.tree_util.keystr(k) for k, _ in jax.tree_util.tree_leaves_with_path(state.opt))
    assert "student/head/fc1/kernel" in optimizer and "teacher" not in optimizer
    assert {path.split("/")[0] for path in state.frozen} == {"teacher"}
    for step in range(3):
        before = jax.tree.map(np.asarray, state.frozen)
        state, metrics = run.step(state, run.put(batch(seed=step)))
        m = np.float32(1 - 0.1 * (1 + np.cos(np.pi * step / STEPS)) / 2)
        for path, old in before.items():
            if path.startswith("teacher/"):
                want = m * old + (1 - m) * np.asarray(state.params[path.replace("teacher", "student", 1)])
                np.testing.assert_allclose(state.frozen[path], want, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(metrics["teacher_temperature"], 0.1 + 0.01 * step, rtol=1e-5)
    moved = [path for path, x in before.items() if path.startswith("teacher/") and not np.array_equal(x, state.frozen[path])]
    assert len(moved) == len(before)


def test_no_gradient_reaches_the_teacher():
    task = dino()
    skeleton = Skeleton.of(task.build)
    gradient = quick_jit(jax.grad(lambda p: loss_of(task, skeleton.merge(p), batch(4), KEY).sum))(values(skeleton))
    for path, g in gradient.items():
        assert path.startswith("student/") == bool(np.asarray(g).any()), path


@pytest.mark.parametrize("make", [pytest.param(mae, marks=pytest.mark.slow), dino])
def test_a_sharded_run_equals_one_device(make):
    """Three updates on data 2 × fsdp 2 × tensor 2."""
    states = []
    for mesh, devices in ((MeshConfig(), 1), (MeshConfig(2, 2, 2), 8)):
        run = launch_task(lambda grid: make(), OPTIMIZER, mesh, devices)
        state = run.state
        with jax.default_matmul_precision("highest"):
            for step in range(3):
                state, metrics = run.step(state, run.put(batch(seed=step)))
        states.append((state, float(metrics["loss"])))
    (one, loss), (eight, sharded_loss) = states
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-5)
    for group in ("params", "frozen"):
        for path, want in getattr(one, group).items():
            got, want = np.asarray(getattr(eight, group)[path]), np.asarray(want)
            np.testing.assert_allclose(got, want, atol=2e-5 * max(1.0, float(np.abs(want).max())), err_msg=path)
    kernel = "encoder/blocks/layers/mlp/up/kernel"
    path = kernel if make is mae else f"teacher/{kernel}"
    x = eight.model_params()[path]
    assert x.sharding.shard_shape(x.shape) == (2, 8, 8), "the teacher, too, is split over fsdp and tensor"


@pytest.mark.parametrize("make", [mae, dino])
def test_decay_and_predictions(make):
    task = make(registers=1, layer_scale=0.1, dropout=0.0)
    skeleton = Skeleton.of(task.build)
    decisions = decide(OptimizerConfig(), skeleton)
    decayed = {path for path, d in decisions.items() if d.decay and d.trained}
    assert decayed == {path for path in skeleton.matrices if decisions[path].trained}
    params, images = values(skeleton), batch(3)["image"][:, 0]
    feature = quick_jit(lambda p: task.predictors["embed/image"](skeleton.merge(p), images))(params)
    patches = quick_jit(lambda p: task.predictors["tokens/image"](skeleton.merge(p), images))(params)
    assert feature.shape == (3, 16) and patches.shape == (3, 16, 16)
    np.testing.assert_allclose(np.linalg.norm(feature, axis=1), 1.0, rtol=1e-5)
    if make is dino:  # the teacher is what is evaluated
        others = {path: x * 0 if path.startswith("student/") else x for path, x in params.items()}
        np.testing.assert_array_equal(task.predictors["embed/image"](skeleton.merge(others), images),
                                      task.predictors["embed/image"](skeleton.merge(params), images))


def test_positions_of_another_resolution_are_resampled():
    pos = np.random.default_rng(0).standard_normal((1 + 9, 16)).astype(np.float32)
    for task, paths in ((mae(), ("encoder",)), (dino(), ("student/encoder", "teacher/encoder"))):
        resample = Skeleton.of(task.build).resample
        assert resample.keys() == {f"{path}/pos_embed" for path in paths}
        assert all(fit(pos).shape == (17, 16) for fit in resample.values())


def xla_flops(function, *args):
    """XLA's count of an unoptimised program: it counts a loop's body once, so layers are unrolled."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


WIDE = dict(width=128, heads=4, mlp_dim=512, unroll=2, dropout=0.0)


def test_mae_flops_formula_is_what_xla_counts():
    """Within 6 %, see the contrastive task's; the pixels need no gradient."""
    config = MaeConfig(dataclasses.replace(NOISY, **WIDE), 0.75, decoder_width=64, decoder_depth=2, decoder_heads=2)
    task = MaeTask(config, Pixels(), views=2)
    skeleton, rows = Skeleton.of(task.build), batch(4)
    want = task.flops(4, lambda prefix: True)
    assert task.flops(4, lambda prefix: False) == {part: x / 3 for part, x in want.items()}
    assert task.flops(4, lambda prefix: prefix == "encoder/")["decoder"] == want["decoder"] * 2 / 3
    expected = sum(want.values()) - 2 * 4 * 2.0 * 4 * 48 * 128
    loss = lambda params: loss_of(task, skeleton.merge(params), rows).sum
    counted = xla_flops(jax.grad(loss), dict(skeleton.shapes))
    assert 1.0 <= counted / expected < 1.07, counted / expected


def test_dino_flops_formula_is_what_xla_counts():
    """Both networks; the student on all six crops, the teacher forward on the two large ones."""
    config = DinoConfig(dataclasses.replace(NOISY, **WIDE), hidden=256, bottleneck=64, prototypes=512)
    task = DinoTask(config, OBJECTIVE, steps=STEPS, local=LocalViews(2, 8))
    skeleton, rows = Skeleton.of(task.build), batch(4)
    want = task.flops(4, lambda prefix: prefix.startswith("student/"))
    assert want == task.flops(4, lambda prefix: True), "the teacher is never trained"
    pixels = 4 * 2.0 * (2 * 16 + 2 * 4) * 48 * 128
    student = {path for path in skeleton.shapes if path.startswith("student/")}

    def loss(params, frozen):
        return loss_of(task, skeleton.merge({**params, **frozen}), rows).sum

    shapes = dict(skeleton.shapes)
    counted = xla_flops(jax.grad(loss), {p: shapes.pop(p) for p in student}, shapes)
    expected = sum(want.values()) - pixels
    assert 1.0 <= counted / expected < 1.07, counted / expected


def test_mistakes_are_named():
    with pytest.raises(UserError, match="distillation compares crops; set views=2"):
        dino(views=1, local=None)
    with pytest.raises(UserError, match="config.data.local.image_size: 10 is not divisible by patch_size 4"):
        dino(local=LocalViews(2, 10))
    for values_, says in ((dict(momentum=1.5), "momentum: 1.5 is not"), (dict(weight=-1.0), "weight: -1.0 is not"),
                          (dict(student_temperature=0.0), "student_temperature: 0.0 is not above"),
                          (dict(teacher_temperature=(0.04, -1.0)), "teacher_temperature.1: -1.0 is not above")):
        with pytest.raises(UserError, match=says):
            build(Dino, values_)
