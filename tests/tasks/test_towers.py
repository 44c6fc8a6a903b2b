"""Further towers, fields, heads and a teacher: features by name, the same however rows are cut and spread."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import batch, launch_task, quick_jit, two_tower, weights

from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings, put_batch
from mof_jax.models.heads import HEADS
from mof_jax.models.heads.linear import LinearHead
from mof_jax.models.heads.mlp import MlpHead
from mof_jax.models.heads.prototypes import PrototypesHead
from mof_jax.models.two_tower import TeacherConfig
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.loss import Context, Loss
from mof_jax.objectives.objective import Objective
from mof_jax.task import evaluate, taught
from mof_jax.tasks.contrastive import ContrastiveTask, Shown
from mof_jax.train.optim import OptimizerConfig

ROWS = 16
FIELDS = {"image": Shown("image", 2), "text": Shown("text"), "negative": Shown("text", 2), "strong": Shown("image"),
          "depth": Shown("depth")}
HEADS_OF = {
    "near": MlpHead(reads="image", widths=(12, 6), norm="batch", unit=True),
    "classes": LinearHead(reads="near", width=5),
    "prototypes": PrototypesHead(reads="strong", count=10),
}


@dataclasses.dataclass(frozen=True)
class Everything(Objective):
    """Reads whatever it is told, and adds up squares that no symmetry cancels; where told so, against the batch's mean."""

    kind = "everything"
    names: tuple[str, ...] = ()

    @property
    def reads(self):
        return self.names

    def count(self, batch, context):
        return float(batch["image"].shape[0])

    def loss(self, own, features, context):
        total = 0.0
        for i, name in enumerate(self.names):
            x = features[name].astype(jnp.float32)
            slope = jnp.arange(1, x.shape[-1] + 1) / x.shape[-1]
            total += (i + 1) * jnp.square(x @ slope - 0.1 * (x.mean((0, 1)) @ slope)).sum()
        return Loss(total, float(features[self.names[0]].shape[0]))


ALL = ("image", "text", "negative", "strong", "depth", "near", "classes", "prototypes", "teacher/strong", "teacher/prototypes")


def task(names=ALL, **model):
    model = dict(towers={"depth": two_tower().image}, heads=HEADS_OF, teacher=TeacherConfig(("image", "prototypes"), 0.9)) | model
    config = dataclasses.replace(two_tower(dropout=0.2), **model)
    return ContrastiveTask(config, Everything(names=names), FIELDS, steps=10)


def rows(seed=0):
    rng = np.random.default_rng(seed)
    found, more = batch(ROWS, views=2, seed=seed), batch(ROWS, captions=2, seed=seed + 50)
    picture = lambda: rng.integers(0, 256, (ROWS, 1, 16, 16, 3), np.uint8)
    return found | {"negative": more["text"], "strong": picture(), "depth": picture()}


KEY = jax.random.key(7, impl="threefry2x32")


@functools.cache
def whole(microbatches=1, devices=0):
    """Loss, gradients and what moves, of everything at once; dropout is on."""
    mesh = make_mesh(MeshConfig(2, 2, 2), jax.devices()[:devices]) if devices else None
    mine = task()
    skeleton = Skeleton.of(mine.build)
    params, data = weights(skeleton), rows()
    if mesh is not None:
        params, data = jax.device_put(params, param_shardings(mesh, skeleton)), put_batch(mesh, data)

    def total(params, data):
        context = Context(0, 10, mesh, microbatches, KEY, mine.keys(data, KEY))
        model = skeleton.merge(params)
        losses, moved = evaluate(mine, model, taught(mine, model, data, context), context)
        return losses["everything"].sum, moved

    with jax.default_matmul_precision("highest"):
        (value, moved), gradients = quick_jit(jax.value_and_grad(total, has_aux=True))(params, data)
    return float(value), gradients, moved


def equal(got, want):
    """Gradients, each as far as it is more than rounding."""
    for path, w in want.items():
        g, w = np.asarray(got[path]), np.asarray(w)
        if path.endswith("qkv_bias"):  # the key bias has gradient 0, rounding apart
            g, w = g[:, ::2], w[:, ::2]
        if path == "heads/near/layers/0/bias":  # and so has what batch normalisation takes away
            g, w = g * 0, w * 0
        assert np.abs(g - w).max() <= 1e-5 * max(np.abs(w).max(), 1e-3), path


