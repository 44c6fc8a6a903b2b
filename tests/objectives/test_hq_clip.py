"""Own wrong captions, NegCLIP's denominator and short tags: closed forms, limits, gradients, devices, a training."""

from __future__ import annotations

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_cases import mesh_of
from small_models import batch, quick_jit, two_tower, weights

from mof_jax import config as configs
from mof_jax import run, trainer
from mof_jax.errors import UserError
from mof_jax.mesh import MeshConfig, make_mesh, param_shardings, put_batch
from mof_jax.nn.module import Skeleton
from mof_jax.objectives.hq_clip import NegClip, OwnNegatives, ShortTags
from mof_jax.objectives.loss import Context
from mof_jax.objectives.softmax import Softmax
from mof_jax.task import evaluate, taught
from mof_jax.tasks.contrastive import ContrastiveTask, Shown

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "papers" / "hq_clip.py"
ROWS, DIM, SCALE = 16, 8, 5.0


def unit(seed: int, *shape: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((*shape, DIM))
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def features(rows: int = ROWS, views: int = 1, captions: int = 1, wrong: int = 1) -> dict[str, np.ndarray]:
    return {"image": unit(0, rows, views), "text": unit(1, rows, captions), "negative": unit(2, rows, wrong),
            "scale": np.float32(SCALE)}


def value(term, given, own=None, mesh=None):
    loss = term.loss(own, {name: jnp.asarray(given[name]) for name in term.reads}, Context(mesh=mesh))
    return loss.sum / term.count(given, Context())


def share_of_right(given, n: int) -> float:
    """-log softmax of the right caption among it and its `n` wrong ones, image by image, in double precision."""
    image, text, wrong = (given[name].astype(np.float64) for name in ("image", "text", "negative"))
    losses = []
    for row in range(len(image)):
        for view in image[row]:
            for c, caption in enumerate(text[row]):
                scores = SCALE * np.array([view @ x for x in (caption, *wrong[row, c * n : (c + 1) * n])])
                losses.append(np.log(np.exp(scores).sum()) - scores[0])
    return float(np.mean(losses))


@pytest.mark.parametrize("views, captions, n", [(1, 1, 1), (2, 2, 1), (1, 2, 3)])
def test_the_share_of_the_right_caption(views, captions, n):
    given = features(views=views, captions=captions, wrong=captions * n)
    assert float(value(OwnNegatives(), given)) == pytest.approx(share_of_right(given, n), rel=1e-5)


@pytest.mark.parametrize("term", [OwnNegatives(), NegClip(), NegClip(seen="own")], ids=str)
def test_a_weight_is_what_is_counted(term):
    given = features(views=2, captions=2, wrong=2)
    assert float(term.loss(None, given, Context()).weight) == term.count(given, Context()) == ROWS * 4


def test_own_negatives_closed_forms():
    given = features()
    same = given | {"negative": given["text"]}
    assert float(value(OwnNegatives(), same)) == pytest.approx(np.log(2), rel=1e-6)
    right = np.einsum("rvd,rvd->r", given["image"], given["text"])
    wrong = np.einsum("rvd,rvd->r", given["image"], given["negative"])
    mean = np.log1p(np.exp(SCALE * (wrong - right))).mean()
    assert float(value(OwnNegatives(), given)) == pytest.approx(float(mean), rel=1e-5)
    loss = OwnNegatives().loss(None, given, Context())
    assert float(loss.metrics["identified"].sum) == (right > wrong).sum()
    with pytest.raises(UserError, match="2 captions of 'text' and 3 of 'negative'"):
        OwnNegatives().loss(None, features(captions=2, wrong=3), Context())


def test_the_gradient_of_own_negatives_is_their_share():
    """d/d(image) = s · p · (wrong - right), p the share of the wrong one; no row's reaches another's."""
    given = features()
    got = jax.grad(lambda image: value(OwnNegatives(), given | {"image": image}))(given["image"])
    apart = given["negative"] - given["text"]
    p = 1 / (1 + np.exp(-SCALE * np.einsum("rvd,rvd->rv", given["image"], apart)))
    np.testing.assert_allclose(got, SCALE * p[..., None] * apart / ROWS, rtol=1e-4, atol=1e-6)


def infonce_with_wrong(given, seen: str) -> float:
    """Mean of both directions, the wrong captions of everyone or of the image as further columns of the first."""
    image, text = (given[name][:, 0].astype(np.float64) for name in ("image", "text"))
    wrong, s = given["negative"].astype(np.float64), SCALE * image @ text.T
    if seen == "batch":
        more = SCALE * np.einsum("id,jnd->ijn", image, wrong).reshape(len(image), -1)
    else:
        more = SCALE * np.einsum("id,ind->in", image, wrong)
    forth = np.log(np.exp(np.concatenate([s, more], 1)).sum(1)) - np.diag(s)
    back = np.log(np.exp(s).sum(0)) - np.diag(s)
    return float((forth + back).mean() / 2)


@pytest.mark.parametrize("seen", ["batch", "own"])
def test_negclip_against_the_whole_matrix(seen):
    given = features(wrong=2)
    got = float(value(NegClip(seen=seen, block_size=5), given))
    assert got == pytest.approx(infonce_with_wrong(given, seen), rel=1e-5)
    assert got > float(value(Softmax(), given)) + 1e-2  # no limit of CLIP's, and not the same as a term beside it


def test_limits_of_negclip():
    """Wrong captions that are as unlike as can be are CLIP's loss; of one pair alone what is left is the own negatives'."""
    given = features()
    far = given | {"scale": np.float32(40.0), "negative": -given["image"]}
    assert float(value(NegClip(seen="own"), far)) == pytest.approx(float(value(Softmax(), far)), rel=1e-6)
    alone = features(rows=1)
    own, batch, hni = (jax.value_and_grad(lambda x, term=term: value(term, alone | {"image": x}))(alone["image"])
                       for term in (NegClip(seen="own"), NegClip(seen="batch"), OwnNegatives()))
    for got in (own, batch):
        assert float(got[0]) == pytest.approx(float(hni[0]) / 2, rel=1e-6)
        np.testing.assert_allclose(got[1], hni[1] / 2, rtol=1e-5)


def test_siblings_of_negclip_are_positives():
    given = features() | {"group": np.arange(ROWS, dtype=np.int32) // 2}
    far = given | {"scale": np.float32(40.0), "negative": -given["image"]}
    got = value(NegClip(seen="own", multi_positive=True), far)
    assert float(got) == pytest.approx(float(value(Softmax(multi_positive=True), far)), rel=1e-6)


@pytest.mark.parametrize("seen", ["batch", "own"])
def test_devices_change_nothing_of_negclip(seen):
    given, mesh = features(wrong=2), mesh_of("4x2")["mesh"]
    names = ("image", "text", "negative")

    def both(mesh):
        mean = lambda *x: value(NegClip(seen=seen, block_size=3), given | dict(zip(names, x)), mesh=mesh)
        return jax.jit(jax.value_and_grad(mean, (0, 1, 2)))(*(given[name] for name in names))

    want, got = both(None), both(mesh)
    assert float(got[0]) == pytest.approx(float(want[0]), rel=1e-6)
    for a, b in zip(got[1], want[1]):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(np.abs(b).max()))


class Fixed:
    """A classifier with given logits."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits)

    def __call__(self, x):
        return self.logits


def test_tags_against_the_binary_cross_entropy():
    logits = np.random.default_rng(3).standard_normal((4, 2, 5)).astype(np.float32)
    tags = np.array([[0, 3, -1], [2, 2, 9], [-1, -1, -1], [7, -1, -1]], np.int32)  # 7 and 9 are none of five
    wanted = np.zeros((4, 5))
    wanted[0, [0, 3]] = wanted[1, 2] = 1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    each = -(wanted[:, None] * np.log(p) + (1 - wanted[:, None]) * np.log(1 - p)).sum(-1).mean(-1)
    term, given = ShortTags(classes=5), {"image": unit(0, 4, 2), "tags": jnp.asarray(tags)}
    assert float(term.loss(Fixed(logits), given, Context()).weight) == float(term.count(given, Context())) == 2
    assert float(value(term, given, Fixed(logits))) == pytest.approx(each[:2].mean(), rel=1e-5)
    slope = jax.grad(lambda x: term.loss(Fixed(x), given, Context()).sum)(logits)
    np.testing.assert_allclose(slope[:2], (p - wanted[:, None])[:2] / 2, rtol=1e-4, atol=1e-6)
    assert not np.any(slope[2:])
    found = term.loss(Fixed(logits), given, Context()).metrics["found"]
    assert float(found.sum) == ((logits > 0) & (wanted[:, None] > 0)).mean(1).sum() and float(found.weight) == 3


def test_images_without_a_tag_of_the_vocabulary_give_nothing():
    term, given = ShortTags(classes=5), {"image": unit(0, 3, 1), "tags": jnp.full((3, 2), -1)}
    loss = term.loss(Fixed(unit(1, 3, 1)[..., :5]), given, Context())
    assert float(loss.sum) == 0 and float(term.count(given, Context())) == 0
    one_each = {"image": unit(0, 3, 1), "tags": jnp.array([1, 6, 4])}
    assert float(term.count(one_each, Context())) == 2
    with pytest.raises(ValueError, match="2 at least"):
        ShortTags(classes=1)


TERMS = {"clip": Softmax(), "own": OwnNegatives(), "tags": ShortTags(classes=6), "wrong": NegClip()}


def gradients(terms=tuple(TERMS), weights_of=(0.5,), microbatches: int = 1, devices: int = 0):
    """CLIP's loss and the other terms, weighted alike, over a tiny model with two wrong captions an image, and its gradients,
    for each of some weights; the tags' parameters are among them."""
    mesh = make_mesh(MeshConfig(2, 2, 2), jax.devices()[:devices]) if devices else None
    fields = {"image": Shown("image"), "text": Shown("text"), "negative": Shown("text", 2)}
    task, whole = (ContrastiveTask(two_tower(), {name: TERMS[name] for name in names}, fields) for names in (terms, TERMS))
    tags = np.random.default_rng(5).integers(-1, 7, (ROWS, 3)).astype(np.int32)
    data = batch(ROWS) | {"negative": batch(ROWS, captions=2, seed=9)["text"], "tags": tags}
    skeleton = Skeleton.of(task.build)
    every = weights(Skeleton.of(whole.build))
    params = {path: every[path] for path in skeleton.shapes}  # the same towers, whatever terms there are
    if mesh is not None:
        params, data = jax.device_put(params, param_shardings(mesh, skeleton)), put_batch(mesh, data)

    def total(params, data, weight):
        context = Context(0, 10, mesh, microbatches)
        model = skeleton.merge(params)
        losses, _ = evaluate(task, model, taught(task, model, data, context), context)
        counts = task.weights(data, context)
        return sum((1.0 if name == "clip" else weight) * losses[name].sum / counts[name] for name in losses)

    with jax.default_matmul_precision("highest"):
        step = quick_jit(jax.value_and_grad(total))
        return [step(params, data, np.float32(weight)) for weight in weights_of]


def test_rows_may_be_cut_and_spread_and_weights_of_zero_are_clip():
    """All terms at once: 2 micro-batches on 8 devices, data × fsdp × tensor, the vocabulary of tags split too."""
    want, zero = gradients(weights_of=(0.5, 0.0))
    (got,) = gradients(microbatches=2, devices=8)
    assert float(got[0]) == pytest.approx(float(want[0]), rel=2e-6)
    assert {"objective/tags/kernel", "objective/tags/bias"} <= want[1].keys()
    for path, w in want[1].items():
        g, w = np.asarray(got[1][path]), np.asarray(w)
        if path.endswith("qkv_bias"):  # the key bias has gradient 0, rounding apart
            g, w = g[:, ::2], w[:, ::2]
        assert np.abs(g - w).max() <= 1e-5 * max(np.abs(w).max(), 1e-3), path
    (clip,) = gradients(("clip",))
    assert float(zero[0]) == float(clip[0]) < float(want[0])
    assert zero[1].keys() - clip[1].keys() == {"objective/tags/kernel", "objective/tags/bias"}
    for path, g in zero[1].items():
        w = np.asarray(clip[1].get(path, jnp.zeros_like(g)))  # another program, so rounded otherwise; tags learn nothing
        assert np.abs(g - w).max() <= 1e-6 * np.abs(w).max(), path


def test_it_trains(tmp_path):
    """Three steps of the config's own data, terms and optimizer, made small, and its evaluators."""
    c = configs.load(str(CONFIG))
    c.steps, c.batch_size, c.log_every = 3, 8, 1
    for source in (c.data.sources[0], *(section["source"] for section in c.evals)):
        source["size"] = 16
    c.model.image.width = c.model.text.width = 16
    c.optimizer.schedule.warmup = 1
    trainer.train(c, str(tmp_path))
    first, *_, last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    parts = {name: last[f"loss/{name}"] for name in ("clip", "own", "tags")}
    assert last["loss"] == pytest.approx(parts["clip"] + 0.5 * parts["own"] + 0.5 * parts["tags"], rel=1e-5)
    assert 0 <= last["own/identified"] <= 1 and 0 <= last["tags/found"] <= 1 and first["empty/tags"] == 0
    assert last["loss/tags"] < first["loss/tags"]
    evals = [json.loads(line) for line in (tmp_path / "evals.jsonl").read_text().splitlines()]
    found = {line["name"]: line for line in evals}
    assert 0 <= found["long"]["r@1"] <= 100 and 0 <= found["tags"]["map"] <= 100  # what the claim is about


@pytest.mark.parametrize("arm, terms", [("clip", {"clip"}), ("own", {"clip", "own"}), ("tags", {"clip", "tags"}),
                                        ("hq_clip", {"clip", "own", "tags"}), ("negclip", {"clip"})])
def test_the_arms_of_the_config(arm, terms):
    objective = run.resolve(configs.load(f"{CONFIG}:arm={arm}")).objective
    assert set(objective) == terms and isinstance(objective["clip"], NegClip if arm == "negclip" else Softmax)
    claim = configs.load_module(str(CONFIG)).claim()
    assert claim.arms.keys() == {"hq_clip", "own", "tags", "clip"} and claim.arms["hq_clip"] == {}
