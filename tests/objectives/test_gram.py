"""Volumes in the place of cosines (GRAM, arXiv 2412.11959): closed forms, textbook, devices, towers."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_cases import assert_close, mesh_of, normal
from small_models import batch, launch_task, loss_of, quick_jit, two_tower
import textbook

from mof_jax import config as configs
from mof_jax import run, trainer
from mof_jax.claims import judge
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig
from mof_jax.objectives.gram import Contrast, Gram, gram_loss, volume_scores
from mof_jax.objectives.loss import Context
from mof_jax.objectives.softmax import Softmax
from mof_jax.tasks.contrastive import ContrastiveTask, Shown
from mof_jax.train.optim import OptimizerConfig

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "papers" / "gram.py"
N, DIM, NAMES = 24, 8, ("text", "left", "right", "depth", "sound")
EPS = 1e-9


def unit(x, of=np):
    return x / of.sqrt(of.square(x).sum(-1, keepdims=True))


def tuples(k: int, n: int = N, dim: int = DIM) -> list[np.ndarray]:
    return [unit(normal(seed, n, dim)) for seed in range(k)]


def matrix(vectors, of=np, eps=0.0):
    """Vol[i, j] of anchor i with the others of example j: a determinant for each pair."""
    anchor, *others = vectors
    rows, columns = len(anchor), len(others[0])
    whole = [of.broadcast_to(anchor[:, None], (rows, columns, DIM))]
    whole = of.stack(whole + [of.broadcast_to(x[None], (rows, columns, DIM)) for x in others], -2)
    return of.sqrt(of.linalg.det(of.einsum("ijcd,ijed->ijce", whole, whole)) + eps)


def volumes(vectors, **more):
    return -volume_scores(*vectors, how="dense", **more).matrix


def value(term, vectors, scale=14.0, mesh=None):
    features = {name: jnp.asarray(x)[:, None] for name, x in zip(NAMES, vectors)}
    features["scale"] = jnp.asarray(scale)
    loss = term.loss(None, {name: features[name] for name in term.reads}, Context(mesh=mesh))
    assert term.count(features, Context()) == len(vectors[0])
    return loss.sum / loss.weight


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_volumes_are_roots_of_gram_determinants(k):
    """Also of vectors of any length, and of other numbers of anchors than of tuples."""
    vectors = [5, *(7,) * (k - 1)]
    vectors = [normal(seed, rows, DIM) for seed, rows in enumerate(vectors)]
    assert_close(volumes(vectors, eps=EPS), matrix([x.astype(np.float64) for x in vectors]), 2e-6)


def test_closed_forms():
    x, y, z = tuples(3)
    cosine = (x.astype(np.float64) @ y.T)
    assert_close(volumes([x, y], eps=EPS), np.sqrt(1 - cosine**2), 1e-5)
    a, b, c = x.astype(np.float64) @ y.T, x.astype(np.float64) @ z.T, (y.astype(np.float64) * z).sum(1)
    assert_close(volumes([x, y, z], eps=EPS), np.sqrt(1 + 2 * a * b * c - a**2 - b**2 - c**2), 1e-5)
    assert np.allclose(volumes(list(np.eye(4, dtype=np.float32)[:3, None])), 1.0)


def test_a_volume_knows_neither_order_nor_signs_nor_rotations():
    """Antiparallel vectors have no volume, and neither have three in one plane: so the paper defines it."""
    vectors = tuples(4)
    rotation = np.linalg.qr(normal(9, DIM, DIM))[0]
    want = np.diag(volumes(vectors))
    for order in itertools.permutations(range(4)):
        assert_close(np.diag(volumes([vectors[i] for i in order])), want)
    assert_close(volumes([x @ rotation for x in vectors]), volumes(vectors))
    assert_close(volumes([-vectors[0], *vectors[1:]]), volumes(vectors))
    x, y, _, _ = vectors
    assert np.abs(np.diag(volumes([x, -x], eps=EPS))).max() < 1e-3
    assert np.abs(np.diag(volumes([unit(x - y), x, y], eps=EPS))).max() < 1e-3


@pytest.mark.parametrize("k, smoothing", [(2, 0.0), (3, 0.1), (4, 0.1)])
def test_the_loss_is_the_textbooks(k, smoothing):
    """Values and every gradient, streamed in uneven blocks and dense."""
    vectors, scale = tuples(k), 9.0

    def wanted(vectors, scale):
        s = -scale * matrix(vectors, jnp, 1e-6)
        target = (1 - smoothing) * jnp.eye(N) + smoothing / N
        return -(target * (jax.nn.log_softmax(s, 1) + jax.nn.log_softmax(s, 0))).sum() / (2 * N)

    def got(how):
        def mean(vectors, scale):
            more = {"how": how} | ({"block_size": 5} if how == "streamed" else {})
            loss = gram_loss(*vectors, scale=scale, label_smoothing=smoothing, **more)
            return loss.sum / loss.weight
        return mean

    with jax.default_matmul_precision("highest"):
        forms = wanted, got("streamed"), got("dense")
        both = [jax.jit(jax.value_and_grad(f, (0, 1)))(vectors, scale) for f in forms]
    for found in both[1:]:
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(both[0]), strict=True):
            assert_close(a, b, 2e-5)


def test_groups_of_a_batch_are_batches_of_their_own():
    vectors = tuples(3)
    whole = gram_loss(*vectors, scale=9.0, label_smoothing=0.1, groups=2)
    halves = [gram_loss(*(x[half] for x in vectors), scale=9.0, label_smoothing=0.1)
              for half in (slice(0, N // 2), slice(N // 2, N))]
    assert float(whole.sum) == pytest.approx(float(halves[0].sum + halves[1].sum), rel=1e-5)


def test_two_features_at_a_time_are_clip():
    image, text = tuples(2)
    clip = {"image": image[:, None], "text": text[:, None], "scale": jnp.float32(9.0)}
    for smoothing in (0.0, 0.1):
        want = Softmax(label_smoothing=smoothing).loss(None, clip, Context())
        got = value(Contrast(of=("text", "left"), label_smoothing=smoothing), [text, image], 9.0)
        assert float(got) == pytest.approx(float(want.sum / want.weight), rel=1e-6)
    want = textbook.softmax_loss(image, text, 9.0, label_smoothing=0.1)
    assert float(got) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_of_what_is_solved_or_collapsed_are_finite(sign):
    """Identical and antiparallel tuples, all of the batch in one point among them."""
    def mean(vectors):
        return value(Gram(of=NAMES[:3]), [unit(x, jnp) for x in vectors], 100.0)

    x, step = tuples(1)[0], jax.value_and_grad(mean)
    for point in (x, np.tile(x[:1], (N, 1))):
        loss, gradients = step([point, sign * point, point])
        assert np.isfinite(loss) and all(np.isfinite(g).all() and np.abs(g).max() < 1.0 for g in gradients)
    assert float(loss) == pytest.approx(np.log(N), rel=1e-4), "one point: every tuple is as good"


@pytest.mark.parametrize("term", [
    Gram(of=NAMES[:3], block_size=2), Gram(of=NAMES[:4]), Contrast(of=NAMES[:2])], ids=["3", "4", "cosines"])
def test_devices_change_nothing(term):
    def of(mesh):
        step = jax.value_and_grad(lambda v, scale: value(term, v, scale, mesh), (0, 1))
        return jax.tree.leaves(jax.jit(step)(tuples(len(term.of)), 9.0))

    for a, b in zip(of(mesh_of("4x2")["mesh"]), of(None), strict=True):
        assert_close(a, b)


def test_no_array_of_all_pairs_is_formed():
    vectors = tuples(3, 256)

    def largest(**how):
        step = jax.jit(jax.grad(lambda v: gram_loss(*v, scale=9.0, label_smoothing=0.1, **how).sum))
        shapes = re.findall(r"f32\[([\d,]+)\]", step.lower(vectors).compile().as_text())
        return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)

    assert largest(block_size=16) <= 16 * 256 < 256**2 <= largest(how="dense")


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="of: text; gram takes different features, two at least"):
        Gram(of=("text",))
    with pytest.raises(ValueError, match="text, left, right; contrast takes different features, two of them"):
        Contrast(of=NAMES[:3])
    for field, wrong in (("eps", 0.0), ("label_smoothing", 1.0)):
        with pytest.raises(UserError, match=f"config.objective.gram.{field}"):
            run.resolve(configs.override(configs.load(str(CONFIG)), [f"objective.gram.{field}={wrong}"]))


def test_three_towers_learn_and_a_mesh_changes_nothing():
    fields = {"image": Shown("image"), "text": Shown("text"), "depth": Shown("depth")}
    rows = batch(16) | {"depth": batch(16, seed=1)["image"]}
    model = dataclasses.replace(two_tower(), towers={"depth": two_tower().image})
    task = ContrastiveTask(model, Gram(of=("text", "image", "depth"), label_smoothing=0.0), fields)
    made = launch_task(lambda grid: task, OptimizerConfig(lr=1e-2), MeshConfig(2, 2, 2), 8, 2)
    before = jax.tree.map(np.asarray, made.state.model_params())
    state, metrics = made.step(made.state, made.put(rows))
    after = state.model_params()
    moved = {path.split("/")[0] for path in after if not np.array_equal(after[path], before[path])}
    assert moved == {"image", "text", "towers", "logit_scale"}
    want = quick_jit(lambda values: loss_of(task, made.skeleton.merge(values), rows))(before)
    assert float(want.weight) == task.weights(rows, Context())["gram"] == 16
    assert float(metrics["loss"]) == pytest.approx(float(want.sum) / 16, rel=1e-4)
    assert task.terms["gram"].flops(16, task.dims) == 6 * 16**2 * 8, "one product beyond the model's own"


@pytest.mark.parametrize("start", ["scratch", "aligned"])
def test_the_arms_of_the_claims(start):
    spec = f"{CONFIG}:start={start}"
    points, _ = judge.grid(spec, judge.load(spec), (100,), {"cosines": "/base"})
    assert {len(point.run.init_from) for point in points.values()} == {int(start == "aligned")}
    terms = {arm: {name for name, term in point.run.objective.items() if term.weight}
             for (arm, _), point in points.items()}
    assert terms == {"gram": {"gram"}, "anchored": {"left", "right"}, "pairs": {"left", "right", "across"}}
    for (arm, _), point in points.items():
        assert set(run.resolve(configs.load(f"{CONFIG}:arm={arm}")).objective) == terms[arm]
        assert point.run.evals[0]["by"] == (("volume",) if arm == "gram" else ("mean", "sum"))


def test_the_config_trains(tmp_path):
    small = ["steps=2", "batch_size=8", "model.image.width=8", "model.text.width=8", "model.embed_dim=8",
             "model.image.depth=1", "model.image.unroll=1", "tokenizer.vocab_size=300",
             "data.sources.0.size=16", "evals.0.source.size=8", "optimizer.schedule.warmup=1", "log_every=1"]
    trainer.train(configs.override(configs.load(str(CONFIG)), small), str(tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert sum("positive_volume" in line for line in lines) == 2
    assert "halves" in (tmp_path / "evals.jsonl").read_text()