@pytest.mark.parametrize("microbatches, devices", [(4, 0), (2, 8)])
def test_features_are_the_same_however_rows_are_cut_and_spread(microbatches, devices):
    """Heads see all rows, so that batch normalisation is the global batch's."""
    want, got = whole(), whole(microbatches, devices)
    assert got[0] == pytest.approx(want[0], rel=2e-6)
    equal(got[1], want[1])
    assert set(got[2]) == {"heads/near/norms/0/mean", "heads/near/norms/0/var"}
    for path, x in want[2].items():
        np.testing.assert_allclose(got[2][path], x, rtol=1e-5)


def test_which_parameters_learn():
    gradients = whole()[1]
    for path, g in gradients.items():
        if path == "heads/near/layers/0/bias":  # rounding noise: batch normalisation takes it away
            continue
        learns = not path.startswith("teacher/") and not path.endswith(("norms/0/mean", "norms/0/var")) and "logit" not in path
        assert learns == bool(np.abs(np.asarray(g)).max() > 0), path
    assert {path.split("/")[0] for path in gradients} == {"image", "text", "towers", "heads", "teacher", "logit_scale"}
    assert {path.split("/")[1] for path in gradients if path.startswith("teacher/")} == {"image", "heads"}


def test_a_field_goes_through_its_tower_and_a_teacher_through_its_copy():
    mine = task()
    skeleton, data, context = Skeleton.of(mine.build), rows(), Context()
    params = weights(skeleton)
    params = {path: x + 0.1 if path.startswith("teacher/") else x for path, x in params.items()}

    @quick_jit
    def run(params):
        model = skeleton.merge(params)
        features = mine.forward(model, data, set(ALL), context)[0] | mine.teach(model, data, context)
        features |= mine.heads(model, features, context)[0]
        wanted = {"negative": model.embed_text(data["negative"][:, 1]), "strong": model.embed_image(data["strong"][:, 0]),
                  "teacher/strong": model.embed("image", data["strong"][:, 0], teacher=True),
                  "depth": model.embed("depth", data["depth"][:, 0]),
                  "classes": model.heads["classes"].layer(features["near"])[:, -1],
                  "teacher/prototypes": model.head("prototypes", features["teacher/strong"], teacher=True)[0][:, -1]}
        return features, wanted

    features, wanted = run(params)
    assert set(features) == set(ALL) and {name: x.shape[-1] for name, x in features.items()} == {
        name: mine.dims[name] for name in ALL}
    for name, want in wanted.items():
        np.testing.assert_allclose(features[name][:, -1], want, atol=1e-6, err_msg=name)
    x = np.asarray(features["image"]).reshape(-1, 8) @ np.asarray(params["heads/near/layers/0/kernel"]) + np.asarray(
        params["heads/near/layers/0/bias"])
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * np.asarray(params["heads/near/norms/0/scale"]) + np.asarray(
        params["heads/near/norms/0/bias"])
    y = np.maximum(x, 0) @ np.asarray(params["heads/near/layers/1/kernel"]) + np.asarray(params["heads/near/layers/1/bias"])
    y = (y / np.linalg.norm(y, axis=1, keepdims=True)).reshape(ROWS, 2, 6)
    np.testing.assert_allclose(features["near"], y, atol=2e-5)


def test_what_nobody_reads_is_not_computed():
    mine = task(("text", "classes"))
    assert mine.head_reads == ("image",) and mine.teach(None, {}, Context()) == {}
    parts = mine.flops(ROWS, lambda prefix: True)
    two, one = task(("image", "text")).flops(ROWS, lambda prefix: True), task(("strong", "text")).flops(ROWS, lambda prefix: True)
    assert two["image"] == 2 * one["image"] and parts["text"] == one["text"] and parts["towers/depth"] == 0
    assert set(parts) == {"image", "text", "scores", "towers/depth", "heads/near", "heads/classes"}
    assert [(s.part, s.sequences) for s in mine.stacks(4)] == [("image", 8), ("text", 4)]


def test_a_step_moves_statistics_and_the_teacher():
    optimizer = OptimizerConfig("adamw", lr=0.01, eps=1e-3)
    run = launch_task(lambda grid: task(), optimizer, MeshConfig(2, 2, 2), 8, microbatches=2)
    before = jax.tree.map(np.asarray, run.state.model_params())
    state, metrics = run.step(run.state, run.put(rows()))
    after = state.model_params()
    assert int(state.bad_step) == -1 and np.isfinite(float(metrics["loss"]))
    for name in ("mean", "var"):
        path = f"heads/near/norms/0/{name}"
        assert path in state.frozen and not np.array_equal(after[path], before[path])
    for path in (path for path in after if path.startswith("teacher/")):
        want = 0.9 * before[path] + 0.1 * np.asarray(after[path.removeprefix("teacher/")])
        np.testing.assert_allclose(after[path], want, atol=1e-6, err_msg=path)


def test_a_frozen_reference_stands_still():
    mine = task(("image", "teacher/image"), heads={}, teacher=TeacherConfig(("image",), 1.0))
    run = launch_task(lambda grid: mine, OptimizerConfig(lr=0.01), MeshConfig(), 1)
    before = jax.tree.map(np.asarray, run.state.frozen)
    state, _ = run.step(run.state, run.put(rows()))
    assert before and all(np.array_equal(state.frozen[path], x) for path, x in before.items())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="heads.near reads 'classes', which comes after it"):
        task(heads={"near": LinearHead(reads="classes"), "classes": LinearHead(reads="near")})
    with pytest.raises(ValueError, match="'scale' is no name of a tower or head"):
        task(heads={"scale": LinearHead(reads="image")})
    with pytest.raises(ValueError, match="teacher.of: 'audio' is no tower or head"):
        task(teacher=TeacherConfig(("audio",)))
    with pytest.raises(UserError, match="config.model.heads.near.reads: 'imagge' is no field that a tower embeds.*'image'"):
        task(heads={"near": LinearHead(reads="imagge")}, teacher=None)
    with pytest.raises(UserError, match="config.model.heads.strong: a field of config.data has this name"):
        task(heads={"strong": LinearHead(reads="image")}, teacher=None)
    with pytest.raises(UserError, match="config.model.teacher.of: 'prototypes' reads 'strong'; add 'image', which makes it"):
        task(teacher=TeacherConfig(("prototypes",)))
    with pytest.raises(UserError, match="everything reads 'teacher/text', which neither the model nor the data gives"):
        task(("teacher/text",)).check(FIELDS)
    assert {"linear", "mlp", "prototypes"} <= set(HEADS)


def test_a_further_tower_can_be_asked_alone():
    mine = task()
    assert set(mine.predictors) == {*ContrastiveTask.predictors, "embed/depth"}
    skeleton, pixels = Skeleton.of(mine.build), rows()["depth"][:2, 0]
    model = skeleton.merge(weights(skeleton))
    asked = {name: np.asarray(mine.predictors[name](model, pixels)) for name in ("embed/depth", "embed/image")}
    np.testing.assert_array_equal(asked["embed/depth"], model.embed("depth", pixels))
    assert np.abs(asked["embed/depth"] - asked["embed/image"]).max() > 0.01
    larger = task(towers={"depth": dataclasses.replace(two_tower().image, image_size=32)})
    assert "embed/depth" not in larger.predictors, "images come in the size of the first tower"


@dataclasses.dataclass(frozen=True)
class RowByRow(Objective):
    """A sum over what it reads; whether it is said to couple rows changes nothing."""

    kind = "row_by_row"
    names: tuple[str, ...] = ()

    @property
    def reads(self):
        return self.names

    def count(self, batch, context):
        return float(batch["image"].shape[0])

    def loss(self, own, features, context):
        slope = lambda x: jnp.arange(1.0, x.shape[-1] + 1)
        total = sum((features[name].astype(jnp.float32) @ slope(features[name])).sum() for name in self.names)
        return Loss(total, float(features[self.names[0]].shape[0]))


class Coupling(RowByRow):
    couples_rows = True


class Alone(RowByRow):
    couples_rows = False


@pytest.mark.parametrize("names", [("near", "image"), ("image", "depth")], ids=["a head", "towers"])
def test_a_term_of_single_rows_may_read_a_head(names):
    """A head is there once all rows are: the term waits for it, in one piece or in micro-batches."""
    data = rows()
    found = []
    for kind, microbatches in ((Coupling, 1), (Alone, 1), (Alone, 4)):
        mine = ContrastiveTask(task().model, kind(names=names), FIELDS, steps=10)
        skeleton = Skeleton.of(mine.build)

        def total(params, mine=mine, skeleton=skeleton, microbatches=microbatches):
            context = Context(0, 10, None, microbatches, KEY, mine.keys(data, KEY))
            model = skeleton.merge(params)
            losses, _ = evaluate(mine, model, taught(mine, model, data, context), context)
            return losses["row_by_row"].sum

        with jax.default_matmul_precision("highest"):
            found.append(quick_jit(jax.value_and_grad(total))(weights(skeleton)))
    for value, gradients in found[1:]:
        assert float(value) == pytest.approx(float(found[0][0]), rel=1e-5, abs=1e-4)
        equal(gradients, found[0][1])
